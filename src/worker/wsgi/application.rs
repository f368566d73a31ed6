//! The WSGI application and the state that all slots share.

use pyo3::prelude::*;

use super::environ::Environ;
use super::head::HeadCache;
use crate::worker::Worker;

/// The application and the state shared by its requests. Leaked: it lives as long as the process.
#[derive(Debug)]
pub(crate) struct WsgiApplication {
    pub(crate) worker: &'static Worker,
    pub(super) callable: Py<PyAny>,
    pub(super) environ: Environ,
    /// Cache of checked header names.
    pub(crate) heads: HeadCache,
}

impl WsgiApplication {
    /// Prepares to serve `callable`. `early_hints` becomes the value of `wsgi.early_hints`.
    ///
    /// # Errors
    /// Python cannot create the shared objects.
    pub(crate) fn new(
        py: Python<'_>,
        worker: &'static Worker,
        callable: Py<PyAny>,
        early_hints: &Bound<'_, PyAny>,
    ) -> PyResult<&'static Self> {
        let environ = Environ::new(py, &worker.start, early_hints)?;
        Ok(Box::leak(Box::new(Self { worker, callable, environ, heads: HeadCache::default() })))
    }
}
