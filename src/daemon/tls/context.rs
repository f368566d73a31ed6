//! The TLS settings of new connections.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, NoServerSessionStorage};
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};

use super::clients::{self, ClientPolicy};
use super::error::TlsError;
use super::identity::{self, Identity, KeyPair};
use super::names::NameIndex;
use super::pem::CERT;
use super::tickets::TicketKeys;
use crate::config::{Tls, TlsVersion};

/// The certificates and the policy of connections that are opened from now on.
#[derive(Debug)]
pub struct TlsContext {
    /// In the order of the configuration; at least one.
    identities: Vec<Identity>,
    names: NameIndex,
    tickets: TicketKeys,
}

/// A context, and warnings for the operator about its files.
#[derive(Debug)]
pub struct LoadedTls {
    /// The context for new connections.
    pub context: Arc<TlsContext>,
    /// Warnings for the log, one sentence each.
    pub warnings: Vec<String>,
}

const ALL_VERSIONS: &[&SupportedProtocolVersion] = &[&TLS12, &TLS13];
const ONLY_TLS13: &[&SupportedProtocolVersion] = &[&TLS13];

impl TlsContext {
    /// Reads the files of `[tls]`. `alpn` are the application protocols (RFC 7301), the preferred one first; `previous`
    /// is the context that this one replaces, whose sessions can be resumed. `None` if there are no certificates.
    ///
    /// # Errors
    /// A file is missing or unusable.
    pub fn load(tls: &Tls, alpn: &[&[u8]], previous: Option<&Self>) -> Result<Option<LoadedTls>, TlsError> {
        if tls.certificates.is_empty() {
            return Ok(None);
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let (mut warnings, now) = (Vec::new(), SystemTime::now());
        let key_pairs = tls
            .certificates
            .iter()
            .map(|files| identity::load(files, &provider, now, &mut warnings))
            .collect::<Result<Vec<_>, _>>()?;
        let client_ca = tls.client_ca.as_deref();
        let clients = clients::load(tls.client_auth, client_ca, &provider, now, &mut warnings)?;
        let first = tls.certificates.first().map(|files| files.cert.clone()).unwrap_or_default();
        let unusable = |error: rustls::Error| TlsError::new(CERT, &first, format!("cannot be used: {error}"));
        let tickets =
            TicketKeys::reuse_or_new(previous.map(|previous| &previous.tickets), &clients.fingerprint)
                .map_err(unusable)?;
        let names: Vec<_> = key_pairs.iter().map(|pair| pair.names.clone()).collect();
        let identity = |KeyPair { key, pem, .. }: KeyPair| {
            let mut config = server_config(tls.min_version, &provider, &clients)?;
            config.cert_resolver = Arc::new(SingleCertAndKey::from(Arc::clone(&key)));
            config.ticketer = tickets.ticketer();
            // Sessions of clients without tickets are not kept, because they would need memory.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
            Ok(Identity { key, config: Arc::new(config), pem })
        };
        let identities =
            key_pairs.into_iter().map(identity).collect::<Result<Vec<_>, _>>().map_err(unusable)?;
        let context = Self { names: NameIndex::new(&names), identities, tickets };
        Ok(Some(LoadedTls { context: Arc::new(context), warnings }))
    }

    /// Returns the certificate for a client's server name; of several, the first whose signature scheme the client
    /// supports.
    pub fn choose(&self, hello: &ClientHello<'_>) -> Option<&Identity> {
        let candidates = self.names.candidates(hello.server_name());
        let candidates = || candidates.iter().filter_map(|position| self.identities.get(*position));
        let supported =
            |identity: &&Identity| identity.key.key.choose_scheme(hello.signature_schemes()).is_some();
        candidates().find(supported).or_else(|| candidates().next())
    }
}

/// Returns the settings that all certificates share. The caller replaces the resolver.
fn server_config(
    min_version: TlsVersion,
    provider: &Arc<CryptoProvider>,
    clients: &ClientPolicy,
) -> Result<ServerConfig, rustls::Error> {
    let versions = match min_version {
        TlsVersion::Tls12 => ALL_VERSIONS,
        TlsVersion::Tls13 => ONLY_TLS13,
    };
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(provider)).with_protocol_versions(versions)?;
    let builder = match &clients.verifier {
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
        None => builder.with_no_client_auth(),
    };
    Ok(builder.with_cert_resolver(Arc::new(rustls::server::ResolvesServerCertUsingSni::new())))
}
