//! A body that is compressed piece by piece, as the connection asks for data.
//!
//! Input is encoded in steps of [`STEP_BYTES`]; after [`YIELD_AFTER_BYTES`] the task yields. When
//! the source is pending, the encoder is flushed: a streamed event reaches the client at once,
//! while a body whose next piece is ready is compressed without flushes.

use std::mem;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use http_body::Frame;

use crate::budget::Reservation;
use crate::dispatch::{Data, Dispatcher};
use crate::http::body::error::BodyError;

use super::encoder::Encoder;

/// Bytes of input that are encoded at a time.
const STEP_BYTES: usize = 16 * 1024;

/// Bytes of input after which the task yields. Encoding them takes 1 to 2 ms.
const YIELD_AFTER_BYTES: usize = 64 * 1024;

/// Output size at which a piece is returned; a flush returns less.
const PIECE_BYTES: usize = 16 * 1024;

/// Compresses the frames of `source`.
#[derive(Debug)]
pub(in crate::http) struct CompressedBody<S> {
    source: S,
    encoder: Encoder,
    /// Bytes of the source that have not been encoded yet.
    input: Option<Data>,
    /// Encoded bytes that have not been returned yet.
    output: Vec<u8>,
    /// The encoder holds input that was not flushed.
    is_unflushed: bool,
    stage: EncodingStage,
    /// Bytes encoded since the task last yielded.
    bytes_since_yield: usize,
    /// Polled when the task yields; charges encoded bytes to `limits.response_memory`.
    dispatcher: &'static Dispatcher,
    /// The encoder's share of `limits.response_memory`.
    _memory: Reservation,
}

/// The progress of a compressed body.
#[derive(Debug)]
enum EncodingStage {
    /// The source may have more.
    Open,
    /// The source has ended, and the rest of the body is in `output`. The source's trailers follow
    /// the body.
    Finished(Option<Box<Frame<Data>>>),
    /// Everything was returned.
    Done,
}

impl<S> CompressedBody<S> {
    pub(super) fn new(
        source: S,
        encoder: Encoder,
        memory: Reservation,
        dispatcher: &'static Dispatcher,
    ) -> Self {
        Self {
            source,
            encoder,
            input: None,
            output: Vec::new(),
            is_unflushed: false,
            stage: EncodingStage::Open,
            bytes_since_yield: 0,
            dispatcher,
            _memory: memory,
        }
    }

    /// True if everything was returned.
    pub(in crate::http) fn is_done(&self) -> bool {
        match &self.stage {
            EncodingStage::Open => false,
            EncodingStage::Finished(trailers) => trailers.is_none() && self.output.is_empty(),
            EncodingStage::Done => true,
        }
    }

    /// Returns the next piece; `None` at the end. `poll_source` polls the source.
    pub(in crate::http) fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        mut poll_source: impl FnMut(&mut S, &mut Context<'_>) -> Poll<Option<Result<Frame<Data>, BodyError>>>,
    ) -> Poll<Option<Result<Frame<Data>, BodyError>>> {
        loop {
            let is_open = matches!(self.stage, EncodingStage::Open);
            if self.output.len() >= PIECE_BYTES || !is_open && !self.output.is_empty() {
                return Poll::Ready(Some(Ok(self.take_output())));
            }
            if let EncodingStage::Finished(trailers) = &mut self.stage {
                let trailers = trailers.take();
                self.stage = EncodingStage::Done;
                return Poll::Ready(trailers.map(|trailers| Ok(*trailers)));
            }
            if !is_open {
                return Poll::Ready(None);
            }
            if self.input.is_some() {
                if self.bytes_since_yield >= YIELD_AFTER_BYTES {
                    self.bytes_since_yield = 0;
                    self.dispatcher.poll_now();
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                self.encode_step()?;
                continue;
            }
            match poll_source(&mut self.source, cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.input = Some(data).filter(|data| !data.is_empty()),
                    Err(trailers) => self.finish(Some(Box::new(trailers)))?,
                },
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => self.finish(None)?,
                Poll::Pending => {
                    if mem::take(&mut self.is_unflushed) {
                        self.encoder.flush(&mut self.output).map_err(BodyError::Compression)?;
                    }
                    if self.output.is_empty() {
                        return Poll::Pending;
                    }
                    return Poll::Ready(Some(Ok(self.take_output())));
                }
            }
        }
    }

    /// Encodes the next [`STEP_BYTES`] of the input.
    fn encode_step(&mut self) -> Result<(), BodyError> {
        let Some(input) = &mut self.input else { return Ok(()) };
        let step = input.get(..STEP_BYTES).unwrap_or(input);
        let len = step.len();
        self.encoder.encode(step, &mut self.output).map_err(BodyError::Compression)?;
        input.advance(len);
        if input.is_empty() {
            self.input = None;
        }
        self.bytes_since_yield += len;
        self.is_unflushed = true;
        Ok(())
    }

    /// Writes the end of the compressed stream.
    fn finish(&mut self, trailers: Option<Box<Frame<Data>>>) -> Result<(), BodyError> {
        self.encoder.finish(&mut self.output).map_err(BodyError::Compression)?;
        self.stage = EncodingStage::Finished(trailers);
        Ok(())
    }

    fn take_output(&mut self) -> Frame<Data> {
        let bytes = Bytes::from(mem::take(&mut self.output));
        let reservation = self.dispatcher.response_memory().charge(bytes.len() as u64);
        Frame::data(Data::with_reservation(bytes, Some(reservation)))
    }
}
