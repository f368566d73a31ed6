//! A WSGI application as the exchanges of all slots share it.

use pyo3::prelude::*;

use super::environ::Environ;
use super::head::HeadCache;
use crate::worker::Worker;

/// The application and everything that is the same for all its requests. Leaked: lives as long as the process.
#[derive(Debug)]
pub(crate) struct WsgiApplication {
    pub(crate) worker: &'static Worker,
    pub(super) callable: Py<PyAny>,
    pub(super) environ: Environ,
    /// Head encodings seen lately.
    pub(crate) heads: HeadCache,
}

impl WsgiApplication {
    /// Prepares to serve `callable`.
    ///
    /// # Errors
    /// When Python cannot make the objects that every request shares.
    pub(crate) fn new(
        py: Python<'_>,
        worker: &'static Worker,
        callable: Py<PyAny>,
    ) -> PyResult<&'static Self> {
        let environ = Environ::new(py, &worker.start)?;
        Ok(Box::leak(Box::new(Self { worker, callable, environ, heads: HeadCache::default() })))
    }
}
