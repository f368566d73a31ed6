//! Reads a file as a response's body, in blocks.

use std::future::Future;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use rustix::io::ReadWriteFlags;
use tokio::task::JoinHandle;

use crate::budget::Reservation;
use crate::dispatch::{Data, Dispatcher, FilePart};
use crate::http::context::YIELD_AFTER_BYTES;
use crate::net::{Connection, MAX_FILE_PART};

/// Bytes read at a time.
const FILE_BLOCK: usize = MAX_FILE_PART;
/// Distance in bytes between the positions at which [`is_cached`] looks for pages in memory.
const PROBE_INTERVAL: usize = 64 * 1024;
/// Bytes read at a time while memory is short.
const SMALL_FILE_BLOCK: usize = 64 * 1024;
/// Size in bytes of the buffers for small files.
const SMALLEST_BLOCK: usize = 16 * 1024;

/// Reads a file in blocks: on the reactor while its pages are in memory (`preadv2(2)` with
/// `RWF_NOWAIT`), on a blocking thread when the disk is needed.
#[derive(Debug)]
pub(in crate::http) struct FileReader {
    fd: Arc<OwnedFd>,
    offset: u64,
    /// Bytes to read; `None`: to the end of the file.
    remaining: Option<u64>,
    /// The read in progress on a blocking thread, because the pages were not in memory.
    blocking_read: Option<JoinHandle<io::Result<Bytes>>>,
    /// Bytes read since the task last yielded.
    bytes_since_yield: usize,
    /// Polled when the task yields.
    dispatcher: &'static Dispatcher,
    /// The connection on which the kernel sends the parts that are in memory; `None`: hyper gets
    /// all bytes.
    direct: Option<Arc<Connection>>,
    /// A part was queued on `direct`.
    has_begun_direct: bool,
    /// The disk space of a spooled file; released when the file is closed.
    reservation: Option<Reservation>,
}

impl FileReader {
    pub(in crate::http) fn new(part: FilePart, dispatcher: &'static Dispatcher) -> Self {
        let FilePart { fd, offset, len, reservation } = part;
        Self {
            fd,
            offset,
            remaining: len,
            blocking_read: None,
            bytes_since_yield: 0,
            dispatcher,
            direct: None,
            has_begun_direct: false,
            reservation,
        }
    }

    /// Reads a range of a file.
    pub(in crate::http) fn of_range(
        fd: Arc<OwnedFd>,
        range: Range<u64>,
        dispatcher: &'static Dispatcher,
    ) -> Self {
        let len = Some(range.end.saturating_sub(range.start));
        Self::new(FilePart { fd, offset: range.start, len, reservation: None }, dispatcher)
    }

    /// Lets the kernel send the file (see [`FileOutput`](crate::net::FileOutput)), unless it is
    /// small or spooled. Must be called only if hyper writes the body to the connection's socket
    /// unchanged: over HTTP/1, without TLS and without compression.
    pub(in crate::http) fn send_directly(&mut self, connection: &Arc<Connection>) {
        let is_large = self.remaining.is_some_and(|remaining| remaining > SMALL_FILE_BLOCK as u64);
        if is_large && self.reservation.is_none() {
            self.direct = Some(Arc::clone(connection));
        }
    }

    /// Returns the number of bytes still to be read; `None` if unknown.
    pub(super) fn remaining(&self) -> Option<u64> {
        self.remaining
    }

