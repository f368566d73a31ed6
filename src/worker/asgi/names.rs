//! Types of the messages that `send()` takes, to be compared with the application's.

use std::sync::OnceLock;

use pyo3::prelude::*;
use pyo3::types::PyString;

/// Types of messages.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) start: Name,
    pub(super) body: Name,
    pub(super) hint: Py<PyString>,
    pub(super) file: Py<PyString>,
    pub(super) trailers: Py<PyString>,
}

impl Names {
    pub(super) fn new(py: Python<'_>) -> Self {
        let string = |text: &str| PyString::intern(py, text).unbind();
        Self {
            start: Name { ours: string("http.response.start"), theirs: OnceLock::new() },
            body: Name { ours: string("http.response.body"), theirs: OnceLock::new() },
            hint: string("http.response.early_hint"),
            file: string("http.response.pathsend"),
            trailers: string("http.response.trailers"),
        }
    }
}

/// A type that most messages have.
#[derive(Debug)]
pub(super) struct Name {
    ours: Py<PyString>,
    /// The application's, which is mostly one constant of its framework's and, with its dots, not interned.
    theirs: OnceLock<Py<PyAny>>,
}

impl Name {
    /// Compares a message's type; remembers the application's object if it is equal.
    pub(super) fn is(&self, kind: &Bound<'_, PyAny>) -> PyResult<bool> {
        if kind.is(&self.ours) || self.theirs.get().is_some_and(|theirs| kind.is(theirs)) {
            return Ok(true);
        }
        let is = kind.eq(&self.ours)?;
        if is && kind.is_exact_instance_of::<PyString>() {
            // The first one stays.
            let _ = self.theirs.set(kind.clone().unbind());
        }
        Ok(is)
    }
}
