//! Plays systemd and journald: receives notifications and entries, and passes sockets.

use std::io;
use std::mem::MaybeUninit;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::client::Address;
use super::{DEADLINE, Scratch};

/// The first descriptor that systemd passes (sd_listen_fds(3)).
const LISTEN_FDS_START: RawFd = 3;

/// The receiving end of `NOTIFY_SOCKET`.
#[derive(Debug)]
pub(crate) struct NotifySocket {
    socket: UnixDatagram,
    /// Value of `NOTIFY_SOCKET`.
    pub(crate) name: String,
    /// All assignments received, each with the time of receipt.
    pub(crate) assignments: Vec<(Instant, String)>,
    /// The descriptors in the store, by name.
    pub(crate) stored: Vec<(String, OwnedFd)>,
}

impl NotifySocket {
    pub(crate) fn at(scratch: &Scratch) -> Self {
        let path = scratch.join("notify");
        let socket = UnixDatagram::bind(&path).expect("a new path");
        Self { socket, name: path.display().to_string(), assignments: Vec::new(), stored: Vec::new() }
    }

    /// Fills the socket's queue, as if systemd did not read. The messages are no assignments of a daemon.
    pub(crate) fn fill(&self) {
        let sender = UnixDatagram::unbound().expect("a socket");
        sender.set_nonblocking(true).expect("a socket can be non-blocking");
        while sender.send_to(b"X_FILLER=1\n", &self.name).is_ok() {}
    }

