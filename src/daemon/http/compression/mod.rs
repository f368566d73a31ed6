//! `[compression]`: compresses the application's responses, and changes their heads.
//!
//! A small body is compressed whole when the response is built. Every other body is compressed
//! piece by piece, as the connection asks for data ([`body`]).

pub(super) mod body;
mod encoder;
pub(super) mod policy;

use bytes::Bytes;
use http::header::{ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, ETAG, HeaderMap, HeaderValue, VARY};
use http::{Method, StatusCode};

use crate::dispatch::{ContentLength, Data, Dispatcher, ResponseHead};
use crate::negotiation::Coding;

use self::body::CompressedBody;
use self::encoder::Encoder;
use self::policy::{CompressionPolicy, has_element};
use super::body::response::BodySource;
use super::request_meta::RequestMeta;

/// A body in memory of at most this many bytes is compressed whole, which takes a millisecond at
/// most.
const MAX_WHOLE_BODY: usize = 32 * 1024;

/// Compresses a response if its client and its head allow that. Changes the head accordingly.
pub(super) fn apply(
    policy: &CompressionPolicy,
    meta: &RequestMeta,
    head: &mut ResponseHead,
    source: BodySource,
    dispatcher: &'static Dispatcher,
) -> BodySource {
    let len = match head.length {
        ContentLength::Bytes(len) => Some(len),
        ContentLength::Absent | ContentLength::Invalid => source.len(),
    };
    if head.status == StatusCode::NOT_MODIFIED && meta.has_weak_tag {
        describe_stored(&mut head.fields);
    }
    if !policy.is_eligible(head, len) {
        return source;
    }
    add_vary(&mut head.fields);
    // HTTP/1.0 clients may be old proxies, which may not know `Vary`.
    let Some(coding) = meta.coding.filter(|_| !meta.is_http_10) else { return source };
    if meta.method == Method::HEAD {
        // The fields of GET (RFC 9110 §9.3.2), but the length is known only from the compressed body.
        set_encoding_fields(head, coding, None);
        return match source {
            BodySource::Bytes(_) => BodySource::Empty,
            source => source,
        };
    }
    match source {
        BodySource::Empty => BodySource::Empty,
        BodySource::Bytes(data) if data.len() <= MAX_WHOLE_BODY => {
            compress_whole(policy.level, coding, head, data)
        }
        source => {
            let Some(memory) = dispatcher.response_memory().reserve(Encoder::memory(coding)) else {
                return source;
            };
            set_encoding_fields(head, coding, None);
            let encoder = Encoder::new(coding, policy.level, len);
            BodySource::Compressed(Box::new(CompressedBody::new(source, encoder, memory, dispatcher)))
        }
    }
}

/// Compresses a small body if that makes it smaller.
fn compress_whole(level: u8, coding: Coding, head: &mut ResponseHead, data: Data) -> BodySource {
    let mut encoder = Encoder::new(coding, level, Some(data.len() as u64));
    let mut encoded = Vec::new();
    let outcome = encoder.encode(&data, &mut encoded).and_then(|()| encoder.finish(&mut encoded));
    if let Err(error) = outcome {
        tracing::warn!(%error, "cannot compress a response, sending it as it is");
        return BodySource::Bytes(data);
    }
    if encoded.len() >= data.len() {
        return BodySource::Bytes(data);
    }
    set_encoding_fields(head, coding, Some(encoded.len() as u64));
    BodySource::Bytes(Data::with_reservation(Bytes::from(encoded), None))
}

/// Changes the fields of a head to those of the compressed body, whose length is `len` if known.
fn set_encoding_fields(head: &mut ResponseHead, coding: Coding, len: Option<u64>) {
    let fields = &mut head.fields;
    fields.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.as_str()));
    // The application cannot serve a range of the compressed bytes.
    fields.remove(ACCEPT_RANGES);
    weaken_tag(fields);
    if let Some(len) = len {
        fields.insert(CONTENT_LENGTH, HeaderValue::from(len));
        head.length = ContentLength::Bytes(len);
    } else {
        fields.remove(CONTENT_LENGTH);
        head.length = ContentLength::Absent;
    }
}

