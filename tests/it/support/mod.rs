//! What every test stands on: starting `rgun` ([`daemon`]), speaking HTTP to it ([`client`]), and playing systemd
//! ([`systemd`]). Nothing in here asserts a promise; it only fails when a deadline passes or the set-up is wrong.

pub(crate) mod client;
pub(crate) mod daemon;
pub(crate) mod systemd;
pub(crate) mod websocket;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, io, process, thread};

pub(crate) use client::{Answer, Broken, Client};
pub(crate) use daemon::{Daemon, Rgun};

/// How long anything may take that the daemon owes us. Generous: a busy machine must not fail a test, and a test
/// that fails may take its time.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Asks until there is an answer, or fails at the deadline. For what can only be asked for (a process list, a
/// counter of the kernel); whatever announces itself is waited for instead.
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Says that something was not tested, past libtest's capture; `tests/run` counts it.
pub(crate) fn skipped(what: &str) {
    writeln!(io::stderr(), "SKIPPED {what}").expect("stderr is open");
}

/// A directory of a test's own, removed with it. Below the system's temporary directory, because a unix socket's
/// path has room for 107 bytes (unix(7)).
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("rgun-it-{}-{number}", process::id()));
        fs::create_dir(&path).unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.join(name);
        fs::write(&path, content).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left behind in a temporary directory does not make a test wrong.
        drop(fs::remove_dir_all(&self.0));
    }
}
