//! The WebSocket client of the integration tests. It can send any frame, even a malformed one, and
//! checks that the server sends only frames that RFC 6455 allows.

use super::{Client, Daemon, ReadError, Response};

pub(crate) const CONTINUATION: u8 = 0;
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;
/// The bit of the last frame of a message.
pub(crate) const FIN: u8 = 0x80;
/// The bit of the first frame of a compressed message (RFC 7692 §6).
pub(crate) const RSV1: u8 = 0x40;

/// The key of RFC 6455 §1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const MASKED: u8 = 0x80;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// An open connection.
#[derive(Debug)]
pub(crate) struct WebSocket {
    pub(crate) client: Client,
    /// The response with status 101.
    pub(crate) response: Response,
}

/// A frame from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    /// The first byte: FIN, RSV1 to 3 and the opcode.
    pub(crate) first: u8,
    pub(crate) payload: Vec<u8>,
}

/// Returns a handshake with additional fields.
pub(crate) fn handshake(path: &str, fields: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{fields}\r\n"
    )
}

/// Returns a frame as a client sends it, masked.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(len), _) if len < 126 => bytes.push(MASKED | len),
        (_, Ok(len)) => {
            bytes.push(MASKED | 0x7e);
            bytes.extend_from_slice(&len.to_be_bytes());
        }
        _ => {
            bytes.push(MASKED | 0x7f);
            bytes.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

impl WebSocket {
    pub(crate) fn open(daemon: &Daemon, path: &str) -> Self {
        Self::open_with(daemon, path, "")
    }

    pub(crate) fn open_with(daemon: &Daemon, path: &str, fields: &str) -> Self {
        let mut client = daemon.connect();
        let response = client.send(handshake(path, fields)).response_head();
        assert_eq!(response.status, 101, "{response:?}");
        assert_eq!(response.field("upgrade"), "websocket");
        assert_eq!(response.field("connection").to_ascii_lowercase(), "upgrade");
        assert_eq!(response.field("sec-websocket-accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(!response.has("content-length") && !response.has("transfer-encoding"), "{response:?}");
        Self { client, response }
    }

    pub(crate) fn send(&mut self, first: u8, payload: impl AsRef<[u8]>) -> &mut Self {
        self.client.send(frame(first, payload.as_ref()));
        self
    }

    pub(crate) fn send_raw(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.client.send(bytes);
        self
    }

    pub(crate) fn send_text(&mut self, text: &str) -> &mut Self {
        self.send(FIN | TEXT, text)
    }

    pub(crate) fn send_close(&mut self, code: u16, reason: &str) -> &mut Self {
        self.send(FIN | CLOSE, [&code.to_be_bytes()[..], reason.as_bytes()].concat())
    }

    pub(crate) fn try_read_frame(&mut self) -> Result<Frame, ReadError> {
        let head = self.client.read_exact(2)?;
        assert_eq!(head[1] & MASKED, 0, "a server must not mask its frames");
        let len = match head[1] {
            126 => {
                let len = self.client.read_exact(2)?;
                usize::from(u16::from_be_bytes([len[0], len[1]]))
            }
            127 => {
                let len = self.client.read_exact(8)?;
                let len = u64::from_be_bytes(len.try_into().expect("8 bytes"));
                usize::try_from(len).expect("a length that fits into usize")
            }
            len => usize::from(len),
        };
        if head[0] & 8 != 0 {
            assert!(
                len <= 125 && head[0] & FIN != 0,
                "a control frame is at most 125 bytes and not fragmented"
            );
        }
        Ok(Frame { first: head[0], payload: self.client.read_exact(len)? })
    }

    pub(crate) fn read_frame(&mut self) -> Frame {
        self.try_read_frame().unwrap_or_else(|error| panic!("no frame: {error:?}"))
    }

    /// Reads the next message and joins its frames. Panics at a control frame.
    pub(crate) fn read_message(&mut self) -> (u8, Vec<u8>) {
        let Frame { first, mut payload } = self.read_frame();
        let opcode = first & 15;
        assert!(matches!(opcode, TEXT | BINARY), "not a message but {first:#x}: {payload:?}");
        assert_eq!(first & 0x70, 0, "reserved bits");
        let mut last = first;
        while last & FIN == 0 {
            let frame = self.read_frame();
            assert_eq!(frame.first & 0x7f, CONTINUATION, "not a continuation: {frame:?}");
            last = frame.first;
            payload.extend(frame.payload);
        }
        (opcode, payload)
    }

    pub(crate) fn assert_text(&mut self, text: &str) {
        let (opcode, payload) = self.read_message();
        assert_eq!((opcode, String::from_utf8_lossy(&payload).as_ref()), (TEXT, text));
    }

    /// Reads a close frame. Returns code and reason.
    pub(crate) fn read_close(&mut self) -> (u16, String) {
        let Frame { first, payload } = self.read_frame();
        assert_eq!(first, FIN | CLOSE, "{first:#x} {payload:?}");
        match payload.as_slice() {
            [] => (1005, String::new()),
            [a, b, reason @ ..] => {
                let reason = String::from_utf8(reason.to_vec()).expect("a reason is UTF-8");
                (u16::from_be_bytes([*a, *b]), reason)
            }
            [_] => panic!("a close code has two bytes"),
        }
    }

    /// Reads up to the close frame, which must have this code; then the server must close the
    /// connection.
    pub(crate) fn assert_failed(&mut self, code: u16) {
        loop {
            let Frame { first, payload } = self.read_frame();
            if first & 15 == CLOSE {
                assert_eq!(payload.get(..2), Some(&code.to_be_bytes()[..]), "{code}: {payload:?}");
                break;
            }
        }
        self.client.shutdown_write();
        self.assert_disconnected();
    }

    /// Asserts that the server closes the connection without another frame.
    pub(crate) fn assert_disconnected(&mut self) {
        assert!(self.client.received().is_empty(), "{:?}", self.client.received());
        self.client.assert_closed();
    }
}