/// Replaces a strong entity tag with a weak one: a strong validator belongs to the exact bytes (RFC 9110
/// §8.8.1).
fn weaken_tag(fields: &mut HeaderMap) {
    if let Some(tag) = fields.get(ETAG).map(HeaderValue::as_bytes)
        && !tag.starts_with(b"W/")
    {
        match HeaderValue::from_bytes(&[b"W/", tag].concat()) {
            Ok(weak) if tag.starts_with(b"\"") => drop(fields.insert(ETAG, weak)),
            _ => drop(fields.remove(ETAG)),
        }
    }
}

/// Changes the fields of a 304 to those of the response that the client has stored (RFC 9110 §15.4.5):
/// its tag is weak, and the application's is strong, so that response was compressed.
fn describe_stored(fields: &mut HeaderMap) {
    if fields.get(ETAG).is_some_and(|tag| tag.as_bytes().starts_with(b"\"")) {
        weaken_tag(fields);
        add_vary(fields);
    }
}

/// Adds `Vary: Accept-Encoding`, without which a cache would send one client's coding to all.
fn add_vary(fields: &mut HeaderMap) {
    if !has_element(fields, &VARY, b"accept-encoding") && !has_element(fields, &VARY, b"*") {
        fields.append(VARY, HeaderValue::from_static("accept-encoding"));
    }
}

#[cfg(test)]
mod tests {
    use http::header::HeaderName;

    use super::policy::has_weak_tag;
    use super::*;

    pub(super) fn head(status: u16, fields: &[(&'static str, &'static str)]) -> ResponseHead {
        let fields = fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        ResponseHead {
            status: StatusCode::from_u16(status).unwrap(),
            reason: None,
            fields: fields.collect(),
            length: ContentLength::Absent,
        }
    }

    #[test]
    fn not_modified_describes_the_compressed_response() {
        for (tag, expected) in [("\"a\"", Some("accept-encoding")), ("W/\"a\"", None)] {
            let mut head = head(304, &[("etag", tag)]);
            describe_stored(&mut head.fields);
            assert_eq!(head.fields.get(ETAG).unwrap(), "W/\"a\"");
            let vary = head.fields.get(VARY).map(|vary| vary.to_str().unwrap());
            assert_eq!(vary, expected, "{tag}: a tag that was weak says nothing");
        }
        for (tags, expected) in [("\"a\"", false), ("W/\"a\"", true), ("\"b\", W/\"a\"", true), ("*", false)]
        {
            let headers = head(200, &[("if-none-match", tags)]).fields;
            assert_eq!(has_weak_tag(&headers), expected, "{tags}");
        }
    }

    #[test]
    fn entity_tag_is_weakened_and_length_dropped() {
        for (tag, expected) in [("\"a\"", Some("W/\"a\"")), ("W/\"a\"", Some("W/\"a\"")), ("a", None)] {
            let mut head = head(200, &[("etag", tag), ("content-length", "5"), ("accept-ranges", "bytes")]);
            set_encoding_fields(&mut head, Coding::Brotli, None);
            assert_eq!(head.fields.get(ETAG).map(|tag| tag.to_str().unwrap()), expected, "{tag}");
            assert_eq!(head.fields.get(CONTENT_ENCODING).unwrap(), "br");
            assert!(!head.fields.contains_key(CONTENT_LENGTH) && !head.fields.contains_key(ACCEPT_RANGES));
        }
    }

    #[test]
    fn vary_is_added_once() {
        for (vary, expected) in [
            ("Cookie", "Cookie, accept-encoding"),
            ("cookie, Accept-Encoding", "cookie, Accept-Encoding"),
            ("*", "*"),
        ] {
            let mut head = head(200, &[("vary", vary)]);
            add_vary(&mut head.fields);
            add_vary(&mut head.fields);
            let all: Vec<_> = head.fields.get_all(VARY).iter().map(|value| value.to_str().unwrap()).collect();
            assert_eq!(all.join(", "), expected);
        }
    }
}
