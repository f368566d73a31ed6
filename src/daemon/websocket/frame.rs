//! Frame heads (RFC 6455 §5.2), masks (§5.3) and close codes (§7.4): tungstenite's codec, with the
//! checks that a server must make of a client's frames.

use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::CloseCode;
pub(super) use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// An error that fails the connection (RFC 6455 §7.1.7): the code and reason of the close frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WebSocketError {
    pub(super) code: u16,
    pub(super) reason: &'static str,
}

/// The error for frames of the client that violate the protocol.
pub(super) const fn protocol_error(reason: &'static str) -> WebSocketError {
    WebSocketError { code: close_code::PROTOCOL, reason }
}

/// Close codes (RFC 6455 §7.4.1).
pub(super) mod close_code {
    pub(in super::super) const PROTOCOL: u16 = 1002;
    /// The close frame had no code. Never on the wire.
    pub(in super::super) const NONE: u16 = 1005;
    /// There was no close frame. Never on the wire.
    pub(in super::super) const ABNORMAL: u16 = 1006;
    pub(in super::super) const NOT_UTF8: u16 = 1007;
    pub(in super::super) const TOO_BIG: u16 = 1009;
    pub(in super::super) const INTERNAL: u16 = 1011;
    /// Service Restart (IANA registry): the client may reconnect.
    pub(in super::super) const RESTART: u16 = 1012;
    /// Bad Gateway (IANA registry), which tungstenite does not know.
    pub(in super::super) const BAD_GATEWAY: u16 = 1014;
}

/// True if a close frame may carry this code: the codes of the IANA registry except the reserved
/// ones, and the codes for libraries and applications (RFC 6455 §7.4.2).
pub(super) fn is_sendable_code(code: u16) -> bool {
    code == close_code::BAD_GATEWAY || CloseCode::from(code).is_allowed()
}

/// Maximum bytes of a control frame's payload (RFC 6455 §5.5).
pub(super) const MAX_CONTROL_PAYLOAD: usize = 125;

/// Maximum bytes of a close frame's reason, which follows the code.
pub(super) const MAX_CLOSE_REASON: usize = MAX_CONTROL_PAYLOAD - 2;

/// The head of a client's frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHead {
    pub(super) opcode: OpCode,
    /// The message's last frame.
    pub(super) fin: bool,
    /// The first reserved bit: the message is compressed (RFC 7692 §6).
    pub(super) rsv1: bool,
    pub(super) mask: Mask,
    pub(super) payload_len: u64,
    /// Bytes of the head.
    pub(super) head_len: usize,
}

impl FrameHead {
    /// Parses the head at the start of `bytes`; None if it is incomplete.
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
            return Err(protocol_error("client frame is not masked"));
        };
        if matches!(opcode, OpCode::Control(_)) && (!fin || len > MAX_CONTROL_PAYLOAD as u64) {
            return Err(protocol_error("control frame is fragmented or too long"));
        }
        if len > i64::MAX as u64 {
            return Err(protocol_error("frame length has its first bit set"));
        }
        let head_len = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
        // RFC 6455 §5.2: the length is encoded in the fewest bytes.
        if head_len != header.len(len) {
            return Err(protocol_error("frame length is not encoded in the fewest bytes"));
        }
        Ok(Some(Self { opcode, fin, rsv1, mask: Mask(mask), payload_len: len, head_len }))
    }
}

/// A frame's mask, rotated to the current position. tungstenite unmasks whole frames only, but here
/// a frame is parsed as it arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mask([u8; 4]);

#[cfg(test)]
impl From<[u8; 4]> for Mask {
    fn from(bytes: [u8; 4]) -> Self {
        Self(bytes)
    }
}

impl Mask {
    /// Masks or unmasks `bytes`, which is the same operation.
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

    /// Returns the mask for the position `len` bytes further on.
    pub(super) fn advanced(self, len: usize) -> Self {
        let mut mask = self.0;
        mask.rotate_left(len % 4);
        Self(mask)
    }
}

/// Writes the head of a server's frame, which has no mask (RFC 6455 §5.1).
pub(super) fn write_head(opcode: OpCode, fin: bool, rsv1: bool, len: usize, out: &mut Vec<u8>) {
    let header = FrameHeader { is_final: fin, rsv1, opcode, ..FrameHeader::default() };
    header.format(len as u64, out).expect("writing to a Vec cannot fail");
}

/// Parses a close frame's payload (RFC 6455 §5.5.1) into code and reason; None if it is empty.
pub(super) fn parse_close(payload: &[u8]) -> Result<Option<(u16, &str)>, WebSocketError> {
    match payload {
        [] => Ok(None),
        [_] => Err(protocol_error("close code is incomplete")),
        [a, b, reason @ ..] => {
            let code = u16::from_be_bytes([*a, *b]);
            if !is_sendable_code(code) {
                return Err(protocol_error("invalid close code"));
            }
            match std::str::from_utf8(reason) {
                Ok(reason) => Ok(Some((code, reason))),
                Err(_) => {
                    Err(WebSocketError { code: close_code::NOT_UTF8, reason: "close reason is not UTF-8" })
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_is_parsed_once_complete() {
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
            let head_len = bytes.len();
            let expected = FrameHead { opcode, fin, rsv1, mask: Mask(mask), payload_len: len, head_len };
            assert_eq!(FrameHead::parse(&[&bytes[..], b"more"].concat()), Ok(Some(expected)));
        }
    }

    #[test]
    fn invalid_head_is_a_protocol_error() {
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
    fn written_head_is_as_short_as_possible() {
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
    fn mask_continues_after_a_split() {
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
    fn close_frame_needs_a_sendable_code_and_a_utf8_reason() {
        assert_eq!(parse_close(b""), Ok(None));
        assert_eq!(parse_close(b"\x03\xe8bye"), Ok(Some((1000, "bye"))));
        for good in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1014, 3000, 3999, 4999_u16] {
            assert_eq!(parse_close(&good.to_be_bytes()), Ok(Some((good, ""))));
        }
        for bad in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535_u16] {
            assert_eq!(parse_close(&bad.to_be_bytes()).map_err(|error| error.code), Err(1002), "{bad}");
        }
        assert_eq!(parse_close(b"\x03").map_err(|error| error.code), Err(1002));
        assert_eq!(parse_close(b"\x03\xe8\xff").map_err(|error| error.code), Err(1007));
    }
}
