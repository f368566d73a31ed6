//! The request frame of the submission ring.

use super::ExchangeId;
use super::field::{Fields, TooLong, encode_fields, fields, read_field, u16_len};
use super::reader::{ArrayWriter, Reader};
use crate::ProtocolError;
use crate::header::{METHOD_LITERAL, METHODS};

/// Offset of the kind byte in every submission frame.
pub(super) const KIND_OFFSET: usize = 24;

/// Kind byte of a request.
pub(super) const KIND_REQUEST: u8 = 1;

/// Offset of the length of the body.
const BODY_LEN_OFFSET: usize = 8;

/// Offset of the flags of a request.
const FLAGS_OFFSET: usize = 27;

/// Bytes before the variable part.
const HEAD_BYTES: usize = 48;
const _: () = assert!(HEAD_BYTES == 8 * 3 + 4 + 2 + 2 + 2 * 6 + 2 + 2);

const FLAG_BODY_FD: u8 = 1;
const FLAG_HTTPS: u8 = 2;
const FLAG_BODY_STREAMS: u8 = 4;
const FLAG_WEBSOCKET: u8 = 8;
const FLAG_TLS: u8 = 16;

/// Value of [`Request::body_len`] for a streamed body without Content-Length (chunked, RFC 9112
/// §7.1).
pub const UNKNOWN_LENGTH: u64 = u64::MAX;

/// A request, as the daemon writes it and the worker reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// The exchange of the request.
    pub exchange: ExchangeId,
    /// Length of the body in bytes, inline or in the descriptor. Of a streamed body: its
    /// Content-Length, or [`UNKNOWN_LENGTH`].
    pub body_len: u64,
    /// `CLOCK_MONOTONIC` when the head was complete, nanoseconds.
    pub received: u64,
    /// The method as received (RFC 9110 §9: case-sensitive).
    pub method: &'a [u8],
    /// The HTTP version: 10, 11 or 20.
    pub version: u8,
    /// The body is a descriptor, sent on the worker socket before this frame was published.
    pub body_is_fd: bool,
    /// The body is not in the frame; it follows in parts
    /// ([`StreamFrame::Part`](super::StreamFrame::Part)) as the application receives it.
    pub body_streams: bool,
    /// A WebSocket handshake (RFC 6455 §4.1).
    pub websocket: bool,
    /// The client used TLS.
    pub https: bool,
    /// Index of the listener that accepted the connection.
    pub listener: u16,
    /// The path as received, percent-encoded (RFC 3986 §3.3).
    pub path: &'a [u8],
    /// The query as received, without `?`.
    pub query: &'a [u8],
    /// The client's address as text; empty on a unix socket.
    pub peer: &'a [u8],
    /// The client's port; 0 on a unix socket.
    pub peer_port: u16,
    /// The port that the client connected to, if a proxy reports it; 0 stands for the listener's
    /// port.
    pub server_port: u16,
    /// The path below which a proxy publishes the application; if empty, the configured one
    /// applies. Begins with `/`, does not end with `/`, and is not percent-encoded.
    pub root_path: &'a [u8],
    /// The request id that the response and the journal carry.
    pub request_id: &'a [u8],
    /// The TLS block ([`TlsInfo`](super::TlsInfo)) of the connection; empty without TLS.
    pub tls: &'a [u8],
    /// Number of fields.
    pub n_fields: u16,
    /// The encoded fields; empty while encoding. Read with [`Request::fields`].
    pub encoded_fields: &'a [u8],
    /// The inline body; empty if the body is separate.
    pub body: &'a [u8],
}

impl<'a> Request<'a> {
    /// Number of bytes at the beginning of a frame that tell the length of its inline body.
    pub const PREFIX_BYTES: usize = FLAGS_OFFSET + 1;

    /// Creates a GET request for `/` without fields and body, to be completed and encoded.
    pub const fn new(exchange: ExchangeId) -> Self {
        Self {
            exchange,
            body_len: 0,
            received: 0,
            method: b"GET",
            version: 11,
            body_is_fd: false,
            body_streams: false,
            websocket: false,
            https: false,
            listener: 0,
            path: b"/",
            query: b"",
            peer: b"",
            peer_port: 0,
            server_port: 0,
            root_path: b"",
            request_id: b"",
            tls: b"",
            n_fields: 0,
            encoded_fields: b"",
            body: b"",
        }
    }

