//! Conditional requests (RFC 9110 §13): compares a request's preconditions with a file's
//! validators.

use std::time::{Duration, SystemTime};

use http::header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::encoding::Encoding;
use super::state::{FileState, FileTime};

/// The earliest modification time that is trusted, in seconds since 1970: 1980-01-02. Archives and
/// reproducible builds give all their files one earlier time, which does not change with the
/// content.
const MIN_MEANINGFUL_TIME: i64 = 315_619_200;

/// The validators of one representation of a file.
#[derive(Debug, Clone)]
pub(super) struct Validators {
    /// A strong entity tag, different for each content coding (RFC 9110 §8.8.3.3).
    pub(super) etag: HeaderValue,
    /// The time of the last modification in whole seconds; `None` if the time is meaningless.
    modified: Option<SystemTime>,
    /// `modified` as the value of `Last-Modified`.
    modified_text: Option<HeaderValue>,
}

impl Validators {
    pub(super) fn of(file: &FileState, encoding: Option<Encoding>) -> Self {
        let is_meaningful = file.modified.seconds >= MIN_MEANINGFUL_TIME;
        let FileTime { seconds, nanoseconds } = if is_meaningful { file.modified } else { file.changed };
        let dash = if encoding.is_some() { "-" } else { "" };
        let coding = encoding.map_or("", Encoding::token);
        let tag = format!("\"{seconds:x}-{nanoseconds:x}-{:x}{dash}{coding}\"", file.len);
        let modified = u64::try_from(seconds).ok().filter(|_| is_meaningful);
        let modified = modified.map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        Self {
            etag: HeaderValue::try_from(tag).unwrap_or(HeaderValue::from_static("\"\"")),
            modified,
            modified_text: modified.and_then(|time| httpdate::fmt_http_date(time).try_into().ok()),
        }
    }

    /// Returns the value of `Last-Modified`. A time in the future is replaced by the time of the
    /// response's `Date` (RFC 9110 §8.8.2.1).
    pub(super) fn last_modified(&self, now: SystemTime) -> Option<HeaderValue> {
        if self.modified? > now {
            return httpdate::fmt_http_date(now).try_into().ok();
        }
        self.modified_text.clone()
    }
}

/// The result of a request's preconditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Precondition {
    /// All preconditions hold: the request is served.
    Holds,
    /// The client has the current representation: 304.
    NotModified,
    /// The request excludes the current representation: 412.
    Fails,
}

/// Evaluates the preconditions of a GET or HEAD in the order of RFC 9110 §13.2.2.
pub(super) fn evaluate(headers: &HeaderMap, validators: &Validators) -> Precondition {
    let is_match = match lists_tag(headers, &IF_MATCH, |tag| tag == validators.etag.as_bytes()) {
        Some(matches) => matches,
        None => date(headers, &IF_UNMODIFIED_SINCE)
            .zip(validators.modified)
            .is_none_or(|(since, modified)| modified <= since),
    };
    if !is_match {
        return Precondition::Fails;
    }
    let is_known = match lists_tag(headers, &IF_NONE_MATCH, |tag| {
        // Weak comparison (RFC 9110 §8.8.3.2).
        tag.strip_prefix(b"W/").unwrap_or(tag) == validators.etag.as_bytes()
    }) {
        Some(matches) => matches,
        None => date(headers, &IF_MODIFIED_SINCE)
            .zip(validators.modified)
            .is_some_and(|(since, modified)| modified <= since),
    };
    if is_known { Precondition::NotModified } else { Precondition::Holds }
}

/// Returns true if the request's `Range` may be served: there is no `If-Range`, or it names exactly
/// the current representation (RFC 9110 §13.1.5).
pub(super) fn range_applies(headers: &HeaderMap, validators: &Validators) -> bool {
    let Some(value) = headers.get(IF_RANGE) else { return true };
    if headers.get_all(IF_RANGE).iter().nth(1).is_some() {
        return false;
    }
    let value = value.as_bytes().trim_ascii();
    value == validators.etag.as_bytes()
        || validators.modified_text.as_ref().is_some_and(|modified| modified.as_bytes() == value)
}

/// Returns whether the field lists `*` or a tag that matches; `None` if the field is missing.
fn lists_tag(headers: &HeaderMap, name: &HeaderName, matches: impl Fn(&[u8]) -> bool) -> Option<bool> {
    let mut values = headers.get_all(name).iter().peekable();
    values.peek()?;
    Some(values.any(|value| {
        let value = value.as_bytes().trim_ascii();
        value == b"*" || tags(value).any(&matches)
    }))
}

/// Splits a list of entity tags. A tag may contain commas.
fn tags(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut is_quoted = false;
    list.split(move |byte| {
        is_quoted ^= *byte == b'"';
        *byte == b',' && !is_quoted
    })
    .map(<[u8]>::trim_ascii)
}

