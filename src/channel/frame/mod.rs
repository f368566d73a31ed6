//! Frames: the contents of a record of the submission or completion ring.
//!
//! Submission (daemon → worker), 48 bytes then the variable part:
//!
//! | offset | size | field | bound |
//! |---|---|---|---|
//! | 0 | 8 | exchange id | never 0 |
//! | 8 | 8 | body length, bytes | |
//! | 16 | 8 | received: `CLOCK_MONOTONIC` when the head was complete, ns | |
//! | 24 | 1 | kind: 1 = request | |
//! | 25 | 1 | method, index of [`METHODS`](crate::header::METHODS), 0 = literal | |
//! | 26 | 1 | version: 10, 11 or 20 | |
//! | 27 | 1 | flags: 1 body is a descriptor ([`crate::control`]), 2 https, 4 the body comes in parts, 8 WebSocket; 1 and 8 together: takeover; 16 a TLS block follows | |
//! | 28 | 2 | number of fields | |
//! | 30 | 2 | listener, index of [`crate::control::Start::listeners`] | |
//! | 32 | 2·6 | lengths: literal method, path, query, peer address, request id, root path | |
//! | 44 | 2 | peer port | |
//! | 46 | 2 | server port, if a proxy reports it | else 0 |
//! | 48 | | method, path, query, peer, request id, root path; with flag 16 `len u16` and a TLS block ([`TlsInfo`]); fields; body to the end (unless a descriptor) | |
//!
//! A *takeover* is a WebSocket handshake for a WSGI worker. It has no body; its descriptor is one
//! end of a stream socket pair, which the application finds in its environ. When the application
//! writes a response with status 101 to the socket, the daemon forwards bytes between the client
//! and the socket, and discards the exchange's completions until DONE. If the application writes
//! nothing to the socket, the daemon uses the response in the ring.
//!
//! An ASGI worker gets further frames for an exchange that it has claimed ([`StreamFrame`]), 32
//! bytes then the variable part:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | exchange id |
//! | 8 | 16 | padding, so that the kind is at the same offset as in requests |
//! | 24 | 1 | kind: 2 = part (of the request's body, or a WebSocket message), 3 = disconnect |
//! | 25 | 1 | flags of a part: 1 END of the body, 2 text message, 4 the message continues in the next part; of a disconnect: 1 cancel, 2 half close |
//! | 26 | 2 | WebSocket close code (RFC 6455 §7.4) of a disconnect |
//! | 28 | 4 | reserved, 0 |
//! | 32 | | bytes of the part, or the close reason |
//!
//! A field is `name u8` (index of [`NAMES`](crate::header::NAMES), or
//! [`LITERAL`](crate::header::LITERAL) followed by `len u16` and the lower-case name), `len u16`,
//! value.
//!
//! Completion (worker → daemon), 32 bytes then the variable part:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | exchange id |
//! | 8 | 1 | kind: 1 respond (head, perhaps with body), 2 body, 3 application error, 4 window update, 5 early hints, 6 trailers, 7 close |
//! | 9 | 1 | flags: 1 END of the response, 2 body is a descriptor, 4 body is slab chunks, 8 DONE: the slot is free, 16 text message, 32 the message continues, 64 the exception ends a takeover |
//! | 10 | 2 | status |
//! | 12 | 2 | number of fields |
//! | 14 | 2 | number of slab chunks |
//! | 16 | 8 | service time so far, ns (valid with DONE) |
//! | 24 | 2 | slot in which the exchange runs, for [`SLOT_ACKED`](crate::layout::SLOT_ACKED) |
//! | 26 | 2 | length of the reason phrase, bytes; 0: the canonical phrase ([`crate::status`]), or none |
//! | 28 | 4 | reserved, 0 |
//! | 32 | | reason phrase; fields; then slab chunks (`chunk u32, len u32`)·n, or `offset u64, len u64` of the descriptor ([`UNTIL_EOF`]), or body bytes |
//!
//! The following completions come from ASGI workers only, except `early hints`. `window update` has
//! the number of request body bytes for which the application has room, counted from the body's
//! start (u64, as the inline body); the daemon sends parts up to that number. `early hints` has the
//! fields of a 103 (RFC 8297), `trailers` the fields after the body. `close` ends a WebSocket with
//! the code in `status` and the reason as inline body.
//!
//! A `respond` with status 101 accepts a WebSocket; any other `respond` denies it and is an
//! ordinary response. On an accepted WebSocket the `body` frames (without END) and the `part`
//! frames are messages, each of which costs its bytes plus [`MESSAGE_COST`]. The WebSocket ends
//! with `close` or `application error`.
//!
//! `application error` carries an [`AppError`] and ends the response: before the head the daemon
//! answers 500, after the head it resets the connection, after END it logs the error. A second
//! `application error` may follow, if closing the iterable fails too; the last one has DONE.
//!
//! If END was sent without DONE, the worker sends DONE later. It adds DONE to the frame with END
//! while that frame is in the ring ([`crate::ring::CompletionSender::mark_done`], without a service
//! time), or else sends an empty body frame with END and DONE. An empty body frame with END and
//! DONE, without a head before it, also ends an exchange after a disconnect or a cancel.
#![warn(clippy::indexing_slicing)]

mod completion;
mod field;
mod reader;
mod request;
mod stream;
mod tls;

#[cfg(not(loom))]
pub(crate) use completion::add_done;
pub use completion::{
    AppError, Body, BodyPart, Completion, CompletionKind, DecodedCompletion, MAX_FIELDS, UNTIL_EOF, chunks,
    decode_window_update,
};
pub use field::{FieldName, Fields, TooLong, encode_field, encode_known_field, fields};
pub(crate) use reader::{Reader, put_bytes, put_text};
pub use request::{Request, UNKNOWN_LENGTH};
pub use stream::{MESSAGE_COST, StreamFrame, Submission};
pub use tls::{ClientCert, TlsInfo};

/// Identifies an exchange on its channel, and in the daemon until the exchange ends. Never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExchangeId(pub u64);
