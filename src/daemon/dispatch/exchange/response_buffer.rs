//! The bytes of a response that the client has not taken: in memory, and the later ones perhaps in
//! files.
//!
//! ```text
//! client ◀── [data] [data] ... [segment] [segment] [being written] [data] ◀── worker
//! ```
//! [`slow_clients`](crate::dispatch::slow_clients) decides which pieces go to a file, and when.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::budget::{Budget, Reservation};

use crate::dispatch::data::Data;
use crate::dispatch::exchange::response_parts::FilePart;

/// Length in bytes at which a file is complete; further pieces go to a new file. A file is closed,
/// and its disk space freed, when all of it has been read.
const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;

/// Number of pieces beyond which small ones are collected into blocks.
const MAX_SEPARATE_PIECES: usize = 16;

/// Bytes written to a file at a time.
const BLOCK_BYTES: u64 = 1024 * 1024;

/// The bytes of a response, in order.
#[derive(Debug, Default)]
pub(crate) struct ResponseBuffer {
    /// The next entry. Most responses have only this one, and need no allocation.
    first: Option<BufferEntry>,
    rest: VecDeque<BufferEntry>,
    /// Bytes in all entries.
    len: u64,
    /// Bytes in memory, without those that are being written to a file.
    in_memory: u64,
    /// A part is being written to a file.
    is_writing: bool,
    /// Number of entries popped so far, which shows whether the client reads.
    pub(crate) n_popped: u64,
    /// The client reads more slowly than the worker sends.
    pub(crate) is_client_slow: bool,
}

#[derive(Debug)]
enum BufferEntry {
    Data(Data),
    Segment(Segment),
    /// Stands for the pieces that are being written to a file.
    Writing,
}

/// A part of a spill file.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) file: Arc<OwnedFd>,
    pub(crate) start: u64,
    pub(crate) len: u64,
    pub(crate) reservation: Reservation,
}

/// The result of [`ResponseBuffer::pop`].
#[derive(Debug)]
pub(crate) enum Popped {
    Empty,
    Data(Data),
    Spilled(Box<FilePart>),
    /// The next bytes are being written to a file, from which they can be read soon.
    Writing,
}

impl ResponseBuffer {
    pub(crate) fn push(&mut self, data: Data, budget: &'static Budget) {
        self.len += data.len() as u64;
        self.in_memory += data.len() as u64;
        if self.rest.len() < MAX_SEPARATE_PIECES {
            return self.push_entry(BufferEntry::Data(data));
        }
        let is_added = match self.rest.back_mut() {
            Some(BufferEntry::Data(last)) => last.append(&data),
            Some(BufferEntry::Segment(_) | BufferEntry::Writing) | None => false,
        };
        if !is_added {
            self.push_entry(BufferEntry::Data(data.collect(budget)));
        }
    }

    fn push_entry(&mut self, entry: BufferEntry) {
        if self.first.is_none() {
            self.first = Some(entry);
        } else {
            self.rest.push_back(entry);
        }
    }

