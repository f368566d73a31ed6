//! Finds the frames of a WebSocket (RFC 6455 §5.2) in the bytes of one direction: the end of each
//! frame, the number of messages, and the code of the close frame.
//!
//! The application and the client check the frames. If the bytes are not frames, the scanner looks
//! for no further frames and only counts the bytes.

use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, OpCode};

/// Longest head of a frame: two bytes, a length of eight, a mask of four.
const MAX_HEAD_BYTES: usize = 14;

/// Bytes of a close code.
const CODE_BYTES: usize = 2;

/// The position in one direction's frames.
#[derive(Debug, Default)]
pub(super) struct FrameScanner {
    /// The beginning of an incomplete head.
    head: Vec<u8>,
    /// Number of payload bytes of the current frame that are still to come.
    payload_left: u64,
    /// The mask and the beginning of the payload of the current frame, if it is a close frame.
    close: Option<([u8; 4], Vec<u8>)>,
    /// The bytes are not frames; no further frames are looked for.
    is_lost: bool,
}

/// The result of one scan.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Passed {
    /// Number of scanned bytes.
    pub(super) len: usize,
    /// Number of completed messages.
    pub(super) messages: u64,
    /// The code of a close frame; 1005 if the frame has none.
    pub(super) close_code: Option<u16>,
}

impl FrameScanner {
    /// True if a frame may begin at this position.
    pub(super) fn is_between_frames(&self) -> bool {
        !self.is_lost && self.head.is_empty() && self.payload_left == 0
    }

    /// True once bytes that are not frames were scanned.
    pub(super) fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Scans all of `bytes` or, with `stop_after_frame`, up to the end of the first frame.
    pub(super) fn scan(&mut self, bytes: &[u8], stop_after_frame: bool) -> Passed {
        let mut passed = Passed::default();
        while passed.len < bytes.len() && !self.is_lost {
            let rest = bytes.get(passed.len..).unwrap_or_default();
            if self.payload_left == 0 {
                passed.len += self.scan_head(rest, &mut passed.messages);
            } else {
                passed.len += self.scan_payload(rest);
            }
            if self.is_between_frames() {
                if let Some((_, code)) = self.close.take() {
                    passed.close_code = Some(<[u8; 2]>::try_from(&*code).map_or(1005, u16::from_be_bytes));
                }
                if stop_after_frame {
                    return passed;
                }
            }
        }
        passed.len = bytes.len();
        passed
    }

    /// Scans bytes of a head. Returns their number.
    fn scan_head(&mut self, bytes: &[u8], messages: &mut u64) -> usize {
        let before = self.head.len();
        let taken = bytes.len().min(MAX_HEAD_BYTES - before);
        self.head.extend_from_slice(bytes.get(..taken).unwrap_or_default());
        let mut cursor = Cursor::new(&*self.head);
        let (header, len) = match FrameHeader::parse(&mut cursor) {
            Ok(Some(parsed)) => parsed,
            Ok(None) => return taken,
            Err(_) => {
                self.is_lost = true;
                return taken;
            }
        };
        let head_len = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
        self.head.clear();
        self.payload_left = len;
        match header.opcode {
            OpCode::Control(Control::Close) => {
                self.close = Some((header.mask.unwrap_or_default(), Vec::new()));
            }
            OpCode::Control(_) => {}
            OpCode::Data(_) => *messages += u64::from(header.is_final),
        }
        head_len.saturating_sub(before)
    }

    /// Scans bytes of a payload. Returns their number.
    fn scan_payload(&mut self, bytes: &[u8]) -> usize {
        let taken = usize::try_from(self.payload_left).unwrap_or(usize::MAX).min(bytes.len());
        self.payload_left -= taken as u64;
        if let Some((mask, code)) = &mut self.close {
            for byte in bytes.iter().take(taken.min(CODE_BYTES - code.len().min(CODE_BYTES))) {
                code.push(byte ^ mask.get(code.len()).copied().unwrap_or_default());
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames of a server: a text message, a message of two frames with a ping between them, and a
    /// close frame with code 1001.
    const SERVER: &[u8] = b"\x81\x02hi\x01\x01a\x89\x00\x80\x01b\x88\x04\x03\xe9by";

    #[test]
    fn frames_are_found_at_any_split() {
        for split in 0..=SERVER.len() {
            let mut scanner = FrameScanner::default();
            let (first, second) = SERVER.split_at(split);
            let (first, second) = (scanner.scan(first, false), scanner.scan(second, false));
            assert_eq!((first.len, first.messages + second.messages), (split, 2), "{split}");
            assert_eq!(first.close_code.or(second.close_code), Some(1001), "{split}");
            assert!(scanner.is_between_frames());
        }
    }

    #[test]
    fn scan_stops_after_the_first_frame() {
        let mut scanner = FrameScanner::default();
        assert_eq!(scanner.scan(&SERVER[..3], true).len, 3);
        assert!(!scanner.is_between_frames());
        assert_eq!(scanner.scan(&SERVER[3..], true).len, 1);
        assert!(scanner.is_between_frames());
    }

    #[test]
    fn masked_close_code_is_unmasked() {
        let mut scanner = FrameScanner::default();
        let passed = scanner.scan(b"\x88\x82\x01\x02\x03\x04\x02\xea", false);
        assert_eq!(passed.close_code, Some(0x03e8));
        assert_eq!(scanner.scan(b"\x88\x00", false).close_code, Some(1005));
    }

    #[test]
    fn long_frame_is_scanned_to_its_end() {
        let mut scanner = FrameScanner::default();
        let head = [&b"\x82\x7f"[..], &70_000_u64.to_be_bytes()].concat();
        scanner.scan(&head, false);
        let passed = scanner.scan(&vec![0x88; 70_001], true);
        assert_eq!((passed.len, passed.close_code), (70_000, None));
    }

    #[test]
    fn bytes_that_are_not_frames_are_counted() {
        let mut scanner = FrameScanner::default();
        assert_eq!(scanner.scan(b"\x83\x00hello", false).len, 7);
        assert!(!scanner.is_between_frames() && scanner.is_lost());
    }
}
