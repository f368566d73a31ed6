//! Roles of a process. [`crate::boot`] runs them one after the other; [`crate::lifecycle`] and
//! [`crate::zygote`] return the next role.

use std::os::fd::OwnedFd;

use pyo3::prelude::*;
use rgun_channel::control::Start;
use rgun_channel::map::Map;

/// Next role of a process.
#[derive(Debug)]
pub(crate) enum NextRole {
    /// Run as a worker.
    Worker(WorkerInit),
    /// Import the application and run as a zygote.
    Zygote(Box<Start>),
    /// Run as a zygote, with the application of a drained worker.
    Promoted(Box<Start>, Py<PyAny>),
    /// Exit the process.
    End,
}

/// Initial state of a worker.
#[derive(Debug)]
pub(crate) struct WorkerInit {
    /// The Start message.
    pub(crate) start: Box<Start>,
    /// The shared memory.
    pub(crate) map: Map,
    /// The eventfd that wakes an event loop.
    pub(crate) loop_eventfd: OwnedFd,
    /// The application, if a zygote has imported it; `start` then has its interface. `None`: the
    /// worker imports it.
    pub(crate) application: Option<Py<PyAny>>,
}