    /// Reads the next block; `None` at the end.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Data>>> {
        if self.remaining == Some(0) {
            return Poll::Ready(Ok(None));
        }
        if self.bytes_since_yield >= YIELD_AFTER_BYTES {
            // A fast client must not keep the reactor from its other tasks and from worker
            // completions.
            self.bytes_since_yield = 0;
            self.dispatcher.poll_now();
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let memory = self.dispatcher.response_memory();
        let block = if memory.is_tight() { SMALL_FILE_BLOCK } else { FILE_BLOCK };
        let want =
            self.remaining.and_then(|remaining| usize::try_from(remaining).ok()).unwrap_or(block).min(block);
        if let Some(stand_in) = self.queue_direct(want) {
            return Poll::Ready(Ok(Some(stand_in)));
        }
        let bytes = match &mut self.blocking_read {
            Some(blocked) => {
                let read = ready!(Pin::new(blocked).poll(cx));
                self.blocking_read = None;
                read.map_err(io::Error::other)??
            }
            None => match self.read_now(want) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock || is_unsupported(&error) => {
                    let (fd, offset) = (Arc::clone(&self.fd), self.offset);
                    let mut blocked = tokio::task::spawn_blocking(move || read_block(&fd, offset, want));
                    let polled = Pin::new(&mut blocked).poll(cx);
                    self.blocking_read = Some(blocked);
                    let read = ready!(polled);
                    self.blocking_read = None;
                    read.map_err(io::Error::other)??
                }
                Err(error) => return Poll::Ready(Err(error)),
            },
        };
        if bytes.is_empty() {
            return Poll::Ready(match self.remaining.replace(0) {
                None => Ok(None),
                // The file was truncated after its length was sent to the client.
                Some(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            });
        }
        self.advance(bytes.len());
        let reservation = memory.charge(bytes.len() as u64);
        Poll::Ready(Ok(Some(Data::with_reservation(bytes, Some(reservation)))))
    }

    fn advance(&mut self, bytes: usize) {
        self.offset = self.offset.saturating_add(bytes as u64);
        self.remaining = self.remaining.map(|remaining| remaining.saturating_sub(bytes as u64));
        self.bytes_since_yield += bytes;
    }

    /// Queues the next `want` bytes for the kernel and returns their stand-in; `None` if they must
    /// be read.
    fn queue_direct(&mut self, want: usize) -> Option<Data> {
        let connection = self.direct.as_ref()?;
        if self.blocking_read.is_some() || !is_cached(&self.fd, self.offset, want) {
            return None;
        }
        let files = &connection.output.files;
        if !self.has_begun_direct {
            // hyper has encoded the head of this response, so it has written the whole previous
            // response.
            files.begin();
            self.has_begun_direct = true;
        }
        let stand_in = files.push(Arc::clone(&self.fd), self.offset, want);
        self.advance(stand_in.len());
        Some(Data::with_reservation(Bytes::from_static(stand_in), None))
    }

    fn read_now(&self, want: usize) -> io::Result<Bytes> {
        read_cached(&self.fd, self.offset, want)
    }
}

/// Returns the bytes of a small range whose pages are in memory; `None` if a [`FileReader`] must
/// read the range.
pub(in crate::http) fn read_small(
    fd: &OwnedFd,
    range: &Range<u64>,
    dispatcher: &'static Dispatcher,
) -> Option<Data> {
    let len = usize::try_from(range.end.checked_sub(range.start)?).ok()?;
    let memory = dispatcher.response_memory();
    if len > SMALL_FILE_BLOCK || memory.is_tight() {
        return None;
    }
    // A short read means that a page is missing or that the file was truncated. A `FileReader`
    // finds out which, and logs errors.
    let bytes = read_cached(fd, range.start, len).ok().filter(|bytes| bytes.len() == len)?;
    let reservation = memory.charge(len.max(SMALLEST_BLOCK) as u64);
    Some(Data::with_reservation(bytes, Some(reservation)))
}

/// True if all bytes exist and are probably in memory. Probes one byte in each [`PROBE_INTERVAL`]
/// and the last byte: the kernel reads and evicts pages in groups.
fn is_cached(fd: &OwnedFd, offset: u64, len: usize) -> bool {
    let is_in_memory = |position: usize| {
        let (mut byte, at) = ([0], offset.saturating_add(position as u64));
        let mut slices = [io::IoSliceMut::new(&mut byte)];
        rustix::io::preadv2(fd, &mut slices, at, ReadWriteFlags::NOWAIT) == Ok(1)
    };
    (0..len).step_by(PROBE_INTERVAL).chain(len.checked_sub(1)).all(is_in_memory)
}

