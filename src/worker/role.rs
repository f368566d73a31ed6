//! What a process does next, and what a worker begins with: the vocabulary of [`crate::boot`], which goes from one to
//! the other, and of [`crate::lifecycle`] and [`crate::zygote`], which end by saying what follows.

use std::os::fd::OwnedFd;

use pyo3::prelude::*;
use rgun_channel::control::Start;
use rgun_channel::map::Map;

/// What a process does next.
#[derive(Debug)]
pub(crate) enum NextRole {
    /// Be a worker.
    Worker(WorkerInit),
    /// Import the application and be a zygote.
    Zygote(Box<Start>),
    /// Be a zygote of an application that has served.
    Promoted(Box<Start>, Py<PyAny>),
    /// Exit.
    End,
}

/// How a worker begins.
#[derive(Debug)]
pub(crate) struct WorkerInit {
    /// Its orders.
    pub(crate) start: Box<Start>,
    /// Its shared memory.
    pub(crate) map: Map,
    /// Where the daemon rings for an event loop.
    pub(crate) wake: OwnedFd,
    /// Imported already, in the process that this one was forked from; `start` says which interface it has.
    pub(crate) application: Option<Py<PyAny>>,
}
