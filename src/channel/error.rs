//! How the other side can break the contract.

/// The other side of the channel broke the contract; nothing it wrote is to be believed any more.
///
/// The daemon answers with killing the worker, the worker by exiting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A ring position moved backwards, beyond the other end, or off its alignment.
    #[error("{ring} ring: {which} position {value} is impossible (own position {own})")]
    Position {
        /// Which ring: `submission`, `completion` or `free`.
        ring: &'static str,
        /// `head` or `tail`.
        which: &'static str,
        /// What was read.
        value: u64,
        /// The reader's own position.
        own: u64,
    },
    /// A record's length does not fit between the reader's position and the ring's head.
    #[error("{ring} ring: record of {len} bytes does not fit into the {available} bytes published")]
    RecordLength {
        /// Which ring.
        ring: &'static str,
        /// The length read.
        len: u32,
        /// Bytes between own position and head (or the ring's end).
        available: u64,
    },
    /// A record's state word holds none of the states of [`crate::state`].
    #[error("submission ring: record state {0} does not exist")]
    RecordState(u32),
    /// A frame ended before its fields did, or has fields of impossible value.
    #[error("frame: {0}")]
    Frame(&'static str),
    /// A slab chunk number or length is out of range, or the chunk is not the sender's to give.
    #[error("slab: chunk {chunk}: {why}")]
    Chunk {
        /// The chunk's number.
        chunk: u32,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A control message could not be decoded.
    #[error("control message: {0}")]
    Control(&'static str),
}
