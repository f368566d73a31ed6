//! A certificate with its private key, and warnings about them for the operator.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::ClientHello;
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{CipherSuite, Error, InconsistentKeys, ServerConfig, ServerConnection};
use x509_cert::Certificate;
use x509_cert::certificate::Version;
use x509_cert::der::{self, Decode};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::certificate_text;
use super::error::NamedFile;
use super::pem;
use super::session::{RecentSession, SessionError, TlsSession};
use crate::config::ConfigError;

/// A certificate that the server can present, and the settings of the connections that get it.
#[derive(Debug)]
pub struct Identity {
    pub(super) key: Arc<CertifiedKey>,
    /// The settings of rustls that choose the cipher suite in the server's order.
    pub(super) config: Arc<ServerConfig>,
    /// The same settings, but with the client's order.
    pub(super) in_client_order: Arc<ServerConfig>,
    /// The server's own certificate in PEM, without intermediate certificates.
    pub(super) pem: String,
    pub(super) recent_session: RecentSession,
}

impl Identity {
    /// Returns the settings for rustls. The cipher suite is chosen in the server's order, unless
    /// the client prefers ChaCha20: AES is slow on a client whose processor has no instructions for
    /// it.
    pub fn config(&self, hello: &ClientHello<'_>) -> &Arc<ServerConfig> {
        let mut offered = hello.cipher_suites().iter().copied();
        // A client may begin with a value that is not a suite (RFC 8701).
        if offered.find(|suite| is_chacha20(*suite) || is_aes_gcm(*suite)).is_some_and(is_chacha20) {
            &self.in_client_order
        } else {
            &self.config
        }
    }

    /// Describes a connection with this certificate after its handshake.
    ///
    /// # Errors
    /// The client's certificate is too large, or its names cannot be read.
    pub fn session(&self, connection: &ServerConnection) -> Result<Arc<TlsSession>, SessionError> {
        TlsSession::new(connection, &self.pem, &self.recent_session)
    }
}

fn is_chacha20(suite: CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
    )
}

fn is_aes_gcm(suite: CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS13_AES_256_GCM_SHA384
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
    )
}

/// A certificate and its key, read from their files.
pub(super) struct KeyPair {
    pub(super) key: Arc<CertifiedKey>,
    /// The server's own certificate in PEM, without intermediate certificates.
    pub(super) pem: String,
    /// The host names that the certificate is for, in lower case; `*.` stands for one label.
    pub(super) names: BTreeSet<String>,
}

/// Reads a certificate and its key. Appends to `warnings` and `errors`; `None` if it has appended
/// an error.
pub(super) fn load(
    cert_file: &NamedFile<'_>,
    key_file: &NamedFile<'_>,
    provider: &CryptoProvider,
    now: SystemTime,
    warnings: &mut Vec<String>,
    errors: &mut Vec<ConfigError>,
) -> Option<KeyPair> {
    let certificate = load_certificate(cert_file, now, warnings).map_err(|error| errors.push(error)).ok();
    // If one file holds both and cannot be read, one error is enough.
    if cert_file.path == key_file.path && certificate.is_none() {
        return None;
    }
    let key = load_key(key_file, provider, warnings).map_err(|error| errors.push(error)).ok();
    let (LoadedCertificate { chain, pem, names }, key) = (certificate?, key?);
    let key = CertifiedKey::new(chain, key);
    let error = match key.keys_match() {
        // `Unknown` means that the provider cannot tell; AWS-LC can.
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {
            return Some(KeyPair { key: Arc::new(key), pem, names });
        }
        Err(Error::InconsistentKeys(_)) => key_file.error(
            format!("is not the key of the certificate in {}", cert_file.path.display()),
            "the first certificate in the file must be the server's, before its intermediate ones",
        ),
        Err(_) => {
            cert_file.error("has a certificate that is damaged, or whose key is of an unknown kind", INSPECT)
        }
    };
    errors.push(error);
    None
}

/// A server's certificate with its intermediate certificates, read from their file.
struct LoadedCertificate {
    chain: Vec<CertificateDer<'static>>,
    /// See [`KeyPair::pem`].
    pem: String,
    /// See [`KeyPair::names`].
    names: BTreeSet<String>,
}

