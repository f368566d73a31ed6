//! Reads several ranges of a file as a `multipart/byteranges` body (RFC 9110 §14.6).

use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use crate::dispatch::{Data, Dispatcher};
use crate::files::MultipartRanges;

use super::file::FileReader;

/// Reads the parts of a body, one after the other.
#[derive(Debug)]
pub(in crate::http) struct MultipartReader {
    ranges: MultipartRanges,
    /// The part whose fields were returned.
    current: Option<FileReader>,
    /// Bytes still to be read, delimiters included.
    remaining: u64,
    dispatcher: &'static Dispatcher,
}

impl MultipartReader {
    pub(in crate::http) fn new(ranges: MultipartRanges, dispatcher: &'static Dispatcher) -> Self {
        Self { remaining: ranges.len(), ranges, current: None, dispatcher }
    }

    /// Returns the bytes still to be read.
    pub(super) fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Reads the next piece; `None` at the end.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Data>>> {
        if let Some(part) = &mut self.current {
            if let Some(data) = ready!(part.poll_read(cx))? {
                self.remaining = self.remaining.saturating_sub(data.len() as u64);
                return Poll::Ready(Ok(Some(data)));
            }
            self.current = None;
        }
        let delimiter = match self.ranges.parts.pop_front() {
            Some((head, range)) => {
                let fd = std::sync::Arc::clone(&self.ranges.fd);
                self.current = Some(FileReader::of_range(fd, range, self.dispatcher));
                head
            }
            None => std::mem::replace(&mut self.ranges.end, Bytes::new()),
        };
        self.remaining = self.remaining.saturating_sub(delimiter.len() as u64);
        let data = Some(delimiter).filter(|bytes| !bytes.is_empty());
        Poll::Ready(Ok(data.map(|bytes| Data::with_reservation(bytes, None))))
    }
}
