//! The reason of a failed handshake, worded for the operator. (rustls words its errors for
//! programmers.)

use std::fmt;
use std::io;

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

/// The failure of a handshake.
#[derive(Debug)]
pub enum HandshakeFault<'e> {
    /// The client violated the protocol, is not allowed, or has sent an alert.
    Tls(&'e Error),
    /// The connection broke.
    Io(&'e io::Error),
}

impl<'e> HandshakeFault<'e> {
    /// Finds the cause of an error of tokio-rustls.
    pub fn of(error: &'e io::Error) -> Self {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>());
        cause.map_or(Self::Io(error), Self::Tls)
    }

    /// True if rgun has sent the client an alert about this failure.
    pub fn is_alerted(&self) -> bool {
        matches!(self, Self::Tls(error) if !matches!(error, Error::AlertReceived(_)))
    }
}

impl fmt::Display for HandshakeFault<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = match self {
            Self::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return f.write_str("the client closed the connection before the end of the handshake");
            }
            Self::Io(error) => return write!(f, "the connection broke: {error}"),
            Self::Tls(error) => error,
        };
        match error {
            Error::AlertReceived(alert) => write!(f, "the client sent the alert {}", AlertText(*alert)),
            Error::InvalidMessage(_) => f.write_str("the client sent something that is not TLS"),
            Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
                f.write_str("the client sent a message out of order")
            }
            Error::DecryptError => f.write_str("a message of the client cannot be decrypted"),
            Error::NoCertificatesPresented => {
                f.write_str("the client has no certificate, and tls.client_auth is \"required\"")
            }
            Error::InvalidCertificate(error) => {
                write!(f, "the client's certificate {}", CertificateText(error))
            }
            Error::PeerIncompatible(
                PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::SupportedVersionsExtensionRequired
                // Clients have sent this extension since TLS 1.2.
                | PeerIncompatible::SignatureAlgorithmsExtensionRequired,
            ) => f.write_str("the client speaks no TLS version that rgun accepts (tls.min_version)"),
            Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon) => {
                f.write_str("the client has no cipher suite that rgun has")
            }
            Error::PeerIncompatible(what) => {
                write!(f, "the client and rgun support no common parameters ({what:?})")
            }
            Error::PeerMisbehaved(what) => write!(f, "the client violated the protocol ({what:?})"),
            Error::NoApplicationProtocol => {
                f.write_str("the client offers no application protocol (ALPN) that rgun speaks")
            }
            other => other.fmt(f),
        }
    }
}

/// Formats an alert: its name in RFC 8446 §6 and, for an alert about the server's certificate, its
/// meaning.
struct AlertText(AlertDescription);

impl fmt::Display for AlertText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            AlertDescription::UnknownCA => "unknown_ca: it does not trust the issuer of tls.cert",
            AlertDescription::BadCertificate => "bad_certificate: it refuses tls.cert",
            AlertDescription::CertificateUnknown => "certificate_unknown: it refuses tls.cert",
            AlertDescription::CertificateExpired => "certificate_expired: by its clock, tls.cert has expired",
            AlertDescription::CertificateRevoked => "certificate_revoked: tls.cert was revoked",
            AlertDescription::UnsupportedCertificate => "unsupported_certificate: it refuses tls.cert",
            AlertDescription::AccessDenied => "access_denied",
            AlertDescription::CloseNotify => "close_notify",
            AlertDescription::DecodeError => "decode_error",
            AlertDescription::DecryptError => "decrypt_error",
            AlertDescription::HandshakeFailure => "handshake_failure",
            AlertDescription::IllegalParameter => "illegal_parameter",
            AlertDescription::InsufficientSecurity => "insufficient_security",
            AlertDescription::InternalError => "internal_error",
            AlertDescription::ProtocolVersion => "protocol_version",
            AlertDescription::UnexpectedMessage => "unexpected_message",
            AlertDescription::UserCanceled => "user_canceled",
            other => return write!(f, "{}", u8::from(other)),
        })
    }
}

/// The reason for refusing a client's certificate; follows "the client's certificate".
struct CertificateText<'e>(&'e CertificateError);

impl fmt::Display for CertificateText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            CertificateError::UnknownIssuer => f.write_str("is not from an authority in tls.client_ca"),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => f.write_str("has expired"),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                f.write_str("is not valid yet")
            }
            CertificateError::BadSignature => f.write_str("has a wrong signature"),
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                f.write_str("is not for clients (extendedKeyUsage)")
            }
            CertificateError::Other(cause) if cause.to_string() == "UnsupportedCertVersion" => {
                f.write_str("has the version X.509 v1, which is not supported: issue it as v3")
            }
            other => write!(f, "is not valid: {other}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alert_from_the_client_is_not_an_alert_to_the_client() {
        let received = io::Error::other(Error::AlertReceived(AlertDescription::UnknownCA));
        let fault = HandshakeFault::of(&received);
        assert!(!fault.is_alerted());
        assert_eq!(
            fault.to_string(),
            "the client sent the alert unknown_ca: it does not trust the issuer of tls.cert"
        );
        let sent = io::Error::other(Error::NoCertificatesPresented);
        assert!(HandshakeFault::of(&sent).is_alerted());
        assert!(!HandshakeFault::of(&io::ErrorKind::UnexpectedEof.into()).is_alerted());
    }
}
