//! Negotiates permessage-deflate (RFC 7692 §5, §7.1), the only extension.
//!
//! Both sides reset their compressors after each message (`no_context_takeover`), whatever the
//! client offers: a server may require that (§7.1.1). So an idle connection needs no compressor
//! (300 KiB), but small messages that resemble each other are compressed less.

use std::fmt;

/// The negotiated parameters of permessage-deflate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeflateParams {
    /// Base-2 logarithm of the largest window that the server may compress with,
    /// [`MIN_WINDOW_BITS`] to [`MAX_WINDOW_BITS`].
    pub(super) window_bits: u8,
}

/// The largest window of deflate, and the default (RFC 7692 §7.1.2.1). A decompressor with this
/// window accepts every smaller one.
pub(super) const MAX_WINDOW_BITS: u8 = 15;

/// The smallest window that zlib supports for raw deflate.
const MIN_WINDOW_BITS: u8 = 9;

const EXTENSION_NAME: &str = "permessage-deflate";

impl fmt::Display for DeflateParams {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{EXTENSION_NAME}; server_no_context_takeover; client_no_context_takeover")?;
        match self.window_bits {
            MAX_WINDOW_BITS => Ok(()),
            bits => write!(formatter, "; server_max_window_bits={bits}"),
        }
    }
}

/// Returns the parameters of the first acceptable offer (RFC 7692 §5.1) in the
/// `Sec-WebSocket-Extensions` fields. Unknown extensions and offers with invalid parameters are
/// declined by not answering them.
pub fn negotiate<'f>(fields: impl IntoIterator<Item = &'f [u8]>) -> Option<DeflateParams> {
    let fields = fields.into_iter().filter_map(|field| std::str::from_utf8(field).ok());
    fields.flat_map(|field| field.split(',')).find_map(parse_offer)
}

/// Parses one offer. Returns None if it is to be declined.
fn parse_offer(offer: &str) -> Option<DeflateParams> {
    let mut parts = offer.split(';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case(EXTENSION_NAME) {
        return None;
    }
    let mut window_bits = None;
    let (mut has_server_reset, mut has_client_reset, mut has_client_bits) = (false, false, false);
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim_end(), Some(unquote(value.trim_start())?)),
            None => (part, None),
        };
        // A repeated parameter or an invalid value declines the offer (§7.1).
        let is_valid = match (name, value) {
            ("server_no_context_takeover", None) => !std::mem::replace(&mut has_server_reset, true),
            ("client_no_context_takeover", None) => !std::mem::replace(&mut has_client_reset, true),
            ("server_max_window_bits", Some(value)) => window_bits
                .replace(parse_window_bits(value).filter(|bits| *bits >= MIN_WINDOW_BITS)?)
                .is_none(),
            ("client_max_window_bits", value) => {
                value.is_none_or(|value| parse_window_bits(value).is_some())
                    && !std::mem::replace(&mut has_client_bits, true)
            }
            _ => false,
        };
        if !is_valid {
            return None;
        }
    }
    Some(DeflateParams { window_bits: window_bits.unwrap_or(MAX_WINDOW_BITS) })
}

/// Removes the quotes that a value may have (RFC 6455 §9.1).
fn unquote(value: &str) -> Option<&str> {
    match value.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"'),
        None => Some(value),
    }
}

/// Parses 8 to 15, without leading zeros (RFC 7692 §7.1.2).
fn parse_window_bits(value: &str) -> Option<u8> {
    let bits = value.parse().ok().filter(|bits| (8..=MAX_WINDOW_BITS).contains(bits))?;
    value.starts_with(['1', '8', '9']).then_some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(fields: &[&str]) -> Option<String> {
        negotiate(fields.iter().map(|field| field.as_bytes())).map(|params| params.to_string())
    }

    const PLAIN: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

    #[test]
    fn browser_offers_are_accepted_with_no_context_takeover() {
        for offer in [
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; client_max_window_bits=12; server_no_context_takeover",
            "Permessage-Deflate ; client_max_window_bits = \"10\"",
            "permessage-deflate; server_max_window_bits=15",
            "x-webkit-deflate-frame, permessage-deflate",
        ] {
            assert_eq!(answer(&[offer]).as_deref(), Some(PLAIN), "{offer}");
        }
    }

    #[test]
    fn smaller_server_window_is_accepted() {
        let offer = "permessage-deflate; server_max_window_bits=10";
        assert_eq!(answer(&[offer]), Some(format!("{PLAIN}; server_max_window_bits=10")));
    }

    #[test]
    fn invalid_offer_is_declined_and_the_next_one_considered() {
        for bad in [
            "permessage-deflate; unknown",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=8",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=010",
            "permessage-deflate; server_max_window_bits=+9",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; client_max_window_bits=\"12",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "permessage-deflate; client_max_window_bits; client_max_window_bits",
            "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9",
            "permessage-deflate;",
            "permessage-bzip2",
            "",
        ] {
            assert_eq!(answer(&[bad]), None, "{bad}");
            let both = format!("{bad}, permessage-deflate; server_max_window_bits=9");
            let expected = format!("{PLAIN}; server_max_window_bits=9");
            assert_eq!(answer(&[&both]), Some(expected.clone()), "{both}");
            assert_eq!(
                answer(&[bad, "permessage-deflate; server_max_window_bits=9"]),
                Some(expected),
                "{bad}"
            );
        }
    }
}
