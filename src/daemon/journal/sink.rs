//! Writes entries to a descriptor or to journald. A write may block, so the thread of a
//! [`LogQueue`](super::queue::LogQueue) performs it.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, IoSlice, Write as _};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, setsockopt, socket,
    sockopt,
};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// journald's native socket.
pub(super) const JOURNALD: &str = "/run/systemd/journal/socket";

/// The size that libsystemd asks for. Larger entries are sent as a memfd, which is slower.
const SEND_BUFFER_BYTES: usize = 8 << 20;

/// Maximum number of attempts to send an entry while journald restarts. If the last attempt fails,
/// journald counts as gone: each entry is then tried once until journald is back.
const MAX_ATTEMPTS: u32 = 10;
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Interval at which a flush checks whether journald has read the entries.
const READ_INTERVAL: Duration = Duration::from_millis(1);

mod outq {
    //! SIOCOUTQ (unix(7)), which Linux numbers like TIOCOUTQ.
    nix::ioctl_read_bad!(siocoutq, nix::libc::TIOCOUTQ, nix::libc::c_int);
}

/// A destination of entries.
#[derive(Debug)]
pub(super) enum Sink {
    /// A pipe, a file, a terminal.
    Descriptor(OwnedFd),
    /// journald: one datagram per entry.
    Journald(Journald),
}

/// A socket for journald, and its address. Not connected, because a restarted journald listens on a
/// new socket.
#[derive(Debug)]
pub(super) struct Journald {
    socket: OwnedFd,
    address: UnixAddr,
    is_gone: Cell<bool>,
}

impl Sink {
    /// Returns whether this is the stream that systemd connected to the journal.
    pub(super) fn is_journal_stream(&self) -> bool {
        matches!(self, Self::Descriptor(fd) if is_journal_stream(fd))
    }

    /// Writes an entry. Blocks until it is written.
    ///
    /// # Errors
    /// When the entry cannot be written because the reader is gone.
    pub(super) fn write(&self, entry: &[u8]) -> io::Result<()> {
        match self {
            Self::Descriptor(fd) => write_all(fd, entry),
            Self::Journald(journald) => journald.send(entry),
        }
    }
}

/// Returns whether a descriptor is the stream that systemd connected to the journal. `JOURNAL_STREAM` has
/// the device and inode of that stream (systemd.exec(5)); a redirected descriptor has others.
pub(super) fn is_journal_stream(fd: impl AsFd) -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    nix::sys::stat::fstat(fd).is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

