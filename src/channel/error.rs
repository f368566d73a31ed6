//! Protocol violations by the peer.

/// The peer violated the protocol. The daemon then kills the worker; a worker exits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A ring position moved backwards, beyond the other end, or off its alignment.
    #[error("{ring} ring: {which} position {value} is impossible (own position {own})")]
    Position {
        /// `submission`, `completion` or `free`.
        ring: &'static str,
        /// `head` or `tail`.
        which: &'static str,
        /// The position read.
        value: u64,
        /// The reader's own position.
        own: u64,
    },
    /// A record's length does not fit between the reader's position and the ring's head.
    #[error("{ring} ring: record of {len} bytes does not fit into the {available} bytes published")]
    RecordLength {
        /// `submission` or `completion`.
        ring: &'static str,
        /// The length read.
        len: u32,
        /// Bytes between the reader's position and the head or the ring's end.
        available: u64,
    },
    /// A record's state word holds none of the states of [`crate::state`].
    #[error("submission ring: record state {0} does not exist")]
    RecordState(u32),
    /// A frame is too short for its contents, or has an impossible value.
    #[error("frame: {0}")]
    Frame(&'static str),
    /// A slab chunk's number or length is out of range, or the sender does not own the chunk.
    #[error("slab: chunk {chunk}: {why}")]
    Chunk {
        /// The chunk's number.
        chunk: u32,
        /// The violation, worded to follow the chunk's number.
        why: &'static str,
    },
    /// A control message could not be decoded.
    #[error("control message: {0}")]
    Control(&'static str),
}
