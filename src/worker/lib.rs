//! The rgun worker: a Python extension that serves one application for the rgun daemon.
//!
//! The daemon runs the application's own interpreter on `bootstrap.py`, which loads this extension and
//! calls [`main`](rgun_worker::main). From then on the process is a worker ([`lifecycle`]): it receives its orders on
//! the control socket ([`control`]), loads the application ([`application`], `load.py`), claims requests from
//! the submission ring ([`serve`]), calls the application ([`wsgi`], [`asgi`]) and hands answers back through the
//! completion ring and the slab ([`output`]). Or it is a [`zygote`], of which workers are forked; one may become the
//! other. On the side it tells what it is doing ([`stacks`]), calls gunicorn's [`hooks`], and passes on what signals
//! ask of it ([`dispositions`]).
//! Not for import by anybody else.
//!
//! # Threads
//! Of a WSGI worker, slot 0 is Python's main thread, every further slot a `threading.Thread`; the event loop of an ASGI
//! worker has all of its slots on the main thread. One native thread reads the
//! control socket and never touches Python; another, made when it is first needed, does what needs Python beside
//! requests ([`background`]). A zygote has none of them.
//!
//! # Lock order
//! The GIL is outermost: a Rust mutex is taken with or without it, held for a few instructions or one
//! copy of at most 64 KiB, and **nothing waits for the GIL while it holds a Rust mutex**. Nobody holds
//! two mutexes at once. Waits (for requests, room, credit, a body) are done without the GIL and without
//! a mutex, except on the condition variable that belongs to it. What is only touched with the GIL needs no mutex
//! ([`gil_cell`]).

mod application;
mod asgi;
mod background;
mod bodies;
mod boot;
mod control;
mod dispositions;
mod fastcall;
mod fault;
mod gil_cell;
mod head;
mod hooks;
mod lifecycle;
mod object_cache;
mod output;
mod percent;
mod process;
mod python;
mod role;
mod serve;
mod signal_mask;
mod stacks;
mod title;
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
