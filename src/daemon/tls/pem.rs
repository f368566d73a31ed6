//! Reads certificates and private keys from PEM files (RFC 7468).

use std::fs;
use std::io;

use rustls::pki_types::pem::{Error, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::error::NamedFile;
use crate::config::ConfigError;

/// Maximum size of a file. A bundle of all public authorities has 250 kB.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Reads a certificate or key file, after checks of its kind and size.
pub(super) fn read(file: &NamedFile<'_>) -> Result<Vec<u8>, ConfigError> {
    let failed = |error: io::Error| {
        match error.kind() {
        io::ErrorKind::NotFound => {
            file.error("does not exist", "write the full path of a file in PEM format")
        }
        io::ErrorKind::PermissionDenied => file.error(
            "cannot be read: permission denied",
            "the user rgun runs as must be able to read it: give it to the group (chgrp rgun, chmod 640), or use \
             LoadCredential= in the unit",
        ),
        _ => file.error(format!("cannot be read: {error}"), "check the file and its disk"),
    }
    };
    let metadata = fs::metadata(file.path).map_err(failed)?;
    if metadata.is_dir() {
        return Err(file.error("is a directory", "name a file in PEM format"));
    }
    if !metadata.is_file() {
        return Err(file.error("is not a regular file", "name a file in PEM format"));
    }
    if metadata.len() > MAX_FILE_BYTES {
        let reason = format!("has more than {} MiB", MAX_FILE_BYTES >> 20);
        return Err(file.error(reason, "name a file in PEM format"));
    }
    let bytes = fs::read(file.path).map_err(failed)?;
    if bytes.trim_ascii().is_empty() {
        return Err(file.error("is empty", "write the certificate or key into it, in PEM format"));
    }
    Ok(bytes)
}

/// Returns all certificates of a PEM file; at least one.
pub(super) fn certificates(
    file: &NamedFile<'_>,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let certificates = found.map_err(|error| malformed(file, &error))?;
    if certificates.is_empty() {
        let hint = if is_der(pem) {
            "it is in DER format; convert it: openssl x509 -inform der -in FILE -out FILE.pem"
        } else if contains(pem, b"PRIVATE KEY-----") {
            "it has a key; name the file with the certificate, which begins with -----BEGIN CERTIFICATE-----"
        } else {
            "a certificate begins with -----BEGIN CERTIFICATE-----"
        };
        return Err(file.error("has no certificate", hint));
    }
    Ok(certificates)
}

/// Returns the private key of a PEM file.
pub(super) fn private_key(file: &NamedFile<'_>, pem: &[u8]) -> Result<PrivateKeyDer<'static>, ConfigError> {
    if is_encrypted(pem) {
        let hint = "rgun asks for no passphrase; decrypt it: openssl pkey -in FILE -out FILE.plain, readable by rgun \
                    only, or let systemd decrypt it (LoadCredentialEncrypted=)";
        return Err(file.error("is encrypted", hint));
    }
    match PrivateKeyDer::pem_slice_iter(pem).next() {
        Some(Ok(key)) => Ok(key),
        Some(Err(error)) => Err(malformed(file, &error)),
        None => {
            let hint = if is_der(pem) {
                "it is in DER format; convert it: openssl pkey -inform der -in FILE -out FILE.pem"
            } else if contains(pem, CERTIFICATE) {
                "it has a certificate; name the file with the key, which begins with -----BEGIN PRIVATE KEY-----"
            } else {
                "a key begins with -----BEGIN PRIVATE KEY-----"
            };
            Err(file.error("has no private key", hint))
        }
    }
}

/// Returns the error for a file that is not valid PEM (RFC 7468 §3).
fn malformed(file: &NamedFile<'_>, error: &Error) -> ConfigError {
    let reason = match error {
        Error::MissingSectionEnd { .. } => "is cut off: a BEGIN line has no END line",
        Error::IllegalSectionStart { .. } => "has a malformed BEGIN line",
        Error::Base64Decode(_) => "has characters that are not base64",
        _ => "is not in PEM format",
    };
    file.error(reason, "copy the file again, whole")
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// True if the file has an encrypted key, in PKCS #8 (RFC 5958) or in OpenSSL's older format (RFC
/// 1421).
fn is_encrypted(pem: &[u8]) -> bool {
    contains(pem, b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || contains(pem, b"Proc-Type: 4,ENCRYPTED")
}

/// True if the file begins like a DER sequence (X.690 §8.9).
fn is_der(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x30, 0x82]) || bytes.starts_with(&[0x30, 0x81])
}
