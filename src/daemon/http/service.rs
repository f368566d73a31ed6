//! The requests of one connection, as hyper hands them over.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock, PoisonError};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;

use crate::websocket;

use super::answer::Answering;
use super::context::Served;
use super::handshake::Place;
use super::response::ResponseBody;
use super::submit::start;

/// The requests of one connection.
pub(super) struct Requests {
    pub(super) served: Arc<Served>,
    /// Made for a handshake.
    pub(super) place: OnceLock<Place>,
}

impl Requests {
    /// What its last request has made of the connection.
    pub(super) fn accepted(&self) -> Option<Box<websocket::AcceptedHandshake>> {
        self.place.get()?.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Service<Request<Incoming>> for Requests {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Answering {
        // Before the future exists, because hyper looks for more bytes before it polls it; see `Asked`.
        let (asked, started, handshake) = start(&self.served, &self.place, request);
        Answering { about: Some((Arc::clone(&self.served), asked)), started, handshake, patience: None }
    }
}
