//! A daemon on a terminal.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ExitStatus};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::client::Address;
use super::log::Log;
use super::{Scratch, wait_until};

/// A daemon on a terminal of its own, which script(1) opens. Dropping it stops the daemon: closing the
/// terminal would only reload it (SIGHUP).
#[derive(Debug)]
pub(crate) struct Terminal {
    script: Child,
    keyboard: ChildStdin,
    /// The lines on the screen.
    pub(crate) screen: Arc<Log>,
    scratch: Scratch,
}

impl Terminal {
    pub(super) fn new(mut script: Child, scratch: Scratch) -> Self {
        let output = script.stdout.take().expect("a pipe");
        let keyboard = script.stdin.take().expect("a pipe");
        let screen = Arc::new(Log::default());
        let reader = Arc::clone(&screen);
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                reader.push(Some(String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned()));
            }
            reader.push(None);
        });
        Self { script, keyboard, screen, scratch }
    }

    pub(crate) fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Waits until the daemon is ready. Returns its address and its process id.
    pub(crate) fn wait_ready(&self) -> (Address, i32) {
        let line = self.screen.wait_for(" on http://");
        let after = |text: &str| line.split(text).nth(1).and_then(|rest| rest.split(' ').next());
        let address = after("http://").and_then(|address| address.parse().ok()).expect("an address");
        (Address::Tcp(address), after("kill -HUP ").and_then(|pid| pid.parse().ok()).expect("a pid"))
    }

    /// Types Ctrl-C.
    pub(crate) fn interrupt(&mut self) {
        assert!(self.try_interrupt(), "script does not read");
    }

    /// Types Ctrl-C. Returns false if the daemon has exited.
    pub(crate) fn try_interrupt(&mut self) -> bool {
        self.keyboard.write_all(b"\x03").is_ok()
    }

    /// Waits until the daemon has exited. Returns its exit status.
    pub(crate) fn wait_exit(&mut self) -> ExitStatus {
        let status = wait_until("script exits", || self.script.try_wait().expect("a child process"));
        self.screen.wait_for_end();
        status
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The second one ends the daemon without waiting for requests.
        drop(self.keyboard.write_all(b"\x03\x03"));
        for _ in 0..500 {
            if matches!(self.script.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        drop(self.script.kill());
        drop(self.script.wait());
    }
}
