//! A request's body as its client sends it, in either HTTP version.

use bytes::Bytes;
use http::request;
use http_body::Body;
use hyper::body::Incoming;

use crate::http::context::RequestLimits;
use crate::http::fault::Refusal;
use crate::http::h1::framing::Violation;
use crate::http::{h1, handshake};

/// A request's body, and the checks that depend on the HTTP version. The code that serves requests
/// is compiled once for each version.
pub(in crate::http) trait ClientBody:
    Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Unpin + Send + 'static
{
    /// True for HTTP/2, where the request came on a stream.
    const IS_STREAM: bool;

    /// Refuses heads that this version's parser accepts although the application must not receive
    /// them, and gives the head the form that the rest of the code expects.
    ///
    /// # Errors
    /// The request must be refused.
    fn prepare_head(head: &mut request::Parts, limits: &RequestLimits) -> Result<(), Refusal>;

    /// True if a request without a body is a WebSocket handshake.
    fn is_handshake(head: &request::Parts) -> bool;

    /// Returns the violation of the framing that caused this error; `None` for other errors.
    fn violation_of(error: &Self::Error) -> Option<Violation>;
}

impl ClientBody for Incoming {
    const IS_STREAM: bool = false;

    /// The framing has checked the head already.
    fn prepare_head(_: &mut request::Parts, _: &RequestLimits) -> Result<(), Refusal> {
        Ok(())
    }

    fn is_handshake(head: &request::Parts) -> bool {
        handshake::is_handshake(head)
    }

    fn violation_of(error: &hyper::Error) -> Option<Violation> {
        h1::violation_of(error)
    }
}
