//! The contract between the rgun daemon and its Python workers.
//!
//! Both sides map one sealed memfd per worker ([`map`], offsets in [`layout`]); one `AF_UNIX`
//! `SOCK_SEQPACKET` pair per worker carries lifecycle messages and file descriptors ([`control`]).
//! Requests travel through the *submission ring*, responses through the *completion ring*
//! ([`ring`]); bodies too large for a ring travel in *slab* chunks ([`slab`]) or as a descriptor.
//!
//! ```text
//!   daemon ── submission ring: record = len u32 | state u32 | frame ──▶ worker
//!   daemon ◀─ completion ring: record = len u32 | 0 u32     | frame ── worker
//!   daemon ── free ring: chunk numbers u32 ──▶ worker      (returns chunks to the worker)
//!   daemon ◀─ slab: n chunks of 64 KiB ─────── worker
//! ```
//!
//! # Invariants
//! - Each word has one writer, except the words of [`wake`] and the state words of records
//!   ([`state`]). The words are 128 bytes apart: two cache lines, because the prefetcher of x86-64
//!   fetches pairs.
//! - **Nothing read from the map is trusted.** A length is read once and checked against the ring,
//!   and the frame is copied out before it is decoded, so the peer cannot change it under the
//!   decoder. A violation is an error value ([`ProtocolError`]), never a panic or a read outside
//!   the map.
//! - The worker claims a record with the compare-and-swap `READY → CLAIMED`, the daemon revokes it
//!   with `READY → REVOKED`. Exactly one of them succeeds.
//! - No wake-up is lost: see [`wake`], which is model-checked with loom.
//!
//! All integers are little-endian. This crate uses neither tokio nor hyper nor pyo3, reads no clock
//! and logs nothing.

pub mod cancel_report;
pub mod control;
mod error;
pub mod frame;
pub mod header;
pub mod layout;
pub mod log_record;
#[cfg(not(loom))]
pub mod map;
#[cfg(all(test, loom))]
mod models;
#[cfg(not(loom))]
pub mod ring;
#[cfg(not(loom))]
pub mod slab;
#[cfg(not(loom))]
pub mod spin;
pub mod state;
pub mod status;
mod sync;
pub mod wake;

pub use error::ProtocolError;

/// Version of the protocol. Daemon and worker come from one package, but a package upgrade may
/// replace the extension under a running daemon: the worker rejects a [`control::Start`] of another
/// version.
pub const PROTOCOL_VERSION: u32 = 10;
