//! A response's body as hyper takes it: what is there already, a stream from a worker, or a file.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use rustix::io::ReadWriteFlags;
use tokio::task::JoinHandle;

use crate::budget::Reservation;
use crate::dispatch::{BodyPiece, BodyStream, Data, Dispatcher, Fault, FilePart};
use crate::error_chain::Chain;
use crate::journal::requests::{
    AccessEntry, FailureEntry, Journal, PartialResponse, UnansweredCause, UnansweredEntry,
};
use crate::net::{CloseReason, Connection, Phase};

use crate::http::context::{ConnContext, YIELD_AFTER_BYTES};
use crate::http::fault::Refusal;

/// Bytes read from a file at a time; and when memory is short.
const FILE_BLOCK: usize = 256 * 1024;
const SMALL_FILE_BLOCK: usize = 64 * 1024;

/// An answer whose length is not known beforehand has ended when no more than this waits to be written. What is cut
/// off then has no name in the journal, and must be less than a client's socket takes at once.
const MAX_UNSENT_AT_END: u64 = 64 * 1024;

/// Where the bytes come from.
#[derive(Debug)]
pub(in crate::http) enum BodySource {
    /// Nothing (left).
    Empty,
    /// One piece.
    Bytes(Data),
    /// A worker, piece by piece.
    Stream(BodyStream),
    /// The same, while a file that is a part of it is read.
    FileInStream(FileReader, BodyStream),
    /// A file.
    File(FileReader),
}

/// The body of a response.
#[derive(Debug)]
pub(in crate::http) struct ResponseBody {
    source: BodySource,
    /// Its connection goes idle when the body is through.
    context: Arc<ConnContext>,
    /// The application was told that its client has closed its sending half.
    sent_half_close: bool,
    /// For the journal: when the body has been written, or when it breaks off.
    record: Option<Box<AccessRecord>>,
    /// Bytes that are to come, if that is known.
    remaining: Option<u64>,
}

/// A piece of a body, as hyper writes it.
#[derive(Debug)]
pub(in crate::http) struct OutgoingData {
    data: Data,
    /// With the last piece: it is closed when that has been written, or the connection has ended.
    account: Option<Box<AccessRecord>>,
}

impl Buf for OutgoingData {
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.data.advance(count);
    }
}

impl Drop for OutgoingData {
    fn drop(&mut self) {
        if let Some(account) = self.account.take() {
            account.finish();
        }
    }
}

/// What is known of a request whose answer has begun.
#[derive(Debug)]
pub(in crate::http) struct AccessRecord {
    pub(in crate::http) entry: AccessEntry,
    pub(in crate::http) received_at: Instant,
    pub(in crate::http) context: Arc<ConnContext>,
    /// Whether a good end is told as well.
    pub(in crate::http) log_access: bool,
}

impl AccessRecord {
    /// The client has all of it, or has gone without.
    fn finish(self) {
        if self.context.connection.is_closed() {
            let cause = incomplete_cause(&self.context.connection);
            self.log_incomplete(cause);
        } else {
            self.log_complete();
        }
    }

    fn journal(&self) -> &Journal {
        &self.context.server.journal
    }

    fn log_complete(mut self) {
        if self.log_access {
            self.entry.duration = self.received_at.elapsed();
            let Self { entry, context: served, .. } = self;
            served.server.journal.access(entry);
        }
    }

    /// The connection ended first.
    fn log_incomplete(self, cause: UnansweredCause) {
        let journal = self.journal().clone();
        let unsent = self.context.connection.output.unsent();
        let AccessEntry { request, status, bytes, worker, .. } = self.entry;
        let bytes = bytes.saturating_sub(unsent);
        journal.unanswered(UnansweredEntry {
            request,
            sent: Some(PartialResponse { status, bytes }),
            duration: self.received_at.elapsed(),
            worker,
            cause,
            log_access: self.log_access,
        });
    }

    /// The client has the head, so the journal is all that is left to tell.
    fn log_failure(self, error: &BodyError) {
        if matches!(error, BodyError::Fault(Fault::ClientHalfClosed)) {
            return self.log_incomplete(UnansweredCause::ClientClosed);
        }
        // Of a request over its deadline the supervising side writes the one entry, when it has the stacks.
        if matches!(error, BodyError::Fault(Fault::Deadline(_))) {
            return;
        }
        let (summary, traceback) = match error {
            BodyError::Fault(Fault::Raised { summary, traceback, .. }) => {
                (summary.clone(), traceback.clone())
            }
            BodyError::Fault(fault) => (Refusal::Exchange(fault.clone()).to_response().reason, String::new()),
            BodyError::File(_) => (Chain(error).to_string(), String::new()),
        };
        let journal = self.journal().clone();
        let AccessEntry { request, status, worker, .. } = self.entry;
        journal.failure(FailureEntry {
            request,
            status,
            duration: self.received_at.elapsed(),
            worker,
            summary: format!("broken off in mid-body: {summary}"),
            traceback,
            log_access: self.log_access,
        });
    }
}

