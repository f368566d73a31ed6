//! The native thread that reads the worker socket.
//!
//! The thread is started before the application is imported and never touches Python, so it handles
//! commands no matter which thread holds the GIL. Commands that need Python go to the background
//! thread ([`crate::background`]). When the daemon is gone the process exits at once. A zygote
//! reads its socket on its main thread ([`crate::zygote`]).

use std::io;

use rgun_channel::control::{Command, Fork, MAX_MESSAGE_BYTES, Report, send};

use crate::background::{BackgroundThread, Job};
use crate::python::exit_now;
use crate::signal_mask::SignalMask;
use crate::worker::Worker;

/// Starts the control thread.
///
/// # Errors
/// The thread cannot be created.
pub(crate) fn spawn(worker: &'static Worker, background: &'static BackgroundThread) -> io::Result<()> {
    let builder = std::thread::Builder::new().name("rgun-control".to_owned()).stack_size(128 * 1024);
    let thread = builder.spawn(move || listen(worker, background))?;
    worker.set_control_thread(thread);
    Ok(())
}

fn listen(worker: &'static Worker, background: &'static BackgroundThread) {
    SignalMask::all().set();
    let mut buffer = vec![0; MAX_MESSAGE_BYTES];
    loop {
        let command = match worker.bodies.receive(&mut buffer) {
            Ok(command) => command,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // The daemon has closed the socket, or died with unread messages (ECONNRESET); or a message
            // was truncated.
            Err(_) => exit_now(0),
        };
        match command {
            Some(Command::Cancel(exchange)) => worker.cancel(exchange),
            Some(Command::Stop) => worker.stop(),
            Some(Command::DumpStacks(exchange)) => background.submit(Job::Stacks(exchange)),
            Some(Command::Abort) => background.submit(Job::Abort),
            Some(Command::ReportSources) => background.submit(Job::Sources),
            Some(Command::TrimMemory) => background.request_trim(),
            Some(Command::ChildExited { pid, worker: number, incarnation }) => {
                background.submit(Job::ChildExited { pid, worker: number, incarnation });
            }
            Some(Command::Promote) => {
                if worker.promote() {
                    // The zygote reads the following messages itself, and must be single-threaded
                    // when it forks.
                    return;
                }
            }
            Some(Command::Fork(Fork { incarnation, .. })) => {
                let reason = "the process is a worker, not a zygote".to_owned();
                // If the daemon has closed its end, the next receive reports it.
                let _ = send(worker.control, &Report::ForkFailed { incarnation, reason }.encode(), &[]);
            }
            // `receive` applies bodies itself. A second Start, or a message of a newer protocol: ignored.
            Some(Command::Start(_) | Command::Body(_)) | None => {}
        }
    }
}
