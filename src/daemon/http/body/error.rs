//! The errors that end a response's body early.

use std::io;

use crate::dispatch::Fault;

/// An error within the body. The connection is then closed, or the stream reset, so the client sees
/// an incomplete response.
#[derive(Debug, thiserror::Error)]
pub(in crate::http) enum BodyError {
    #[error("the exchange failed within the body: {0:?}")]
    Fault(Fault),
    #[error("cannot compress the body")]
    Compression(#[source] io::Error),
    #[error("cannot read the file")]
    File(#[source] io::Error),
}
