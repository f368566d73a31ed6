//! The body of a response: bytes in memory, a stream from a worker, or a file.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};

use crate::dispatch::{BodyPiece, BodyStream, Data};
use crate::http::access_log::AccessRecord;
use crate::http::compression::body::CompressedBody;
use crate::http::context::ConnContext;
use crate::net::{Connection, Phase};

use super::error::BodyError;
use super::file::FileReader;
use super::multipart::MultipartReader;

/// Maximum number of unwritten bytes at which a body of unknown length is ended. The journal cannot
/// report the loss of these bytes, so they must fit into a client's socket buffer.
const MAX_UNSENT_AT_END: u64 = 64 * 1024;

/// The source of a body's bytes.
#[derive(Debug)]
pub(in crate::http) enum BodySource {
    /// No bytes are left.
    Empty,
    /// Bytes in memory.
    Bytes(Data),
    /// A stream from a worker.
    Stream(BodyStream),
    /// A file that is one part of a stream; the stream continues after it.
    FileInStream(Box<FileReader>, BodyStream),
    /// A file, or one range of it.
    File(Box<FileReader>),
    /// Several ranges of a file.
    Multipart(Box<MultipartReader>),
    /// Another source, compressed.
    Compressed(Box<CompressedBody<Self>>),
}

impl BodySource {
    /// Returns the number of bytes; `None` if it is unknown.
    pub(in crate::http) fn len(&self) -> Option<u64> {
        match self {
            Self::Empty => Some(0),
            Self::Bytes(data) => Some(data.len() as u64),
            Self::Stream(stream) => stream.body_len(),
            Self::File(file) => file.remaining(),
            Self::Multipart(parts) => Some(parts.remaining()),
            Self::FileInStream(..) | Self::Compressed(_) => None,
        }
    }

    /// Returns the next piece; `None` at the end. `sent_half_close`: the application was notified
    /// that the client shut down its sending half.
    fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        connection: &Connection,
        sent_half_close: &mut bool,
    ) -> Poll<Option<Result<Frame<Data>, BodyError>>> {
        loop {
            match self {
                Self::Empty => return Poll::Ready(None),
                Self::Compressed(body) => {
                    let poll_source = |source: &mut Self, cx: &mut Context<'_>| {
                        source.poll_piece(cx, connection, sent_half_close)
                    };
                    let piece = ready!(body.poll_piece(cx, poll_source));
                    if body.is_done() {
                        *self = Self::Empty;
                    }
                    return Poll::Ready(piece);
                }
                Self::Bytes(_) => {
                    let Self::Bytes(data) = std::mem::replace(self, Self::Empty) else {
                        continue;
                    };
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Self::File(file) => {
                    let read = ready!(file.poll_read(cx)).map_err(BodyError::File);
                    return Poll::Ready(read.transpose().map(|data| data.map(Frame::data)));
                }
                Self::Multipart(parts) => {
                    let read = ready!(parts.poll_read(cx)).map_err(BodyError::File);
                    return Poll::Ready(read.transpose().map(|data| data.map(Frame::data)));
                }
                Self::FileInStream(file, _) => {
                    let read = ready!(file.poll_read(cx)).map_err(BodyError::File);
                    if let Some(data) = read.transpose() {
                        return Poll::Ready(Some(data.map(Frame::data)));
                    }
                    self.resume_stream();
                }
                Self::Stream(stream) => {
                    if connection.is_half_closed() && !*sent_half_close {
                        *sent_half_close = true;
                        stream.half_close();
                    }
                    let piece = match ready!(stream.poll_piece(cx)) {
                        None => return Poll::Ready(None),
                        Some(Err(fault)) => return Poll::Ready(Some(Err(BodyError::Fault(fault)))),
                        Some(Ok(piece)) => piece,
                    };
                    if let Some(frame) = self.take_piece(piece) {
                        return Poll::Ready(Some(Ok(frame)));
                    }
                }
            }
        }
    }

    /// Returns a stream's piece as a frame; `None` for a file, which becomes the source.
    fn take_piece(&mut self, piece: BodyPiece) -> Option<Frame<Data>> {
        let Self::Stream(stream) = self else { return None };
        match piece {
            BodyPiece::Bytes(data) => {
                if stream.is_settled() {
                    *self = Self::Empty;
                }
                Some(Frame::data(data))
            }
            BodyPiece::File(file) | BodyPiece::Spilled(file) => {
                let file = Box::new(FileReader::new(*file, stream.dispatcher()));
                // The stream is kept: trailers or an error may follow the file.
                if let Self::Stream(stream) = std::mem::replace(self, Self::Empty) {
                    *self = Self::FileInStream(file, stream);
                }
                None
            }
            // With HTTP/1, hyper sends only trailers that the head's `Trailer` names, and only
            // after `TE: trailers`.
            BodyPiece::Trailers(trailers) => Some(Frame::trailers(*trailers)),
        }
    }

    /// Continues with the stream after a file in it was read.
    fn resume_stream(&mut self) {
        if let Self::FileInStream(_, stream) = std::mem::replace(self, Self::Empty) {
            *self = Self::Stream(stream);
        }
    }
}

