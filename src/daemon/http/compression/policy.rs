//! The settings of `[compression]`: which responses are compressed, and in which coding.

use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName,
    HeaderValue, IF_NONE_MATCH,
};

use crate::dispatch::ResponseHead;
use crate::negotiation::Coding;

/// Fields that describe the bytes of the body, and would be wrong for compressed ones (RFC 9530,
/// RFC 3230, RFC 1864).
const DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// The settings of `[compression]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompressionPolicy {
    /// In the order of preference; not empty.
    codings: Vec<Coding>,
    /// Types whose bodies are compressed.
    types: Vec<TypePattern>,
    /// Bytes of the smallest body that is compressed.
    min_size: u64,
    /// From 1 (fastest) to 9 (smallest output).
    pub(super) level: u8,
}

/// A media type with at most one `*`, which stands for any text.
#[derive(Debug, Clone, PartialEq, Eq)]
struct TypePattern {
    /// The text before the `*`.
    prefix: Box<str>,
    /// The text after the `*`; `None` without a `*`.
    suffix: Option<Box<str>>,
}

impl TypePattern {
    fn new(pattern: &str) -> Self {
        match pattern.split_once('*') {
            Some((prefix, suffix)) => Self { prefix: prefix.into(), suffix: Some(suffix.into()) },
            None => Self { prefix: pattern.into(), suffix: None },
        }
    }

    fn matches(&self, media_type: &[u8]) -> bool {
        let equals = |text: &str, bytes: &[u8]| text.as_bytes().eq_ignore_ascii_case(bytes);
        let Some(suffix) = &self.suffix else { return equals(&self.prefix, media_type) };
        let Some((start, rest)) = media_type.split_at_checked(self.prefix.len()) else { return false };
        let Some(split) = rest.len().checked_sub(suffix.len()) else { return false };
        equals(&self.prefix, start) && rest.get(split..).is_some_and(|end| equals(suffix, end))
    }
}

impl CompressionPolicy {
    /// Creates the settings. Returns `None` if there are no codings, so that a request then costs
    /// one comparison.
    pub fn new(codings: Vec<Coding>, types: &[String], min_size: u64, level: u8) -> Option<Box<Self>> {
        if codings.is_empty() {
            return None;
        }
        let types = types.iter().map(|pattern| TypePattern::new(pattern)).collect();
        Some(Box::new(Self { codings, types, min_size, level }))
    }

    /// Returns the preferred coding that a request accepts.
    pub(in crate::http) fn choose(&self, headers: &HeaderMap) -> Option<Coding> {
        let values = headers.get_all(ACCEPT_ENCODING);
        Coding::of_accept_encoding(values.iter().map(HeaderValue::as_bytes), &self.codings)
    }

    /// True if the body may be compressed for a client that accepts the coding.
    pub(super) fn is_eligible(&self, head: &ResponseHead, len: Option<u64>) -> bool {
        let ResponseHead { status, fields, .. } = head;
        // No content, reset content, partial content, not modified.
        let has_whole_body = !status.is_informational() && !matches!(status.as_u16(), 204 | 205 | 206 | 304);
        has_whole_body
            && len.is_none_or(|len| len >= self.min_size)
            && self.is_compressible_type(fields)
            && !fields.contains_key(CONTENT_ENCODING)
            && !fields.contains_key(CONTENT_RANGE)
            && !DIGESTS.iter().any(|digest| fields.contains_key(digest))
            && !has_element(fields, &CACHE_CONTROL, b"no-transform")
    }

    fn is_compressible_type(&self, fields: &HeaderMap) -> bool {
        let Some(value) = fields.get(CONTENT_TYPE) else { return false };
        let media_type = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        self.types.iter().any(|pattern| pattern.matches(media_type))
    }
}

/// True if a list field has the element, ignoring case.
pub(super) fn has_element(fields: &HeaderMap, name: &HeaderName, element: &[u8]) -> bool {
    let mut elements =
        fields.get_all(name).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    elements.any(|other| other.trim_ascii().eq_ignore_ascii_case(element))
}

/// Returns whether the client has stored a response with a weak entity tag.
pub(in crate::http) fn has_weak_tag(headers: &HeaderMap) -> bool {
    headers.get_all(IF_NONE_MATCH).iter().any(|tags| tags.as_bytes().windows(2).any(|two| two == b"W/"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::head;
    use super::*;

    fn compression() -> CompressionPolicy {
        let types = ["text/*", "application/json", "application/*+json"].map(str::to_owned);
        CompressionPolicy::new(vec![Coding::Gzip], &types, 1000, 4).map(|policy| *policy).unwrap()
    }

    #[test]
    fn compression_without_codings_is_off() {
        assert_eq!(CompressionPolicy::new(Vec::new(), &[], 0, 4), None);
    }

    #[test]
    fn types_are_matched_ignoring_parameters_and_case() {
        for (content_type, expected) in [
            ("text/html", true),
            ("Text/HTML; charset=utf-8", true),
            ("text/event-stream", true),
            ("application/json ;x=1", true),
            ("application/problem+json", true),
            ("application/jsonp", false),
            ("application/+json", true),
            ("application/octet-stream", false),
            ("image/png", false),
            ("text", false),
            ("", false),
        ] {
            let head = head(200, &[("content-type", content_type)]);
            assert_eq!(compression().is_eligible(&head, None), expected, "{content_type}");
        }
        assert!(!compression().is_eligible(&head(200, &[]), None), "without a type");
    }

    #[test]
    fn responses_that_must_not_change_are_not_compressed() {
        let html = ("content-type", "text/html");
        for status in [101, 204, 205, 206, 304] {
            assert!(!compression().is_eligible(&head(status, &[html]), None), "{status}");
        }
        for field in [
            ("content-encoding", "br"),
            ("content-encoding", "identity"),
            ("content-range", "bytes 0-9/10"),
            ("cache-control", "public, No-Transform"),
            ("content-digest", "sha-256=:x:"),
            ("content-md5", "x"),
        ] {
            assert!(!compression().is_eligible(&head(200, &[html, field]), None), "{field:?}");
        }
        for status in [200, 201, 404, 500] {
            let head = head(status, &[html, ("cache-control", "public")]);
            assert!(compression().is_eligible(&head, None), "{status}");
            assert!(
                compression().is_eligible(&head, Some(1000)) && !compression().is_eligible(&head, Some(999))
            );
        }
    }
}
