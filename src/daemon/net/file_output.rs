//! Parts of files that the kernel sends from its page cache (`sendfile(2)`), without a copy in this
//! process.
//!
//! hyper can only write bytes in memory. So a body queues a part of a file here, and gives hyper a
//! stand-in of the same length. When hyper writes the stand-in, the stream sends the part of the
//! file instead.
//!
//! If a file is changed in place while it is being sent, the client may receive the changed bytes
//! even after `sendfile` has returned: the socket's queue refers to the cached pages.
//!
//! The stream must receive hyper's slices unchanged, so this works only for HTTP/1 without TLS.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::io::Errno;
use rustix::net::{SendFlags, send};

/// Maximum length in bytes of one part.
pub const MAX_FILE_PART: usize = 256 * 1024;

/// Bytes that are copied at a time where the file system does not support `sendfile(2)`.
const COPY_BYTES: usize = 16 * 1024;

/// The memory of all stand-ins. Its pages are never touched, so they take no memory. A stand-in is
/// recognised by its address.
static STAND_IN: LazyLock<&'static [u8]> = LazyLock::new(|| vec![0; MAX_FILE_PART].leak());

/// The parts of files that a connection still has to send, in the order of their stand-ins.
#[derive(Debug, Default)]
pub struct FileOutput {
    /// True if `parts` is not empty. Avoids the lock in the usual case.
    is_pending: AtomicBool,
    /// Allocated for the first file, because most connections never send one.
    parts: OnceLock<Box<Mutex<VecDeque<QueuedPart>>>>,
    /// A file ended before the end of its part.
    is_truncated: AtomicBool,
}

/// A part of a file. The offset grows and the length shrinks while the part is sent.
#[derive(Debug)]
struct QueuedPart {
    fd: Arc<OwnedFd>,
    offset: u64,
    len: usize,
}

impl FileOutput {
    fn lock(&self) -> MutexGuard<'_, VecDeque<QueuedPart>> {
        self.parts.get_or_init(Box::default).lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a body. Drops the parts of an earlier body that hyper did not write to its end.
    pub fn begin(&self) {
        if self.is_pending() {
            self.lock().clear();
            self.is_pending.store(false, Ordering::Relaxed);
        }
    }

    /// Queues a part of at most [`MAX_FILE_PART`] bytes and returns its stand-in.
    pub fn push(&self, fd: Arc<OwnedFd>, offset: u64, len: usize) -> &'static [u8] {
        let stand_in = STAND_IN.get(..len).unwrap_or(&STAND_IN);
        let part = QueuedPart { fd, offset, len: stand_in.len() };
        self.lock().push_back(part);
        self.is_pending.store(true, Ordering::Relaxed);
        stand_in
    }

    /// True if there are parts to send: the next write must go through [`FileOutput::write`].
    pub(super) fn is_pending(&self) -> bool {
        self.is_pending.load(Ordering::Relaxed)
    }

    /// True if a file was truncated after its length was sent to the client.
    pub fn is_truncated(&self) -> bool {
        self.is_truncated.load(Ordering::Relaxed)
    }

    /// Writes the slice, or bytes of the first part if the slice is a stand-in. Returns the number
    /// of bytes written.
    ///
    /// # Errors
    /// Those of the socket and the file; `UnexpectedEof` if the file was truncated.
    pub(super) fn write(&self, socket: BorrowedFd<'_>, slice: &[u8]) -> io::Result<usize> {
        if !STAND_IN.as_ptr_range().contains(&slice.as_ptr()) {
            // A part follows: the kernel sends both together.
            return Ok(send(socket, slice, SendFlags::MORE | SendFlags::NOSIGNAL)?);
        }
        let mut parts = self.lock();
        let part = parts.front_mut().ok_or(io::ErrorKind::InvalidInput)?;
        let sent = part.send(socket, slice.len())?;
        if sent == 0 {
            self.is_truncated.store(true, Ordering::Relaxed);
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if part.len == 0 {
            parts.pop_front();
            self.is_pending.store(!parts.is_empty(), Ordering::Relaxed);
        }
        drop(parts);
        Ok(sent)
    }
}

