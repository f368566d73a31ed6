//! The native thread that reads the control socket.
//!
//! It runs from before the application is imported. It never touches Python, so it hears the daemon whatever holds the
//! GIL; what needs Python is the helper's ([`crate::background`]). When the daemon is gone the process ends at once: nobody
//! waits for its answers any more. A zygote reads its socket itself ([`crate::zygote`]).

use std::io;

use rgun_channel::control::{Command, Fork, MAX_MESSAGE_BYTES, Report, receive, send};

use crate::background::{BackgroundThread, Job};
use crate::python::exit_now;
use crate::signal_mask::SignalMask;
use crate::worker::Worker;

/// Starts the thread.
///
/// # Errors
/// When the system gives no thread.
pub(crate) fn spawn(worker: &'static Worker, helper: &'static BackgroundThread) -> io::Result<()> {
    let builder = std::thread::Builder::new().name("rgun-control".to_owned()).stack_size(128 * 1024);
    let thread = builder.spawn(move || listen(worker, helper))?;
    worker.set_control_thread(thread);
    Ok(())
}

fn listen(worker: &'static Worker, helper: &'static BackgroundThread) {
    SignalMask::all().set();
    let mut buffer = vec![0; MAX_MESSAGE_BYTES];
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
                    worker.bodies.insert(exchange, body);
                }
            }
            Ok(Command::Cancel(exchange)) => {
                if !worker.bodies.discard(exchange) {
                    worker.cancel(exchange);
                }
            }
            Ok(Command::Stop) => worker.stop(),
            Ok(Command::DumpStacks(exchange)) => helper.submit(Job::Stacks(exchange)),
            Ok(Command::ChildExited { pid, worker: number, life }) => {
                helper.submit(Job::ChildExited { pid, worker: number, life });
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
