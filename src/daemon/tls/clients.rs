//! The authorities of client certificates.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::error::{CLIENT_CA, NamedFile};
use super::identity::{parse, validity_warning};
use super::pem;
use crate::config::{ClientAuth, ConfigError, Tls};

/// The requirements on the certificates of clients, and a fingerprint of these requirements. A
/// session is resumed only under the same requirements, because a resumed session keeps the
/// client's certificate without verifying it again.
pub(super) struct ClientPolicy {
    /// `None`: clients are not asked for a certificate.
    pub(super) verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// The bytes of the mode and the authorities; equal for equal requirements.
    pub(super) fingerprint: Vec<u8>,
}

/// Reads the authorities of client certificates. Appends to `warnings`.
pub(super) fn load(
    tls: &Tls,
    provider: &Arc<CryptoProvider>,
    now: SystemTime,
    warnings: &mut Vec<String>,
) -> Result<ClientPolicy, ConfigError> {
    let (Some(path), ClientAuth::Optional | ClientAuth::Required) = (&tls.client_ca, tls.client_auth) else {
        return Ok(ClientPolicy { verifier: None, fingerprint: Vec::new() });
    };
    let file = NamedFile { key: CLIENT_CA, origin: &tls.origins.client_ca, path };
    let pem = pem::read(&file)?;
    let mut roots = RootCertStore::empty();
    let hint = "name the certificates of the authorities that issue the clients' certificates";
    for der in pem::certificates(&file, &pem)? {
        let certificate = parse(&file, &der)?;
        warnings.extend(validity_warning(&file, &certificate, now));
        roots.add(der).map_err(|_| file.error("has a certificate that cannot be an authority", hint))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let (builder, mode) = match tls.client_auth {
        ClientAuth::Required => (builder, b'r'),
        ClientAuth::Optional | ClientAuth::Off => (builder.allow_unauthenticated(), b'o'),
    };
    let verifier = builder.build().map_err(|error| file.error(format!("is not usable: {error}"), hint))?;
    Ok(ClientPolicy { verifier: Some(verifier), fingerprint: [&[mode], pem.as_slice()].concat() })
}