/// The body of a response. Dropping it ends the response: the connection becomes idle.
#[derive(Debug)]
pub(in crate::http) struct ResponseBody {
    source: BodySource,
    context: Arc<ConnContext>,
    /// The application was notified that the client shut down its sending half.
    sent_half_close: bool,
    /// The pending journal entry. `None`: not logged, or attached to the last piece.
    record: Option<Box<AccessRecord>>,
    /// Bytes still to come; `None` if unknown, or if there is no record.
    remaining: Option<u64>,
}

/// A piece of a body in the connection's write queue.
#[derive(Debug)]
pub(in crate::http) struct OutgoingData {
    data: Data,
    /// The pending journal entry, attached to the last piece. It is logged when the piece is
    /// dropped: it was written, or the connection was closed.
    record: Option<Box<AccessRecord>>,
}

#[cfg(test)]
impl From<Data> for OutgoingData {
    fn from(data: Data) -> Self {
        Self { data, record: None }
    }
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
        if let Some(record) = self.record.take() {
            record.finish();
        }
    }
}

impl ResponseBody {
    /// Creates the body. `declared` is the value of `Content-Length`.
    pub(in crate::http) fn new(
        source: BodySource,
        context: Arc<ConnContext>,
        record: Option<Box<AccessRecord>>,
        declared: Option<u64>,
    ) -> Self {
        let mut body = Self { source, context, sent_half_close: false, record, remaining: None };
        if body.record.is_some() {
            body.context.connection.output.begin_body();
            body.remaining = declared.or_else(|| body.size_hint().exact());
        }
        body
    }

    /// True if memory is short and bytes of this response are still unwritten.
    fn must_wait_for_write(&self) -> bool {
        let ConnContext { server, connection, .. } = &*self.context;
        match &self.source {
            BodySource::Stream(_)
            | BodySource::FileInStream(..)
            | BodySource::File(_)
            | BodySource::Multipart(_)
            | BodySource::Compressed(_) => {
                server.dispatcher.response_memory().is_tight() && connection.output.unsent() > 0
            }
            BodySource::Empty | BodySource::Bytes(_) => false,
        }
    }

    /// Counts a piece that is about to be queued for writing; attaches the record to the last
    /// piece.
    fn count_outgoing(&mut self, data: Data) -> OutgoingData {
        let Some(record) = &mut self.record else { return OutgoingData { data, record: None } };
        let len = data.len() as u64;
        record.entry.bytes += len;
        self.context.connection.output.add_queued(data.len());
        self.remaining = self.remaining.map(|remaining| remaining.saturating_sub(len));
        let is_last = self.remaining == Some(0) || matches!(self.source, BodySource::Empty);
        let record = if is_last { self.record.take() } else { None };
        OutgoingData { data, record }
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
        let Self { source, context, sent_half_close, .. } = this;
        let piece = ready!(source.poll_piece(cx, &context.connection, sent_half_close));
        match &piece {
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                this.context.connection.mark_reset();
                if let Some(record) = this.record.take() {
                    record.log_failure(error);
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
        Poll::Ready(piece.map(|piece| piece.map(|frame| frame.map_data(|data| this.count_outgoing(data)))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            BodySource::Empty => true,
            BodySource::Bytes(data) => data.is_empty(),
            BodySource::Stream(_)
            | BodySource::FileInStream(..)
            | BodySource::File(_)
            | BodySource::Multipart(_)
            | BodySource::Compressed(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.source.len().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // A connection drops a body after its last byte (maybe before it has polled the body's
        // end), or at once if it sends no body (HEAD). Otherwise the body is dropped with its
        // connection or stream.
        if let Some(record) = self.record.take() {
            record.finish();
        }
        self.context.connection.set_phase(Phase::Idle);
    }
}
