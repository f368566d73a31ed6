//! The texts of certificates that applications receive.

use x509_cert::der::Error;
use x509_cert::der::pem::{LineEnding, encode_string};
use x509_cert::time::Time;

/// Encodes a certificate as PEM (RFC 7468 §5.1).
pub(super) fn pem(der: &[u8]) -> Result<String, Error> {
    Ok(encode_string("CERTIFICATE", LineEnding::LF, der)?)
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
