//! The requests of one connection, as hyper hands them over.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock, PoisonError};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;

use crate::websocket;

use super::body::response::ResponseBody;
use super::context::ConnContext;
use super::handshake::UpgradeSlot;
use super::request::start;
use super::response_future::ResponseFuture;

/// The requests of one connection.
pub(super) struct ConnService {
    pub(super) context: Arc<ConnContext>,
    /// Made for a handshake.
    pub(super) upgrade_slot: OnceLock<UpgradeSlot>,
}

impl ConnService {
    /// What its last request has made of the connection.
    pub(super) fn take_upgrade(&self) -> Option<Box<websocket::AcceptedHandshake>> {
        self.upgrade_slot.get()?.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Service<Request<Incoming>> for ConnService {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn call(&self, request: Request<Incoming>) -> ResponseFuture {
        // Before the future exists, because hyper looks for more bytes before it polls it; see `Asked`.
        let (asked, started, handshake) = start(&self.context, &self.upgrade_slot, request);
        ResponseFuture {
            request: Some((Arc::clone(&self.context), asked)),
            progress: started,
            handshake,
            half_close_timer: None,
        }
    }
}
