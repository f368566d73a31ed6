//! The WSGI application and the state that all slots share.

use pyo3::prelude::*;

use super::environ::EnvironBuilder;
use super::head::HeadEncoder;
use crate::worker::Worker;

/// The application and the state shared by its requests. Leaked: it lives as long as the process.
#[derive(Debug)]
pub(crate) struct WsgiApplication {
    pub(crate) worker: &'static Worker,
    pub(super) callable: Py<PyAny>,
    pub(super) environ_builder: EnvironBuilder,
    pub(super) head_encoder: HeadEncoder,
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
        let environ_builder = EnvironBuilder::new(py, &worker.start, early_hints)?;
        Ok(Box::leak(Box::new(Self {
            worker,
            callable,
            environ_builder,
            head_encoder: HeadEncoder::default(),
        })))
    }
}
