//! Content negotiation (RFC 9110 §12.5): the format of the daemon's own responses by `Accept`, and
//! the coding of a compressed response by `Accept-Encoding`.
//!
//! `dispatch` and `http` choose a format for each response that the daemon makes itself, and a
//! coding for each request while `[compression]` is on.

/// The format of the daemon's own error responses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ErrorFormat {
    /// `text/plain`: for programs that accept anything.
    #[default]
    Text,
    /// `application/problem+json` (RFC 9457).
    Json,
    /// `text/html`: for browsers.
    Html,
}

/// The formats and their media types. Of the formats that the client prefers equally, the first is
/// chosen.
const OFFERS: [(&str, &str, ErrorFormat); 4] = [
    ("text", "plain", ErrorFormat::Text),
    ("application", "problem+json", ErrorFormat::Json),
    ("application", "json", ErrorFormat::Json),
    ("text", "html", ErrorFormat::Html),
];

impl ErrorFormat {
    /// Chooses the format by the values of all `Accept` fields; text if there is no field, or if
    /// the fields allow none of the formats.
    pub fn of_accept<'v>(values: impl Iterator<Item = &'v [u8]>) -> Self {
        let text: Vec<_> = values.map(String::from_utf8_lossy).collect();
        let ranges: Vec<_> = elements(text.iter().map(AsRef::as_ref)).filter_map(MediaRange::parse).collect();
        let mut best = (Preference::default(), Self::Text);
        for (kind, subtype, format) in OFFERS {
            let matching = ranges.iter().enumerate().filter(|(_, range)| range.matches(kind, subtype));
            // RFC 9110 §12.5.1: of the ranges that match a type, the most specific one has its
            // weight.
            let Some((idx, range)) =
                matching.max_by_key(|(idx, range)| (range.specificity(), usize::MAX - idx))
            else {
                continue;
            };
            let preference = Preference {
                weight: range.weight,
                specificity: range.specificity(),
                earliness: usize::MAX - idx,
            };
            if range.weight > 0 && preference > best.0 {
                best = (preference, format);
            }
        }
        best.1
    }
}

/// A client's preference for a type: first its weight, then how exactly and how early the client
/// named the type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Preference {
    weight: u16,
    specificity: u8,
    earliness: usize,
}

/// An element of `Accept`.
#[derive(Debug, Clone, Copy)]
struct MediaRange<'a> {
    kind: &'a str,
    subtype: &'a str,
    /// The weight in thousandths.
    weight: u16,
}

impl<'a> MediaRange<'a> {
    fn parse((range, weight): (&'a str, u16)) -> Option<Self> {
        let (kind, subtype) = range.split_once('/')?;
        Some(Self { kind, subtype, weight })
    }

    fn matches(&self, kind: &str, subtype: &str) -> bool {
        (self.kind.eq_ignore_ascii_case(kind) || self.kind == "*" && self.subtype == "*")
            && (self.subtype.eq_ignore_ascii_case(subtype) || self.subtype == "*")
    }

    fn specificity(&self) -> u8 {
        u8::from(self.kind != "*") + u8::from(self.subtype != "*")
    }
}

/// A content coding (RFC 9110 §8.4.1) that the daemon encodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// RFC 8878.
    Zstd,
    /// RFC 7932.
    Brotli,
    /// RFC 1952.
    Gzip,
}

impl Coding {
    /// Returns the name in `Content-Encoding`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }

    /// Chooses one of `offered` by the values of all `Accept-Encoding` fields: the coding with the
    /// highest weight, and among equals the first. Returns `None` if the client prefers the
    /// uncompressed body, or accepts none of `offered`.
    pub fn of_accept_encoding<'v>(values: impl Iterator<Item = &'v [u8]>, offered: &[Self]) -> Option<Self> {
        let text: Vec<_> = values.map(String::from_utf8_lossy).collect();
        let accepted: Vec<_> = elements(text.iter().map(AsRef::as_ref)).collect();
        let weight_of = |name: &str| {
            accepted.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, weight)| *weight)
        };
        let any = weight_of("*");
        let weight = |coding: Self| {
            let alias = (coding == Self::Gzip).then(|| weight_of("x-gzip")).flatten();
            weight_of(coding.as_str()).or(alias).or(any).unwrap_or(0)
        };
        let mut best = (weight_of("identity").unwrap_or(0), None);
        for coding in offered {
            // At equal weight, a coding wins over the uncompressed body.
            let weight = weight(*coding);
            if weight > best.0 || weight > 0 && weight == best.0 && best.1.is_none() {
                best = (weight, Some(*coding));
            }
        }
        best.1
    }
}

/// Returns the elements of a list field, without their parameters, and their weights in
/// thousandths. Malformed elements are skipped.
fn elements<'a>(values: impl Iterator<Item = &'a str>) -> impl Iterator<Item = (&'a str, u16)> {
    values.flat_map(|value| value.split(',')).take(MAX_ELEMENTS).filter_map(|element| {
        let mut parts = element.split(';').map(str::trim);
        let name = parts.next().filter(|name| !name.is_empty())?;
        let weight = parts.find_map(|parameter| {
            let (key, value) = parameter.split_once('=')?;
            key.trim().eq_ignore_ascii_case("q").then(|| weight(value.trim()))
        });
        Some((name, weight.unwrap_or(Some(FULL_WEIGHT))?))
    })
}

