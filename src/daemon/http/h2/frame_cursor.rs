//! Finds the boundaries between HTTP/2 frames in a connection's input.

/// Bytes before a frame's payload (RFC 9113 §4.1); the first three are the length of the payload.
const FRAME_HEAD_BYTES: usize = 9;
const LENGTH_BYTES: usize = 3;

/// Bytes of the preface, which precedes the first frame (RFC 9113 §3.4).
const PREFACE_BYTES: usize = 24;

/// Follows the frames of one connection by their lengths.
#[derive(Debug)]
pub(super) struct FrameCursor {
    /// Bytes of the preface or of the current frame still to come, once the length of the frame is
    /// known.
    left: usize,
    /// Number of bytes of the next frame's length that were read, fewer than [`LENGTH_BYTES`].
    length_bytes: usize,
    /// The value of these bytes.
    length: usize,
}

impl FrameCursor {
    /// Creates a cursor at the beginning of the preface.
    pub(super) const fn new() -> Self {
        Self { left: PREFACE_BYTES, length_bytes: 0, length: 0 }
    }

    /// True if the next byte is the first of a frame.
    pub(super) const fn is_between_frames(&self) -> bool {
        self.left == 0 && self.length_bytes == 0
    }

    /// Follows `input`, which continues the earlier input.
    pub(super) fn advance(&mut self, mut input: &[u8]) {
        while !input.is_empty() {
            let len = self.next_step().min(input.len());
            let (step, rest) = input.split_at(len);
            self.follow(step);
            input = rest;
        }
    }

    /// Follows `input` to the end of the frame in which it begins. Returns the number of bytes
    /// followed: all of them if the frame does not end.
    pub(super) fn advance_to_boundary(&mut self, input: &[u8]) -> usize {
        let mut followed = 0;
        while followed < input.len() {
            let rest = input.get(followed..).unwrap_or_default();
            let len = self.next_step().min(rest.len());
            self.follow(rest.get(..len).unwrap_or_default());
            followed += len;
            if self.is_between_frames() {
                break;
            }
        }
        followed
    }

    /// Returns the number of bytes to follow in one step.
    const fn next_step(&self) -> usize {
        if self.left > 0 { self.left } else { LENGTH_BYTES - self.length_bytes }
    }

    /// Follows one step or a part of it.
    fn follow(&mut self, step: &[u8]) {
        if self.left > 0 {
            self.left -= step.len();
            return;
        }
        self.length = step.iter().fold(self.length, |length, byte| length << 8 | usize::from(*byte));
        self.length_bytes += step.len();
        if self.length_bytes == LENGTH_BYTES {
            self.left = FRAME_HEAD_BYTES - LENGTH_BYTES + self.length;
            (self.length_bytes, self.length) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The preface, an empty frame, and one with 258 bytes of payload.
    fn input() -> (Vec<u8>, [usize; 3]) {
        let mut input = vec![b'p'; PREFACE_BYTES];
        input.extend([0; FRAME_HEAD_BYTES]);
        input.extend([0, 1, 2, 0, 0, 0, 0, 0, 1]);
        input.extend([7; 258]);
        (input, [24, 33, 300])
    }

    #[test]
    fn frames_end_at_the_same_bytes_in_any_pieces() {
        let (input, ends) = input();
        assert_eq!(input.len(), ends[2]);
        for size in 1..=input.len() {
            let mut cursor = FrameCursor::new();
            let mut position = 0;
            assert!(!cursor.is_between_frames());
            for piece in input.chunks(size) {
                cursor.advance(piece);
                position += piece.len();
                assert_eq!(cursor.is_between_frames(), ends.contains(&position), "{size} {position}");
            }
        }
    }

    #[test]
    fn boundary_is_found_within_the_input() {
        let (input, ends) = input();
        let (mut cursor, mut position) = (FrameCursor::new(), 0);
        for end in ends {
            position += cursor.advance_to_boundary(&input[position..]);
            assert_eq!(position, end);
        }
        assert_eq!(cursor.advance_to_boundary(&[0, 0]), 2);
        assert!(!cursor.is_between_frames());
        assert_eq!(cursor.advance_to_boundary(&[]), 0);
    }
}