    /// Receives one message. Returns false if none arrives within `timeout`.
    fn receive(&mut self, timeout: Duration) -> bool {
        self.socket.set_read_timeout(Some(timeout)).expect("a timeout that is not 0");
        let mut buffer = [0; 4096];
        match receive_with_descriptors(&self.socket, &mut buffer) {
            Ok((len, descriptors)) => {
                let now = Instant::now();
                let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
                self.update_store(&text, descriptors);
                self.assignments.extend(text.lines().map(|line| (now, line.to_owned())));
                true
            }
            // A timeout or a signal; the caller tries again.
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

    /// Runs an action and receives messages meanwhile. The queue of a socket has room for some ten
    /// messages, and a daemon that sends more waits.
    pub(crate) fn receive_during<T: Send>(&mut self, action: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let running = scope.spawn(action);
            while !running.is_finished() {
                self.receive(Duration::from_millis(10));
            }
            running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Stores or removes descriptors. The descriptor of `BARRIER=1` is closed, which is the
    /// reply that the daemon waits for.
    fn update_store(&mut self, message: &str, descriptors: Vec<OwnedFd>) {
        let name = message.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or("stored");
        for line in message.lines() {
            match line {
                "FDSTORE=1" => {
                    self.stored.extend(descriptors.into_iter().map(|fd| (name.to_owned(), fd)));
                    return;
                }
                "FDSTOREREMOVE=1" => self.stored.retain(|(stored, _)| stored != name),
                _ => {}
            }
        }
    }

    /// Returns all assignments received so far.
    pub(crate) fn received(&mut self) -> Vec<String> {
        while self.receive(Duration::from_millis(1)) {}
        self.assignments.iter().map(|(_, line)| line.clone()).collect()
    }

    /// Waits for an assignment that begins with `beginning`, at index `from` or later, and returns
    /// its index.
    pub(crate) fn wait_from(&mut self, from: usize, beginning: &str) -> usize {
        let begun = Instant::now();
        loop {
            if let Some(at) =
                self.assignments.iter().skip(from).position(|(_, line)| line.starts_with(beginning))
            {
                return from + at;
            }
            assert!(begun.elapsed() < DEADLINE, "no assignment {beginning:?} among {:?}", self.assignments);
            self.receive(DEADLINE);
        }
    }

    pub(crate) fn wait(&mut self, beginning: &str) -> usize {
        self.wait_from(0, beginning)
    }
}

/// Receives one message and its descriptors (`SCM_RIGHTS`, unix(7)).
fn receive_with_descriptors(socket: &UnixDatagram, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [io::IoSliceMut::new(buffer)];
    let received = recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let descriptors = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    Ok((received.bytes, descriptors.collect()))
}

/// Returns a listening TCP socket, as a socket unit creates it.
pub(crate) fn tcp(address: &str) -> (OwnedFd, Address) {
    let listener =
        TcpListener::bind(address).unwrap_or_else(|error| panic!("cannot listen on {address}: {error}"));
    let address = Address::Tcp(listener.local_addr().expect("a bound socket"));
    (listener.into(), address)
}

/// Returns a listening unix socket.
pub(crate) fn unix(path: &Path) -> (OwnedFd, Address) {
    let listener = UnixListener::bind(path).expect("a new path");
    (listener.into(), Address::Unix(path.to_owned()))
}

/// Returns a datagram socket, which rgun must refuse.
pub(crate) fn datagram() -> OwnedFd {
    UdpSocket::bind("127.0.0.1:0").expect("a free port").into()
}

/// journald's native socket.
#[derive(Debug)]
pub(crate) struct Journald {
    socket: UnixDatagram,
    /// Directory of the socket.
    pub(crate) directory: PathBuf,
}

impl Journald {
    pub(crate) fn at(scratch: &Scratch) -> Self {
        let directory = scratch.join("journal");
        std::fs::create_dir(&directory).expect("a new directory");
        let socket = UnixDatagram::bind(directory.join("socket")).expect("a new path");
        Self { socket, directory }
    }

    /// Receives entries until one contains all of `what`, and returns it.
    pub(crate) fn wait(&self, what: &[&[u8]]) -> Vec<u8> {
        let begun = Instant::now();
        let mut seen = Vec::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            let left = DEADLINE.saturating_sub(begun.elapsed());
            let shown =
                || seen.iter().map(|entry: &Vec<u8>| entry.escape_ascii().to_string()).collect::<Vec<_>>();
            assert!(!left.is_zero(), "no entry has {what:?}: {:#?}", shown());
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

/// Returns true if this user may mount over /run in a mount namespace, to replace journald's
/// socket.
pub(crate) fn may_replace_journald() -> bool {
    let probe = Command::new("unshare").args(["--mount", "mount", "-t", "tmpfs", "none", "/run"]).output();
    probe.is_ok_and(|probe| probe.status.success())
}

/// Returns a command that runs the program in its arguments, with the journald socket in
/// `directory` instead of the system's.
pub(crate) fn with_journald(directory: &Path) -> Command {
    const SCRIPT: &str = "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && \
        mount --bind \"$0\" /run/systemd/journal && \
        export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "/bin/sh", "-c", SCRIPT]).arg(directory);
    command
}

/// Passes these sockets to the command as descriptors 3, 4, … The kernel kills the started process
/// when the calling thread ends.
///
/// `std` passes only the descriptors 0 to 2, hence `pre_exec`.
#[expect(unsafe_code, reason = "std cannot pass descriptors at given numbers")]
pub(crate) fn pass(command: &mut Command, sockets: &[OwnedFd]) {
    // Copies with numbers above the target numbers. They are closed by exec.
    let copies: Vec<OwnedFd> = sockets
        .iter()
        .map(|socket| {
            let copy = fcntl(socket, FcntlArg::F_DUPFD_CLOEXEC(100)).expect("descriptors are not scarce");
            // SAFETY: fcntl(2) has just created this descriptor, and nothing else owns it.
            unsafe { std::os::fd::FromRawFd::from_raw_fd(copy) }
        })
        .collect();
    // SAFETY: between fork and exec only prctl(2) and dup2(2) are called, which are
    // async-signal-safe; nothing allocates.
    unsafe {
        command.pre_exec(move || {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            for (number, socket) in (LISTEN_FDS_START..).zip(&copies) {
                let copy = nix::unistd::dup2_raw(socket, number)?;
                // The started program owns this descriptor.
                std::mem::forget(copy);
                debug_assert!(socket.as_raw_fd() > number);
            }
            Ok(())
        });
    }
}
