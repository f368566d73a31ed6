//! The socket with which an application may take over the connection of a WebSocket handshake.
//!
//! `flask-sock`, `simple-websocket` and Flask-SocketIO look for the socket in the environ, under
//! the names that Werkzeug and gunicorn use. The socket is one end of a pair; the daemon has the
//! other end. Once the application has written a response with status 101, the daemon forwards
//! everything to the client. When the application returns, the socket is closed, unless a thread of
//! the application may still write to it.

use std::os::fd::{IntoRawFd, OwnedFd};

use pyo3::exceptions::{PyConnectionError, PyOSError, PyStopIteration};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rgun_channel::frame::ExchangeId;

use crate::bodies::SpooledBodies;
use crate::python::reference_count;

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

    /// Ends the socket, because the application has returned: threads of the application that read
    /// from it get the end of the input, and it is closed.
    ///
    /// If the application still refers to the socket, the last reference closes the socket:
    /// `simple-websocket` answers the client's close frame in a thread, and lets the application
    /// return before. The daemon waits for such output for one second.
    pub(super) fn end(self, py: Python<'_>) {
        let is_last_reference = reference_count(&self.0, py) == 1;
        let socket = self.0.bind(py);
        let shut_down = socket.call_method1(intern!(py, "shutdown"), (libc::SHUT_RD,));
        let ended = match shut_down {
            Ok(_) if is_last_reference => socket.call_method0(intern!(py, "close")).map(drop),
            other => other.map(drop),
        };
        if let Err(error) = ended
            // The application has closed the socket, or the daemon has, because the client has
            // disconnected.
            && !error.is_instance_of::<PyOSError>(py)
        {
            error.write_unraisable(py, Some(socket));
        }
    }
}

/// Creates a blocking Python socket from a descriptor.
fn python_socket(py: Python<'_>, descriptor: OwnedFd) -> PyResult<Bound<'_, PyAny>> {
    let module = py.import(intern!(py, "socket"))?;
    // Python closes the descriptor with the object, and also if it fails to make the object.
    let arguments = (libc::AF_UNIX, libc::SOCK_STREAM, 0, descriptor.into_raw_fd());
    let socket = module.getattr(intern!(py, "socket"))?.call1(arguments)?;
    // Blocking, even if the application has set a default timeout, which is meant for its own
    // connections.
    socket.call_method1(intern!(py, "settimeout"), (py.None(),))?;
    Ok(socket)
}

/// Returns whether applications raise such an exception to end a request whose connection they have
/// taken over. `flask-sock` and `engineio` raise `StopIteration` under gunicorn. `engineio` raises
/// `ConnectionError` under Werkzeug, and writing to a client that has disconnected raises it, too.
pub(super) fn ends_takeover(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PyStopIteration>(py) || error.is_instance_of::<PyConnectionError>(py)
}
