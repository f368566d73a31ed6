//! Byte ranges (RFC 9110 §14): the parts of a representation that a request asks for.

use std::ops::Range;

use http::HeaderMap;
use http::header::RANGE;

/// Maximum number of ranges in one request. A request with more ranges gets the whole file, because
/// it may be an attack on servers that copy for each range (RFC 9110 §17.15).
const MAX_RANGES: usize = 64;

/// The parts of a representation to send.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RequestedRange {
    /// The whole representation: there is no `Range`, it is invalid, or its ranges together are
    /// not smaller than the whole.
    Whole,
    /// One range, of at least one byte.
    One(Range<u64>),
    /// Several ranges, in the order of the request; together they are smaller than the whole.
    Several(Vec<Range<u64>>),
    /// No range begins within the representation: 416.
    Unsatisfiable,
}

/// Evaluates the `Range` field for a representation of `len` bytes.
pub(super) fn requested(headers: &HeaderMap, len: u64) -> RequestedRange {
    let mut values = headers.get_all(RANGE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return RequestedRange::Whole };
    let Some(specs) = value.to_str().ok().and_then(parse) else { return RequestedRange::Whole };
    let mut ranges: Vec<Range<u64>> = specs.iter().filter_map(|spec| spec.resolve(len)).collect();
    let total = ranges.iter().fold(0_u64, |total, range| total.saturating_add(range.end - range.start));
    match ranges.len() {
        0 => RequestedRange::Unsatisfiable,
        1 => ranges.pop().map_or(RequestedRange::Unsatisfiable, RequestedRange::One),
        _ if total >= len => RequestedRange::Whole,
        _ => RequestedRange::Several(ranges),
    }
}

/// A range as the request writes it.
#[derive(Debug, Clone, Copy)]
enum RangeSpec {
    /// From a byte to a byte, inclusive.
    FromTo(u64, u64),
    /// The last bytes.
    Suffix(u64),
}

impl RangeSpec {
    /// Returns the bytes of a representation; `None` if there are none.
    fn resolve(self, len: u64) -> Option<Range<u64>> {
        let range = match self {
            Self::FromTo(first, last) => first..last.saturating_add(1).min(len),
            Self::Suffix(count) => len.saturating_sub(count)..len,
        };
        Some(range).filter(|range| range.start < range.end)
    }
}

/// Parses the field. Returns `None` if the field is to be ignored, because it is invalid or has
/// more than [`MAX_RANGES`] ranges.
fn parse(value: &str) -> Option<Vec<RangeSpec>> {
    let (unit, list) = value.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let mut specs = Vec::new();
    for spec in list.split(',').map(|spec| spec.trim_matches([' ', '\t'])).filter(|spec| !spec.is_empty()) {
        let (first, last) = spec.split_once('-')?;
        let spec = match (first, last) {
            ("", count) => RangeSpec::Suffix(number(count)?),
            (first, "") => RangeSpec::FromTo(number(first)?, u64::MAX),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                if last < first {
                    return None;
                }
                RangeSpec::FromTo(first, last)
            }
        };
        specs.push(spec);
    }
    Some(specs).filter(|specs| (1..=MAX_RANGES).contains(&specs.len()))
}

/// Parses digits. A number beyond `u64` becomes `u64::MAX`, which is beyond the end of every file.
fn number(digits: &str) -> Option<u64> {
    let is_valid = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_valid.then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn of(value: &str, len: u64) -> RequestedRange {
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, HeaderValue::from_str(value).unwrap());
        requested(&headers, len)
    }

    #[test]
    fn ranges_are_resolved_against_the_length() {
        use RequestedRange::{One, Several, Unsatisfiable, Whole};
        for (value, expected) in [
            ("bytes=0-0", One(0..1)),
            ("bytes=0-9", One(0..10)),
            ("bytes=2-5", One(2..6)),
            ("BYTES=2-5", One(2..6)),
            ("bytes=5-", One(5..10)),
            ("bytes=9-100", One(9..10)),
            ("bytes=-3", One(7..10)),
            ("bytes=-100", One(0..10)),
            ("bytes=0-18446744073709551615", One(0..10)),
            ("bytes=0-99999999999999999999999", One(0..10)),
            ("bytes= 1-2 ,\t", One(1..3)),
            ("bytes=0-1,4-5", Several(vec![0..2, 4..6])),
            ("bytes=4-5, ,0-1,", Several(vec![4..6, 0..2])),
            ("bytes=0-1,20-30", One(0..2)),
            ("bytes=0-1,-1,-0", Several(vec![0..2, 9..10])),
            // Overlapping ranges that are no smaller than the whole.
            ("bytes=0-,0-,0-", Whole),
            ("bytes=0-4,5-9", Whole),
            ("bytes=10-", Unsatisfiable),
            ("bytes=10-11,30-", Unsatisfiable),
            ("bytes=-0", Unsatisfiable),
            ("bytes=99999999999999999999999-", Unsatisfiable),
            ("bytes=5-4", Whole),
            ("bytes=0-1,5-4", Whole),
            ("bytes=a-b", Whole),
            ("bytes=+1-2", Whole),
            ("bytes=1--2", Whole),
            ("bytes=-", Whole),
            ("bytes=", Whole),
            ("bytes=,", Whole),
            ("bytes", Whole),
            ("items=0-1", Whole),
            ("bytes=1 - 2", Whole),
            ("bytes=0x1-2", Whole),
        ] {
            assert_eq!(of(value, 10), expected, "{value}");
        }
    }

    #[test]
    fn an_empty_file_has_no_ranges() {
        assert_eq!(of("bytes=0-", 0), RequestedRange::Unsatisfiable);
        assert_eq!(of("bytes=-1", 0), RequestedRange::Unsatisfiable);
    }

    #[test]
    fn more_ranges_than_the_limit_are_ignored() {
        let many = |count: u64| {
            let specs: Vec<String> = (0..count).map(|at| format!("{}-{}", at * 10, at * 10)).collect();
            format!("bytes={}", specs.join(","))
        };
        assert!(matches!(of(&many(64), 10_000), RequestedRange::Several(ranges) if ranges.len() == 64));
        assert_eq!(of(&many(65), 10_000), RequestedRange::Whole);
    }

    #[test]
    fn a_repeated_field_is_ignored() {
        let mut headers = HeaderMap::new();
        headers.append(RANGE, HeaderValue::from_static("bytes=0-1"));
        headers.append(RANGE, HeaderValue::from_static("bytes=2-3"));
        assert_eq!(requested(&headers, 10), RequestedRange::Whole);
    }
}