fn write_all(fd: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match nix::unistd::write(fd, bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            // Another process has made the shared open file non-blocking.
            Err(Errno::EAGAIN) => {
                match poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

impl Journald {
    /// Makes the socket.
    ///
    /// # Errors
    /// When the path is too long, or a socket cannot be made.
    pub(super) fn new(path: &str) -> io::Result<Self> {
        let address = UnixAddr::new(path)?;
        let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        // The system's limit may be lower: then more entries go as a memfd.
        let _ = setsockopt(&socket, sockopt::SndBuf, &SEND_BUFFER_BYTES);
        Ok(Self { socket, address, is_gone: Cell::new(false) })
    }

    /// Returns whether journald listens.
    pub(super) fn is_there(&self) -> bool {
        // EAGAIN: its queue is full.
        matches!(self.send_empty(), Ok(()) | Err(Errno::EAGAIN))
    }

    /// Sends an empty datagram, which journald discards.
    fn send_empty(&self) -> nix::Result<()> {
        self.try_send(&[IoSlice::new(b"")], &[], MsgFlags::MSG_DONTWAIT)
    }

    /// Waits until journald has processed all entries that this process has sent. Returns false if
    /// journald has not processed them within `timeout`.
    ///
    /// journald reads the unit of an entry from the sender's `/proc`, so `journalctl -u` does not
    /// show an entry whose process has exited before.
    pub(super) fn wait_until_processed(&self, timeout: Duration) -> bool {
        // journald processes one datagram after the other, so all earlier entries are processed when
        // journald has read the empty datagram that `is_there` sends.
        let deadline = Instant::now() + timeout;
        let mut is_sent = false;
        loop {
            // EAGAIN: journald's queue is full.
            is_sent = is_sent || self.send_empty() == Ok(());
            match self.unread_bytes() {
                Ok(0) if is_sent => return true,
                Ok(_) if Instant::now() < deadline => thread::sleep(READ_INTERVAL),
                _ => return false,
            }
        }
    }

    /// Returns the bytes of kernel memory that hold this socket's unread datagrams; 0 if journald has
    /// read all of them.
    fn unread_bytes(&self) -> io::Result<i32> {
        let mut bytes = 0;
        #[expect(unsafe_code, reason = "no crate has this ioctl of sockets")]
        // SAFETY: SIOCOUTQ (unix(7)) writes an int.
        unsafe { outq::siocoutq(self.socket.as_raw_fd(), &raw mut bytes) }?;
        Ok(bytes)
    }

    fn send(&self, entry: &[u8]) -> io::Result<()> {
        let mut attempts = if self.is_gone.get() { MAX_ATTEMPTS } else { 1 };
        loop {
            let sent = match self.try_send(&[IoSlice::new(entry)], &[], MsgFlags::empty()) {
                Err(Errno::EMSGSIZE | Errno::ENOBUFS) => self.send_file(entry),
                sent => sent.map_err(io::Error::from),
            };
            match sent.as_ref().map_err(io::Error::raw_os_error) {
                Err(Some(errno))
                    if attempts < MAX_ATTEMPTS
                        && [Errno::ECONNREFUSED as i32, Errno::ENOENT as i32].contains(&errno) =>
                {
                    attempts += 1;
                    thread::sleep(RETRY_INTERVAL);
                }
                Err(Some(errno)) if errno == Errno::EINTR as i32 => {}
                _ => {
                    self.is_gone.set(sent.is_err());
                    return sent;
                }
            }
        }
    }

    /// Sends an entry that is too large for a datagram as a sealed memfd. The protocol requires
    /// these seals.
    fn send_file(&self, entry: &[u8]) -> io::Result<()> {
        let fd = memfd_create("rgun-journal-entry", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC)?;
        let mut file = File::from(fd);
        file.write_all(entry)?;
        fcntl_add_seals(&file, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
        let fds = [file.as_raw_fd()];
        Ok(self.try_send(&[], &[ControlMessage::ScmRights(&fds)], MsgFlags::empty())?)
    }

    fn try_send(
        &self,
        parts: &[IoSlice<'_>],
        control: &[ControlMessage<'_>],
        flags: MsgFlags,
    ) -> nix::Result<()> {
        sendmsg(self.socket.as_raw_fd(), parts, control, flags, Some(&self.address)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{IoSliceMut, Read as _, Seek as _, SeekFrom};
    use std::os::fd::FromRawFd as _;
    use std::os::unix::net::UnixDatagram;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};

    use nix::sys::socket::{ControlMessageOwned, recvmsg};

    use super::*;
    use crate::journal::queue::LogQueue;

    struct Directory(PathBuf);

    impl Directory {
        fn new() -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("rgun-sink-{}-{number}", std::process::id()));
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn journald(&self) -> (UnixDatagram, Journald) {
            let path = self.0.join("socket");
            let socket = UnixDatagram::bind(&path).unwrap();
            (socket, Journald::new(path.to_str().unwrap()).unwrap())
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }

    #[test]
    fn journald_that_never_reads_blocks_only_the_writer() {
        let directory = Directory::new();
        let (socket, journald) = directory.journald();
        let queue = LogQueue::start(Sink::Journald(journald), "log-test", drop).unwrap();
        let begun = Instant::now();
        for _ in 0..10_000 {
            queue.push(b"MESSAGE=hello\n".to_vec());
        }
        assert!(!queue.flush(Duration::from_millis(100)));
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        // journald reads again.
        let mut buffer = [0; 100];
        for _ in 0..1000 {
            let len = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..len], b"MESSAGE=hello\n");
        }
    }

    #[test]
    fn entries_are_processed_once_all_datagrams_are_read() {
        let directory = Directory::new();
        let (socket, journald) = directory.journald();
        let others = UnixDatagram::unbound().unwrap();
        others.set_nonblocking(true).unwrap();
        let mut n_entries = 0;
        while others.send_to(b"MESSAGE=why\n", directory.0.join("socket")).is_ok() {
            n_entries += 1;
        }
        assert!(!journald.wait_until_processed(Duration::from_millis(10)), "the queue is full");
        let reader = thread::spawn(move || {
            let mut buffer = [0; 100];
            let lens: Vec<_> = (0..=n_entries).map(|_: i32| socket.recv(&mut buffer).unwrap()).collect();
            (socket, lens)
        });
        assert!(journald.wait_until_processed(Duration::from_secs(10)));
        let (socket, lens) = reader.join().unwrap();
        assert_eq!(lens.last(), Some(&0), "the datagram of the wait is the last");
        drop(socket);
        assert!(!journald.wait_until_processed(Duration::from_millis(10)), "journald is gone");
    }

    #[test]
    fn entry_waits_for_a_restarting_journald() {
        let directory = Directory::new();
        let (socket, journald) = directory.journald();
        assert!(journald.is_there());
        drop(socket);
        let path = directory.0.join("socket");
        let sender = thread::spawn(move || Sink::Journald(journald).write(b"MESSAGE=late\n"));
        std::fs::remove_file(&path).unwrap();
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut buffer = [0; 100];
        let len = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"MESSAGE=late\n");
        sender.join().unwrap().unwrap();
    }

    #[test]
    fn missing_journald_is_waited_for_once_and_found_again() {
        let directory = Directory::new();
        let (socket, journald) = directory.journald();
        drop(socket);
        let path = directory.0.join("socket");
        std::fs::remove_file(&path).unwrap();
        let sink = Sink::Journald(journald);
        sink.write(b"MESSAGE=lost\n").unwrap_err();
        let begun = Instant::now();
        for _ in 0..100 {
            sink.write(b"MESSAGE=lost\n").unwrap_err();
        }
        assert!(begun.elapsed() < 10 * RETRY_INTERVAL, "{:?}", begun.elapsed());
        let socket = UnixDatagram::bind(&path).unwrap();
        sink.write(b"MESSAGE=found\n").unwrap();
        let mut buffer = [0; 100];
        let len = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"MESSAGE=found\n");
    }

    #[test]
    fn entry_too_large_for_a_datagram_arrives_as_a_file() {
        let directory = Directory::new();
        let (socket, journald) = directory.journald();
        let entry = [b"MESSAGE=", "x".repeat(32 << 20).as_bytes(), b"\n"].concat();
        Sink::Journald(journald).write(&entry).unwrap();
        let mut space = nix::cmsg_space!([i32; 1]);
        let mut nothing = [0; 1];
        let mut parts = [IoSliceMut::new(&mut nothing)];
        let message =
            recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty()).unwrap();
        let Some(ControlMessageOwned::ScmRights(fds)) = message.cmsgs().unwrap().next() else {
            panic!("no descriptor came")
        };
        #[expect(unsafe_code, reason = "a descriptor that came in a message")]
        // SAFETY: recvmsg has just installed the descriptor, and nothing else owns it.
        let mut file = unsafe { File::from_raw_fd(fds[0]) };
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut read = Vec::new();
        file.read_to_end(&mut read).unwrap();
        assert!(read == entry, "{} bytes", read.len());
    }
}