/// Why a body ends before its end: hyper then breaks the connection, so that no client takes it for complete.
#[derive(Debug, thiserror::Error)]
pub(in crate::http) enum BodyError {
    #[error("the exchange failed in mid-body: {0:?}")]
    Fault(Fault),
    #[error("cannot read the file")]
    File(#[source] io::Error),
}

impl ResponseBody {
    /// `declared` is what the head says of its length.
    pub(in crate::http) fn new(
        source: BodySource,
        served: Arc<ConnContext>,
        account: Option<Box<AccessRecord>>,
        declared: Option<u64>,
    ) -> Self {
        let mut body =
            Self { source, context: served, sent_half_close: false, record: account, remaining: None };
        if body.record.is_some() {
            body.context.connection.output.begin_body();
            body.remaining = declared.or_else(|| body.size_hint().exact());
        }
        body
    }

    /// Is enough of it with hyper for now, because memory is short? Its task comes again when that has been written.
    fn must_wait_for_write(&self) -> bool {
        let ConnContext { server, connection, .. } = &*self.context;
        match &self.source {
            BodySource::Stream(_) | BodySource::FileInStream(..) | BodySource::File(_) => {
                server.dispatcher.response_memory().is_tight() && connection.output.unsent() > 0
            }
            BodySource::Empty | BodySource::Bytes(_) => false,
        }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Data>, BodyError>>> {
        loop {
            match &mut self.source {
                BodySource::Empty => return Poll::Ready(None),
                BodySource::Bytes(_) => {
                    let BodySource::Bytes(data) = std::mem::replace(&mut self.source, BodySource::Empty)
                    else {
                        continue;
                    };
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                BodySource::File(file) => {
                    let read = ready!(file.poll_read(cx));
                    return Poll::Ready(
                        read.map_err(BodyError::File).transpose().map(|it| it.map(Frame::data)),
                    );
                }
                BodySource::FileInStream(file, _) => match ready!(file.poll_read(cx)) {
                    Ok(Some(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                    Ok(None) => {
                        if let BodySource::FileInStream(_, stream) =
                            std::mem::replace(&mut self.source, BodySource::Empty)
                        {
                            self.source = BodySource::Stream(stream);
                        }
                    }
                    Err(error) => return Poll::Ready(Some(Err(BodyError::File(error)))),
                },
                BodySource::Stream(stream)
                    if self.context.connection.is_half_closed() && !self.sent_half_close =>
                {
                    self.sent_half_close = true;
                    stream.half_close();
                }
                BodySource::Stream(stream) => {
                    let piece = match ready!(stream.poll_piece(cx)) {
                        None => return Poll::Ready(None),
                        Some(Err(fault)) => return Poll::Ready(Some(Err(BodyError::Fault(fault)))),
                        Some(Ok(piece)) => piece,
                    };
                    let (dispatcher, is_last) = (stream.dispatcher(), stream.is_settled());
                    match piece {
                        BodyPiece::Bytes(data) => {
                            if is_last {
                                self.source = BodySource::Empty;
                            }
                            return Poll::Ready(Some(Ok(Frame::data(data))));
                        }
                        // Trailers may follow a file, or why the rest never comes.
                        BodyPiece::File(file) | BodyPiece::Spilled(file) => {
                            let file = FileReader::new(file, dispatcher);
                            if let BodySource::Stream(stream) =
                                std::mem::replace(&mut self.source, BodySource::Empty)
                            {
                                self.source = BodySource::FileInStream(file, stream);
                            }
                        }
                        // hyper sends those that the head's `Trailer` names, to clients that say `TE: trailers`.
                        BodyPiece::Trailers(trailers) => {
                            return Poll::Ready(Some(Ok(Frame::trailers(*trailers))));
                        }
                    }
                }
            }
        }
    }

    /// What goes to hyper; with the last piece the account goes along.
    fn to_outgoing(&mut self, data: Data) -> OutgoingData {
        let Some(account) = &mut self.record else { return OutgoingData { data, account: None } };
        let len = data.len() as u64;
        account.entry.bytes += len;
        self.context.connection.output.add_queued(data.len());
        self.remaining = self.remaining.map(|left| left.saturating_sub(len));
        let is_last = self.remaining == Some(0) || matches!(self.source, BodySource::Empty);
        OutgoingData { data, account: if is_last { self.record.take() } else { None } }
    }
}

impl Body for ResponseBody {
    type Data = OutgoingData;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<OutgoingData>, BodyError>>> {
        let this = &mut *self;
        if this.must_wait_for_write() {
            this.context.connection.output.request_wake();
            return Poll::Pending;
        }
        let piece = ready!(this.poll_piece(cx));
        match &piece {
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                this.context.connection.mark_reset();
                if let Some(account) = this.record.take() {
                    account.log_failure(error);
                }
            }
            None => {
                let connection = &this.context.connection;
                if this.record.is_some() && connection.output.unsent() > MAX_UNSENT_AT_END {
                    connection.output.request_wake();
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(piece.map(|piece| piece.map(|frame| frame.map_data(|data| this.to_outgoing(data)))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            BodySource::Empty => true,
            BodySource::Bytes(data) => data.is_empty(),
            BodySource::Stream(_) | BodySource::FileInStream(..) | BodySource::File(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            BodySource::Empty => SizeHint::with_exact(0),
            BodySource::Bytes(data) => SizeHint::with_exact(data.len() as u64),
            BodySource::File(FileReader { left: Some(left), .. }) => SizeHint::with_exact(*left),
            BodySource::Stream(stream) => {
                stream.body_len().map_or_else(SizeHint::default, SizeHint::with_exact)
            }
            BodySource::File(_) | BodySource::FileInStream(..) => SizeHint::default(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // hyper drops it when it has all of it (it may know the length before it has seen the end), or because it
        // needs none (a HEAD's answer): while the connection goes on. Otherwise only with the connection.
        if let Some(account) = self.record.take() {
            account.finish();
        }
        self.context.connection.set_phase(Phase::Idle);
    }
}

/// Why a request on this connection, which is over, has no answer, or not all of it.
pub(in crate::http) fn incomplete_cause(connection: &Connection) -> UnansweredCause {
    match connection.close_reason() {
        CloseReason::ClientClosed => UnansweredCause::ClientClosed,
        CloseReason::WriteTimeout => UnansweredCause::WriteTimeout,
        CloseReason::Shutdown => UnansweredCause::Shutdown,
    }
}

/// Reads a file in blocks: on the reactor while its pages are in memory (`preadv2(2)` with `RWF_NOWAIT`), on a
/// blocking thread when the disk is needed.
#[derive(Debug)]
pub(in crate::http) struct FileReader {
    fd: Arc<OwnedFd>,
    offset: u64,
    /// `None`: as much as there is.
    left: Option<u64>,
    blocking_read: Option<JoinHandle<io::Result<Bytes>>>,
    /// Bytes since others had their turn.
    bytes_since_yield: usize,
    /// Who else has something to do.
    dispatcher: &'static Dispatcher,
    /// The file's room on the disk, if it is the daemon's own: free when the file is closed.
    _held: Option<Reservation>,
}

impl FileReader {
    pub(in crate::http) fn new(part: FilePart, dispatcher: &'static Dispatcher) -> Self {
        let FilePart { fd, offset, len, reservation: held } = part;
        Self { fd, offset, left: len, blocking_read: None, bytes_since_yield: 0, dispatcher, _held: held }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Data>>> {
        if self.left == Some(0) {
            return Poll::Ready(Ok(None));
        }
        if self.bytes_since_yield >= YIELD_AFTER_BYTES {
            // A client that reads as fast as this would keep the reactor for megabytes, and its turn from ending.
            self.bytes_since_yield = 0;
            self.dispatcher.poll_now();
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let memory = self.dispatcher.response_memory();
        let most = if memory.is_tight() { SMALL_FILE_BLOCK } else { FILE_BLOCK };
        let want = self.left.and_then(|left| usize::try_from(left).ok()).unwrap_or(most).min(most);
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
            return Poll::Ready(match self.left.replace(0) {
                None => Ok(None),
                // The file has become shorter since its length was promised to the client.
                Some(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            });
        }
        self.offset = self.offset.saturating_add(bytes.len() as u64);
        self.left = self.left.map(|left| left.saturating_sub(bytes.len() as u64));
        self.bytes_since_yield += bytes.len();
        let held = memory.charge(bytes.len() as u64);
        Poll::Ready(Ok(Some(Data::with_reservation(bytes, Some(held)))))
    }

    fn read_now(&self, want: usize) -> io::Result<Bytes> {
        let mut block = FileBlock::take(want);
        let mut slices = [io::IoSliceMut::new(block.space(want))];
        let len = rustix::io::preadv2(&*self.fd, &mut slices, self.offset, ReadWriteFlags::NOWAIT)?;
        Ok(block.into_bytes(len))
    }
}

/// A block of [`FILE_BLOCK`] bytes that returns to a small store when hyper has written it out: a fresh one would
/// be mapped, zeroed, faulted in and unmapped each time, which costs more than reading the file.
#[derive(Debug)]
struct FileBlock {
    bytes: Box<[u8]>,
    len: usize,
}

/// Blocks that wait for their next use; at most [`SPARE_BLOCKS`], so that a burst of downloads is not remembered
/// for ever.
static FREE_BLOCKS: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());
const MAX_FREE_BLOCKS: usize = 8;

impl FileBlock {
    fn take(want: usize) -> Self {
        if want <= SMALL_FILE_BLOCK {
            return Self { bytes: vec![0; want].into_boxed_slice(), len: 0 };
        }
        let spare = FREE_BLOCKS.lock().unwrap_or_else(PoisonError::into_inner).pop();
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

impl AsRef<[u8]> for FileBlock {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl Drop for FileBlock {
    fn drop(&mut self) {
        if self.bytes.len() < FILE_BLOCK {
            return;
        }
        let mut spare = FREE_BLOCKS.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < MAX_FREE_BLOCKS {
            spare.push(std::mem::take(&mut self.bytes));
        }
    }
}

/// Some file systems do not know `RWF_NOWAIT`.
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
