//! Which connections go to the next daemon, and when.
//!
//! The drain chooses connections ([`ConnectionTracker::begin_drain`](super::ConnectionTracker)). A
//! chosen connection leaves HTTP as soon as no request is in progress. A request that has not started
//! is served by this daemon, too, if there is time: the next one may fail to start. When the time ends,
//! the request is withdrawn from the dispatcher, and goes along as unread input.

use std::os::fd::OwnedFd;

use super::connection::Connection;
use super::detached::DetachedConnection;
use super::directive::Directive;
use super::peer::Client;
use super::phase::Phase;

/// Maximum length in bytes of a request body that goes to the next daemon. The copy in the state
/// takes more time and memory than a running worker needs for the request.
const MAX_BODY: usize = 1024 * 1024;

/// Maximum length in bytes of all requests that go to the next daemon. While the state is written,
/// memory holds it three times.
const MAX_TOTAL: usize = 16 * 1024 * 1024;

impl Connection {
    /// True if the drain may choose the connection for the next daemon.
    pub(super) fn is_movable(&self) -> bool {
        self.is_plain_http1() && matches!(self.phase(), Phase::New | Phase::Head | Phase::Busy | Phase::Idle)
    }

    /// True if the drain has chosen the connection for the next daemon.
    pub(super) fn is_chosen(&self) -> bool {
        self.directive() == Directive::HandOver
    }

    /// True if the connection must leave HTTP now, for the next daemon: no request is in progress,
    /// and every response is written.
    pub(super) fn should_hand_over(&self) -> bool {
        self.is_chosen()
            && matches!(self.phase(), Phase::New | Phase::Head | Phase::Idle)
            && !self.is_write_blocked()
    }

    /// True if the drain ends the connection after its response, which then carries `Connection:
    /// close`. False if the next daemon continues the connection.
    pub fn closes_after_response(&self) -> bool {
        self.is_draining() && !self.is_chosen()
    }

    /// Returns the maximum length in bytes of a body with which the connection's request can go to
    /// the next daemon, if the request has not started. `None` if the request must be served by this
    /// daemon.
    pub fn movable_body_len(&self) -> Option<usize> {
        // The client may get nothing more from this daemon. A client that has closed its sending
        // half has mostly left.
        if !self.registry.moves_requests()
            || !self.is_chosen()
            || self.phase() != Phase::Busy
            || self.is_write_blocked()
            || self.is_half_closed()
        {
            return None;
        }
        MAX_TOTAL.checked_sub(self.registry.detached_len()).map(|left| left.min(MAX_BODY))
    }

    /// Ends the request that was withdrawn: the connection leaves HTTP. The phase's beginning stays, so
    /// that the next daemon serves the oldest request first.
    pub fn end_withdrawn_request(&self) {
        self.resume(Phase::Idle, self.phase_since());
    }

    /// Stores the connection's socket for the next daemon.
    pub(super) fn hand_over(&self, socket: OwnedFd, unread: Vec<u8>) {
        self.registry.detach(DetachedConnection {
            socket,
            listener: self.listener,
            client: Client { peer: self.peer.clone(), https: self.https },
            phase: self.phase(),
            phase_since: self.phase_since(),
            unread,
        });
    }
}
