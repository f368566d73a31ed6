//! Certificates for tests.

use std::path::PathBuf;

use rcgen::{CertificateParams, DnType, Issuer, KeyPair, date_time_ymd};

use crate::config::testing::TestDir;
use crate::config::{CertificateFiles, Tls, TlsOrigins};

/// A certificate and its key, PEM.
pub(crate) struct TestCert {
    pub(crate) cert: String,
    pub(crate) key: String,
}

/// Makes a self-signed certificate for host names, valid in the given years.
pub(crate) fn self_signed(names: &[&str], years: (i32, i32)) -> TestCert {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("valid names");
    params.not_before = date_time_ymd(years.0, 1, 1);
    params.not_after = date_time_ymd(years.1, 1, 1);
    params.distinguished_name.push(DnType::OrganizationName, "rgun's tests");
    let key = KeyPair::generate().expect("a key");
    let cert = params.self_signed(&key).expect("a certificate");
    TestCert { cert: cert.pem(), key: key.serialize_pem() }
}

/// Makes an authority that signs other certificates.
pub(crate) fn authority(name: &str) -> (TestCert, Issuer<'static, KeyPair>) {
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().expect("a key");
    let cert = params.self_signed(&key).expect("a certificate");
    let pem = TestCert { cert: cert.pem(), key: key.serialize_pem() };
    (pem, Issuer::new(params, key))
}

/// Years of validity that include every test run.
pub(crate) const VALID_YEARS: (i32, i32) = (2020, 2120);

/// Writes certificates into a directory, and returns the section that names them.
pub(crate) fn section(dir: &TestDir, certificates: &[TestCert]) -> Tls {
    let write = |name: String, content: &str| -> PathBuf { dir.file(&name, content.as_bytes(), 0o600) };
    let files = certificates.iter().enumerate().map(|(number, TestCert { cert, key })| CertificateFiles {
        cert: write(format!("{number}.crt"), cert),
        key: write(format!("{number}.key"), key),
    });
    let origins = TlsOrigins {
        cert: "rgun.toml:2".to_owned(),
        key: Some("rgun.toml:3".to_owned()),
        client_ca: "rgun.toml:4".to_owned(),
    };
    Tls { certificates: files.collect(), origins, ..Tls::default() }
}

/// An X.509 version 1 certificate. rcgen cannot generate one; this is from `openssl x509 -req`
/// without extensions.
pub(crate) const X509_V1: &str = "\
-----BEGIN CERTIFICATE-----
MIIBIzCBywIUH0TFidM0mqvDP0H9st0LHqvnBLMwCgYIKoZIzj0EAwIwFDESMBAG
A1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyOTA0MjExMVoYDzIxMjYxMTA1MDQyMTEx
WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AARCtRjaLqdxOuUgpYUT7UiuV1+bwlKrLhG28nxs3Vv2m0KtJQO3tHhrilde1ezR
aDvWZDr/30WWu2Qlj6XEUdWYMAoGCCqGSM49BAMCA0cAMEQCIA3azBakEhmdsEd1
tjQOWa51FYFbioxnd8ZO3HmrB+YqAiAEmtPwM1Cf7XI2LuA7w0fkXCgQn8ryLkr3
5Da9ig2xdw==
-----END CERTIFICATE-----
";
