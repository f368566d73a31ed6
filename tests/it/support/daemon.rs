//! A running `rgun`: its connections, signals, processes and memory.

use std::io::{BufRead, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::time::Instant;
use std::{fs, thread};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::client::{Address, Client, Response};
use super::log::Log;
use super::{Scratch, wait_until};

/// An environment variable that only the daemon and its descendants have.
pub(super) const MARK: &str = "IT_MARK";

/// A running `rgun`. Dropping it kills the process, and prints its log if the test has failed.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    scratch: Scratch,
    /// The value of [`MARK`] in the daemon's environment.
    mark: String,
    pub(super) address: Address,
    pub(crate) log: Arc<Log>,
    /// The daemon's exit status. None until [`Daemon::wait_exit`] has returned.
    ended: Option<ExitStatus>,
}

impl Daemon {
    pub(super) fn new(mut child: Child, scratch: Scratch, mark: String, address: Address) -> Self {
        let stderr = child.stderr.take().expect("a pipe");
        let log = Arc::new(Log::default());
        let reader = Arc::clone(&log);
        thread::spawn(move || {
            let mut lines = BufReader::new(stderr).split(b'\n');
            loop {
                reader.wait_while_held();
                let Some(Ok(line)) = lines.next() else { break };
                reader.push(Some(String::from_utf8_lossy(&line).into_owned()));
            }
            reader.push(None);
        });
        Self { child, scratch, mark, address, log, ended: None }
    }

    pub(crate) fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the address of a daemon that listens on TCP.
    pub(crate) fn tcp_address(&self) -> SocketAddr {
        match &self.address {
            Address::Tcp(address) => *address,
            Address::Unix(path) => panic!("a test with TCP, not {}", path.display()),
        }
    }

    /// Connects as soon as the daemon listens.
    pub(crate) fn connect(&self) -> Client {
        wait_until("the daemon listens", || Client::connect(&self.address).ok())
    }

    /// Sends one request on a new connection.
    pub(crate) fn get(&self, path: &str) -> Response {
        self.connect().get(path)
    }

    /// Returns the pid of the worker that serves a request now.
    pub(crate) fn worker(&self) -> u32 {
        self.get("/pid").value("pid").parse().expect("a pid")
    }

    /// Stops the worker that serves a request now with SIGSTOP, and waits until it is stopped.
    pub(crate) fn pause_worker(&self) {
        let worker = self.worker();
        let pid = Pid::from_raw(i32::try_from(worker).expect("a pid"));
        kill(pid, Signal::SIGSTOP).expect("the worker runs");
        wait_until("the worker is stopped", || {
            let stat = fs::read_to_string(format!("/proc/{worker}/stat")).expect("the worker exists");
            stat.contains(") T ").then_some(())
        });
    }

    /// Waits until the fake ASGI worker has received this many disconnects and cancellations.
    pub(crate) fn wait_for_disconnects(&self, gone: u32, cancelled: u32) {
        let expected = format!("gone={gone} cancelled={cancelled}");
        wait_until(&expected, || (self.get("/disconnects").text() == expected).then_some(()));
    }

    /// Waits until the fake worker has recorded this end of a WebSocket: `PATH CODE REASON`.
    pub(crate) fn wait_for_close(&self, end: &str) {
        wait_until(end, || {
            self.get("/codes").text().lines().any(|line| line.trim_end() == end).then_some(())
        });
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("the process exists until it is waited for");
    }

    /// Repeats the signal until the daemon exits, because the daemon ignores a second signal soon
    /// after the first.
    pub(crate) fn signal_until_exit(&mut self, signal: Signal) -> ExitStatus {
        wait_until("the daemon exits", || {
            let ended = self.child.try_wait().expect("a child process");
            if ended.is_none() {
                self.signal(signal);
            }
            ended
        });
        self.wait_exit()
    }

    /// Reaps the daemon if it has exited, and returns its status; `None` while it runs.
    pub(crate) fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child process")
    }

    /// Waits until the daemon and all its descendants have exited.
    pub(crate) fn wait_exit(&mut self) -> ExitStatus {
        let begun = Instant::now();
        let status = wait_until("the daemon exits", || self.try_wait());
        self.ended = Some(status);
        wait_until(&format!("all its descendants exit, {:?} after the signal", begun.elapsed()), || {
            self.descendants().is_empty().then_some(())
        });
        status
    }

    /// Stops the daemon by SIGTERM; it must exit with status 0.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.wait_exit();
        assert_eq!(status.code(), Some(0), "{status}");
    }

    /// Returns what a daemon that has exited wrote to stdout.
    pub(crate) fn stdout(&mut self) -> String {
        let mut text = String::new();
        let mut stdout = self.child.stdout.take().expect("a pipe that was not read");
        stdout.read_to_string(&mut text).expect("UTF-8");
        text
    }

    /// Returns the pids of all processes that the daemon has started, directly or indirectly.
    pub(crate) fn descendants(&self) -> Vec<u32> {
        let mark = format!("{MARK}={}", self.mark);
        let processes = fs::read_dir("/proc").expect("proc(5)").flatten();
        processes
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| *pid != self.pid())
            .filter(|pid| {
                let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
            })
            .collect()
    }

    /// Returns the resident memory in bytes (proc(5), statm).
    pub(crate) fn rss(&self) -> u64 {
        let statm = fs::read_to_string(format!("/proc/{}/statm", self.pid())).expect("it runs");
        let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
        pages * 4096
    }

    /// Returns the targets of the daemon's open descriptors (proc(5), fd).
    pub(crate) fn descriptors(&self) -> Vec<String> {
        let links = fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("it runs").flatten();
        links
            .filter_map(|link| Some(fs::read_link(link.path()).ok()?.to_string_lossy().into_owned()))
            .collect()
    }

    /// Returns the highest number of an open descriptor of the daemon.
    pub(crate) fn highest_descriptor(&self) -> usize {
        let links = fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("it runs").flatten();
        links.filter_map(|link| link.file_name().to_str()?.parse().ok()).max().expect("it has descriptors")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.ended.is_none() {
            // The workers die with the daemon (PR_SET_PDEATHSIG).
            drop(self.child.kill());
            drop(self.child.wait());
        }
        if thread::panicking() {
            show(&self.log.text());
        }
    }
}

#[expect(clippy::print_stderr, reason = "libtest shows a failed test's output")]
fn show(log: &str) {
    eprintln!("---- the daemon's log\n{log}----");
}
