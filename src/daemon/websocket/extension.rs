//! Negotiates permessage-deflate (RFC 7692 §5 and §7.1), the one extension that there is.
//!
//! Both sides forget what they have compressed after each message (`no_context_takeover`), whatever the client
//! proposes: a server may ask for that (§7.1.1). Memory of a compressor, 300 KiB, is then needed only while a message
//! goes through, instead of by every client that lies idle; it costs some of the gain with small messages that are alike.

use std::fmt;

/// Compression as agreed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeflateParams {
    /// The largest window that the client wants us to use, as the exponent of 2; 15 is deflate's largest.
    pub(super) window_bits: u8,
}

/// What is not given is the largest.
const MAX_WINDOW_BITS: u8 = 15;

/// zlib makes no smaller ones of raw deflate.
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

/// The first offer that can be accepted (RFC 7692 §5.1), of all the fields `Sec-WebSocket-Extensions`. Those that
/// cannot, for something unknown in them, are passed over: that is how they are declined.
pub fn negotiate<'f>(fields: impl IntoIterator<Item = &'f [u8]>) -> Option<DeflateParams> {
    let fields = fields.into_iter().filter_map(|field| std::str::from_utf8(field).ok());
    fields.flat_map(|field| field.split(',')).find_map(parse_offer)
}

fn parse_offer(offer: &str) -> Option<DeflateParams> {
    let mut parts = offer.split(';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case(EXTENSION_NAME) {
        return None;
    }
    let mut window_bits = None;
    let (mut ours_forgets, mut theirs_forgets, mut theirs_bits) = (false, false, false);
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim_end(), Some(unquote(value.trim_start())?)),
            None => (part, None),
        };
        // Each at most once, and with values as §7.1 says; else the offer is to be declined.
        let is_first = match (name, value) {
            ("server_no_context_takeover", None) => !std::mem::replace(&mut ours_forgets, true),
            ("client_no_context_takeover", None) => !std::mem::replace(&mut theirs_forgets, true),
            ("server_max_window_bits", Some(value)) => window_bits
                .replace(parse_window_bits(value).filter(|bits| *bits >= MIN_WINDOW_BITS)?)
                .is_none(),
            ("client_max_window_bits", value) => {
                value.is_none_or(|value| parse_window_bits(value).is_some())
                    && !std::mem::replace(&mut theirs_bits, true)
            }
            _ => false,
        };
        if !is_first {
            return None;
        }
    }
    Some(DeflateParams { window_bits: window_bits.unwrap_or(MAX_WINDOW_BITS) })
}

/// A token may be quoted (RFC 6455 §9.1).
fn unquote(value: &str) -> Option<&str> {
    match value.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"'),
        None => Some(value),
    }
}

/// 8 to 15, without leading zeros (RFC 7692 §7.1.2).
fn parse_window_bits(value: &str) -> Option<u8> {
    let bits = value.parse().ok().filter(|bits| (8..=MAX_WINDOW_BITS).contains(bits))?;
    value.starts_with(['1', '8', '9']).then_some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(fields: &[&str]) -> Option<String> {
        negotiate(fields.iter().map(|field| field.as_bytes())).map(|agreed| agreed.to_string())
    }

    const PLAIN: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

    #[test]
    fn what_clients_offer_is_agreed_to_without_context() {
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
    fn a_smaller_window_is_kept_to() {
        let offer = "permessage-deflate; server_max_window_bits=10";
        assert_eq!(answer(&[offer]), Some(format!("{PLAIN}; server_max_window_bits=10")));
    }

    #[test]
    fn an_offer_with_something_wrong_is_declined_and_the_next_one_looked_at() {
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
