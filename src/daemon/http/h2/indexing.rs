//! Decides which fields of a response enter the HPACK table of its connection (RFC 7541 §2.3.2).
//!
//! h2 enters every field unless its value is marked as sensitive, and compares a field with all
//! entries of the same name. A field whose values never repeat would fill the table, which has room
//! for about 60 such entries. Every later response would be compared with all of them, and fields
//! that do repeat would be evicted.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use http::HeaderMap;
use http::header::DATE;

use super::date;
use crate::http::context::X_REQUEST_ID;

/// Maximum number of different dates that enter the table of one connection. A browser seldom sends
/// requests on a connection for more than these seconds, while a proxy may do so for hours.
const MAX_DATES: u8 = 8;

/// The fields that have entered the table of one connection. The tasks of the connection's streams
/// share the value; all of them run on the same thread.
#[derive(Debug, Default)]
pub(super) struct FieldIndexing {
    /// A request id has entered, so that later responses can refer to the field's name.
    has_request_id: AtomicBool,
    /// The last date that entered, in seconds since the epoch.
    date: AtomicU64,
    /// Number of dates that have entered.
    dates: AtomicU8,
}

impl FieldIndexing {
    /// Adds the `Date` field if there is none, and marks the values that must not enter the table.
    pub(super) fn prepare(&self, fields: &mut HeaderMap) {
        fields.entry(DATE).or_insert_with(|| {
            let (second, mut value) = date::now();
            value.set_sensitive(!self.admits_date(second));
            value
        });
        // No two responses have the same id.
        if let Some(id) = fields.get_mut(X_REQUEST_ID) {
            id.set_sensitive(self.has_request_id.load(Ordering::Relaxed));
            self.has_request_id.store(true, Ordering::Relaxed);
        }
    }

    /// True if the date of this second has entered the table, or may enter it now.
    fn admits_date(&self, second: u64) -> bool {
        if self.date.load(Ordering::Relaxed) == second {
            return true;
        }
        let dates = self.dates.load(Ordering::Relaxed);
        if dates == MAX_DATES {
            return false;
        }
        self.dates.store(dates + 1, Ordering::Relaxed);
        self.date.store(second, Ordering::Relaxed);
        true
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn prepared(indexing: &FieldIndexing) -> HeaderMap {
        let mut fields = HeaderMap::new();
        fields.insert(X_REQUEST_ID, HeaderValue::from_static("4e382186e2db8aa5000001"));
        indexing.prepare(&mut fields);
        fields
    }

    #[test]
    fn only_first_request_id_enters_the_table() {
        let indexing = FieldIndexing::default();
        assert!(!prepared(&indexing)[X_REQUEST_ID].is_sensitive());
        assert!(prepared(&indexing)[X_REQUEST_ID].is_sensitive());
        assert!(prepared(&indexing)[X_REQUEST_ID].is_sensitive());
    }

    #[test]
    fn date_enters_the_table_in_the_first_seconds() {
        let indexing = FieldIndexing::default();
        for second in 1..=u64::from(MAX_DATES) {
            assert!(indexing.admits_date(second));
            assert!(indexing.admits_date(second));
        }
        assert!(!indexing.admits_date(100));
        assert!(!indexing.admits_date(101));
    }

    #[test]
    fn date_of_the_application_is_kept() {
        let mut fields = HeaderMap::new();
        let date = HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT");
        fields.insert(DATE, date.clone());
        FieldIndexing::default().prepare(&mut fields);
        assert_eq!(fields[DATE], date);
    }
}
