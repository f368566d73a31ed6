//! The Date field of a response (RFC 9110 §6.6.1), formatted once a second.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderValue;

thread_local! {
    static CACHE: RefCell<(u64, HeaderValue)> = const { RefCell::new((0, HeaderValue::from_static(""))) };
}

/// Returns the current second, counted from the epoch, and its date.
pub(super) fn now() -> (u64, HeaderValue) {
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    CACHE.with_borrow_mut(|(cached, value)| {
        if *cached != second {
            let formatted = HeaderValue::from_str(&httpdate::fmt_http_date(now));
            (*cached, *value) = (second, formatted.expect("a date is a field value"));
        }
        (second, value.clone())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn date_is_the_current_second_in_http_form() {
        let before = UNIX_EPOCH + std::time::Duration::from_secs(unix_now());
        let (second, date) = now();
        let date = httpdate::parse_http_date(date.to_str().unwrap()).unwrap();
        assert!((before..=SystemTime::now()).contains(&date), "{date:?}");
        assert_eq!(date, UNIX_EPOCH + std::time::Duration::from_secs(second));
    }

    fn unix_now() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
    }
}
