//! Why an exchange did not go as it should, for both interfaces.

use pyo3::PyErr;
use rgun_channel::ProtocolError;

use crate::python::FormattedError;

/// Why an exchange did not go as it should.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The application raised.
    Python(PyErr),
    /// The application broke its interface (PEP 3333, ASGI) in a way that raised nothing.
    App(FormattedError),
    /// The daemon broke the contract: the worker cannot go on.
    Channel(ProtocolError),
}

impl From<PyErr> for Fault {
    fn from(error: PyErr) -> Self {
        Self::Python(error)
    }
}

impl From<ProtocolError> for Fault {
    fn from(broken: ProtocolError) -> Self {
        Self::Channel(broken)
    }
}
