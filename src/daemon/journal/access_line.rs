//! Formats a request's line in the access log according to `log.access_format`.
//!
//! Text of clients is escaped as everywhere in the log; a quotation mark gets a backslash, as in
//! gunicorn, so that a quoted part of the line ends where it should. A hyphen stands for a fact
//! that is missing.

use std::borrow::Cow;
use std::fmt::Write as _;

use chrono::{DateTime, Local};

use crate::config::{Atom, FormatPiece};

use super::request_entries::{AccessDetails, AccessEntry, AccessLine, BoundedText};

/// Returns the line of a request that ended at `now`.
pub(super) fn render(
    line: &AccessLine,
    access: &AccessEntry,
    details: &AccessDetails,
    now: DateTime<Local>,
) -> String {
    let mut text = String::with_capacity(128);
    for piece in &line.0.pieces {
        match piece {
            FormatPiece::Text(piece) => text.push_str(piece),
            FormatPiece::Atom(atom) => push_atom(&mut text, *atom, access, details, now),
        }
    }
    text
}

fn push_atom(
    line: &mut String,
    atom: Atom,
    access: &AccessEntry,
    details: &AccessDetails,
    now: DateTime<Local>,
) {
    let AccessEntry { request, status, bytes, duration, fields, .. } = access;
    let path = || request.path.to_string();
    let query = || details.query.as_ref().map(BoundedText::shown);
    let with_query = || match query() {
        Some(query) => format!("{}?{query}", request.path),
        None => path(),
    };
    // Writing to a String cannot fail.
    let _ = match atom {
        Atom::Hyphen => line.write_char('-'),
        Atom::Client => line.write_str(&request.client),
        Atom::User => push_text(line, details.user.as_ref()),
        Atom::Time => write!(line, "{}", now.format("[%d/%b/%Y:%H:%M:%S %z]")),
        Atom::LocalTime => write!(line, "{}", now.format("%Y-%m-%d %H:%M:%S %z")),
        Atom::RequestLine => {
            push_quotable(line, &format!("{} {} {}", request.method, with_query(), details.protocol))
        }
        Atom::RequestLineWithoutQuery => {
            push_quotable(line, &format!("{} {} {}", request.method, path(), details.protocol))
        }
        Atom::Method => push_quotable(line, &request.method),
        Atom::Path => push_quotable(line, &path()),
        Atom::PathAndQuery => push_quotable(line, &with_query()),
        Atom::Query => push_quotable(line, &query().unwrap_or_default()),
        Atom::Protocol => line.write_str(details.protocol),
        Atom::Scheme => line.write_str(details.scheme),
        Atom::Status => write!(line, "{status}"),
        Atom::StatusPhrase => line.write_str(reason_phrase(*status)),
        Atom::Bytes => write!(line, "{bytes}"),
        Atom::Referrer => push_text(line, details.referrer.as_ref()),
        Atom::UserAgent => push_text(line, details.user_agent.as_ref()),
        Atom::Seconds => write!(line, "{}", duration.as_secs()),
        Atom::Milliseconds => write!(line, "{}", duration.as_millis()),
        Atom::Microseconds => write!(line, "{}", duration.as_micros()),
        Atom::SecondsAndMicroseconds => {
            write!(line, "{}.{:06}", duration.as_secs(), duration.subsec_micros())
        }
        Atom::FractionalMilliseconds(digits) => {
            write!(line, "{:.*}", usize::from(digits), duration.as_secs_f64() * 1e3)
        }
        Atom::Pid => write!(line, "<{}>", std::process::id()),
        Atom::RequestField(idx) => push_text(line, details.fields.get(idx).and_then(Option::as_ref)),
        Atom::ResponseField(idx) => push_text(line, fields.get(idx).and_then(Option::as_ref)),
    };
}

fn reason_phrase(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("-")
}

/// Appends a text, or a hyphen.
fn push_text(line: &mut String, text: Option<&BoundedText>) -> std::fmt::Result {
    push_quotable(line, &text.map_or(Cow::Borrowed("-"), BoundedText::shown))
}

