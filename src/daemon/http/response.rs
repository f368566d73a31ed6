//! A response's body as hyper takes it: what is there already, a stream from a worker, or a file.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use rustix::io::ReadWriteFlags;
use tokio::task::JoinHandle;

use crate::dispatch::{BodyStream, Dispatcher, Fault, FilePart, StreamPiece};
use crate::journal::requests::{Access, Cause, Failure, Journal, Sent, Unanswered};
use crate::net::{Connection, Ending, Phase};
use crate::report::Chain;

use super::TURN;
use super::fault::Refusal;
use super::server::Served;

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
    /// A file, and what follows it: trailers, or why the rest never comes.
    File(Box<(FileReader, Option<BodyStream>)>),
}

/// The body of a response.
#[derive(Debug)]
pub(super) struct ResponseBody {
    source: Source,
    /// Its connection goes idle when the body is through.
    served: Arc<Served>,
    /// The application was told that its client has closed its sending half.
    knows_half_close: bool,
    /// For the journal: when the body is through, or when it breaks off.
    account: Option<Box<Account>>,
}

/// What is known of a request whose answer has begun.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) entry: Access,
    pub(super) begun: Instant,
    pub(super) journal: Journal,
    /// Whether a good end is told as well.
    pub(super) log_access: bool,
}

impl Account {
    fn close(mut self) {
        if self.log_access {
            self.entry.duration = self.begun.elapsed();
            self.journal.access(self.entry);
        }
    }

    /// The connection ended first.
    fn unfinished(self, cause: Cause) {
        let Access { request, status, bytes, worker, .. } = self.entry;
        self.journal.unanswered(Unanswered {
            request,
            sent: Some(Sent { status, bytes }),
            duration: self.begun.elapsed(),
            worker,
            cause,
            log_access: self.log_access,
        });
    }

    /// The client has the head, so the journal is all that is left to tell.
    fn broke_off(self, error: &BodyError) {
        if matches!(error, BodyError::Fault(Fault::Left)) {
            return self.unfinished(Cause::Left);
        }
        // Of a request over its deadline the supervising side writes the one entry, when it has the stacks.
        if matches!(error, BodyError::Fault(Fault::Deadline(_))) {
            return;
        }
        let (summary, traceback) = match error {
            BodyError::Fault(Fault::Raised { summary, traceback, .. }) => {
                (summary.clone(), traceback.clone())
            }
            BodyError::Fault(fault) => (Refusal::Exchange(fault.clone()).told().reason, String::new()),
            BodyError::File(_) => (Chain(error).to_string(), String::new()),
        };
        let Access { request, status, worker, .. } = self.entry;
        self.journal.failure(Failure {
            request,
            status,
            duration: self.begun.elapsed(),
            worker,
            summary: format!("broken off in mid-body: {summary}"),
            traceback,
            log_access: self.log_access,
        });
    }
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
    pub(super) fn new(source: Source, served: Arc<Served>, account: Option<Box<Account>>) -> Self {
        Self { source, served, knows_half_close: false, account }
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
                Source::File(file) => match (ready!(file.0.poll_read(cx)), file.1.take()) {
                    (Ok(None), None) => break None,
                    (Ok(None), Some(stream)) => this.source = Source::Stream(stream),
                    (Ok(Some(bytes)), stream) => {
                        file.1 = stream;
                        break Some(Ok(bytes));
                    }
                    (Err(error), _) => break Some(Err(BodyError::File(error))),
                },
                Source::Stream(stream)
                    if this.served.connection.is_half_closed() && !this.knows_half_close =>
                {
                    this.knows_half_close = true;
                    stream.half_close();
                }
                Source::Stream(stream) => match ready!(stream.poll_piece(cx)) {
                    None => break None,
                    Some(Ok(StreamPiece::Bytes(bytes))) => break Some(Ok(bytes)),
                    Some(Ok(StreamPiece::File(file))) => {
                        let reader = FileReader::new(file, stream.dispatcher());
                        if let Source::Stream(stream) = std::mem::replace(&mut this.source, Source::Empty) {
                            this.source = Source::File(Box::new((reader, Some(stream))));
                        }
                    }
                    // hyper sends those that the head's `Trailer` names, to clients that say `TE: trailers`.
                    Some(Ok(StreamPiece::Trailers(trailers))) => {
                        return Poll::Ready(Some(Ok(Frame::trailers(*trailers))));
                    }
                    Some(Err(fault)) => break Some(Err(BodyError::Fault(fault))),
                },
            }
        };
        match &piece {
            Some(Ok(bytes)) => {
                if let Some(account) = &mut this.account {
                    account.entry.bytes += bytes.len() as u64;
                }
            }
            Some(Err(error)) => {
                this.served.connection.breaks_off();
                if let Some(account) = this.account.take() {
                    account.broke_off(error);
                }
            }
            None => {}
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
            Source::File(file) => match **file {
                (FileReader { left: Some(left), .. }, None) => SizeHint::with_exact(left),
                _ => SizeHint::default(),
            },
            Source::Stream(_) => SizeHint::default(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // hyper drops it when it has all of it (it may know the length before it has seen the end), or because it
        // needs none (a HEAD's answer): while the connection goes on. Otherwise only with the connection.
        if let Some(account) = self.account.take() {
            if self.served.connection.is_over() {
                account.unfinished(cause(&self.served.connection));
            } else {
                account.close();
            }
        }
        self.served.connection.enter(Phase::Idle);
    }
}

