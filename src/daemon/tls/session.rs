//! Describes a TLS session for the application.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use rgun_channel::frame::{ClientCert, TlsInfo, TooLong};
use rustls::ServerConnection;
use rustls::pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::Decode;

use super::certificate_text::{openssl_names, openssl_time, pem};

/// Maximum size in bytes of the client's certificates, in PEM, that an application receives: the
/// certificates are a part of each request's frame.
const MAX_CHAIN_BYTES: usize = 24 << 10;

/// The description of a TLS session that the application receives with each request.
#[derive(Debug)]
pub struct TlsSession {
    /// An encoded [`TlsInfo`].
    block: Box<[u8]>,
    is_http2: bool,
}

/// The ALPN protocol name of HTTP/2 (RFC 9113 §3.2).
const HTTP2: &[u8] = b"h2";

impl TlsSession {
    /// Describes a connection after its handshake. `server_cert` is the certificate that was
    /// chosen, PEM; `recent` has the last session with that certificate.
    ///
    /// # Errors
    /// The client's certificate is too large, or its names cannot be read.
    pub(super) fn new(
        connection: &ServerConnection,
        server_cert: &str,
        recent: &RecentSession,
    ) -> Result<Arc<Self>, SessionError> {
        let mut info = TlsInfo {
            version: connection.protocol_version().map_or(0, u16::from),
            cipher_suite: connection.negotiated_cipher_suite().map_or(0, |suite| u16::from(suite.suite())),
            server_name: connection.server_name().unwrap_or_default(),
            server_cert,
            client: None,
        };
        let is_http2 = connection.alpn_protocol() == Some(HTTP2);
        let chain = connection.peer_certificates().unwrap_or_default();
        let Some(leaf) = chain.first() else {
            return recent.get(&info, is_http2);
        };
        let parsed = Certificate::from_der(leaf)?;
        let certificate = parsed.tbs_certificate();
        let [subject, issuer] =
            [certificate.subject(), certificate.issuer()].map(|name| openssl_names(&name.to_string()));
        let serial = certificate.serial_number().as_bytes();
        let serial = serial.iter().fold(String::new(), |mut hex, byte| {
            // Writing to a String cannot fail.
            let _infallible = write!(hex, "{byte:02X}");
            hex
        });
        let (not_before, not_after) =
            (openssl_time(certificate.validity().not_before), openssl_time(certificate.validity().not_after));
        info.client = Some(ClientCert {
            subject: &subject,
            issuer: &issuer,
            serial: &serial,
            not_before: &not_before,
            not_after: &not_after,
            encoded_chain: b"",
        });
        let chain = chain_pem(chain)?;
        let chain: Vec<&str> = chain.iter().map(String::as_str).collect();
        Ok(Arc::new(Self { block: info.encode(&chain)?.into(), is_http2 }))
    }

    /// Returns the block for the frames of this connection's requests.
    pub fn block(&self) -> &[u8] {
        &self.block
    }

    /// True if client and server agreed on HTTP/2.
    pub fn is_http2(&self) -> bool {
        self.is_http2
    }
}

/// The session of the last connection without a client certificate. The sessions of most
/// connections are equal and share one value.
#[derive(Debug, Default)]
pub(super) struct RecentSession(Mutex<Option<Arc<TlsSession>>>);

impl RecentSession {
    /// Returns the recent session if it has this description, otherwise a new session, which
    /// becomes the recent one.
    fn get(&self, info: &TlsInfo<'_>, is_http2: bool) -> Result<Arc<TlsSession>, SessionError> {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_equal = |session: &&Arc<TlsSession>| {
            session.is_http2 == is_http2 && TlsInfo::decode(&session.block).is_ok_and(|block| block == *info)
        };
        if let Some(session) = recent.as_ref().filter(is_equal) {
            return Ok(Arc::clone(session));
        }
        let session = Arc::new(TlsSession { block: info.encode(&[])?.into(), is_http2 });
        *recent = Some(Arc::clone(&session));
        Ok(session)
    }
}

/// A client certificate that the application cannot receive.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The certificate chain is too large.
    #[error("the client's certificate has more than {MAX_CHAIN_BYTES} bytes")]
    TooLarge,
    /// A part of the certificate is too long for the frame.
    #[error("the client's certificate is too large: {0}")]
    TooLong(TooLong),
    /// The certificate's names cannot be read.
    #[error("the client's certificate cannot be read: {0}")]
    Unreadable(#[from] x509_cert::der::Error),
}

impl From<TooLong> for SessionError {
    fn from(error: TooLong) -> Self {
        Self::TooLong(error)
    }
}

/// Returns the first certificates of the chain in PEM, at most [`MAX_CHAIN_BYTES`] together. The
/// first is the client's own.
fn chain_pem(chain: &[CertificateDer<'_>]) -> Result<Vec<String>, SessionError> {
    let mut size = 0;
    let mut texts = Vec::new();
    for certificate in chain {
        let text = pem(certificate)?;
        size += text.len();
        if size > MAX_CHAIN_BYTES {
            break;
        }
        texts.push(text);
    }
    if texts.is_empty() { Err(SessionError::TooLarge) } else { Ok(texts) }
}
