//! The checked `[tls]` section. `certificates` reads the section; the daemon's module `tls` reads
//! the files that it names.

use std::path::{Path, PathBuf};

/// Stands for the credentials directory of the unit in a check that has no access to it; not an
/// absolute path.
pub(super) const UNKNOWN_CREDENTIALS: &str = "$CREDENTIALS_DIRECTORY";

/// `[tls]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificates with their keys; the first is for clients that name no host, or an unknown
    /// host. Empty: no TLS.
    pub certificates: Vec<CertificateFiles>,
    /// The oldest protocol version that is accepted.
    pub min_version: TlsVersion,
    /// Whether clients are asked for a certificate.
    pub client_auth: ClientAuth,
    /// File with the authorities of client certificates; set if `client_auth` is not off.
    pub client_ca: Option<PathBuf>,
    /// Where the files are named.
    pub origins: TlsOrigins,
}

impl Tls {
    /// Returns the section without the credentials in [`UNKNOWN_CREDENTIALS`], and the names of
    /// these credentials.
    pub fn split_unknown_credentials(&self) -> (Self, Vec<String>) {
        let name = |path: &Path| Some(path.strip_prefix(UNKNOWN_CREDENTIALS).ok()?.display().to_string());
        let mut known = self.clone();
        let mut unknown = Vec::new();
        known.certificates.retain(|CertificateFiles { cert, key }| {
            let names: Vec<String> = [cert, key].into_iter().filter_map(|path| name(path)).collect();
            unknown.extend_from_slice(&names);
            names.is_empty()
        });
        if let Some(name) = known.client_ca.as_deref().and_then(name) {
            unknown.push(name);
            known.client_ca = None;
        }
        unknown.dedup();
        (known, unknown)
    }
}

/// Where the files of `[tls]` are named, for messages: file and line, flag or variable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsOrigins {
    /// `tls.cert`.
    pub cert: String,
    /// `tls.key`; `None` if each certificate's file has its key too.
    pub key: Option<String>,
    /// `tls.client_ca`.
    pub client_ca: String,
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
