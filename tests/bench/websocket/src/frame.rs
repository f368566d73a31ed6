//! Frames (RFC 6455 section 5.2) as a client encodes and parses them.
//!
//! Written without a library, so that the client spends as little CPU time as possible on a
//! message. For permessage-deflate the client sends a message as a stored block, and does not
//! decompress a received message.

/// Opcodes of RFC 6455 section 11.8.
pub(crate) const CONTINUATION: u8 = 0x0;
pub(crate) const TEXT: u8 = 0x1;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xa;

const FIN: u8 = 0x80;
const COMPRESSED: u8 = 0x40;
const RESERVED: u8 = 0x30;
const MASKED: u8 = 0x80;
/// Values of the length byte that announce a length of two or eight bytes.
const LENGTH_16: u8 = 0x7e;
const LENGTH_64: u8 = 0x7f;
/// The masking key, from the RFC's examples (section 5.7). A server accepts any key.
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// The head of a complete frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) opcode: u8,
    pub(crate) last: bool,
    pub(crate) compressed: bool,
    /// Begin and end of the payload, counted from the frame's first byte.
    pub(crate) begin: usize,
    pub(crate) end: usize,
}

/// Parses the frame at the start of `bytes`; `None` if it is incomplete.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Head>, &'static str> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    if second & MASKED != 0 {
        return Err("a server's frame is masked");
    }
    if first & RESERVED != 0 {
        return Err("a frame has a reserved bit set");
    }
    let (begin, length) = match *second {
        LENGTH_16 => (4, rest.first_chunk().map(|length| u64::from(u16::from_be_bytes(*length)))),
        LENGTH_64 => (10, rest.first_chunk().map(|length| u64::from_be_bytes(*length))),
        length => (2, Some(u64::from(length))),
    };
    let Some(length) = length else { return Ok(None) };
    let end = usize::try_from(length).ok().and_then(|length| length.checked_add(begin));
    let end = end.ok_or("a frame is longer than memory")?;
    Ok((bytes.len() >= end).then_some(Head {
        opcode: first & 0x0f,
        last: first & FIN != 0,
        compressed: first & COMPRESSED != 0,
        begin,
        end,
    }))
}

/// Appends a masked frame.
pub(crate) fn build(frame: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    append(frame, FIN | opcode, payload);
}

/// Appends a compressed message that consists of one stored block (RFC 7692 section 7.2.3.3).
///
/// # Panics
/// With a payload of more than 65535 bytes, which one stored block cannot hold.
pub(crate) fn build_stored(frame: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    let length = u16::try_from(payload.len()).expect("main checks the length");
    let mut block = vec![0];
    block.extend_from_slice(&length.to_le_bytes());
    block.extend_from_slice(&(!length).to_le_bytes());
    block.extend_from_slice(payload);
    // The first byte of the empty block after a flush; a sender omits the rest of it.
    block.push(0);
    append(frame, FIN | COMPRESSED | opcode, &block);
}

/// Appends head, key and masked payload.
fn append(frame: &mut Vec<u8>, first: u8, payload: &[u8]) {
    frame.push(first);
    if let Ok(length @ 0..LENGTH_16) = u8::try_from(payload.len()) {
        frame.push(MASKED | length);
    } else if let Ok(length) = u16::try_from(payload.len()) {
        frame.push(MASKED | LENGTH_16);
        frame.extend_from_slice(&length.to_be_bytes());
    } else {
        frame.push(MASKED | LENGTH_64);
        frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
    }
    frame.extend_from_slice(&KEY);
    frame.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hello_is_masked_as_in_the_rfc() {
        let mut frame = Vec::new();
        build(&mut frame, TEXT, b"Hello");
        assert_eq!(frame, [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
    }

    #[test]
    fn hello_is_stored_as_in_the_compression_rfc() {
        let mut frame = Vec::new();
        build_stored(&mut frame, TEXT, b"Hello");
        let plain: Vec<u8> =
            frame[6..].iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        assert_eq!(frame[..2], [0xc1, 0x8b]);
        assert_eq!(plain, [0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00]);
    }

    #[test]
    fn a_frame_is_parsed_once_its_last_byte_is_there() {
        for (head, length) in [
            (vec![0x81, 0x05], 5),
            (vec![0x82, LENGTH_16, 0x01, 0x00], 256),
            (vec![0x01, LENGTH_64, 0, 0, 0, 0, 0, 1, 0, 0], 65536),
        ] {
            let begin = head.len();
            let mut frame = head;
            frame.resize(begin + length, b'x');
            for part in [0, 1, begin - 1, begin, frame.len() - 1] {
                assert_eq!(parse(&frame[..part]), Ok(None));
            }
            frame.push(0x81);
            let found = parse(&frame).unwrap().unwrap();
            assert_eq!((found.begin, found.end), (begin, begin + length));
            assert_eq!((found.opcode, found.last), (frame[0] & 0x0f, frame[0] & FIN != 0));
        }
    }

    #[test]
    fn invalid_frames_of_a_server_are_errors() {
        assert!(parse(&[0x81, 0x85]).is_err());
        assert!(parse(&[0xa1, 0x05]).is_err());
        assert!(parse(&[0x81, LENGTH_64, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).is_err());
    }
}
