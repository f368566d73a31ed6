//! The native thread that reads the control socket, and the descriptors it keeps for the slots.
//!
//! It runs from before the application is imported. It never touches Python, so it hears the daemon whatever holds the
//! GIL; what needs Python is the helper's ([`crate::helper`]). When the daemon is gone the process ends at once: nobody
//! waits for its answers any more. A zygote reads its socket itself ([`crate::zygote`]).

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, PoisonError};

use rgun_channel::control::{Command, Fork, MAX_MESSAGE, Report, receive, send};
use rgun_channel::frame::ExchangeId;

use crate::helper::Job;
use crate::python::{exit_now, lock};
use crate::signals::Mask;
use crate::worker::Worker;

/// Request bodies that came as a descriptor, by exchange, until their slot takes them.
#[derive(Debug, Default)]
pub(crate) struct Bodies {
    waiting: Mutex<HashMap<ExchangeId, OwnedFd>>,
    arrived: Condvar,
}

impl Bodies {
    /// The body of an exchange. It was sent before the exchange's frame, so it is there or about to be;
    /// to be called without the GIL.
    pub(crate) fn take(&self, exchange: ExchangeId) -> OwnedFd {
        let mut waiting = lock(&self.waiting);
        loop {
            if let Some(body) = waiting.remove(&exchange) {
                return body;
            }
            waiting = self.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Closes all that nobody has taken.
    pub(crate) fn clear(&self) {
        lock(&self.waiting).clear();
    }

    fn put(&self, exchange: ExchangeId, body: OwnedFd) {
        lock(&self.waiting).insert(exchange, body);
        self.arrived.notify_all();
    }

    /// True if it had been kept.
    fn forget(&self, exchange: ExchangeId) -> bool {
        lock(&self.waiting).remove(&exchange).is_some()
    }
}

/// Starts the thread.
///
/// # Errors
/// When the system gives no thread.
pub(crate) fn spawn(worker: &'static Worker) -> io::Result<()> {
    let builder = std::thread::Builder::new().name("rgun-control".to_owned()).stack_size(128 * 1024);
    let thread = builder.spawn(move || listen(worker))?;
    worker.keep_control_thread(thread);
    Ok(())
}

fn listen(worker: &'static Worker) {
    Mask::all().set();
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        let received = match receive(worker.control, &mut buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // ECONNRESET: the daemon died with messages of ours unread.
            Err(_) => exit_now(0),
        };
        if received.len == 0 {
            exit_now(0);
        }
        match Command::decode(&buffer[..received.len]) {
            Ok(Command::Body(exchange)) => {
                if let Some(body) = received.fds.into_iter().next() {
                    worker.bodies.put(exchange, body);
                }
            }
            Ok(Command::Forget(exchange)) => {
                if !worker.bodies.forget(exchange) {
                    worker.abandon(exchange);
                }
            }
            Ok(Command::Stop) => worker.stop(),
            Ok(Command::Stacks(exchange)) => worker.helper.give(worker, Job::Stacks(exchange)),
            Ok(Command::ChildExited { pid, worker: number, life }) => {
                worker.helper.give(worker, Job::ChildExited { pid, worker: number, life });
            }
            Ok(Command::Promote) => {
                if worker.promote() {
                    // What follows is the zygote's to read, and its fork must not find this thread.
                    return;
                }
            }
            Ok(Command::Fork(Fork { life, .. })) => {
                let reason = "the process serves, it is no zygote".to_owned();
                // The daemon's end cannot be closed without the next receive saying so.
                let _ = send(worker.control, &Report::ForkFailed { life, reason }.encode(), &[]);
            }
            // A second Start cannot come from a daemon of ours, and what a newer one may say is not
            // meant for this version: ignored.
            Ok(Command::Start(_)) | Err(_) => {}
        }
    }
}
