//! Certificates for tests.

use std::path::PathBuf;

use rcgen::{CertificateParams, DnType, Issuer, KeyPair, date_time_ymd};

use crate::config::testing::TestDir;
use crate::config::{CertificateFiles, Tls};

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
pub(crate) fn section(place: &TestDir, certificates: &[TestCert]) -> Tls {
    let write = |name: String, content: &str| -> PathBuf { place.file(&name, content.as_bytes(), 0o600) };
    let files = certificates.iter().enumerate().map(|(number, TestCert { cert, key })| CertificateFiles {
        cert: write(format!("{number}.crt"), cert),
        key: write(format!("{number}.key"), key),
    });
    Tls { certificates: files.collect(), ..Tls::default() }
}
