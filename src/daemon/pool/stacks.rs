//! Has workers write their Python stacks, and reads them.

use std::io;

use rgun_channel::control::{self, Command};
use rgun_channel::frame::ExchangeId;

use crate::id::WorkerId;

use super::{Pool, process};

impl Pool {
    /// Asks a worker for its stacks; with an exchange: only if that still runs. It answers with
    /// [`Report::StacksDumped`](control::Report::StacksDumped), unless something holds its GIL.
    ///
    /// # Errors
    /// When the worker is gone or cannot be asked.
    pub fn request_stacks(&mut self, worker: WorkerId, exchange: Option<ExchangeId>) -> io::Result<()> {
        let process = self.processes.get_mut(&worker).ok_or_else(no_such_worker)?;
        process.channel.stacks.clear()?;
        control::send(&process.channel.control, &Command::DumpStacks(exchange).encode(), &[])
    }

    /// Makes a worker write its stacks although something holds its GIL, by
    /// [`STACKS_SIGNAL`](control::STACKS_SIGNAL). The next [`Pool::read_stacks`] reads what this has written and what
    /// [`Pool::request_stacks`] may have.
    ///
    /// # Errors
    /// When the worker is gone.
    pub fn signal_stacks(&mut self, worker: WorkerId) -> io::Result<()> {
        let process = self.processes.get(&worker).ok_or_else(no_such_worker)?;
        process::signal_stacks(process.pid)
    }

    /// The stacks that a worker has written since it was last asked; nothing when there are none.
    pub fn read_stacks(&self, worker: WorkerId) -> Option<String> {
        let process = self.processes.get(&worker)?;
        process.channel.stacks.read().unwrap_or_else(|error| {
            tracing::warn!(%error, rgun.pid = process.pid.as_raw(), "cannot read a worker's stacks, ignoring");
            None
        })
    }
}

fn no_such_worker() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the worker is gone")
}
