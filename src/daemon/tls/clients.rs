//! The authorities of client certificates.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::error::TlsError;
use super::identity::{parse, validity_warning};
use super::pem::{self, CLIENT_CA};
use crate::config::ClientAuth;

/// The requirements on clients, and a fingerprint of them. A session is resumed only under the same requirements,
/// because a resumed session keeps the client's certificate without verifying it again.
pub(super) struct ClientPolicy {
    /// `None`: clients are not asked for a certificate.
    pub(super) verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// The bytes of the mode and the authorities; equal for equal requirements.
    pub(super) fingerprint: Vec<u8>,
}

/// Reads the authorities. Appends to `warnings`.
pub(super) fn load(
    client_auth: ClientAuth,
    client_ca: Option<&Path>,
    provider: &Arc<CryptoProvider>,
    now: SystemTime,
    warnings: &mut Vec<String>,
) -> Result<ClientPolicy, TlsError> {
    let (Some(path), ClientAuth::Optional | ClientAuth::Required) = (client_ca, client_auth) else {
        return Ok(ClientPolicy { verifier: None, fingerprint: Vec::new() });
    };
    let pem = pem::read(CLIENT_CA, path)?;
    let mut roots = RootCertStore::empty();
    for der in pem::certificates(CLIENT_CA, path, &pem)? {
        let certificate = parse(CLIENT_CA, path, &der)?;
        warnings.extend(validity_warning(CLIENT_CA, path, &certificate, now));
        roots.add(der).map_err(|error| {
            TlsError::new(CLIENT_CA, path, format!("has an unusable certificate: {error}"))
        })?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let (builder, mode) = match client_auth {
        ClientAuth::Required => (builder, b'r'),
        ClientAuth::Optional | ClientAuth::Off => (builder.allow_unauthenticated(), b'o'),
    };
    let verifier =
        builder.build().map_err(|error| TlsError::new(CLIENT_CA, path, format!("is not usable: {error}")))?;
    Ok(ClientPolicy { verifier: Some(verifier), fingerprint: [&[mode], pem.as_slice()].concat() })
}
