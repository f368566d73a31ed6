//! The types of HTTP messages that `send()` accepts, for comparison with the application's strings.

use std::sync::OnceLock;

use pyo3::prelude::*;
use pyo3::types::PyString;

/// HTTP message types.
#[derive(Debug)]
pub(super) struct HttpMessageTypes {
    pub(super) start: CachedType,
    pub(super) body: CachedType,
    pub(super) hint: Py<PyString>,
    pub(super) file: Py<PyString>,
    pub(super) zero_copy: Py<PyString>,
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
            zero_copy: string("http.response.zerocopysend"),
            trailers: string("http.response.trailers"),
        }
    }
}

/// A frequent message type. Caches the string object that the application uses, so that most
/// comparisons are by identity.
#[derive(Debug)]
pub(super) struct CachedType {
    expected: Py<PyString>,
    /// The application's string object, usually a constant of its framework. Python does not intern
    /// a string with dots.
    last_seen: OnceLock<Py<PyAny>>,
}

impl CachedType {
    /// Returns whether the type of a message is this type. Caches the first equal object.
    pub(super) fn matches(&self, kind: &Bound<'_, PyAny>) -> PyResult<bool> {
        if kind.is(&self.expected) || self.last_seen.get().is_some_and(|theirs| kind.is(theirs)) {
            return Ok(true);
        }
        let is_equal = kind.eq(&self.expected)?;
        if is_equal && kind.is_exact_instance_of::<PyString>() {
            // Fails if an object is cached already.
            let _ = self.last_seen.set(kind.clone().unbind());
        }
        Ok(is_equal)
    }
}