/// Reads from the page cache; fails with `WouldBlock` if the pages are not in memory.
fn read_cached(fd: &OwnedFd, offset: u64, want: usize) -> io::Result<Bytes> {
    let mut block = FileBlock::take(want);
    let mut slices = [io::IoSliceMut::new(block.space(want))];
    let len = rustix::io::preadv2(fd, &mut slices, offset, ReadWriteFlags::NOWAIT)?;
    Ok(block.into_bytes(len))
}

/// A buffer with bytes of a file. Buffers of the sizes in [`FREE_BLOCKS`] are reused after their
/// bytes were written: to map, zero, fault in and unmap a new one costs more than reading the file.
#[derive(Debug)]
struct FileBlock {
    bytes: Box<[u8]>,
    len: usize,
}

/// Free buffers of one size.
struct FreeBlocks {
    /// Size of each buffer in bytes.
    size: usize,
    /// Maximum number of buffers, so that memory is freed after a burst of downloads.
    max: usize,
    blocks: Mutex<Vec<Box<[u8]>>>,
}

/// The buffers that can be reused.
static FREE_BLOCKS: [FreeBlocks; 2] = [
    FreeBlocks { size: SMALLEST_BLOCK, max: 64, blocks: Mutex::new(Vec::new()) },
    FreeBlocks { size: FILE_BLOCK, max: 8, blocks: Mutex::new(Vec::new()) },
];

impl FileBlock {
    fn take(want: usize) -> Self {
        let size = if want <= SMALLEST_BLOCK {
            SMALLEST_BLOCK
        } else if want <= SMALL_FILE_BLOCK {
            want
        } else {
            FILE_BLOCK
        };
        let free = FREE_BLOCKS.iter().find(|free| free.size == size);
        let kept = free.and_then(|free| free.blocks.lock().unwrap_or_else(PoisonError::into_inner).pop());
        Self { bytes: kept.unwrap_or_else(|| vec![0; size].into_boxed_slice()), len: 0 }
    }

    fn space(&mut self, want: usize) -> &mut [u8] {
        let len = want.min(self.bytes.len());
        self.bytes.get_mut(..len).unwrap_or_default()
    }

    fn into_bytes(mut self, len: usize) -> Bytes {
        self.len = len;
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for FileBlock {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl Drop for FileBlock {
    fn drop(&mut self) {
        let Some(free) = FREE_BLOCKS.iter().find(|free| free.size == self.bytes.len()) else { return };
        let mut blocks = free.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if blocks.len() < free.max {
            blocks.push(std::mem::take(&mut self.bytes));
        }
    }
}

/// True if the file system does not support `RWF_NOWAIT`.
fn is_unsupported(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error())
}

fn read_block(fd: &OwnedFd, offset: u64, want: usize) -> io::Result<Bytes> {
    let mut block = FileBlock::take(want);
    let len = loop {
        match rustix::io::pread(fd, block.space(want), offset) {
            Err(rustix::io::Errno::INTR) => {}
            read => break read?,
        }
    };
    Ok(block.into_bytes(len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_is_reused_and_holds_only_what_was_read() {
        let file = std::fs::File::open("/dev/zero").unwrap().into();
        for want in [1, SMALLEST_BLOCK, SMALLEST_BLOCK + 1, SMALL_FILE_BLOCK, SMALL_FILE_BLOCK + 1] {
            let bytes = read_block(&file, 0, want).unwrap();
            assert!(bytes.len() == want && bytes.iter().all(|byte| *byte == 0), "{want}");
            drop(bytes);
            let block = FileBlock::take(want);
            assert!(block.as_ref().is_empty() && block.bytes.len() >= want.min(FILE_BLOCK), "{want}");
        }
    }
}
