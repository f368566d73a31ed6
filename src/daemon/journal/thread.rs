//! A thread that can be joined with a timeout.

use std::convert::Infallible;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// A thread of the log.
#[derive(Debug)]
pub struct LogThread {
    handle: JoinHandle<()>,
    /// Disconnects when the thread ends.
    alive: Receiver<Infallible>,
}

/// An error of [`LogThread::join_timeout`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinFailure {
    /// The thread is still running.
    TimedOut,
    /// The thread panicked.
    Panicked,
}

impl LogThread {
    pub(super) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (running, alive) = sync_channel(0);
        let handle = Builder::new().name(name.to_owned()).spawn(move || {
            let _running = running;
            run();
        })?;
        Ok(Self { handle, alive })
    }

    /// Waits for the end of the thread.
    ///
    /// # Errors
    /// When the thread does not end in time, or panicked.
    pub fn join_timeout(self, timeout: Duration) -> Result<(), JoinFailure> {
        match self.alive.recv_timeout(timeout) {
            Err(RecvTimeoutError::Timeout) => Err(JoinFailure::TimedOut),
            Err(RecvTimeoutError::Disconnected) => self.handle.join().map_err(|_| JoinFailure::Panicked),
            Ok(never) => match never {},
        }
    }
}
