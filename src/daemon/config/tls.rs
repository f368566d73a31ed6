//! The checked `[tls]` section; `certificates` reads it, and the daemon's module of the same name reads the files.

use std::path::PathBuf;

/// `[tls]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificates with their keys; the first one is for clients that name no host or an unknown one. Empty: no TLS.
    pub certificates: Vec<CertificateFiles>,
    /// The oldest protocol version that is accepted.
    pub min_version: TlsVersion,
    /// Whether clients are asked for a certificate.
    pub client_auth: ClientAuth,
    /// File with the authorities of client certificates; set if `client_auth` is not off.
    pub client_ca: Option<PathBuf>,
}

/// A certificate and its key. Absolute paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// PEM: the certificate, then its intermediate ones.
    pub cert: PathBuf,
    /// PEM: the private key. May be the same file.
    pub key: PathBuf,
}

/// A version of the TLS protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TlsVersion {
    /// RFC 5246.
    #[default]
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// Whether clients are asked for a certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// Clients are not asked.
    #[default]
    Off,
    /// Clients are asked, and may have no certificate.
    Optional,
    /// A client without a valid certificate cannot connect.
    Required,
}
