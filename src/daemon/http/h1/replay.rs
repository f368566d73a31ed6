//! Writes a request as HTTP/1 again, from what a worker would get, for the next daemon.
//!
//! The next daemon reads the text as if the client had just sent it, and checks it under its own
//! configuration. The fields are those that this daemon has accepted: without dropped ones, with
//! the id of a trusted `X-Request-ID`, and with the host of the target or of a trusted proxy in
//! `Host`.

use std::os::fd::AsFd as _;

use rgun_channel::frame::Request;

use crate::dispatch::RequestBody;

/// Returns the request as HTTP/1.1 or HTTP/1.0, with its whole body (RFC 9112 §2.1). `None` if the
/// body is longer than `max_body` bytes or cannot be read.
pub(in crate::http) fn encode(
    request: &Request<'_>,
    body: Option<&RequestBody>,
    max_body: usize,
) -> Option<Vec<u8>> {
    let body_len = usize::try_from(request.body_len).ok().filter(|len| *len <= max_body)?;
    let mut text = Vec::with_capacity(request.encoded_fields.len() + request.path.len() + body_len + 256);
    let query_mark: &[u8] = if request.query.is_empty() { b"" } else { b"?" };
    let version: &[u8] = if request.version == 10 { b" HTTP/1.0\r\n" } else { b" HTTP/1.1\r\n" };
    for part in [request.method, b" ", request.path, query_mark, request.query, version] {
        text.extend_from_slice(part);
    }
    let mut has_length = body_len > 0;
    for (name, value) in request.fields() {
        let name = name.as_bytes();
        match name {
            b"content-length" => has_length = true,
            // The body is decoded.
            b"transfer-encoding" => {}
            // The client has sent the body already.
            b"expect" if value.eq_ignore_ascii_case(b"100-continue") => {}
            _ => {
                // Without the optional space, the fields are not longer than the client's.
                for part in [name, b":", value, b"\r\n"] {
                    text.extend_from_slice(part);
                }
            }
        }
    }
    if has_length {
        text.extend_from_slice(format!("content-length:{body_len}\r\n").as_bytes());
    }
    text.extend_from_slice(b"\r\n");
    append_body(&mut text, request, body, body_len)?;
    Some(text)
}

/// Appends the body. `None` if it cannot be read.
fn append_body(
    text: &mut Vec<u8>,
    request: &Request<'_>,
    body: Option<&RequestBody>,
    len: usize,
) -> Option<()> {
    let start = text.len();
    match body {
        None => text.extend_from_slice(request.body),
        Some(RequestBody::Inline(bytes)) => text.extend_from_slice(bytes),
        Some(RequestBody::Spooled(spooled)) => {
            text.resize(start + len, 0);
            let mut read = 0;
            while read < len {
                let rest = text.get_mut(start + read..)?;
                match rustix::io::pread(spooled.fd.as_fd(), rest, read as u64) {
                    Ok(0) => return None,
                    Ok(n) => read += n,
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => {
                        tracing::warn!(%error, "cannot read a spooled request body for the next daemon");
                        return None;
                    }
                }
            }
        }
    }
    (text.len() == start + len).then_some(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;

    use bytes::Bytes;
    use rgun_channel::frame::ExchangeId;

    use super::*;
    use crate::dispatch::SpooledBody;

    /// Returns the text of a POST with these fields and this body, and of the request's frame.
    fn encoded(
        request: Request<'_>,
        fields: &[(&str, &str)],
        body: Option<&RequestBody>,
        max_body: usize,
    ) -> Option<String> {
        let mut frame = Vec::new();
        let fields = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        request.encode(fields, &mut frame).unwrap();
        let text = encode(&Request::decode_head(&frame).unwrap(), body, max_body)?;
        Some(String::from_utf8(text).unwrap())
    }

    fn post(body: &[u8]) -> Request<'_> {
        Request {
            method: b"POST",
            path: b"/a%20b",
            query: b"q=1&r",
            body,
            body_len: body.len() as u64,
            ..Request::new(ExchangeId(7))
        }
    }

    #[test]
    fn request_without_a_body_has_no_length() {
        let get = Request { query: b"x", version: 10, ..Request::new(ExchangeId(7)) };
        let text = encoded(get, &[("host", "a"), ("x-own", "1"), ("x-own", "2")], None, 0).unwrap();
        assert_eq!(text, "GET /?x HTTP/1.0\r\nhost:a\r\nx-own:1\r\nx-own:2\r\n\r\n");
        let empty = encoded(post(b""), &[("content-length", "0")], None, 0).unwrap();
        assert_eq!(empty, "POST /a%20b?q=1&r HTTP/1.1\r\ncontent-length:0\r\n\r\n");
    }

    #[test]
    fn body_of_each_kind_follows_with_its_length() {
        let mut file = File::from(rustix::fs::memfd_create("body", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        file.write_all(b"12345").unwrap();
        let spooled = RequestBody::Spooled(SpooledBody { fd: file.into(), reservation: None });
        let inline = RequestBody::Inline(Bytes::from_static(b"12345"));
        let separate = || Request { body_len: 5, ..post(b"") };
        let fields = [("expect", "100-continue"), ("content-length", "9"), ("transfer-encoding", "chunked")];
        let expected = "POST /a%20b?q=1&r HTTP/1.1\r\ncontent-length:5\r\n\r\n12345";
        for (request, body) in
            [(post(b"12345"), None), (separate(), Some(&inline)), (separate(), Some(&spooled))]
        {
            assert_eq!(encoded(request, &fields, body, 5).as_deref(), Some(expected));
            assert_eq!(encoded(request, &fields, body, 4), None);
        }
    }

    #[test]
    fn body_that_is_shorter_than_its_length_is_not_written() {
        let file = File::from(rustix::fs::memfd_create("body", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        let spooled = RequestBody::Spooled(SpooledBody { fd: file.into(), reservation: None });
        let request = Request { body_len: 5, ..post(b"") };
        assert_eq!(encoded(request, &[], Some(&spooled), 100), None);
    }
}
