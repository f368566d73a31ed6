//! Frames' heads (RFC 6455 §5.2), their masks (§5.3) and what closes a connection (§7.4): tungstenite's, and what a
//! server asks of a client's frames besides.

use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::CloseCode;
pub(super) use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// Why a connection is failed (RFC 6455 §7.1.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WebSocketError {
    pub(super) code: u16,
    pub(super) reason: &'static str,
}

/// The client's frames are not what they must be.
pub(super) const fn protocol_error(reason: &'static str) -> WebSocketError {
    WebSocketError { code: code::PROTOCOL, reason }
}

/// Close codes (RFC 6455 §7.4.1).
pub(super) mod code {
    pub(in super::super) const PROTOCOL: u16 = 1002;
    /// None was given. Never on the wire.
    pub(in super::super) const NONE: u16 = 1005;
    /// There was no close frame. Never on the wire.
    pub(in super::super) const ABNORMAL: u16 = 1006;
    pub(in super::super) const NOT_UTF8: u16 = 1007;
    pub(in super::super) const TOO_BIG: u16 = 1009;
    pub(in super::super) const INTERNAL: u16 = 1011;
    /// By the IANA registry: the client may come back.
    pub(in super::super) const RESTART: u16 = 1012;
    /// The newest of the IANA registry, which tungstenite does not know.
    pub(in super::super) const BAD_GATEWAY: u16 = 1014;
}

/// May it be in a close frame? Those of the IANA registry that are not for inside use, and those for libraries and
/// applications (RFC 6455 §7.4.2).
pub(super) fn is_sendable_code(code: u16) -> bool {
    code == code::BAD_GATEWAY || CloseCode::from(code).is_allowed()
}

/// The most that a control frame carries (RFC 6455 §5.5).
pub(super) const MAX_CONTROL_PAYLOAD: usize = 125;

/// The most that a close frame's reason may have.
pub(super) const MAX_CLOSE_REASON: usize = MAX_CONTROL_PAYLOAD - 2;

/// A client's frame, without what it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHead {
    pub(super) opcode: OpCode,
    /// The message's last.
    pub(super) fin: bool,
    /// The first reserved bit: the message is compressed (RFC 7692 §6).
    pub(super) rsv1: bool,
    pub(super) mask: Mask,
    pub(super) payload_len: u64,
    /// Bytes of the head itself.
    pub(super) head_len: usize,
}

impl FrameHead {
    /// Reads one, if all of it is there.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<Self>, WebSocketError> {
        let mut cursor = Cursor::new(bytes);
        let parsed = FrameHeader::parse(&mut cursor).map_err(|_| protocol_error("unknown opcode"))?;
        let Some((header, len)) = parsed else { return Ok(None) };
        let FrameHeader { is_final: fin, rsv1, rsv2, rsv3, opcode, mask } = header;
        if rsv2 || rsv3 {
            return Err(protocol_error("reserved bits are set"));
        }
        let Some(mask) = mask else {
            // RFC 6455 §5.1.
            return Err(protocol_error("a client's frames are masked"));
        };
        if matches!(opcode, OpCode::Control(_)) && (!fin || len > MAX_CONTROL_PAYLOAD as u64) {
            return Err(protocol_error("a control frame is whole and short"));
        }
        if len > i64::MAX as u64 {
            return Err(protocol_error("a frame's length has its first bit set"));
        }
        let own_len = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
        // RFC 6455 §5.2: in as few bytes as possible.
        if own_len != header.len(len) {
            return Err(protocol_error("a frame's length has more bytes than it needs"));
        }
        Ok(Some(Self { opcode, fin, rsv1, mask: Mask(mask), payload_len: len, head_len: own_len }))
    }
}

/// A frame's mask, for where one is in the frame. tungstenite takes a mask off whole frames only, and a frame is passed
/// on here as it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mask([u8; 4]);

#[cfg(test)]
impl From<[u8; 4]> for Mask {
    fn from(bytes: [u8; 4]) -> Self {
        Self(bytes)
    }
}

impl Mask {
    /// Takes it off, or puts it on.
    pub(super) fn apply(self, bytes: &mut [u8]) {
        let four = u32::from_ne_bytes(self.0);
        let eight = u64::from(four) << 32 | u64::from(four);
        let mut chunks = bytes.chunks_exact_mut(8);
        for chunk in &mut chunks {
            if let Ok(word) = <[u8; 8]>::try_from(&*chunk) {
                chunk.copy_from_slice(&(u64::from_ne_bytes(word) ^ eight).to_ne_bytes());
            }
        }
        for (byte, mask) in chunks.into_remainder().iter_mut().zip(self.0.iter().cycle()) {
            *byte ^= mask;
        }
    }

    /// As it is so many bytes further on.
    pub(super) fn advanced(self, len: usize) -> Self {
        let mut mask = self.0;
        mask.rotate_left(len % 4);
        Self(mask)
    }
}