    pub(crate) fn pop(&mut self) -> Popped {
        match &self.first {
            None => return Popped::Empty,
            Some(BufferEntry::Writing) => return Popped::Writing,
            Some(BufferEntry::Data(_) | BufferEntry::Segment(_)) => {}
        }
        self.n_popped += 1;
        match std::mem::replace(&mut self.first, self.rest.pop_front()) {
            Some(BufferEntry::Data(data)) => {
                self.len -= data.len() as u64;
                self.in_memory -= data.len() as u64;
                Popped::Data(data)
            }
            Some(BufferEntry::Segment(Segment { file, start, len, reservation })) => {
                self.len -= len;
                Popped::Spilled(Box::new(FilePart {
                    fd: file,
                    offset: start,
                    len: Some(len),
                    reservation: Some(reservation),
                }))
            }
            Some(BufferEntry::Writing) | None => Popped::Empty,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Returns whether the buffer is empty, or has a single entry, which is in memory.
    pub(crate) fn is_single(&self) -> bool {
        self.rest.is_empty() && !matches!(self.first, Some(BufferEntry::Segment(_) | BufferEntry::Writing))
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn in_memory(&self) -> u64 {
        self.in_memory
    }

    /// Returns the bytes in files, or being written to one.
    pub(crate) fn on_disk(&self) -> u64 {
        self.len - self.in_memory
    }

    /// Returns whether a part is being written to a file.
    pub(crate) fn is_writing(&self) -> bool {
        self.is_writing
    }

    /// Takes out the last pieces, to be written to a file, until at most `allowed` bytes are in
    /// memory. The first piece stays, and no more pieces are taken after [`BLOCK_BYTES`]. Returns
    /// the pieces in order.
    pub(crate) fn take_excess(&mut self, allowed: u64) -> Vec<Data> {
        let (mut excess, mut len) = (Vec::new(), 0);
        while self.in_memory > allowed && len < BLOCK_BYTES {
            if !matches!(self.rest.back(), Some(BufferEntry::Data(_))) {
                break;
            }
            let Some(BufferEntry::Data(data)) = self.rest.pop_back() else { break };
            len += data.len() as u64;
            self.in_memory -= data.len() as u64;
            excess.push(data);
        }
        if !excess.is_empty() {
            self.rest.push_back(BufferEntry::Writing);
            self.is_writing = true;
        }
        excess.reverse();
        excess
    }

    /// Returns the file, and the offset in it, where the pieces taken out shall be written; `None`
    /// for a new file.
    pub(crate) fn append_target(&self) -> Option<(Arc<OwnedFd>, u64)> {
        // The entry before the one being written, which is the last.
        let before = match self.rest.len().checked_sub(2) {
            Some(at) => self.rest.get(at),
            None => self.first.as_ref(),
        };
        match before {
            Some(BufferEntry::Segment(Segment { file, start, len, .. })) if start + len < SEGMENT_BYTES => {
                Some((Arc::clone(file), start + len))
            }
            _ => None,
        }
    }

    /// Puts a segment in the place of the pieces that were written.
    pub(crate) fn finish_write(&mut self, segment: Segment) {
        self.is_writing = false;
        let Some(at) = self.rest.iter().rposition(|entry| matches!(entry, BufferEntry::Writing)) else {
            if matches!(self.first, Some(BufferEntry::Writing)) {
                self.first = Some(BufferEntry::Segment(segment));
            }
            return;
        };
        let before = if at == 0 { self.first.as_mut() } else { self.rest.get_mut(at - 1) };
        if let Some(BufferEntry::Segment(earlier)) = before
            && Arc::ptr_eq(&earlier.file, &segment.file)
            && earlier.start + earlier.len == segment.start
        {
            earlier.len += segment.len;
            earlier.reservation.merge(segment.reservation);
            self.rest.remove(at);
        } else if let Some(entry) = self.rest.get_mut(at) {
            *entry = BufferEntry::Segment(segment);
        }
    }

    /// Puts back the pieces that could not be written.
    pub(crate) fn restore(&mut self, data: Vec<Data>) {
        self.is_writing = false;
        let mut after = VecDeque::new();
        loop {
            match self.rest.pop_back().or_else(|| self.first.take()) {
                Some(BufferEntry::Writing) | None => break,
                Some(entry) => after.push_front(entry),
            }
        }
        for data in data {
            self.in_memory += data.len() as u64;
            self.push_entry(BufferEntry::Data(data));
        }
        for entry in after {
            self.push_entry(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn budget() -> &'static Budget {
        Box::leak(Box::new(Budget::new(1 << 30)))
    }

    fn data(text: &'static str) -> Data {
        Data::small(Bytes::from_static(text.as_bytes()))
    }

    fn segment(file: &Arc<OwnedFd>, start: u64, len: u64) -> Segment {
        Segment { file: Arc::clone(file), start, len, reservation: budget().charge(len) }
    }

    fn file() -> Arc<OwnedFd> {
        Arc::new(std::fs::File::open("/dev/null").unwrap().into())
    }

    /// Pops until the buffer is empty or being written.
    fn drained(buffer: &mut ResponseBuffer) -> Vec<String> {
        let mut out = Vec::new();
        loop {
            match buffer.pop() {
                Popped::Empty => return out,
                Popped::Data(data) => out.push(String::from_utf8(data.to_vec()).unwrap()),
                Popped::Spilled(file) => {
                    let FilePart { offset, len, .. } = *file;
                    out.push(format!("{offset}+{}", len.unwrap_or_default()));
                }
                Popped::Writing => {
                    out.push("...".to_owned());
                    return out;
                }
            }
        }
    }

    fn filled(texts: &[&'static str]) -> ResponseBuffer {
        let mut buffer = ResponseBuffer::default();
        for text in texts {
            buffer.push(data(text), budget());
        }
        buffer
    }

    #[test]
    fn last_pieces_go_to_a_file_and_pop_in_order() {
        let mut buffer = filled(&["aa", "bb", "cc", "dd"]);
        let excess = buffer.take_excess(4);
        assert_eq!(excess.iter().map(|data| data.to_vec()).collect::<Vec<_>>(), [b"cc", b"dd"]);
        assert!(buffer.is_writing() && buffer.append_target().is_none());
        assert_eq!((buffer.len(), buffer.in_memory(), buffer.on_disk()), (8, 4, 4));
        buffer.push(data("ee"), budget());
        buffer.finish_write(segment(&file(), 0, 4));
        assert_eq!(drained(&mut buffer), ["aa", "bb", "0+4", "ee"]);
        assert_eq!((buffer.len(), buffer.in_memory(), buffer.n_popped), (0, 0, 4));
    }

    #[test]
    fn a_file_grows_until_its_end_is_read() {
        let mut buffer = filled(&["aa", "bb", "cc"]);
        let file = file();
        buffer.take_excess(4);
        buffer.finish_write(segment(&file, 0, 2));
        buffer.push(data("dd"), budget());
        buffer.take_excess(4);
        let (same, at) = buffer.append_target().unwrap();
        assert!(Arc::ptr_eq(&same, &file) && at == 2);
        buffer.finish_write(segment(&file, 2, 2));
        buffer.push(data("ee"), budget());
        assert_eq!(drained(&mut buffer), ["aa", "bb", "0+4", "ee"]);
        // A file that is read while it is written is returned in two parts.
        let mut buffer = filled(&["aa", "bb"]);
        buffer.take_excess(0);
        buffer.finish_write(segment(&file, 0, 2));
        buffer.push(data("cc"), budget());
        buffer.take_excess(0);
        assert_eq!(drained(&mut buffer), ["aa", "0+2", "..."]);
        buffer.finish_write(segment(&file, 2, 2));
        assert_eq!(drained(&mut buffer), ["2+2"]);
    }

    #[test]
    fn restored_pieces_pop_from_memory_in_order() {
        for n_taken in 0..2 {
            let mut buffer = filled(&["aa", "bb", "cc"]);
            let excess = buffer.take_excess(2);
            buffer.push(data("dd"), budget());
            for _ in 0..n_taken {
                buffer.pop();
            }
            buffer.restore(excess);
            assert!(!buffer.is_writing());
            assert_eq!(drained(&mut buffer), ["aa", "bb", "cc", "dd"][n_taken..]);
            assert_eq!((buffer.len(), buffer.in_memory()), (0, 0));
        }
    }

    #[test]
    fn many_small_pieces_are_collected() {
        let mut buffer = ResponseBuffer::default();
        let n_pieces = 20_000;
        for n in 0..n_pieces {
            buffer.push(Data::small(format!("{n}\n").into()), budget());
        }
        assert!(buffer.rest.len() < MAX_SEPARATE_PIECES + 10, "{}", buffer.rest.len());
        let expected = (0..n_pieces).map(|n| n.to_string() + "\n").collect::<Vec<_>>().concat();
        assert_eq!(buffer.len(), expected.len() as u64);
        assert_eq!(drained(&mut buffer).concat(), expected);
    }

    #[test]
    fn take_excess_leaves_the_first_piece_and_takes_a_block() {
        let mut buffer = filled(&["aa"]);
        assert!(buffer.take_excess(0).is_empty() && !buffer.is_writing());
        for _ in 0..40 {
            buffer.push(Data::small(Bytes::from(vec![0; 64 * 1024])), budget());
        }
        let excess: usize = buffer.take_excess(0).iter().map(|data| data.len()).sum();
        assert_eq!(excess as u64, BLOCK_BYTES);
    }
}