/// Returns the date; `None` if the field is missing, invalid or repeated.
fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    httpdate::parse_http_date(value.trim()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: &str = "\"5e0be100-0-a\"";
    const DATE: &str = "Wed, 01 Jan 2020 00:00:00 GMT";
    const LATER: &str = "Wed, 01 Jan 2020 00:00:01 GMT";
    const EARLIER: &str = "Tue, 31 Dec 2019 23:59:59 GMT";

    fn validators() -> Validators {
        let modified = httpdate::parse_http_date(DATE).unwrap();
        let modified_text = Some(HeaderValue::from_static(DATE));
        Validators { etag: HeaderValue::from_static(TAG), modified: Some(modified), modified_text }
    }

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn preconditions_are_evaluated_in_the_order_of_the_rfc() {
        use Precondition::{Fails, Holds, NotModified};
        let weak = format!("W/{TAG}");
        let list = format!("\"a,b\", {TAG}");
        for (fields, expected) in [
            (&[][..], Holds),
            (&[("if-none-match", TAG)], NotModified),
            (&[("if-none-match", weak.as_str())], NotModified),
            (&[("if-none-match", list.as_str())], NotModified),
            (&[("if-none-match", "\"a\""), ("if-none-match", TAG)], NotModified),
            (&[("if-none-match", "*")], NotModified),
            (&[("if-none-match", "\"a\"")], Holds),
            (&[("if-none-match", "\"a\""), ("if-modified-since", LATER)], Holds),
            (&[("if-none-match", "")], Holds),
            (&[("if-modified-since", DATE)], NotModified),
            (&[("if-modified-since", LATER)], NotModified),
            (&[("if-modified-since", EARLIER)], Holds),
            (&[("if-modified-since", "yesterday")], Holds),
            (&[("if-modified-since", DATE), ("if-modified-since", DATE)], Holds),
            (&[("if-match", TAG)], Holds),
            (&[("if-match", "*")], Holds),
            (&[("if-match", weak.as_str())], Fails),
            (&[("if-match", "\"a\"")], Fails),
            (&[("if-match", TAG), ("if-none-match", TAG)], NotModified),
            (&[("if-match", TAG), ("if-unmodified-since", EARLIER)], Holds),
            (&[("if-unmodified-since", DATE)], Holds),
            (&[("if-unmodified-since", EARLIER)], Fails),
            (&[("if-unmodified-since", "x")], Holds),
        ] {
            assert_eq!(evaluate(&headers(fields), &validators()), expected, "{fields:?}");
        }
    }

    #[test]
    fn if_range_compares_strongly_and_exactly() {
        let weak = format!("W/{TAG}");
        for (fields, expected) in [
            (&[][..], true),
            (&[("if-range", TAG)], true),
            (&[("if-range", DATE)], true),
            (&[("if-range", weak.as_str())], false),
            (&[("if-range", "\"a\"")], false),
            (&[("if-range", LATER)], false),
            (&[("if-range", EARLIER)], false),
            (&[("if-range", TAG), ("if-range", TAG)], false),
            (&[("if-range", "")], false),
        ] {
            assert_eq!(range_applies(&headers(fields), &validators()), expected, "{fields:?}");
        }
    }

    #[test]
    fn a_file_without_a_meaningful_time_has_no_last_modified() {
        let file = |modified| FileState {
            device: 1,
            inode: 2,
            len: 10,
            modified: FileTime { seconds: modified, nanoseconds: 0 },
            changed: FileTime { seconds: 1_577_836_800, nanoseconds: 5 },
        };
        for modified in [-1, 0, 1, 315_532_800] {
            let validators = Validators::of(&file(modified), None);
            assert_eq!(validators.last_modified(SystemTime::now()), None, "{modified}");
            assert_eq!(validators.etag, "\"5e0be100-5-a\"");
        }
        let validators = Validators::of(&file(1_577_836_800), Some(Encoding::Brotli));
        assert_eq!(validators.last_modified(SystemTime::now()).unwrap(), DATE);
        assert_eq!(validators.etag, "\"5e0be100-0-a-br\"");
    }

    #[test]
    fn last_modified_of_a_file_from_the_future_is_now() {
        let now = httpdate::parse_http_date(DATE).unwrap();
        let future = Validators { modified: Some(now + Duration::from_hours(1)), ..validators() };
        assert_eq!(future.last_modified(now).unwrap(), DATE);
        // The client's copy may be outdated although its date is the same.
        let known = headers(&[("if-modified-since", DATE)]);
        assert_eq!(evaluate(&known, &future), Precondition::Holds);
    }
}
