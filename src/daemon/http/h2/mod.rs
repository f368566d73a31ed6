//! HTTP/2 (RFC 9113). The h2 crate does framing, HPACK and flow control.
//!
//! ```text
//! ClientStream ──▶ MeteredStream ──▶ h2 ──▶ conn: one task      starts requests, announces the drain, ends abuse
//!                                    │ ▲
//!                                    ▼ └──── stream: a task each  response ▶ body, or a WebSocket (tunnel)
//! ```
//! The `h2` crate is used directly: hyper's HTTP/2 server cannot send interim responses (103 and
//! 100), and it ends the whole connection when one stream sends a CONNECT with a body.
//!
//! # Protocol selection
//! Over TLS, ALPN selects HTTP/2; in clear text a connection begins with the preface (prior
//! knowledge, RFC 9113 §3.3). The HTTP/1 framing rejects the preface's first line, so the preface
//! is looked for only in rejected heads, at no cost to HTTP/1.1. `Upgrade: h2c` is not offered:
//! RFC 9113 has removed it.
//!
//! # Requests that share a connection
//! Each stream has a [`Connection`](crate::net::Connection) of its own below that of the socket,
//! and so its own phase, close reason, output progress and timeouts. The code from
//! [`start`](super::request::start) to the journal is the same for both protocols.
//!
//! | rule | on the socket | on a stream |
//! |---|---|---|
//! | `timeouts.header` | until the head of the first request is complete | - |
//! | `timeouts.keepalive` | while no stream is open; a stream counts once its head is complete | - |
//! | `timeouts.body`, `limits.body_rate` | - | the request's body, as in HTTP/1.1 |
//! | `timeouts.body`, `limits.response_rate` | while the socket accepts no bytes | while the client grants no window |
//! | `limits.connections`, `limits.connections_per_client`, eviction | counted; may be evicted while no stream is open | - |
//! | drain | closed when idle; two GOAWAY frames if it stays busy, then closed when its streams have ended, aborted at the deadline | a WebSocket is closed with 1012 |
//! | reload | keeps its settings | keeps its connection's settings |
//! | journal | - | one entry per request |
//!
//! A drain closes a connection that has been idle for a second. On a connection that is still busy
//! after [`GOAWAY_DELAY`](conn::GOAWAY_DELAY), two GOAWAY frames announce the end (RFC 9113 §6.8).
//! The first, with the stream id 2^31-1, says that the client must open no more streams; streams
//! that are on their way are served. The second has the id of the last stream that is served; later
//! streams are ignored, so a client may repeat their requests elsewhere. The second is sent when
//! the client has answered a PING, or after [`DRAIN_PING_TIMEOUT`](conn::DRAIN_PING_TIMEOUT). A
//! reload sends no GOAWAY: connections stay open.
//!
//! A connection that is closed while idle gets a GOAWAY, so that a client that has just sent a
//! request knows that the daemon did not process it. A stalled stream is reset (CANCEL) and the
//! others continue. A slow upload never delays another: the connection's window is as large as
//! those of all its streams together.
//!
//! # Bounds
//! In addition to the tasks of `limits.streams` requests (default 100), a client can make one
//! connection hold:
//!
//! | what | at most |
//! |---|---|
//! | request bodies that the daemon has not read | [`STREAM_WINDOW`] per stream |
//! | bookkeeping of small DATA frames in these bodies | half the connection's window (h2's budget, RUSTSEC-2026-0258) |
//! | heads | twice the sum of `limits.header`, `limits.request_line` and 32 bytes per field, per stream; h2 ends the connection at a head of four times this size |
//! | response bodies that the client does not read | [`MAX_SEND_BUFFER`] per stream in h2, and one piece, charged to `limits.response_memory` |
//! | streams that were reset, remembered to ignore late frames | 50 for one second |
//!
//! # Abuse
//! | attack | reaction |
//! |---|---|
//! | streams reset before h2 has passed them to rgun (CVE-2023-44487) | ENHANCE_YOUR_CALM after 20 (h2) |
//! | streams reset before their response, by the client or by h2 because of an error of the client (CVE-2025-8671) | ENHANCE_YOUR_CALM when they outnumber the responses by [`MAX_EARLY_RESETS`](meter::MAX_EARLY_RESETS) |
//! | frames that carry nothing: PING, SETTINGS, WINDOW_UPDATE, PRIORITY, padding, unknown types | ENHANCE_YOUR_CALM when the bytes received exceed 1 MiB plus eight times those of heads and bodies ([`meter`]) |
//! | CONTINUATION without end, HPACK bomb | h2's limits on CONTINUATION frames and on the header list size |
//! | a flood of any kind that keeps the reactor busy | each poll of the connection reads at most 256 KiB |

mod body;
mod conn;
mod data;
mod date;
mod frame_cursor;
mod head;
mod indexing;
mod meter;
pub(super) mod signals;
mod stream;
mod tunnel;

pub(super) use self::conn::serve;

/// Bytes that a client may send on a stream before the daemon has read earlier bytes
/// (SETTINGS_INITIAL_WINDOW_SIZE). Allows 35 Mbit/s at a round-trip time of 30 ms.
const STREAM_WINDOW: u32 = 128 * 1024;

/// Maximum number of bytes of a response that h2 holds per stream until the socket takes them.
const MAX_SEND_BUFFER: usize = 128 * 1024;
