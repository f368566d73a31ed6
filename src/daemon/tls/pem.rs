//! Reads certificates and private keys from PEM files (RFC 7468).

use std::fs;
use std::io;
use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::error::TlsError;

/// Key names, for messages.
pub(super) const CERT: &str = "tls.cert";
pub(super) const KEY: &str = "tls.key";
pub(super) const CLIENT_CA: &str = "tls.client_ca";

/// Maximum size of a file. A bundle of all public authorities has 250 kB.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Reads a file. `key` names it in messages.
pub(super) fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |error: io::Error| {
        let failure = TlsError::new(key, path, format!("cannot be read: {error}"));
        match error.kind() {
            io::ErrorKind::PermissionDenied => failure.with_hint(
                "the user rgun runs as must be able to read it: give it to the group (chgrp rgun, chmod 640), or use \
                 LoadCredential= in the unit",
            ),
            _ => failure,
        }
    };
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(TlsError::new(key, path, "is not a file").with_hint("name a file in PEM format"));
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(TlsError::new(key, path, format!("has more than {} MiB", MAX_FILE_BYTES >> 20)));
    }
    fs::read(path).map_err(failed)
}

/// Returns all certificates of a PEM file; at least one.
pub(super) fn certificates(
    key: &'static str,
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let certificates =
        found.map_err(|error| TlsError::new(key, path, format!("is not in PEM format: {error}")))?;
    if certificates.is_empty() {
        let hint = if is_der(pem) {
            "it is in DER format; convert it: openssl x509 -inform der -in FILE -out FILE.pem"
        } else {
            "a certificate begins with -----BEGIN CERTIFICATE-----"
        };
        return Err(TlsError::new(key, path, "has no certificate").with_hint(hint));
    }
    Ok(certificates)
}

/// Returns the private key of a PEM file.
pub(super) fn private_key(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    if is_encrypted(pem) {
        let hint = "rgun asks for no passphrase; decrypt it: openssl pkey -in FILE -out FILE.plain, readable by rgun \
                    only, or keep it encrypted by systemd (LoadCredentialEncrypted=)";
        return Err(TlsError::new(KEY, path, "is encrypted").with_hint(hint));
    }
    match PrivateKeyDer::pem_slice_iter(pem).next() {
        Some(Ok(key)) => Ok(key),
        Some(Err(error)) => Err(TlsError::new(KEY, path, format!("is not in PEM format: {error}"))),
        None => {
            let hint = if is_der(pem) {
                "it is in DER format; convert it: openssl pkey -inform der -in FILE -out FILE.pem"
            } else if pem.windows(CERTIFICATE.len()).any(|part| part == CERTIFICATE) {
                "it has a certificate; name the file with the key, which begins with -----BEGIN PRIVATE KEY-----"
            } else {
                "a key begins with -----BEGIN PRIVATE KEY-----"
            };
            Err(TlsError::new(KEY, path, "has no private key").with_hint(hint))
        }
    }
}

const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// True for a PKCS #8 key that is encrypted (RFC 5958), or one in OpenSSL's older format (RFC 1421).
fn is_encrypted(pem: &[u8]) -> bool {
    let has = |text: &[u8]| pem.windows(text.len()).any(|part| part == text);
    has(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || has(b"Proc-Type: 4,ENCRYPTED")
}

/// True if the file begins like a DER sequence (X.690 §8.9).
fn is_der(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x30, 0x82]) || bytes.starts_with(&[0x30, 0x81])
}