    /// Encodes the frame into `out` (cleared first). `fields` yields pairs of a lower-case name and
    /// a value; `n_fields` and `encoded_fields` of self are ignored.
    ///
    /// # Errors
    /// A part is longer than 65,535 bytes, or there are more than 65,535 fields.
    pub fn encode<'f>(
        &self,
        fields: impl Iterator<Item = (&'f [u8], &'f [u8])>,
        out: &mut Vec<u8>,
    ) -> Result<(), TooLong> {
        let method_index = crate::header::method_index(self.method);
        let method: &[u8] = if method_index == METHOD_LITERAL { self.method } else { b"" };
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        let flags = flag(self.body_is_fd, FLAG_BODY_FD)
            | flag(self.https, FLAG_HTTPS)
            | flag(self.body_streams, FLAG_BODY_STREAMS)
            | flag(self.websocket, FLAG_WEBSOCKET)
            | flag(!self.tls.is_empty(), FLAG_TLS);
        let mut fixed = [0; HEAD_BYTES];
        let mut writer = ArrayWriter(&mut fixed);
        writer.put(self.exchange.0.to_le_bytes());
        writer.put(self.body_len.to_le_bytes());
        writer.put(self.received.to_le_bytes());
        writer.put([KIND_REQUEST, method_index, self.version, flags, 0, 0]);
        writer.put(self.listener.to_le_bytes());
        for (what, part) in [
            ("method", method),
            ("path", self.path),
            ("query", self.query),
            ("peer address", self.peer),
            ("request id", self.request_id),
            ("root path", self.root_path),
        ] {
            writer.put(u16_len(what, part.len())?.to_le_bytes());
        }
        writer.put(self.peer_port.to_le_bytes());
        writer.put(self.server_port.to_le_bytes());
        out.clear();
        out.extend_from_slice(&fixed);
        for part in [method, self.path, self.query, self.peer, self.request_id, self.root_path] {
            out.extend_from_slice(part);
        }
        if !self.tls.is_empty() {
            out.extend_from_slice(&u16_len("TLS block", self.tls.len())?.to_le_bytes());
            out.extend_from_slice(self.tls);
        }
        let n_fields = encode_fields(fields, out)?;
        if let Some(count) = out.get_mut(28..30) {
            count.copy_from_slice(&n_fields.to_le_bytes());
        }
        out.extend_from_slice(self.body);
        Ok(())
    }

    /// Decodes a frame.
    ///
    /// # Errors
    /// A length or value is impossible.
    pub fn decode(frame: &'a [u8]) -> Result<Self, ProtocolError> {
        let request = Self::decode_head(frame)?;
        let is_separate = request.body_is_fd || request.body_streams;
        if !is_separate && request.body.len() as u64 != request.body_len {
            return Err(ProtocolError::Frame("inline body is not as long as announced"));
        }
        Ok(request)
    }

    /// Returns the length of the inline body in bytes, from the first [`Request::PREFIX_BYTES`] of a
    /// frame. `None` if the frame is not a request, or its body is not inline.
    pub fn inline_body_len(prefix: &[u8]) -> Option<usize> {
        let body_len = u64::from_le_bytes(*prefix.get(BODY_LEN_OFFSET..)?.first_chunk()?);
        let (kind, flags) = (*prefix.get(KIND_OFFSET)?, *prefix.get(FLAGS_OFFSET)?);
        let is_inline = kind == KIND_REQUEST && flags & (FLAG_BODY_FD | FLAG_BODY_STREAMS) == 0;
        usize::try_from(body_len).ok().filter(|_| is_inline)
    }

    /// Decodes a frame whose inline body, of this length, is stored apart from it.
    ///
    /// # Errors
    /// A length or value is impossible.
    pub fn decode_without_body(frame: &'a [u8], body_len: usize) -> Result<Self, ProtocolError> {
        let request = Self::decode_head(frame)?;
        if !request.body.is_empty() || request.body_len != body_len as u64 {
            return Err(ProtocolError::Frame("inline body is not as long as announced"));
        }
        Ok(request)
    }

    /// Decodes a frame whose inline body may be stored apart from it
    /// ([`SubmissionSender::push_split`](crate::ring::SubmissionSender::push_split)).
    ///
    /// # Errors
    /// A length or value is impossible.
    pub fn decode_head(frame: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader(frame);
        let exchange = ExchangeId(reader.u64()?);
        let body_len = reader.u64()?;
        let received = reader.u64()?;
        let (kind, method_index, version, flags) = (reader.u8()?, reader.u8()?, reader.u8()?, reader.u8()?);
        let n_fields = reader.u16()?;
        let listener = reader.u16()?;
        let lengths =
            [reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?];
        let [method_len, path_len, query_len, peer_len, request_id_len, root_path_len] =
            lengths.map(usize::from);
        let peer_port = reader.u16()?;
        let server_port = reader.u16()?;
        if kind != KIND_REQUEST || exchange.0 == 0 {
            return Err(ProtocolError::Frame("not a request"));
        }
        let literal = reader.bytes(method_len)?;
        let method = if method_index == METHOD_LITERAL { literal } else { known_method(method_index)? };
        let path = reader.bytes(path_len)?;
        let query = reader.bytes(query_len)?;
        let peer = reader.bytes(peer_len)?;
        let request_id = reader.bytes(request_id_len)?;
        let root_path = reader.bytes(root_path_len)?;
        let tls = if flags & FLAG_TLS != 0 { read_tls_block(&mut reader)? } else { b"" };
        let before = reader.0;
        for _ in 0..n_fields {
            read_field(&mut reader)?;
        }
        let fields = before.get(..before.len() - reader.0.len()).unwrap_or_default();
        let (body_is_fd, body_streams) = (flags & FLAG_BODY_FD != 0, flags & FLAG_BODY_STREAMS != 0);
        let body = if body_is_fd || body_streams { &[][..] } else { reader.0 };
        Ok(Self {
            exchange,
            body_len,
            received,
            method,
            version,
            body_is_fd,
            body_streams,
            websocket: flags & FLAG_WEBSOCKET != 0,
            https: flags & FLAG_HTTPS != 0,
            listener,
            path,
            query,
            peer,
            peer_port,
            server_port,
            root_path,
            request_id,
            tls,
            n_fields,
            encoded_fields: fields,
            body,
        })
    }

    /// True if the application may take over the client's connection: the descriptor that was sent
    /// on the worker socket is a socket, not a body.
    pub const fn is_takeover(&self) -> bool {
        self.websocket && self.body_is_fd
    }

    /// Iterates over the fields in order.
    pub fn fields(&self) -> Fields<'a> {
        fields(self.encoded_fields, self.n_fields)
    }
}

