//! Chooses a content coding by `Accept-Encoding` (RFC 9110 §12.5.3).

use http::HeaderMap;
use http::header::ACCEPT_ENCODING;

/// A content coding for which there may be a precompressed file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Brotli,
    Zstd,
    Gzip,
}

/// The best compression first: the order of preference among codings of equal weight.
const ENCODINGS: [Encoding; 3] = [Encoding::Brotli, Encoding::Zstd, Encoding::Gzip];

impl Encoding {
    /// Returns the token in `Content-Encoding`.
    pub(super) fn token(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }

    /// Returns the suffix of the precompressed file.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::Brotli => ".br",
            Self::Zstd => ".zst",
            Self::Gzip => ".gz",
        }
    }

    fn matches(self, token: &str) -> bool {
        token.eq_ignore_ascii_case(self.token()) || self == Self::Gzip && token.eq_ignore_ascii_case("x-gzip")
    }
}

/// Returns the codings that the client accepts and prefers to `identity`, in descending order of
/// weight.
pub(super) fn accepted(headers: &HeaderMap) -> impl Iterator<Item = Encoding> + use<> {
    let mut weights: [Option<u16>; 3] = [None; 3];
    let (mut any, mut identity) = (None, None);
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    for item in values.flat_map(|value| value.split(',')) {
        let mut parts = item.split(';');
        let token = parts.next().unwrap_or_default().trim();
        let weight = parts.find_map(|part| quality(part.trim())).unwrap_or(MAX_WEIGHT);
        if token == "*" {
            any = any.or(Some(weight));
        } else if token.eq_ignore_ascii_case("identity") {
            identity = identity.or(Some(weight));
        } else if let Some(slot) = ENCODINGS.iter().position(|encoding| encoding.matches(token)) {
            weights[slot] = weights[slot].or(Some(weight));
        }
    }
    let min = identity.unwrap_or(1).max(1);
    let mut chosen: Vec<(u16, Encoding)> = ENCODINGS
        .into_iter()
        .zip(weights)
        .filter_map(|(encoding, weight)| weight.or(any).map(|weight| (weight, encoding)))
        .filter(|(weight, _)| *weight >= min)
        .collect();
    // Stable: the order of ENCODINGS decides among equals.
    chosen.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
    chosen.into_iter().map(|(_, encoding)| encoding)
}

const MAX_WEIGHT: u16 = 1000;

/// Returns the weight in thousandths if the parameter is a weight (RFC 9110 §12.4.2); 0 if the
/// weight is invalid.
fn quality(parameter: &str) -> Option<u16> {
    let (name, value) = parameter.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("q") {
        return None;
    }
    let (whole, fraction) = value.trim().split_once('.').unwrap_or((value.trim(), ""));
    let is_valid = matches!(whole, "0" | "1")
        && fraction.len() <= 3
        && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let thousandths = format!("{fraction:0<3}").parse().unwrap_or(0);
    Some(match whole {
        "1" if is_valid => MAX_WEIGHT,
        "0" if is_valid => thousandths,
        _ => 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn codings_are_chosen_by_weight_and_then_by_size() {
        for (accepts, expected) in [
            (&[][..], ""),
            (&[""], ""),
            (&["gzip, deflate, br, zstd"], "br zstd gzip"),
            (&["gzip"], "gzip"),
            (&["GZIP;Q=0.5, br;q=0.1"], "gzip br"),
            (&["gzip;q=0, br"], "br"),
            (&["*"], "br zstd gzip"),
            (&["*;q=0.2, gzip;q=0.1"], "br zstd gzip"),
            (&["*;q=0"], ""),
            (&["br;q=0.000"], ""),
            (&["br;q=2"], ""),
            (&["br;q=0.1234"], ""),
            (&["identity, gzip;q=0.5"], ""),
            (&["identity;q=0.5, gzip;q=0.5"], "gzip"),
            (&["identity;q=0, gzip"], "gzip"),
            (&["zstd", "gzip"], "zstd gzip"),
            (&["x-gzip"], "gzip"),
            (&["deflate, compress"], ""),
        ] {
            let mut headers = HeaderMap::new();
            for value in accepts {
                headers.append(ACCEPT_ENCODING, HeaderValue::from_static(value));
            }
            let chosen: Vec<_> = accepted(&headers).map(Encoding::token).collect();
            assert_eq!(chosen.join(" "), expected, "{accepts:?}");
        }
    }
}
