//! The HTTP/1 layer between a connection's stream and hyper.
//!
//! [`Wire`] reads from the stream and passes on to hyper only what [`framing`] has accepted.

pub(super) mod early_hints;
pub(super) mod framing;
pub(super) mod replay;
mod wire;

pub(super) use self::wire::{Wire, violation_of};
