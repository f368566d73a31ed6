//! The forwarding fields of trusted proxies: `X-Forwarded-*`, or `Forwarded` (RFC 7239), never
//! both.
//!
//! Any client can send these fields, so they are read only if `proxy.trusted` lists the peer. In a
//! list of addresses, only the part that trusted proxies have appended is read: from the right to
//! the first address that is not trusted, which is the client's.
//!
//! Pure functions, called by `request_meta`.

mod claim;
mod rfc7239;
mod settings;
mod x_forwarded;

pub(super) use claim::{ProxyClaim, host_with_port};
pub use settings::{ForwardedField, ForwardingHeaders, ForwardingSettings};

use http::HeaderMap;

impl ForwardingSettings {
    /// Reads what a trusted peer reports about a request.
    pub(super) fn read(&self, headers: &HeaderMap) -> ProxyClaim {
        let claim = match self.headers {
            ForwardingHeaders::Off => ProxyClaim::default(),
            ForwardingHeaders::XForwarded => x_forwarded::read(headers, self),
            ForwardingHeaders::Forwarded => rfc7239::read(headers, self),
        };
        claim.restricted_to(self.fields)
    }
}
