//! Formats an event of `tracing` as one line of JSON: `time` (RFC 3339, UTC), `level`, `message`,
//! and the fields by their names in the code, such as `rgun.worker`. Fields of bytes are omitted.

use std::fmt;

use serde_json::{Map, Value};
use tracing::Event;
use tracing::field::{Field, Visit};

use crate::escape::{LineFeeds, escape};

use super::markers::WHOLE_LINE;

/// Returns the line of an event that is logged at `time`.
pub(super) fn line(event: &Event<'_>, time: String) -> String {
    let mut entry = JsonEntry(Map::new());
    entry.0.insert("time".to_owned(), time.into());
    entry.0.insert("level".to_owned(), event.metadata().level().as_str().to_lowercase().into());
    event.record(&mut entry);
    format!("{}\n", Value::Object(entry.0))
}

struct JsonEntry(Map<String, Value>);

impl JsonEntry {
    fn insert(&mut self, field: &Field, value: impl Into<Value>) {
        if field.name() != WHOLE_LINE {
            self.0.insert(field.name().to_owned(), value.into());
        }
    }
}

impl Visit for JsonEntry {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, escape(value, LineFeeds::Keep).into_owned());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value);
    }

    fn record_bytes(&mut self, _: &Field, _: &[u8]) {}
}
