//! The TLS settings of new connections.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite;
use rustls::server::{ClientHello, NoServerSessionStorage};
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedCipherSuite, SupportedProtocolVersion};

use super::clients::{self, ClientPolicy};
use super::error::{CERT, KEY, NamedFile};
use super::identity::{self, Identity, KeyPair};
use super::names::NameIndex;
use super::session::RecentSession;
use super::tickets::TicketKeys;
use crate::config::{CertificateFiles, ConfigErrors, Tls, TlsVersion};

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

/// The server's order of preference. AES-128 is first, as in Mozilla's guidelines and in browsers:
/// the hash of its TLS 1.3 suite is SHA-256, for which processors have instructions, and a
/// handshake hashes a lot. With SHA-384 a handshake takes a sixth more processor time. Clients that
/// refuse AES-128 still get AES-256.
const CIPHER_SUITES: &[SupportedCipherSuite] = &[
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// Session tickets sent after a handshake. A client uses each ticket once (RFC 8446 appendix C.4)
/// and gets another one when it resumes. A second ticket would serve only a client that opens its
/// next two connections at once.
const TICKETS_PER_HANDSHAKE: usize = 1;

impl TlsContext {
    /// Reads the files of `[tls]`. `alpn` are the application protocols (RFC 7301), the preferred
    /// one first; `previous` is the context to be replaced, whose sessions can be resumed. Returns
    /// `None` if there are no certificates.
    ///
    /// # Errors
    /// Files are missing or unusable: an error for each.
    pub fn load(
        tls: &Tls,
        alpn: &[&[u8]],
        previous: Option<&Self>,
    ) -> Result<Option<LoadedTls>, ConfigErrors> {
        if tls.certificates.is_empty() {
            return Ok(None);
        }
        let provider = Arc::new(CryptoProvider {
            cipher_suites: CIPHER_SUITES.to_vec(),
            ..rustls::crypto::aws_lc_rs::default_provider()
        });
        let (mut warnings, mut errors, now) = (Vec::new(), Vec::new(), SystemTime::now());
        let mut key_pairs = Vec::new();
        for files in &tls.certificates {
            let (cert, key) = named_files(tls, files);
            key_pairs.extend(identity::load(&cert, &key, &provider, now, &mut warnings, &mut errors));
        }
        let clients = clients::load(tls, &provider, now, &mut warnings).map_err(|error| errors.push(error));
        let (Ok(clients), []) = (clients, &*errors) else { return Err(ConfigErrors(errors)) };
        Self::new(tls, alpn, previous, &provider, key_pairs, &clients)
            .map(|context| Some(LoadedTls { context: Arc::new(context), warnings }))
    }

    fn new(
        tls: &Tls,
        alpn: &[&[u8]],
        previous: Option<&Self>,
        provider: &Arc<CryptoProvider>,
        key_pairs: Vec<KeyPair>,
        clients: &ClientPolicy,
    ) -> Result<Self, ConfigErrors> {
        let unusable = |error: rustls::Error| {
            let file = NamedFile {
                key: CERT,
                origin: &tls.origins.cert,
                path: tls.certificates.first().map_or(Path::new(""), |files| &files.cert),
            };
            let hint = "rgun or the machine's random number generator has failed: restart rgun";
            ConfigErrors(vec![file.error(format!("cannot be used: {error}"), hint)])
        };
        let tickets =
            TicketKeys::reuse_or_new(previous.map(|previous| &previous.tickets), &clients.fingerprint)
                .map_err(unusable)?;
        let names: Vec<_> = key_pairs.iter().map(|pair| pair.names.clone()).collect();
        let identity = |KeyPair { key, pem, .. }: KeyPair| {
            let mut config = server_config(tls.min_version, provider, clients)?;
            config.cert_resolver = Arc::new(SingleCertAndKey::from(Arc::clone(&key)));
            config.ticketer = tickets.ticketer();
            // No sessions are stored for clients without tickets, to save memory.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = TICKETS_PER_HANDSHAKE;
            config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
            let in_client_order = Arc::new(config.clone());
            config.ignore_client_order = true;
            Ok(Identity {
                key,
                config: Arc::new(config),
                in_client_order,
                pem,
                recent_session: RecentSession::default(),
            })
        };
        let identities =
            key_pairs.into_iter().map(identity).collect::<Result<Vec<_>, _>>().map_err(unusable)?;
        Ok(Self { names: NameIndex::new(&names), identities, tickets })
    }

    /// Returns the certificate for the server name that the client has sent. If there are several,
    /// prefers the first whose signature scheme the client supports.
    pub fn choose(&self, hello: &ClientHello<'_>) -> Option<&Identity> {
        let candidates = self.names.candidates(hello.server_name());
        let candidates = || candidates.iter().filter_map(|position| self.identities.get(*position));
        let supported =
            |identity: &&Identity| identity.key.key.choose_scheme(hello.signature_schemes()).is_some();
        candidates().find(supported).or_else(|| candidates().next())
    }
}

/// Returns the files of a certificate and of its key, with the settings that name them.
fn named_files<'a>(tls: &'a Tls, files: &'a CertificateFiles) -> (NamedFile<'a>, NamedFile<'a>) {
    let cert = NamedFile { key: CERT, origin: &tls.origins.cert, path: &files.cert };
    let key = match &tls.origins.key {
        Some(origin) => NamedFile { key: KEY, origin, path: &files.key },
        None => cert,
    };
    (cert, key)
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
