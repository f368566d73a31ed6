//! The socket with which an application may take over the connection of a WebSocket handshake.
//!
//! `flask-sock`, `simple-websocket` and Flask-SocketIO look for it in the environ, under the names that Werkzeug and
//! gunicorn use. It is one end of a socket pair; the daemon has the other and passes on what is written, once that begins
//! with a response of status 101. As under gunicorn, it is closed when the application returns.

use std::os::fd::{IntoRawFd, OwnedFd};

use pyo3::exceptions::{PyConnectionError, PyOSError, PyStopIteration};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rgun_channel::frame::ExchangeId;

use crate::bodies::SpooledBodies;

/// The application's end of the socket pair, a Python socket.
#[derive(Debug)]
pub(super) struct TakeoverSocket(Py<PyAny>);

impl TakeoverSocket {
    /// Puts the socket of an exchange into the environ. Waits for its descriptor without the GIL.
    pub(super) fn offer(
        py: Python<'_>,
        bodies: &SpooledBodies,
        exchange: ExchangeId,
        environ: &Bound<'_, PyDict>,
    ) -> PyResult<Self> {
        let descriptor = py.detach(|| bodies.take(exchange));
        let socket = python_socket(py, descriptor)?;
        for key in [intern!(py, "werkzeug.socket"), intern!(py, "gunicorn.socket")] {
            environ.set_item(key, &socket)?;
        }
        Ok(Self(socket.unbind()))
    }

    /// Closes the socket. Threads of the application that read from it get its end.
    pub(super) fn close(self, py: Python<'_>) {
        let socket = self.0.bind(py);
        let shut_down = socket.call_method1(intern!(py, "shutdown"), (libc::SHUT_RDWR,));
        let closed = shut_down.and_then(|_| socket.call_method0(intern!(py, "close")));
        if let Err(error) = closed
            // Closed by the application, or by the daemon, whose client has left.
            && !error.is_instance_of::<PyOSError>(py)
        {
            error.write_unraisable(py, Some(socket));
        }
    }
}

/// Makes a blocking Python socket of a descriptor.
fn python_socket(py: Python<'_>, descriptor: OwnedFd) -> PyResult<Bound<'_, PyAny>> {
    let module = py.import(intern!(py, "socket"))?;
    // Python closes the descriptor with the object, and also if it cannot make one: it is bound by then.
    let arguments = (libc::AF_UNIX, libc::SOCK_STREAM, 0, descriptor.into_raw_fd());
    let socket = module.getattr(intern!(py, "socket"))?.call1(arguments)?;
    // Not the application's default timeout, which is for its own connections.
    socket.call_method1(intern!(py, "settimeout"), (py.None(),))?;
    Ok(socket)
}

/// Returns whether applications end a request like this after they have taken over its connection: `flask-sock` and
/// `engineio` raise `StopIteration` for gunicorn, `engineio` raises `ConnectionError` for Werkzeug, and writing to a client
/// that has left raises one, too.
pub(super) fn ends_takeover(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PyStopIteration>(py) || error.is_instance_of::<PyConnectionError>(py)
}
