//! Support for all integration tests: starts `rgun` ([`rgun`]), observes it ([`daemon`], [`log`]),
//! speaks HTTP and WebSocket to it ([`client`], [`websocket`]), and plays systemd ([`systemd`]).

pub(crate) mod binaries;
pub(crate) mod client;
pub(crate) mod daemon;
pub(crate) mod log;
pub(crate) mod rgun;
pub(crate) mod site;
pub(crate) mod systemd;
mod terminal;
pub(crate) mod websocket;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, io, process, thread};

pub(crate) use client::{Client, ReadError, Response};
pub(crate) use daemon::Daemon;
pub(crate) use rgun::{Gate, Rgun};

/// Maximum time to wait for any action of the daemon. Generous, because a busy machine must not
/// fail a test.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Polls until `ask` returns a value, and panics at [`DEADLINE`]. Only for states that send no
/// event, such as a list of processes or a counter of the kernel.
pub(crate) fn wait_until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = ask() {
            return value;
        }
        assert!(begun.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Returns `len` bytes of the fake worker's pattern: the byte at `i` is `i % 251`.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    let block: Vec<u8> = (0..=250).collect();
    let mut bytes = block.repeat(len / block.len() + 1);
    bytes.truncate(len);
    bytes
}

/// Asserts that the bytes are equal. Prints only the first difference; `assert_eq!` prints all.
#[track_caller]
pub(crate) fn assert_same_bytes(actual: &[u8], expected: &[u8]) {
    if actual == expected {
        return;
    }
    let differs = actual.iter().zip(expected).position(|(actual, expected)| actual != expected);
    let at = differs.unwrap_or_else(|| actual.len().min(expected.len()));
    let part = |bytes: &[u8]| bytes.iter().skip(at).take(64).copied().collect::<Vec<_>>();
    panic!(
        "{} bytes differ from {} at {at}: {:02x?} instead of {:02x?}",
        actual.len(),
        expected.len(),
        part(actual),
        part(expected)
    );
}

/// Reports a skipped test on stderr, where `tests/run` counts it; libtest does not capture it.
pub(crate) fn report_skipped(what: &str) {
    writeln!(io::stderr(), "SKIPPED {what}").expect("stderr is open");
}

/// A temporary directory, removed when dropped. Its path is short, because the path of a unix
/// socket has at most 107 bytes (unix(7)).
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
        // Files left in a temporary directory do not fail a test.
        drop(fs::remove_dir_all(&self.0));
    }
}
