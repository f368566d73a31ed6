//! The keys that session tickets are encrypted with (RFC 8446 §4.6.1, RFC 5077).

use std::fmt;
use std::sync::Arc;

use rustls::server::ProducesTickets;

/// Keys of session tickets, kept in memory only. rustls replaces them every six hours and accepts a
/// ticket for up to twelve.
#[derive(Clone)]
pub(super) struct TicketKeys {
    keys: Arc<dyn ProducesTickets>,
    /// See [`ClientPolicy::fingerprint`](super::clients::ClientPolicy::fingerprint).
    policy: Arc<[u8]>,
}

impl TicketKeys {
    /// Returns the previous keys if the policy for clients is the same, so that clients can resume
    /// their sessions; otherwise new keys.
    pub(super) fn reuse_or_new(previous: Option<&Self>, policy: &[u8]) -> Result<Self, rustls::Error> {
        match previous {
            Some(previous) if *previous.policy == *policy => Ok(previous.clone()),
            _ => Ok(Self { keys: rustls::crypto::aws_lc_rs::Ticketer::new()?, policy: policy.into() }),
        }
    }

    pub(super) fn ticketer(&self) -> Arc<dyn ProducesTickets> {
        Arc::clone(&self.keys)
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TicketKeys").finish_non_exhaustive()
    }
}
