//! Failures of an exchange, for both interfaces.

use pyo3::PyErr;
use rgun_channel::ProtocolError;

use crate::python::FormattedError;

/// Failure of an exchange.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The application raised an exception.
    Python(PyErr),
    /// The application violated its interface (PEP 3333, ASGI) without an exception.
    App(FormattedError),
    /// The daemon violated the protocol: the worker exits.
    Channel(ProtocolError),
}

impl From<PyErr> for Fault {
    fn from(error: PyErr) -> Self {
        Self::Python(error)
    }
}

impl From<ProtocolError> for Fault {
    fn from(error: ProtocolError) -> Self {
        Self::Channel(error)
    }
}
