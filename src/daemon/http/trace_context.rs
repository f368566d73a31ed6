//! W3C Trace Context: the ids of `traceparent`, for the journal. The application receives
//! `traceparent` and `tracestate` as they were sent.

use http::HeaderValue;

use crate::journal::trace_ids::TraceIds;

/// Length in bytes of version, trace id, parent id and flags, in hexadecimal, with hyphens between.
const MIN_BYTES: usize = 55;

/// Parses a field's value (W3C Trace Context §3.2); `None` if it is invalid. In later versions of
/// the format more may follow the flags.
pub(super) fn parse(value: &HeaderValue) -> Option<Box<TraceIds>> {
    let text = value.to_str().ok()?;
    let (known, extension) = text.split_at_checked(MIN_BYTES)?;
    let mut parts = known.split('-');
    let mut next = |digits| {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        parts.next().filter(|part| part.len() == digits && part.bytes().all(is_digit))
    };
    let (version, trace_id, parent_id, _flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
    let is_zero = |id: &str| id.bytes().all(|byte| byte == b'0');
    let is_valid = match version {
        "ff" => false,
        "00" => extension.is_empty(),
        _ => extension.is_empty() || extension.starts_with('-'),
    };
    (is_valid && !is_zero(trace_id) && !is_zero(parent_id))
        .then(|| Box::new(TraceIds { trace_id: trace_id.into(), parent_id: parent_id.into() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    fn parse(value: &str) -> Option<TraceIds> {
        super::parse(&HeaderValue::from_bytes(value.as_bytes()).unwrap()).map(|ids| *ids)
    }

    #[test]
    fn ids_are_read_from_this_and_later_versions() {
        for value in [
            format!("00-{TRACE}-{PARENT}-01"),
            format!("01-{TRACE}-{PARENT}-ff"),
            format!("fe-{TRACE}-{PARENT}-00-more"),
        ] {
            let expected = TraceIds { trace_id: TRACE.into(), parent_id: PARENT.into() };
            assert_eq!(parse(&value), Some(expected), "{value}");
        }
    }

    #[test]
    fn invalid_traceparent_has_no_ids() {
        for value in [
            String::new(),
            format!("ff-{TRACE}-{PARENT}-01"),
            format!("00-{TRACE}-{PARENT}-01-more"),
            format!("01-{TRACE}-{PARENT}-01more"),
            format!("00-{TRACE}-{PARENT}-1"),
            format!("00-{TRACE}-{PARENT}-0g"),
            format!("00-{}-{PARENT}-01", TRACE.to_uppercase()),
            format!("00-{}-{PARENT}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00_{TRACE}-{PARENT}-01"),
            format!("00-{TRACE}-{PARENT}-\u{e9}"),
            format!("00-{}\u{e9}-{PARENT}-01", &TRACE[..30]),
        ] {
            assert_eq!(parse(&value), None, "{value}");
        }
    }
}