/// Parses a weight (RFC 9110 §12.4.2): 0 to 1 with at most three decimals. Returns thousandths;
/// `None` if it is malformed.
fn weight(text: &str) -> Option<u16> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    if decimals.len() > 3 || !decimals.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let thousandths: u16 = format!("{decimals:0<3}").parse().ok()?;
    match whole {
        "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(FULL_WEIGHT),
        _ => None,
    }
}

/// The weight of an element that states none, in thousandths.
const FULL_WEIGHT: u16 = 1000;

/// Maximum number of elements that are read; clients send fewer than twenty.
const MAX_ELEMENTS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn format_of(accept: &str) -> ErrorFormat {
        ErrorFormat::of_accept(std::iter::once(accept.as_bytes()))
    }

    #[test]
    fn real_clients_get_their_format() {
        for (accept, format) in [
            // curl, Python's requests and httpx.
            ("*/*", ErrorFormat::Text),
            // Firefox, Chromium and Safari, for a navigation.
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", ErrorFormat::Html),
            (
                "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,\
                 application/signed-exchange;v=b3;q=0.7",
                ErrorFormat::Html,
            ),
            // Chromium for an image, EventSource, a stylesheet.
            ("image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8", ErrorFormat::Text),
            ("text/event-stream", ErrorFormat::Text),
            ("text/css,*/*;q=0.1", ErrorFormat::Text),
            // axios, and clients of an API.
            ("application/json, text/plain, */*", ErrorFormat::Json),
            ("application/json", ErrorFormat::Json),
            ("application/problem+json", ErrorFormat::Json),
            // htmx, jQuery.
            ("text/html, */*; q=0.01", ErrorFormat::Html),
            ("application/json, text/javascript, */*; q=0.01", ErrorFormat::Json),
        ] {
            assert_eq!(format_of(accept), format, "{accept}");
        }
    }

    #[test]
    fn weights_and_specificity_decide() {
        for (accept, format) in [
            ("text/html;q=0.5, application/json;q=0.6", ErrorFormat::Json),
            ("text/html;q=0, */*", ErrorFormat::Text),
            ("text/plain;q=0, text/html;q=0.1", ErrorFormat::Html),
            ("*/*;q=0.1, text/*;q=0.2, text/plain;q=0.05", ErrorFormat::Html),
            ("TEXT/HTML;Q=1.000", ErrorFormat::Html),
            ("application/*", ErrorFormat::Json),
            ("text/*", ErrorFormat::Text),
            ("text/html;level=1;q=0.3, application/json;q=0.2", ErrorFormat::Html),
            // The client accepts none of the formats.
            ("image/png", ErrorFormat::Text),
            ("text/html;q=0", ErrorFormat::Text),
        ] {
            assert_eq!(format_of(accept), format, "{accept}");
        }
    }

    #[test]
    fn coding_is_chosen_by_weight_then_by_the_servers_order() {
        let all = [Coding::Zstd, Coding::Brotli, Coding::Gzip];
        for (accept, coding) in [
            // Chromium and Firefox; Safari; curl --compressed; requests; httpx.
            ("gzip, deflate, br, zstd", Some(Coding::Zstd)),
            ("gzip, deflate, br", Some(Coding::Brotli)),
            ("deflate, gzip, br, zstd", Some(Coding::Zstd)),
            ("gzip, deflate", Some(Coding::Gzip)),
            ("gzip;q=1.0, br;q=0.9, zstd;q=0", Some(Coding::Gzip)),
            ("*", Some(Coding::Zstd)),
            ("*;q=0.5, zstd;q=0, br;q=0.4", Some(Coding::Gzip)),
            ("identity, gzip;q=0.5", None),
            ("identity;q=0.5, gzip;q=0.5", Some(Coding::Gzip)),
            ("identity;q=0", None),
            ("X-GZIP", Some(Coding::Gzip)),
            ("gzip;q=0", None),
            ("deflate, compress", None),
            ("", None),
            ("gzipped, brr;q=1", None),
        ] {
            let chosen = Coding::of_accept_encoding(std::iter::once(accept.as_bytes()), &all);
            assert_eq!(chosen, coding, "{accept}");
        }
        let both = [&b"gzip"[..], b"br"].into_iter();
        assert_eq!(Coding::of_accept_encoding(both, &[Coding::Gzip, Coding::Brotli]), Some(Coding::Gzip));
        assert_eq!(Coding::of_accept_encoding(std::iter::empty(), &all), None);
    }

    #[test]
    fn malformed_elements_are_ignored() {
        for accept in
            ["", ",,,", ";q=1", "text", "/", "text/html;q=2", "text/html;q=0.1234", "text/html;q=", "*/html"]
        {
            assert_eq!(format_of(accept), ErrorFormat::Text, "{accept}");
        }
        assert_eq!(format_of("text/html;q=high, application/json;q=0.1"), ErrorFormat::Json);
        assert_eq!(ErrorFormat::of_accept([&b"\xff"[..], b"text/html"].into_iter()), ErrorFormat::Html);
        let many = "image/png,".repeat(100_000);
        assert_eq!(format_of(&(many + "text/html")), ErrorFormat::Text);
    }
}
