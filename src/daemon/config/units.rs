//! Parses and formats durations and sizes with a unit: `"30s"`, `"16MiB"`.
//!
//! A duration without a unit is refused, because `30` may mean seconds and `5000` milliseconds. A
//! size without a unit is bytes. Units of size are powers of 1024 with their IEC names, because
//! "MB" is ambiguous.

use std::time::Duration;

use super::ValueError;

/// Maximum duration of a setting: a year. A longer one is a typing mistake, and could overflow an
/// `Instant`.
const MAX_DURATION: Duration = Duration::from_hours(365 * 24);

const DURATION_UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
const SIZE_UNITS: [(&str, u64); 4] = [("", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// Parses a duration; `"off"` is `None`.
///
/// # Errors
/// If there is no number, no unit, a unit other than ms, s, m, h, or more than a year.
pub fn parse_duration(text: &str) -> Result<Option<Duration>, ValueError> {
    const EXAMPLES: &str = "write a number with ms, s, m or h: \"500ms\", \"30s\", \"2m\", \"1h\"";
    if text == "off" {
        return Ok(None);
    }
    let (number, unit) = split_number(text, "a duration").map_err(|error| match error.hint {
        Some(_) => error,
        None => error.with_hint(EXAMPLES),
    })?;
    let Some((_, scale)) = DURATION_UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(if unit.is_empty() {
            ValueError::new("has no unit")
                .with_hint(format!("write \"{number}s\" for seconds, or use ms, m, h"))
        } else if let Some(right) = suggest_duration_unit(unit) {
            ValueError::new(format!("\"{unit}\" is not a unit of time"))
                .with_hint(format!("write \"{number}{right}\""))
        } else {
            ValueError::new(format!("\"{unit}\" is not a unit of time")).with_hint(EXAMPLES)
        });
    };
    number
        .checked_mul(*scale)
        .map(Duration::from_millis)
        .filter(|duration| *duration <= MAX_DURATION)
        .map(Some)
        .ok_or_else(|| ValueError::new("is longer than a year").with_hint("write \"off\" for no limit"))
}

/// Parses a size in bytes; `"off"` is `None`.
///
/// # Errors
/// If there is no number, a unit other than KiB, MiB, GiB, or more than 2⁶⁴ bytes.
pub fn parse_size(text: &str) -> Result<Option<u64>, ValueError> {
    const EXAMPLES: &str =
        "write bytes, or a number with KiB, MiB or GiB: \"4096\", \"64KiB\", \"16MiB\", \"1GiB\"";
    if text == "off" {
        return Ok(None);
    }
    let (number, unit) = split_number(text, "a size").map_err(|error| match error.hint {
        Some(_) => error,
        None => error.with_hint(EXAMPLES),
    })?;
    let Some((_, scale)) = SIZE_UNITS.iter().find(|(name, _)| *name == unit) else {
        let error = ValueError::new(format!("\"{unit}\" is not a unit of size"));
        return Err(match suggest_size_unit(unit) {
            Some(right) => error.with_hint(format!("write \"{number}{right}\" (powers of 1024)")),
            None => error.with_hint(EXAMPLES),
        });
    };
    number
        .checked_mul(*scale)
        .map(Some)
        .ok_or_else(|| ValueError::new("is more than 2^64 bytes").with_hint("write \"off\" for no limit"))
}

/// Formats a duration, in the shortest form that [`parse_duration`] accepts.
pub fn format_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    let (unit, scale) = largest_unit(&DURATION_UNITS, |scale| millis.is_multiple_of(u128::from(scale)));
    format!("{}{unit}", millis / u128::from(scale))
}

/// Formats a size, in the shortest form that [`parse_size`] accepts.
pub fn format_size(bytes: u64) -> String {
    let (unit, scale) = largest_unit(&SIZE_UNITS, |scale| bytes > 0 && bytes.is_multiple_of(scale));
    format!("{}{unit}", bytes / scale)
}

fn largest_unit(units: &[(&'static str, u64); 4], fits: impl Fn(u64) -> bool) -> (&'static str, u64) {
    units.iter().rev().copied().find(|(_, scale)| fits(*scale)).unwrap_or(units[0])
}

/// Splits a number from its unit; `what` names the expected value in errors.
fn split_number<'a>(text: &'a str, what: &str) -> Result<(u64, &'a str), ValueError> {
    if text.is_empty() {
        return Err(ValueError::new(format!("is empty; {what} is expected")));
    }
    if text.starts_with('-') {
        return Err(ValueError::new("is negative"));
    }
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(ValueError::new(format!("is not {what}")));
    }
    if unit.starts_with(['.', ',']) {
        return Err(ValueError::new("is not a whole number")
            .with_hint("use a smaller unit: \"1500ms\" is one and a half seconds, \"512KiB\" half a MiB"));
    }
    if unit.starts_with(|c: char| c.is_whitespace()) {
        return Err(ValueError::new("has a space between number and unit")
            .with_hint(format!("write \"{number}{}\"", unit.trim())));
    }
    if unit.contains(|c: char| c.is_ascii_digit()) {
        return Err(ValueError::new(format!("is more than one number; {what} is expected"))
            .with_hint("use one unit: \"90s\", not \"1m30s\""));
    }
    let number = number.parse().map_err(|_| ValueError::new("is too large"))?;
    Ok((number, unit))
}

