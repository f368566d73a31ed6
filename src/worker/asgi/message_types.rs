//! Types of the messages that `send()` takes, to be compared with the application's.

use std::sync::OnceLock;

use pyo3::prelude::*;
use pyo3::types::PyString;

/// Types of messages.
#[derive(Debug)]
pub(super) struct HttpMessageTypes {
    pub(super) start: CachedType,
    pub(super) body: CachedType,
    pub(super) hint: Py<PyString>,
    pub(super) file: Py<PyString>,
    pub(super) trailers: Py<PyString>,
}

impl HttpMessageTypes {
    pub(super) fn new(py: Python<'_>) -> Self {
        let string = |text: &str| PyString::intern(py, text).unbind();
        Self {
            start: CachedType { expected: string("http.response.start"), last_seen: OnceLock::new() },
            body: CachedType { expected: string("http.response.body"), last_seen: OnceLock::new() },
            hint: string("http.response.early_hint"),
            file: string("http.response.pathsend"),
            trailers: string("http.response.trailers"),
        }
    }
}

/// A type that most messages have.
#[derive(Debug)]
pub(super) struct CachedType {
    expected: Py<PyString>,
    /// The application's, which is mostly one constant of its framework's and, with its dots, not interned.
    last_seen: OnceLock<Py<PyAny>>,
}

impl CachedType {
    /// Compares a message's type; remembers the application's object if it is equal.
    pub(super) fn matches(&self, kind: &Bound<'_, PyAny>) -> PyResult<bool> {
        if kind.is(&self.expected) || self.last_seen.get().is_some_and(|theirs| kind.is(theirs)) {
            return Ok(true);
        }
        let is = kind.eq(&self.expected)?;
        if is && kind.is_exact_instance_of::<PyString>() {
            // The first one stays.
            let _ = self.last_seen.set(kind.clone().unbind());
        }
        Ok(is)
    }
}
