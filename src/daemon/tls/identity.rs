//! A certificate with its private key, and warnings about them for the operator.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, ServerConfig};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::certificate_text;
use super::error::TlsError;
use super::pem::{self, CERT, KEY};
use crate::config::CertificateFiles;

/// A certificate that the server can present, and the settings of the connections that get it.
#[derive(Debug)]
pub struct Identity {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) config: Arc<ServerConfig>,
    /// The certificate, PEM, without its intermediate ones.
    pub(super) pem: String,
}

impl Identity {
    /// Returns the settings for rustls.
    pub fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// Returns the certificate, PEM, without its intermediate ones.
    pub(super) fn pem(&self) -> &str {
        &self.pem
    }
}

/// A certificate and its key, read from their files.
pub(super) struct KeyPair {
    pub(super) key: Arc<CertifiedKey>,
    /// The certificate, PEM, without its intermediate ones.
    pub(super) pem: String,
    /// The host names that the certificate is for, in lower case; `*.` stands for one label.
    pub(super) names: BTreeSet<String>,
}

/// Reads a certificate and its key. Appends to `warnings`.
pub(super) fn load(
    files: &CertificateFiles,
    provider: &CryptoProvider,
    now: SystemTime,
    warnings: &mut Vec<String>,
) -> Result<KeyPair, TlsError> {
    let CertificateFiles { cert: cert_path, key: key_path } = files;
    let cert_pem = pem::read(CERT, cert_path)?;
    let chain = pem::certificates(CERT, cert_path, &cert_pem)?;
    let first = chain.first().map(AsRef::as_ref).unwrap_or_default();
    let parsed = parse(CERT, cert_path, first)?;
    let pem = certificate_text::pem(first)
        .map_err(|error| TlsError::new(CERT, cert_path, format!("cannot be encoded: {error}")))?;
    let key_pem = pem::read(KEY, key_path)?;
    let key = pem::private_key(key_path, &key_pem)?;
    warnings.extend(permission_warning(key_path));
    warnings.extend(validity_warning(CERT, cert_path, &parsed, now));
    let names = dns_names(cert_path, &parsed)?;
    if names.is_empty() {
        warnings.push(format!(
            "{CERT} = \"{}\": has no host name (subjectAltName), so browsers refuse it",
            cert_path.display()
        ));
    }
    let signing_key = provider.key_provider.load_private_key(key).map_err(|error| {
        TlsError::new(KEY, key_path, format!("is not a usable key: {error}"))
            .with_hint("RSA from 2048 bits on, ECDSA with P-256, P-384 or P-521, and Ed25519 are supported")
    })?;
    let key = CertifiedKey::new(chain, signing_key);
    match key.keys_match() {
        // `Unknown` means that the provider cannot tell; AWS-LC can.
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(Error::InconsistentKeys(_)) => {
            let reason = format!("is not the key of the certificate in {}", cert_path.display());
            return Err(TlsError::new(KEY, key_path, reason).with_hint(
                "the first certificate in the file must be the server's, before its intermediate ones",
            ));
        }
        Err(error) => return Err(TlsError::new(CERT, cert_path, format!("is not usable: {error}"))),
    }
    Ok(KeyPair { key: Arc::new(key), pem, names })
}

/// Parses a certificate.
pub(super) fn parse(key: &'static str, path: &Path, der: &[u8]) -> Result<Certificate, TlsError> {
    Certificate::from_der(der)
        .map_err(|error| TlsError::new(key, path, format!("has an invalid certificate: {error}")))
}

/// The host names of a certificate (RFC 6125): browsers ignore its common name.
fn dns_names(path: &Path, certificate: &Certificate) -> Result<BTreeSet<String>, TlsError> {
    let found = certificate.tbs_certificate().get_extension::<SubjectAltName>();
    let found = found
        .map_err(|error| TlsError::new(CERT, path, format!("has invalid host names: {error}")))?
        .map(|(_, names)| names.0)
        .unwrap_or_default();
    let name = |name: &GeneralName| match name {
        GeneralName::DnsName(name) => Some(name.to_string().to_ascii_lowercase()),
        _ => None,
    };
    Ok(found.iter().filter_map(name).collect())
}

/// The warning for a certificate that is not valid at this time.
pub(super) fn validity_warning(
    key: &str,
    path: &Path,
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
    Some(format!("{key} = \"{}\": {what}", path.display()))
}

/// The warning for a key that every user of the machine can read.
fn permission_warning(path: &Path) -> Option<String> {
    // The file has just been read; a failure here means that it was replaced meanwhile.
    let mode = fs::metadata(path).ok()?.permissions().mode();
    (mode & 0o004 != 0).then(|| {
        format!(
            "{KEY} = \"{path}\": every user of this machine can read it (mode {mode:04o}): chmod o= {path}",
            path = path.display(),
            mode = mode & 0o7777
        )
    })
}
