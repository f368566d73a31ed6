//! The rgun worker: a Python extension that serves one application for the rgun daemon.
//! Applications must not import it.
//!
//! The daemon runs the application's interpreter with `bootstrap.py`, which loads this extension
//! and calls [`main`](rgun_worker::main). A worker ([`lifecycle`]) receives commands on the control
//! socket ([`control`]), loads the application ([`application`], `load.py`), claims requests from
//! the submission ring ([`serve`]), calls the application ([`wsgi`], [`asgi`]) and sends responses
//! through the completion ring and the slab ([`output`]). Records of Python's `logging` go to the daemon
//! with their fields ([`log_records`]), printed lines with their requests ([`tagged_stream`]). A [`zygote`]
//! forks workers; a worker can become a zygote. The process also reports its stacks ([`stacks`]), calls gunicorn's [`hooks`]
//! and forwards stop signals to the daemon ([`dispositions`]). As a service, the process is restricted
//! before it loads the application ([`sandbox`]).
//!
//! # Threads
//! In a WSGI worker, slot 0 is Python's main thread and every other slot a `threading.Thread`. In
//! an ASGI worker, the event loop serves all slots on the main thread. One native thread reads the
//! worker socket and never touches Python; another, started on demand, runs other work that needs
//! Python ([`background`]). A zygote has only its main thread.
//!
//! # Lock order
//! The GIL is outermost. A Rust mutex is locked with or without it, for a few instructions or one
//! copy of at most 64 KiB; **no thread waits for the GIL while it holds a Rust mutex**, and none
//! holds two mutexes. Waits (for requests, space, credit, a body) hold neither the GIL nor a mutex,
//! except the mutex of their own condition variable. State that is used only with the GIL held
//! needs no mutex ([`gil_cell`]).

mod application;
mod asgi;
mod background;
mod bodies;
mod boot;
mod control;
mod current_request;
mod dispositions;
mod fastcall;
mod fault;
mod file_length;
mod gil_cell;
mod head;
mod hooks;
mod last_dict;
mod lifecycle;
mod log_records;
mod memory;
mod object_cache;
mod oom_score;
mod output;
mod percent;
mod process;
mod python;
mod role;
mod sandbox;
mod serve;
mod signal_mask;
mod sources;
mod stacks;
mod std_streams;
mod submission;
mod tagged_stream;
mod title;
mod tls;
mod turn;
mod wait;
mod worker;
mod wsgi;
mod zygote;

use pyo3::prelude::*;

/// The extension's module.
#[pymodule]
mod rgun_worker {
    use super::{Bound, PyModule, PyResult, Python, boot, pyfunction};
    use pyo3::prelude::PyModuleMethods;

    /// Runs the worker until the daemon stops it; the process ends when this returns or raises.
    ///
    /// # Errors
    /// `SystemExit` with the exit code that the daemon expects.
    #[pyfunction]
    pub(crate) fn main(py: Python<'_>) -> PyResult<()> {
        boot::main(py)
    }

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
