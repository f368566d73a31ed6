//! Requests and reads the Python stacks of workers.

use std::io;

use rgun_channel::control::{self, Command};
use rgun_channel::frame::ExchangeId;

use crate::id::WorkerId;

use super::{Pool, process};

impl Pool {
    /// Asks a worker to write its stacks; with an exchange, only the stack of that exchange's
    /// thread, if it is still running. The worker answers with
    /// [`Report::StacksDumped`](control::Report::StacksDumped), unless a thread holds its GIL.
    ///
    /// # Errors
    /// If the worker has exited or its socket fails.
    pub fn request_stacks(&mut self, worker: WorkerId, exchange: Option<ExchangeId>) -> io::Result<()> {
        let process = self.processes.get_mut(&worker).ok_or_else(no_such_worker)?;
        process.channel.stacks.clear()?;
        control::send(&process.channel.control, &Command::DumpStacks(exchange).encode(), &[])
    }

    /// Makes a worker write its stacks even while a thread holds its GIL, by sending
    /// [`STACKS_SIGNAL`](control::STACKS_SIGNAL). The stacks are appended to any that
    /// [`Pool::request_stacks`] has requested.
    ///
    /// # Errors
    /// If the worker has exited.
    pub fn signal_stacks(&mut self, worker: WorkerId) -> io::Result<()> {
        let process = self.processes.get(&worker).ok_or_else(no_such_worker)?;
        process::signal_stacks(process.pid)
    }

    /// Returns the stacks that a worker has written since the last [`Pool::request_stacks`]; `None`
    /// if there are none.
    pub fn read_stacks(&self, worker: WorkerId) -> Option<String> {
        let process = self.processes.get(&worker)?;
        process.channel.stacks.read().unwrap_or_else(|error| {
            tracing::warn!(%error, rgun.pid = process.pid.as_raw(), "cannot read a worker's stacks, ignoring");
            None
        })
    }
}

fn no_such_worker() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the worker has exited")
}