/// Writes the head of a frame of ours, which has no mask (RFC 6455 §5.1).
pub(super) fn write_head(opcode: OpCode, fin: bool, rsv1: bool, len: usize, out: &mut Vec<u8>) {
    let header = FrameHeader { is_final: fin, rsv1, opcode, ..FrameHeader::default() };
    header.format(len as u64, out).expect("a vector takes everything");
}

/// What a close frame says (RFC 6455 §5.5.1).
pub(super) fn parse_close(payload: &[u8]) -> Result<Option<(u16, &str)>, WebSocketError> {
    match payload {
        [] => Ok(None),
        [_] => Err(protocol_error("a close code has two bytes")),
        [a, b, reason @ ..] => {
            let code = u16::from_be_bytes([*a, *b]);
            if !is_sendable_code(code) {
                return Err(protocol_error("a close code that is none"));
            }
            match std::str::from_utf8(reason) {
                Ok(reason) => Ok(Some((code, reason))),
                Err(_) => Err(WebSocketError { code: code::NOT_UTF8, reason: "a reason that is not UTF-8" }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_soon_as_it_is_there() {
        let (text, binary) = (OpCode::Data(Data::Text), OpCode::Data(Data::Binary));
        let mask = [1, 2, 3, 4];
        let long = [&[0x82, 0xff][..], &70_000_u64.to_be_bytes(), &mask].concat();
        let medium = [&[0x02, 0xfe, 0x01, 0x00][..], &mask].concat();
        let short = [&[0xc1, 0x85][..], &mask].concat();
        for (bytes, opcode, fin, rsv1, len) in [
            (long, binary, true, false, 70_000),
            (medium, binary, false, false, 256),
            (short, text, true, true, 5),
        ] {
            for cut in 0..bytes.len() {
                assert_eq!(FrameHead::parse(&bytes[..cut]), Ok(None), "{bytes:x?} cut at {cut}");
            }
            let own_len = bytes.len();
            let expected =
                FrameHead { opcode, fin, rsv1, mask: Mask(mask), payload_len: len, head_len: own_len };
            assert_eq!(FrameHead::parse(&[&bytes[..], b"more"].concat()), Ok(Some(expected)));
        }
    }

    #[test]
    fn a_wrong_head_is_a_violation() {
        let mask = [1, 2, 3, 4];
        for bytes in [
            &[0xa1, 0x80][..],
            &[0x91, 0x80],
            &[0x83, 0x80],
            &[0x87, 0x80],
            &[0x8b, 0x80],
            &[0x8f, 0x80],
            &[0x81, 0x05],
            &[0x09, 0x80],
            &[0x89, 0xfe, 0, 126],
            &[0x8a, 0xfe, 0xff, 0xff],
            &[0x88, 0xff, 0, 0, 0, 0, 0, 1, 0, 0],
            &[0x82, 0xfe, 0, 125],
            &[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff],
            &[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0],
        ] {
            let read = FrameHead::parse(&[bytes, &mask].concat());
            assert!(matches!(read, Err(WebSocketError { code: 1002, .. })), "{bytes:x?}");
        }
    }

    #[test]
    fn a_head_of_ours_is_as_short_as_can_be() {
        for (len, expected) in [
            (0, &[0x82, 0][..]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (65_535, &[0x82, 126, 0xff, 0xff]),
            (65_536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let mut out = Vec::new();
            write_head(OpCode::Data(Data::Binary), true, false, len, &mut out);
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn a_mask_goes_on_where_it_was_left() {
        let plain: Vec<u8> = (0..100).collect();
        let mask = Mask([0x37, 0xfa, 0x21, 0x3d]);
        let mut bytes = *b"Hello";
        mask.apply(&mut bytes);
        // RFC 6455 §5.7.
        assert_eq!(bytes, [0x7f, 0x9f, 0x4d, 0x51, 0x58]);
        for cut in 0..plain.len() {
            let (mut whole, mut pieces) = (plain.clone(), plain.clone());
            mask.apply(&mut whole);
            let (one, other) = pieces.split_at_mut(cut);
            mask.apply(one);
            mask.advanced(cut).apply(other);
            assert_eq!(whole, pieces, "cut at {cut}");
        }
    }

    #[test]
    fn a_close_frame_has_a_code_that_may_be_sent_and_a_reason_in_utf_8() {
        assert_eq!(parse_close(b""), Ok(None));
        assert_eq!(parse_close(b"\x03\xe8bye"), Ok(Some((1000, "bye"))));
        for good in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1014, 3000, 3999, 4999_u16] {
            assert_eq!(parse_close(&good.to_be_bytes()), Ok(Some((good, ""))));
        }
        for bad in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535_u16] {
            assert_eq!(parse_close(&bad.to_be_bytes()).map_err(|wrong| wrong.code), Err(1002), "{bad}");
        }
        assert_eq!(parse_close(b"\x03").map_err(|wrong| wrong.code), Err(1002));
        assert_eq!(parse_close(b"\x03\xe8\xff").map_err(|wrong| wrong.code), Err(1007));
    }
}