/// Appends a text that may be within quotation marks.
fn push_quotable(line: &mut String, text: &str) -> std::fmt::Result {
    if text.contains('"') { line.write_str(&text.replace('"', "\\\"")) } else { line.write_str(text) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::{TimeZone as _, Utc};

    use super::super::request_entries::LoggedRequest;
    use super::*;
    use crate::config::testing::access_format;
    use crate::escape::RequestPath;

    fn text(text: &[u8]) -> BoundedText {
        BoundedText::new(text)
    }

    fn line_of(format: &str, details: &AccessDetails) -> String {
        let access = AccessEntry {
            request: LoggedRequest {
                id: "id".to_owned(),
                method: "GET".to_owned(),
                path: RequestPath::new(b"/caf\xe9\"x"),
                client: "203.0.113.9".to_owned(),
                client_request_id: None,
                trace: None,
                details: None,
            },
            status: 404,
            bytes: 1024,
            duration: Duration::from_micros(2_003_400),
            queued: Duration::ZERO,
            worker: None,
            fields: vec![Some(text(b"W/\"1\"")), None],
        };
        let now = Utc.with_ymd_and_hms(2026, 11, 17, 10, 0, 5).unwrap().with_timezone(&Local);
        let line = render(&AccessLine::new(access_format(format)), &access, details, now);
        line.replace(&now.format("%z").to_string(), "ZONE").replace(&now.format("%H:%M").to_string(), "HH:MM")
    }

    fn details() -> AccessDetails {
        AccessDetails {
            query: Some(text(b"a=\x1b[31m&b=\"2\"")),
            user_agent: Some(text("curl/8 \u{202e}\n".as_bytes())),
            referrer: None,
            protocol: "HTTP/1.1",
            scheme: "https",
            user: Some(text(b"alice")),
            fields: vec![Some(text(b"v1")), None],
            ..AccessDetails::default()
        }
    }

    #[test]
    fn gunicorns_default_line_is_escaped() {
        let format = "%(h)s %(l)s %(u)s %(t)s \"%(r)s\" %(s)s %(b)s \"%(f)s\" \"%(a)s\"";
        assert_eq!(
            line_of(format, &details()),
            r#"203.0.113.9 - alice [17/Nov/2026:HH:MM:05 ZONE] "GET /caf\xe9\"x?a=\x1b[31m&b=\"2\" HTTP/1.1" 404 1024 "-" "curl/8 \u{202e}\x0a""#
        );
    }

    #[test]
    fn each_atom_has_its_form() {
        for (atom, expected) in [
            ("%(m)s %(U)s?%(q)s", r#"GET /caf\xe9\"x?a=\x1b[31m&b=\"2\""#),
            ("%(R)s", r#"GET /caf\xe9\"x HTTP/1.1"#),
            ("%(H)s %(S)s %(st)s %(B)s", "HTTP/1.1 https Not Found 1024"),
            ("%(T)s %(M)s %(D)s %(L)s %(dt_ms).3f", "2 2003 2003400 2.003400 2003.400"),
            ("%({A}i)s %({b}i)s %({etag}o)s %({vary}o)s", r#"v1 - W/\"1\" -"#),
            ("%({django.user}e)s 100%%", "- 100%"),
            ("%(time)s", "2026-11-17 HH:MM:05 ZONE"),
        ] {
            assert_eq!(line_of(atom, &details()), expected, "{atom}");
        }
        assert_eq!(line_of("%(p)s", &details()), format!("<{}>", std::process::id()));
    }

    #[test]
    fn missing_facts_are_hyphens_and_no_query_is_empty() {
        let line = line_of("%(u)s %(f)s %(a)s [%(q)s] %({a}i)s", &AccessDetails::default());
        assert_eq!(line, "- - - [] -");
    }

    #[test]
    fn long_text_of_a_client_is_cut() {
        let long = AccessDetails { user_agent: Some(text(&[b'a'; 9000])), ..AccessDetails::default() };
        let line = line_of("%(a)s", &long);
        assert!(line.len() == BoundedText::MAX_BYTES + 3 && line.ends_with("a..."), "{}", line.len());
    }
}