fn suggest_duration_unit(unit: &str) -> Option<&'static str> {
    match unit.to_ascii_lowercase().as_str() {
        "ms" | "msec" | "msecs" | "millis" | "milliseconds" => Some("ms"),
        "s" | "sec" | "secs" | "second" | "seconds" => Some("s"),
        "m" | "min" | "mins" | "minute" | "minutes" => Some("m"),
        "h" | "hr" | "hrs" | "hour" | "hours" => Some("h"),
        _ => None,
    }
}

fn suggest_size_unit(unit: &str) -> Option<&'static str> {
    match unit.to_ascii_lowercase().as_str() {
        "b" | "byte" | "bytes" => Some(""),
        "k" | "kb" | "ki" | "kib" => Some("KiB"),
        "m" | "mb" | "mi" | "mib" => Some("MiB"),
        "g" | "gb" | "gi" | "gib" => Some("GiB"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed_with_their_unit() {
        for (text, millis) in [
            ("30s", 30_000),
            ("500ms", 500),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("0s", 0),
            ("8760h", 31_536_000_000),
        ] {
            let duration = parse_duration(text).unwrap().unwrap();
            assert_eq!(duration, Duration::from_millis(millis), "{text}");
            assert_eq!(parse_duration(&format_duration(duration)).unwrap(), Some(duration), "{text}");
        }
        assert_eq!(parse_duration("off"), Ok(None));
        assert_eq!(format_duration(Duration::from_secs(90)), "90s");
        assert_eq!(format_duration(Duration::from_mins(2)), "2m");
        assert_eq!(format_duration(Duration::from_millis(1500)), "1500ms");
    }

    #[test]
    fn invalid_duration_is_refused_with_a_hint() {
        for (text, reason, hint) in [
            ("30", "has no unit", "write \"30s\" for seconds, or use ms, m, h"),
            ("30sec", "\"sec\" is not a unit of time", "write \"30s\""),
            ("30S", "\"S\" is not a unit of time", "write \"30s\""),
            ("5 s", "has a space between number and unit", "write \"5s\""),
            ("16MiB", "\"MiB\" is not a unit of time", "500ms"),
            ("1d", "\"d\" is not a unit of time", "500ms"),
            ("1.5s", "is not a whole number", "1500ms"),
            ("1m30s", "is more than one number", "90s"),
            ("-5s", "is negative", "500ms"),
            ("", "is empty", "500ms"),
            ("s", "is not a duration", "500ms"),
            ("soon", "is not a duration", "500ms"),
            ("OFF", "is not a duration", "500ms"),
            ("8761h", "is longer than a year", "off"),
            ("99999999999999999999s", "is too large", "500ms"),
            ("18446744073709551615h", "is longer than a year", "off"),
            ("３０s", "is not a duration", "500ms"),
        ] {
            let error = parse_duration(text).unwrap_err();
            assert!(error.reason.contains(reason), "{text}: {error}");
            assert!(error.hint.as_ref().unwrap().contains(hint), "{text}: {error}");
        }
    }

    #[test]
    fn sizes_are_parsed_with_a_unit_or_in_bytes() {
        for (text, bytes) in
            [("4096", 4096), ("64KiB", 65_536), ("16MiB", 16 << 20), ("1GiB", 1 << 30), ("0", 0)]
        {
            assert_eq!(parse_size(text), Ok(Some(bytes)), "{text}");
            assert_eq!(parse_size(&format_size(bytes)), Ok(Some(bytes)), "{text}");
        }
        assert_eq!(parse_size("off"), Ok(None));
        assert_eq!(format_size(16 << 20), "16MiB");
        assert_eq!(format_size(1500), "1500");
    }

    #[test]
    fn invalid_size_is_refused_with_a_hint() {
        for (text, reason, hint) in [
            ("16MB", "\"MB\" is not a unit of size", "write \"16MiB\""),
            ("16k", "\"k\" is not a unit of size", "write \"16KiB\""),
            ("30s", "\"s\" is not a unit of size", "64KiB"),
            ("10TiB", "\"TiB\" is not a unit of size", "64KiB"),
            ("-1", "is negative", "64KiB"),
            ("1.5GiB", "is not a whole number", "smaller unit"),
            ("big", "is not a size", "64KiB"),
            ("18446744073709551615GiB", "more than 2^64", "off"),
        ] {
            let error = parse_size(text).unwrap_err();
            assert!(error.reason.contains(reason), "{text}: {error}");
            assert!(error.hint.as_ref().unwrap().contains(hint), "{text}: {error}");
        }
    }
}
