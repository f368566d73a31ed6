//! The settings of `[proxy]` that apply to requests.

use crate::net::TrustedPeers;

/// The settings of `[proxy]` that apply to requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForwardingSettings {
    /// `proxy.trusted`: the peers whose fields are used.
    pub trusted: TrustedPeers,
    /// `proxy.headers`.
    pub headers: ForwardingHeaders,
    /// `proxy.fields`.
    pub fields: ForwardedFields,
}

/// `proxy.headers`: the kind of fields that trusted peers write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ForwardingHeaders {
    /// Neither kind is read.
    Off,
    /// `X-Forwarded-For` and the other `X-Forwarded-*` fields.
    #[default]
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// `proxy.fields`: the reported values that are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForwardedFields(u8);

/// A value that a proxy can report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ForwardedField {
    /// The client's address.
    For = 1,
    /// Whether the client used TLS.
    Proto = 2,
    /// The host that the client asked for.
    Host = 4,
    /// The port that the client connected to. Only in `X-Forwarded-*`.
    Port = 8,
    /// The path below which the proxy publishes the application. Only in `X-Forwarded-*`.
    Prefix = 16,
}

impl ForwardedFields {
    pub(in crate::http) fn contains(self, field: ForwardedField) -> bool {
        self.0 & field as u8 != 0
    }
}

impl Default for ForwardedFields {
    /// `["for", "proto"]`.
    fn default() -> Self {
        [ForwardedField::For, ForwardedField::Proto].into_iter().collect()
    }
}

impl FromIterator<ForwardedField> for ForwardedFields {
    fn from_iter<I: IntoIterator<Item = ForwardedField>>(fields: I) -> Self {
        Self(fields.into_iter().fold(0, |bits, field| bits | field as u8))
    }
}