fn read_tls_block<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], ProtocolError> {
    let len = reader.u16()?;
    reader.bytes(len.into())
}

fn known_method(index: u8) -> Result<&'static [u8], ProtocolError> {
    let method = METHODS.get(usize::from(index)).ok_or(ProtocolError::Frame("unknown method index"))?;
    Ok(method.as_bytes())
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use super::*;

    /// Returns the head and the body of an encoded request.
    fn split_frame(request: &Request<'_>) -> (Vec<u8>, Vec<u8>) {
        let mut head = Vec::new();
        request.encode([(&b"host"[..], &b"a.example"[..])].into_iter(), &mut head).unwrap();
        let body = head.split_off(head.len() - request.body.len());
        (head, body)
    }

    #[test]
    fn body_is_decoded_apart_only_at_its_whole_length() {
        let request = Request { path: b"/", body: b"abcde", body_len: 5, ..Request::new(ExchangeId(7)) };
        let (head, body) = split_frame(&request);
        assert_eq!(Request::inline_body_len(&head[..Request::PREFIX_BYTES]), Some(5));
        let decoded = Request::decode_without_body(&head, body.len()).unwrap();
        assert_eq!((decoded.path, decoded.body, decoded.body_len), (&b"/"[..], &b""[..], 5));
        for (frame, len) in [(&head, 4), (&head, 6), (&[&head[..], b"a"].concat(), 5)] {
            Request::decode_without_body(frame, len).unwrap_err();
        }
        Request::decode_without_body(&head[..head.len() - 1], 5).unwrap_err();
    }

    #[test]
    fn separate_bodies_have_no_inline_length() {
        for (body_is_fd, body_streams) in [(true, false), (false, true)] {
            let request = Request { body_is_fd, body_streams, body_len: 9, ..Request::new(ExchangeId(7)) };
            let (head, _) = split_frame(&request);
            assert_eq!(Request::inline_body_len(&head), None);
        }
        assert_eq!(Request::inline_body_len(&[0; Request::PREFIX_BYTES]), None, "no request");
        assert_eq!(Request::inline_body_len(&[]), None);
    }

    #[test]
    fn request_survives_encoding_and_decoding() {
        let fields: [(&[u8], &[u8]); 3] =
            [(b"host", b"example.org"), (b"x-odd", b"\xff\x80"), (b"cookie", b"a=1")];
        let request = Request {
            body_len: 4,
            received: 123_456,
            method: b"PROPFIND",
            version: 10,
            https: true,
            listener: 2,
            path: b"/a%20b",
            query: b"q=1",
            peer: b"::1",
            peer_port: 54_321,
            server_port: 8443,
            root_path: b"/shop",
            request_id: b"abc",
            tls: b"block",
            body: b"body",
            ..Request::new(ExchangeId(9))
        };
        let mut frame = Vec::new();
        request.encode(fields.into_iter(), &mut frame).unwrap();
        let decoded = Request::decode(&frame).unwrap();
        assert_eq!(Request { n_fields: 0, encoded_fields: b"", ..decoded }, request,);
        let back: Vec<_> = decoded.fields().map(|(name, value)| (name.as_bytes(), value)).collect();
        assert_eq!(back, fields);
    }

    #[test]
    fn truncated_request_is_an_error() {
        let mut frame = Vec::new();
        let request = Request { body_len: 3, body: b"xyz", ..Request::new(ExchangeId(1)) };
        request.encode([(&b"host"[..], &b"h"[..])].into_iter(), &mut frame).unwrap();
        for len in 0..frame.len() {
            assert!(Request::decode(&frame[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn field_value_over_65535_bytes_is_too_long() {
        let value = vec![b'x'; 70_000];
        let mut frame = Vec::new();
        let error = Request::new(ExchangeId(1))
            .encode([(&b"cookie"[..], &value[..])].into_iter(), &mut frame)
            .unwrap_err();
        assert_eq!(error, TooLong("field value"));
    }
}