/// Why a request on this connection, which is over, has no answer, or not all of it.
pub(super) fn cause(connection: &Connection) -> Cause {
    match connection.ending() {
        Ending::Left => Cause::Left,
        Ending::Unread => Cause::Unread,
        Ending::Stopped => Cause::Stopped,
    }
}

/// Reads a file in blocks: on the reactor while its pages are in memory (`preadv2(2)` with `RWF_NOWAIT`), on a
/// blocking thread when the disk is needed.
#[derive(Debug)]
pub(super) struct FileReader {
    fd: Arc<OwnedFd>,
    offset: u64,
    /// `None`: as much as there is.
    left: Option<u64>,
    blocked: Option<JoinHandle<io::Result<Bytes>>>,
    /// Bytes since others had their turn.
    taken: usize,
    /// Who else has something to do.
    dispatcher: &'static Dispatcher,
}

impl FileReader {
    pub(super) fn new(part: FilePart, dispatcher: &'static Dispatcher) -> Self {
        let FilePart { fd, offset, len } = part;
        Self { fd: Arc::new(fd), offset, left: len, blocked: None, taken: 0, dispatcher }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if self.left == Some(0) {
            return Poll::Ready(Ok(None));
        }
        if self.taken >= TURN {
            // A client that reads as fast as this would keep the reactor for megabytes, and its turn from ending.
            self.taken = 0;
            self.dispatcher.look();
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let want =
            self.left.and_then(|left| usize::try_from(left).ok()).unwrap_or(FILE_BLOCK).min(FILE_BLOCK);
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
            return Poll::Ready(match self.left.replace(0) {
                None => Ok(None),
                // The file has become shorter since its length was promised to the client.
                Some(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            });
        }
        self.offset = self.offset.saturating_add(bytes.len() as u64);
        self.left = self.left.map(|left| left.saturating_sub(bytes.len() as u64));
        self.taken += bytes.len();
        Poll::Ready(Ok(Some(bytes)))
    }

    fn read_now(&self, want: usize) -> io::Result<Bytes> {
        let mut block = Block::take();
        let mut slices = [io::IoSliceMut::new(block.space(want))];
        let len = rustix::io::preadv2(&*self.fd, &mut slices, self.offset, ReadWriteFlags::NOWAIT)?;
        Ok(block.into_bytes(len))
    }
}

/// A block of [`FILE_BLOCK`] bytes that returns to a small store when hyper has written it out: a fresh one would
/// be mapped, zeroed, faulted in and unmapped each time, which costs more than reading the file.
#[derive(Debug)]
struct Block {
    bytes: Box<[u8]>,
    len: usize,
}

/// Blocks that wait for their next use; at most [`SPARE_BLOCKS`], so that a burst of downloads is not remembered
/// for ever.
static SPARE: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());
const SPARE_BLOCKS: usize = 8;

impl Block {
    fn take() -> Self {
        let spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Self { bytes: spare.unwrap_or_else(|| vec![0; FILE_BLOCK].into_boxed_slice()), len: 0 }
    }

    fn space(&mut self, want: usize) -> &mut [u8] {
        let most = want.min(self.bytes.len());
        self.bytes.get_mut(..most).unwrap_or_default()
    }

    fn into_bytes(mut self, len: usize) -> Bytes {
        self.len = len;
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE_BLOCKS {
            spare.push(std::mem::take(&mut self.bytes));
        }
    }
}

/// Some file systems do not know `RWF_NOWAIT`.
fn is_unsupported(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error())
}

fn read_block(fd: &OwnedFd, offset: u64, want: usize) -> io::Result<Bytes> {
    let mut block = Block::take();
    let len = loop {
        match rustix::io::pread(fd, block.space(want), offset) {
            Err(rustix::io::Errno::INTR) => {}
            read => break read?,
        }
    };
    Ok(block.into_bytes(len))
}
