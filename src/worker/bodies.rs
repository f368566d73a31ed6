//! Request bodies and sockets of takeovers, received as descriptors. The control thread inserts
//! them, the slots take them.
//!
//! An exchange may be revoked from the worker before it starts, and assigned to it again later. The
//! daemon then sends its descriptor, a cancellation and another descriptor before the frame that a
//! slot claims. So a slot may take a descriptor only after the control thread has applied all these
//! messages: the first descriptor may be a socket without a reader, and the cancellation is not
//! meant for the exchange that now runs.

use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Condvar, Mutex, PoisonError};

use rgun_channel::control::{Command, receive};
use rgun_channel::frame::ExchangeId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::python::lock;

/// The descriptor of each exchange that has not started: a request body or the socket of a
/// takeover.
#[derive(Debug, Default)]
pub(crate) struct SpooledBodies {
    /// The worker socket; `None` for a request that does not come from the daemon.
    control: Option<BorrowedFd<'static>>,
    /// Locked from the receipt of a message until its effect on this map is applied.
    waiting: Mutex<HashMap<ExchangeId, OwnedFd>>,
    /// Notified after the receipt of each message.
    applied: Condvar,
}

impl SpooledBodies {
    pub(crate) fn new(control: BorrowedFd<'static>) -> Self {
        Self { control: Some(control), ..Self::default() }
    }

    /// Takes the descriptor of an exchange, which the daemon has sent before the exchange's frame.
    /// Waits until the control thread has received all messages of the daemon, and applied those about
    /// descriptors. Called without the GIL.
    pub(crate) fn take(&self, exchange: ExchangeId) -> OwnedFd {
        let mut waiting = lock(&self.waiting);
        loop {
            let has_message =
                self.control.is_some_and(|socket| is_readable(socket, Some(Timespec::default())));
            if !has_message && let Some(body) = waiting.remove(&exchange) {
                return body;
            }
            waiting = self.applied.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for the next message of the daemon and receives it. Applies a body, and a cancellation
    /// of an exchange whose descriptor is here; returns every other command. Returns `Ok(None)` also
    /// for a message of a newer protocol. Only the control thread calls this.
    ///
    /// # Errors
    /// The daemon is gone, or the message was truncated.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Command>> {
        let socket = self.control.ok_or(io::ErrorKind::NotConnected)?;
        is_readable(socket, None);
        let mut waiting = lock(&self.waiting);
        let received = receive(socket, buffer)?;
        let message = buffer.get(..received.len).filter(|message| !message.is_empty());
        let command = match Command::decode(message.ok_or(io::ErrorKind::UnexpectedEof)?) {
            Ok(Command::Body(exchange)) => {
                if let Some(body) = received.fds.into_iter().next() {
                    waiting.insert(exchange, body);
                }
                None
            }
            Ok(Command::Cancel(exchange)) if waiting.remove(&exchange).is_some() => None,
            other => other.ok(),
        };
        drop(waiting);
        self.applied.notify_all();
        Ok(command)
    }

    /// Closes all descriptors.
    pub(crate) fn clear(&self) {
        lock(&self.waiting).clear();
    }

    /// Closes the descriptor of an exchange, if there is one.
    pub(crate) fn discard(&self, exchange: ExchangeId) {
        lock(&self.waiting).remove(&exchange);
    }
}

/// Waits until a socket has a message or has ended; without a timeout, forever. Returns false after the
/// timeout. Errors count as readable: the receipt reports them.
fn is_readable(socket: BorrowedFd<'_>, timeout: Option<Timespec>) -> bool {
    let mut sockets = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
    loop {
        match poll(&mut sockets, timeout.as_ref()) {
            // A signal of the application.
            Err(rustix::io::Errno::INTR) => {}
            ready => return ready != Ok(0),
        }
    }
}
