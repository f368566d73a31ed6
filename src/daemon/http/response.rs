//! A response's body as hyper takes it: what is there already, a stream from a worker, or a file.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use rustix::io::ReadWriteFlags;
use tokio::task::JoinHandle;

use crate::dispatch::{BodyStream, Fault, FilePart, StreamPiece};
use crate::journal::requests::{Access, Journal};
use crate::net::{Connection, Phase};

/// Bytes read from a file at a time.
const FILE_BLOCK: usize = 256 * 1024;

/// Where the bytes come from.
#[derive(Debug)]
pub(super) enum Source {
    /// Nothing (left).
    Empty,
    /// One piece.
    Bytes(Bytes),
    /// Several pieces.
    Parts(VecDeque<Bytes>),
    /// A worker, piece by piece.
    Stream(BodyStream),
    /// A file.
    File(FileReader),
}

/// The body of a response.
#[derive(Debug)]
pub(super) struct ResponseBody {
    source: Source,
    /// Goes idle when the body is through.
    connection: Arc<Connection>,
    /// Written to the journal when the body is through.
    access: Option<Box<PendingAccess>>,
}

/// An access-log entry that waits for the end of its body.
#[derive(Debug)]
pub(super) struct PendingAccess {
    pub(super) entry: Access,
    pub(super) begun: Instant,
    pub(super) journal: Journal,
}

/// Why a body ends before its end: hyper then breaks the connection, so that no client takes it for complete.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the exchange failed in mid-body: {0:?}")]
    Fault(Fault),
    #[error("cannot read the file")]
    File(#[source] io::Error),
}

impl ResponseBody {
    pub(super) fn new(
        source: Source,
        connection: Arc<Connection>,
        access: Option<Box<PendingAccess>>,
    ) -> Self {
        Self { source, connection, access }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let piece = loop {
            match &mut this.source {
                Source::Empty => break None,
                Source::Bytes(bytes) => {
                    let bytes = std::mem::take(bytes);
                    this.source = Source::Empty;
                    break Some(Ok(bytes));
                }
                Source::Parts(parts) => break parts.pop_front().map(Ok),
                Source::File(file) => match ready!(file.poll_read(cx)) {
                    Ok(None) => break None,
                    Ok(Some(bytes)) => break Some(Ok(bytes)),
                    Err(error) => break Some(Err(BodyError::File(error))),
                },
                Source::Stream(stream) => match ready!(stream.poll_piece(cx)) {
                    None => break None,
                    Some(Ok(StreamPiece::Bytes(bytes))) => break Some(Ok(bytes)),
                    Some(Ok(StreamPiece::File(file))) => this.source = Source::File(FileReader::new(file)),
                    Some(Err(fault)) => break Some(Err(BodyError::Fault(fault))),
                },
            }
        };
        if let (Some(access), Some(Ok(bytes))) = (&mut this.access, &piece) {
            access.entry.bytes += bytes.len() as u64;
        }
        Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Empty => true,
            Source::Bytes(bytes) => bytes.is_empty(),
            Source::Parts(parts) => parts.is_empty(),
            Source::Stream(_) | Source::File(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Parts(parts) => SizeHint::with_exact(parts.iter().map(|part| part.len() as u64).sum()),
            Source::File(file) => SizeHint::with_exact(file.left),
            Source::Stream(_) => SizeHint::default(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.connection.enter(Phase::Idle);
        if let Some(mut access) = self.access.take() {
            access.entry.duration = access.begun.elapsed();
            access.journal.access(access.entry);
        }
    }
}

/// Reads a file in blocks: on the reactor while its pages are in memory (`preadv2(2)` with `RWF_NOWAIT`), on a
/// blocking thread when the disk is needed.
#[derive(Debug)]
pub(super) struct FileReader {
    fd: Arc<OwnedFd>,
    offset: u64,
    left: u64,
    buffer: BytesMut,
    blocked: Option<JoinHandle<io::Result<Bytes>>>,
}

impl FileReader {
    pub(super) fn new(part: FilePart) -> Self {
        Self {
            fd: Arc::new(part.fd),
            offset: part.offset,
            left: part.len,
            buffer: BytesMut::new(),
            blocked: None,
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if self.left == 0 {
            return Poll::Ready(Ok(None));
        }
        let want = usize::try_from(self.left).unwrap_or(FILE_BLOCK).min(FILE_BLOCK);
        let bytes = match &mut self.blocked {
            Some(blocked) => {
                let read = ready!(Pin::new(blocked).poll(cx));
                self.blocked = None;
                read.map_err(io::Error::other)??
            }
            None => match self.read_now(want) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock || is_unsupported(&error) => {
                    let (fd, offset) = (Arc::clone(&self.fd), self.offset);
                    let mut blocked = tokio::task::spawn_blocking(move || read_block(&fd, offset, want));
                    let polled = Pin::new(&mut blocked).poll(cx);
                    self.blocked = Some(blocked);
                    let read = ready!(polled);
                    self.blocked = None;
                    read.map_err(io::Error::other)??
                }
                Err(error) => return Poll::Ready(Err(error)),
            },
        };
        if bytes.is_empty() {
            // The file has become shorter since its length was promised to the client.
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        self.offset += bytes.len() as u64;
        self.left -= bytes.len() as u64;
        Poll::Ready(Ok(Some(bytes)))
    }

    fn read_now(&mut self, want: usize) -> io::Result<Bytes> {
        // Reuses the block's memory when hyper has written out what was in it.
        self.buffer.reserve(FILE_BLOCK);
        self.buffer.resize(want, 0);
        let mut slices = [io::IoSliceMut::new(&mut self.buffer)];
        match rustix::io::preadv2(&*self.fd, &mut slices, self.offset, ReadWriteFlags::NOWAIT) {
            Ok(len) => {
                let block = self.buffer.split_to(len);
                self.buffer.clear();
                Ok(block.freeze())
            }
            Err(errno) => {
                self.buffer.clear();
                Err(errno.into())
            }
        }
    }
}

/// Some file systems do not know `RWF_NOWAIT`.
fn is_unsupported(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error())
}

fn read_block(fd: &OwnedFd, offset: u64, want: usize) -> io::Result<Bytes> {
    let mut block = vec![0; want];
    let len = loop {
        match rustix::io::pread(fd, &mut block, offset) {
            Err(rustix::io::Errno::INTR) => {}
            read => break read?,
        }
    };
    block.truncate(len);
    Ok(block.into())
}