fn load_certificate(
    file: &NamedFile<'_>,
    now: SystemTime,
    warnings: &mut Vec<String>,
) -> Result<LoadedCertificate, ConfigError> {
    let chain = pem::certificates(file, &pem::read(file)?)?;
    let first = chain.first().map(AsRef::as_ref).unwrap_or_default();
    let parsed = parse(file, first)?;
    if parsed.tbs_certificate().version() == Version::V1 {
        return Err(file.error(
            "has the version X.509 v1, which has no host names and is not supported",
            "issue it as version 3, with a subjectAltName: openssl req -x509 -addext subjectAltName=DNS:www.example.org, \
             or openssl x509 -req -extfile FILE",
        ));
    }
    let damaged = |_| file.error(DAMAGED, INSPECT);
    let pem = certificate_text::pem(first).map_err(damaged)?;
    let AltNames { hosts: names, has_address } = alt_names(&parsed).map_err(damaged)?;
    warnings.extend(validity_warning(file, &parsed, now));
    if names.is_empty() && !has_address {
        warnings.push(file.warning("has no host name or address (subjectAltName), so browsers refuse it"));
    }
    Ok(LoadedCertificate { chain, pem, names })
}

fn load_key(
    file: &NamedFile<'_>,
    provider: &CryptoProvider,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn SigningKey>, ConfigError> {
    let key = pem::private_key(file, &pem::read(file)?)?;
    warnings.extend(permission_warning(file));
    provider.key_provider.load_private_key(key).map_err(|_| {
        file.error(
            "is damaged, or of a kind that is not supported",
            "RSA from 2048 bits on, ECDSA with P-256, P-384 or P-521, and Ed25519 are supported",
        )
    })
}

/// The reason for a certificate that cannot be parsed.
const DAMAGED: &str = "has a damaged certificate";

/// The hint for a certificate that cannot be parsed.
const INSPECT: &str = "copy the file again; openssl x509 -noout -text -in FILE shows what it contains";

/// Parses a certificate.
pub(super) fn parse(file: &NamedFile<'_>, der: &[u8]) -> Result<Certificate, ConfigError> {
    Certificate::from_der(der).map_err(|_| file.error(DAMAGED, INSPECT))
}

/// The subjectAltName of a certificate, which clients compare with a URL (RFC 9525 §6). Browsers
/// ignore the common name.
struct AltNames {
    /// In lower case.
    hosts: BTreeSet<String>,
    /// The certificate is also for an IP address. Addresses do not choose a certificate, because
    /// clients send no address as server name (RFC 6066 §3).
    has_address: bool,
}

fn alt_names(certificate: &Certificate) -> Result<AltNames, der::Error> {
    let found = certificate.tbs_certificate().get_extension::<SubjectAltName>()?;
    let found = found.map(|(_, names)| names.0).unwrap_or_default();
    let host = |name: &GeneralName| match name {
        GeneralName::DnsName(name) => Some(name.to_string().to_ascii_lowercase()),
        _ => None,
    };
    let has_address = found.iter().any(|name| matches!(name, GeneralName::IpAddress(_)));
    Ok(AltNames { hosts: found.iter().filter_map(host).collect(), has_address })
}

/// Returns the warning for a certificate that is not valid at `now`.
pub(super) fn validity_warning(
    file: &NamedFile<'_>,
    certificate: &Certificate,
    now: SystemTime,
) -> Option<String> {
    let validity = certificate.tbs_certificate().validity();
    let what = if validity.not_after.to_system_time() < now {
        format!("expired on {}; clients refuse it: renew it", validity.not_after)
    } else if validity.not_before.to_system_time() > now {
        format!("is not valid before {}; clients refuse it: check the clock", validity.not_before)
    } else {
        return None;
    };
    Some(file.warning(&what))
}

/// Returns the warning for a key that every user of the machine can read.
fn permission_warning(file: &NamedFile<'_>) -> Option<String> {
    // The file has just been read; a failure here means that it was removed meanwhile.
    let mode = fs::metadata(file.path).ok()?.permissions().mode();
    let path = file.path.display();
    (mode & 0o004 != 0).then(|| {
        file.warning(&format!(
            "every user of this machine can read it (mode {:04o}): chmod o= {path}",
            mode & 0o7777
        ))
    })
}
