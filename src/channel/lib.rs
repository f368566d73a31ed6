//! The contract between the rgun daemon and its Python workers.
//!
//! One sealed memfd per worker is mapped by both sides (module [`map`], offsets in [`layout`]); one
//! `AF_UNIX` `SOCK_SEQPACKET` pair per worker carries lifecycle messages and file descriptors
//! ([`control`]). Requests travel through the *submission ring*, answers through the *completion ring*
//! ([`ring`]); bodies too large for a ring travel in *slab* chunks ([`slab`]) or as a descriptor.
//!
//! ```text
//!   daemon ── submission ring: record = len u32 | state u32 | frame ──▶ worker
//!   daemon ◀─ completion ring: record = len u32 | 0 u32     | frame ── worker
//!   daemon ── free ring: chunk numbers u32 ──▶ worker      (chunks lent by the worker come back)
//!   daemon ◀─ slab: n chunks of 64 KiB ─────── worker
//! ```
//!
//! # Invariants
//! - One writer per word; the words of the two sides are 128 bytes apart (two cache lines: the
//!   prefetcher of x86-64 fetches pairs).
//! - **Nothing read from the map is trusted.** A length is read once, checked against the ring and the
//!   frame is copied out before it is decoded, so the other side cannot change it under the decoder.
//!   A broken contract is an error value ([`ProtocolError`]); it never panics and never reads outside the map.
//! - A record is bound to a worker only when the worker says so: `READY → CLAIMED` is the worker's
//!   compare-and-swap, `READY → REVOKED` the daemon's. Exactly one of them succeeds.
//! - No wake-up is lost: see [`wake`], which is model-checked with loom.
//!
//! All integers are little-endian. This crate uses neither tokio nor hyper nor pyo3, reads no clock and
//! logs nothing: it returns.

pub mod control;
mod error;
pub mod frame;
pub mod header;
pub mod layout;
#[cfg(not(loom))]
pub mod map;
#[cfg(all(test, loom))]
mod models;
#[cfg(not(loom))]
pub mod ring;
#[cfg(not(loom))]
pub mod slab;
pub mod state;
pub mod status;
mod sync;
pub mod wake;

pub use error::ProtocolError;

/// Version of everything in this crate that two processes must agree on. Daemon and worker come from
/// one package, but a daemon that has been upgraded on disk may still be running: the worker refuses
/// a [`control::Start`] of another version and says which it speaks.
pub const PROTOCOL_VERSION: u32 = 4;
