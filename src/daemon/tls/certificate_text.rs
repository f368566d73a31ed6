//! The texts of certificates that applications receive.

use x509_cert::der::Error;
use x509_cert::der::pem::{LineEnding, encode_string};
use x509_cert::time::Time;

/// Encodes a certificate as PEM (RFC 7468 §5.1).
pub(super) fn pem(der: &[u8]) -> Result<String, Error> {
    Ok(encode_string("CERTIFICATE", LineEnding::LF, der)?)
}

/// Returns a distinguished name with the attribute's name `emailAddress` that OpenSSL and mod_ssl
/// write instead of `EMAIL`. `dn` has its values escaped as in RFC 4514.
pub(super) fn openssl_names(dn: &str) -> String {
    const KEY: &str = "EMAIL=";
    let (mut text, mut rest, mut begins_attribute) = (String::with_capacity(dn.len()), dn, true);
    while let Some(first) = rest.chars().next() {
        if begins_attribute && let Some(value) = rest.strip_prefix(KEY) {
            text.push_str("emailAddress=");
            (rest, begins_attribute) = (value, false);
            continue;
        }
        begins_attribute = matches!(first, ',' | '+');
        // The character after a backslash belongs to a value.
        let len =
            if first == '\\' { 1 + rest.chars().nth(1).map_or(0, char::len_utf8) } else { first.len_utf8() };
        let (next, after) = rest.split_at(len);
        text.push_str(next);
        rest = after;
    }
    text
}

/// Formats a time as OpenSSL does: `Nov  9 08:00:00 2026 GMT`.
pub(super) fn openssl_time(time: Time) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let time = time.to_date_time();
    let month = MONTHS.get(usize::from(time.month()).wrapping_sub(1)).unwrap_or(&"");
    let (day, hour, minute, second) = (time.day(), time.hour(), time.minutes(), time.seconds());
    format!("{month} {day:2} {hour:02}:{minute:02}:{second:02} {} GMT", time.year())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn email_attribute_is_named_as_by_openssl() {
        for (dn, expected) in [
            ("CN=a,EMAIL=a@example.org,O=b", "CN=a,emailAddress=a@example.org,O=b"),
            ("EMAIL=a+EMAIL=b", "emailAddress=a+emailAddress=b"),
            (r"CN=a\,EMAIL=b,EMAIL=c", r"CN=a\,EMAIL=b,emailAddress=c"),
            (r"CN=a\\,EMAIL=é", r"CN=a\\,emailAddress=é"),
            ("CN=EMAIL=x", "CN=EMAIL=x"),
            ("", ""),
        ] {
            assert_eq!(openssl_names(dn), expected);
        }
    }
}
