//! The service that hyper calls for each request of an HTTP/1 connection.

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

/// Serves the requests of one connection.
pub(super) struct ConnService {
    pub(super) context: Arc<ConnContext>,
    /// Created at the first WebSocket handshake.
    pub(super) upgrade_slot: OnceLock<UpgradeSlot>,
}

impl ConnService {
    /// Takes the WebSocket that the last request accepted, if any.
    pub(super) fn take_upgrade(&self) -> Option<websocket::AcceptedUpgrade> {
        self.upgrade_slot.get()?.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Service<Request<Incoming>> for ConnService {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn call(&self, request: Request<Incoming>) -> ResponseFuture {
        // Called here and not in the future, so that the head is released in time: hyper reads
        // ahead before it polls the future, and must allocate a buffer while the head exists (see
        // `RequestMeta`).
        let (meta, progress, extra) = start(&self.context, &self.upgrade_slot, request);
        ResponseFuture::new(Arc::clone(&self.context), meta, progress, extra)
    }
}
