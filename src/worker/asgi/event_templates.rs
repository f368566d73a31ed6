//! The parts of HTTP events that are the same for all requests. [`super::receive`] copies them.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};

/// Events to copy, and keys to set in the copies.
#[derive(Debug)]
pub(super) struct HttpEventTemplates {
    pub(super) body: Py<PyString>,
    pub(super) more_body: Py<PyString>,
    /// `http.request` with an empty body and `more_body: False`.
    pub(super) empty: Py<PyDict>,
    /// `http.disconnect`.
    pub(super) disconnect: Py<PyDict>,
}

impl HttpEventTemplates {
    pub(super) fn new(py: Python<'_>) -> PyResult<Self> {
        let string = |text: &str| PyString::intern(py, text).unbind();
        let empty = PyDict::new(py);
        empty.set_item(string("type"), string("http.request"))?;
        empty.set_item(string("body"), PyBytes::new(py, b""))?;
        empty.set_item(string("more_body"), false)?;
        let disconnect = PyDict::new(py);
        disconnect.set_item(string("type"), string("http.disconnect"))?;
        Ok(Self {
            body: string("body"),
            more_body: string("more_body"),
            empty: empty.unbind(),
            disconnect: disconnect.unbind(),
        })
    }
}
