//! systemd's part in a test: the socket that is notified, and the sockets that are passed.

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;

use super::client::Address;
use super::{DEADLINE, Scratch};

/// The first descriptor that systemd passes (sd_listen_fds(3)).
const LISTEN_FDS_START: RawFd = 3;

/// `NOTIFY_SOCKET`, at its other end.
#[derive(Debug)]
pub(crate) struct Notified {
    socket: UnixDatagram,
    /// The variable's value.
    pub(crate) name: String,
    /// Everything that was said, one assignment each, with the time.
    pub(crate) said: Vec<(Instant, String)>,
}

impl Notified {
    pub(crate) fn at(scratch: &Scratch) -> Self {
        let path = scratch.join("notify");
        let socket = UnixDatagram::bind(&path).expect("a new path");
        Self { socket, name: path.display().to_string(), said: Vec::new() }
    }

    /// Takes in the next message; false if none came in time.
    fn receive(&mut self, patience: Duration) -> bool {
        self.socket.set_read_timeout(Some(patience)).expect("a timeout that is not 0");
        let mut buffer = [0; 4096];
        match self.socket.recv(&mut buffer) {
            Ok(len) => {
                let now = Instant::now();
                let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
                self.said.extend(text.lines().map(|line| (now, line.to_owned())));
                true
            }
            // Nothing came, or a signal did; whoever waits asks again.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
                ) =>
            {
                false
            }
            Err(error) => panic!("cannot read the notify socket: {error}"),
        }
    }

    /// Everything that has come so far.
    pub(crate) fn so_far(&mut self) -> Vec<String> {
        while self.receive(Duration::from_millis(1)) {}
        self.said.iter().map(|(_, line)| line.clone()).collect()
    }

    /// Waits for an assignment that begins so, from the `from`th on; its index.
    pub(crate) fn wait_from(&mut self, from: usize, beginning: &str) -> usize {
        let begun = Instant::now();
        loop {
            if let Some(at) = self.said.iter().skip(from).position(|(_, line)| line.starts_with(beginning)) {
                return from + at;
            }
            assert!(begun.elapsed() < DEADLINE, "systemd was never told {beginning:?}, but {:?}", self.said);
            self.receive(DEADLINE);
        }
    }

    pub(crate) fn wait(&mut self, beginning: &str) -> usize {
        self.wait_from(0, beginning)
    }
}

/// A listening TCP socket, as a socket unit would make it.
pub(crate) fn tcp(address: &str) -> (OwnedFd, Address) {
    let listener =
        TcpListener::bind(address).unwrap_or_else(|error| panic!("cannot listen on {address}: {error}"));
    let address = Address::Tcp(listener.local_addr().expect("a bound socket"));
    (listener.into(), address)
}

/// A listening unix socket.
pub(crate) fn unix(path: &Path) -> (OwnedFd, Address) {
    let listener = UnixListener::bind(path).expect("a new path");
    (listener.into(), Address::Unix(path.to_owned()))
}

/// A datagram socket, which is no use to a web server.
pub(crate) fn datagram() -> OwnedFd {
    UdpSocket::bind("127.0.0.1:0").expect("a free port").into()
}

/// journald, at its native socket.
#[derive(Debug)]
pub(crate) struct Journald {
    socket: UnixDatagram,
    /// Where the socket is.
    pub(crate) directory: PathBuf,
}

impl Journald {
    pub(crate) fn at(scratch: &Scratch) -> Self {
        let directory = scratch.join("journal");
        std::fs::create_dir(&directory).expect("a new directory");
        let socket = UnixDatagram::bind(directory.join("socket")).expect("a new path");
        Self { socket, directory }
    }

    /// Takes entries until there is one that has all of these in it.
    pub(crate) fn wait(&self, what: &[&[u8]]) -> Vec<u8> {
        let begun = Instant::now();
        let mut seen = Vec::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            let left = DEADLINE.saturating_sub(begun.elapsed());
            let shown =
                || seen.iter().map(|entry: &Vec<u8>| entry.escape_ascii().to_string()).collect::<Vec<_>>();
            assert!(!left.is_zero(), "{what:?} is in no entry: {:#?}", shown());
            self.socket.set_read_timeout(Some(left)).expect("a timeout that is not 0");
            let Ok(len) = self.socket.recv(&mut buffer) else { continue };
            let entry = buffer[..len].to_vec();
            if what.iter().all(|what| entry.windows(what.len()).any(|part| part == *what)) {
                return entry;
            }
            seen.push(entry);
        }
    }
}

/// Whether this user may put a socket in the place of journald's, seen by a process of its own only.
pub(crate) fn may_replace_journald() -> bool {
    let probe = Command::new("unshare").args(["--mount", "mount", "-t", "tmpfs", "none", "/run"]).output();
    probe.is_ok_and(|probe| probe.status.success())
}

/// Becomes the program that is given as argument, with that directory in the place of journald's.
pub(crate) fn with_journald(directory: &Path) -> Command {
    const BECOME: &str = "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && \
        mount --bind \"$0\" /run/systemd/journal && \
        export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "/bin/sh", "-c", BECOME]).arg(directory);
    command
}

/// Has the command started with these descriptors at 3, 4, ..., and with an end no later than the calling thread's.
///
/// `std` passes no descriptors but 0 to 2, so it takes a `pre_exec`.
#[expect(unsafe_code, reason = "descriptors at given numbers")]
pub(crate) fn pass(command: &mut Command, sockets: &[OwnedFd]) {
    // Out of the way of the numbers they are to have, and closed by exec.
    let away: Vec<OwnedFd> = sockets
        .iter()
        .map(|socket| {
            let copy = fcntl(socket, FcntlArg::F_DUPFD_CLOEXEC(100)).expect("descriptors are not scarce");
            // SAFETY: fcntl(2) made this descriptor just now, for us.
            unsafe { std::os::fd::FromRawFd::from_raw_fd(copy) }
        })
        .collect();
    // SAFETY: between fork and exec only prctl(2) and dup2(2) are called, which are async-signal-safe; nothing
    // allocates.
    unsafe {
        command.pre_exec(move || {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            for (number, socket) in (LISTEN_FDS_START..).zip(&away) {
                let copy = nix::unistd::dup2_raw(socket, number)?;
                // It is the new program's.
                std::mem::forget(copy);
                debug_assert!(socket.as_raw_fd() > number);
            }
            Ok(())
        });
    }
}