impl QueuedPart {
    /// Sends up to `len` bytes; returns their number, zero at the end of the file.
    fn send(&mut self, socket: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
        let (len, mut offset) = (len.min(self.len), self.offset);
        let sent = match rustix::fs::sendfile(socket, &self.fd, Some(&mut offset), len) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => self.copy(socket, len)?,
            sent => sent?,
        };
        self.offset += sent as u64;
        self.len -= sent;
        Ok(sent)
    }

    /// Sends up to `len` bytes by a copy in this process; returns their number, zero at the end of
    /// the file.
    fn copy(&self, socket: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
        let mut copy = [0; COPY_BYTES];
        let copy = copy.get_mut(..len.min(COPY_BYTES)).unwrap_or_default();
        let read = rustix::io::pread(&self.fd, &mut *copy, self.offset)?;
        match copy.get(..read) {
            None | Some([]) => Ok(0),
            Some(bytes) => Ok(send(socket, bytes, SendFlags::NOSIGNAL)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn file(content: &[u8]) -> Arc<OwnedFd> {
        let fd = rustix::fs::memfd_create("part", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut file = std::fs::File::from(fd);
        file.write_all(content).unwrap();
        Arc::new(file.into())
    }

    #[test]
    fn stand_ins_are_replaced_by_their_parts_in_order() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (first, second) = (file(b"0123456789"), file(b"abcdef"));
        let output = FileOutput::default();
        assert!(!output.is_pending());
        let stand_ins = [output.push(first, 2, 5), output.push(second, 1, 3)];
        let mut written = output.write(ours.as_fd(), b"head ").unwrap();
        // hyper writes the rest of a slice again.
        written += output.write(ours.as_fd(), &stand_ins[0][..2]).unwrap();
        written += output.write(ours.as_fd(), &stand_ins[0][2..]).unwrap();
        assert!(output.is_pending());
        written += output.write(ours.as_fd(), stand_ins[1]).unwrap();
        assert!(!output.is_pending() && !output.is_truncated());
        drop(ours);
        let mut received = String::new();
        theirs.read_to_string(&mut received).unwrap();
        assert_eq!((received.as_str(), written), ("head 23456bcd", 13));
    }

    #[test]
    fn part_is_copied_where_sendfile_is_not_supported() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let part = QueuedPart { fd: file(&vec![7; COPY_BYTES + 1]), offset: 1, len: COPY_BYTES };
        assert_eq!(part.copy(ours.as_fd(), 10).unwrap(), 10);
        assert_eq!(part.copy(ours.as_fd(), COPY_BYTES).unwrap(), COPY_BYTES);
        let end = QueuedPart { offset: COPY_BYTES as u64 + 1, ..part };
        assert_eq!(end.copy(ours.as_fd(), 10).unwrap(), 0);
        drop(ours);
        let mut received = Vec::new();
        theirs.read_to_end(&mut received).unwrap();
        assert_eq!(received, vec![7; COPY_BYTES + 10]);
    }

    #[test]
    fn file_that_ends_within_its_part_is_an_error() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let output = FileOutput::default();
        let stand_in = output.push(file(b"short"), 0, 10);
        assert_eq!(output.write(ours.as_fd(), stand_in).unwrap(), 5);
        let error = output.write(ours.as_fd(), &stand_in[5..]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(output.is_truncated());
    }

    #[test]
    fn a_new_body_drops_unsent_parts_of_the_previous_one() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let output = FileOutput::default();
        output.push(file(b"first"), 0, 5);
        output.begin();
        assert!(!output.is_pending());
        let stand_in = output.push(file(b"other"), 0, 5);
        assert_eq!(output.write(ours.as_fd(), stand_in).unwrap(), 5);
        drop(ours);
        let mut received = String::new();
        theirs.read_to_string(&mut received).unwrap();
        assert_eq!(received, "other");
    }
}
