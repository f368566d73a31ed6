//! What of an answer the daemon has and its client has not taken: in memory, and the end of it perhaps in files.
//!
//! ```text
//! worker ──▶ [data] [data] ... [segment] [segment] [being written] [data] ──▶ (read from the left) ──▶ client
//! ```
//! [`Exchange`](crate::dispatch::exchange::Exchange) has one; what goes to a file and when is decided in
//! [`slow_clients`](crate::dispatch::slow_clients).

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::budget::{Budget, Reservation};

use crate::dispatch::data::Data;
use crate::dispatch::exchange::response_parts::FilePart;

/// Bytes of a file at most: it is closed, and its room on the disk free again, when all of them have been read.
const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;

/// When so many pieces wait, small ones are put together.
const MAX_SEPARATE_PIECES: usize = 16;

/// Bytes that are written at a time.
const BLOCK_BYTES: u64 = 1024 * 1024;

/// An answer's bytes, in order.
#[derive(Debug, Default)]
pub(crate) struct ResponseBuffer {
    /// What comes next. Mostly it is all there is, which then needs no allocation.
    first: Option<BufferEntry>,
    rest: VecDeque<BufferEntry>,
    /// Bytes, wherever they are.
    len: u64,
    /// Of those, bytes in memory that are not about to be written to a file.
    in_memory: u64,
    /// A part of it is being written.
    is_writing: bool,
    /// Entries that have been taken so far: by this it shows whether its client reads.
    pub(crate) n_popped: u64,
    /// Its client does not keep up.
    pub(crate) is_client_slow: bool,
}

#[derive(Debug)]
enum BufferEntry {
    Data(Data),
    Segment(Segment),
    /// What was taken out to be written to a file.
    Writing,
}

/// A part of a file.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) file: Arc<OwnedFd>,
    pub(crate) start: u64,
    pub(crate) len: u64,
    pub(crate) held: Reservation,
}

/// What [`ResponseBuffer::pop`] finds.
#[derive(Debug)]
pub(crate) enum Popped {
    Empty,
    Data(Data),
    Spilled(FilePart),
    /// It is on its way to a file, from which it can be read soon.
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
            Some(BufferEntry::Segment(Segment { file, start, len, held })) => {
                self.len -= len;
                Popped::Spilled(FilePart { fd: file, offset: start, len: Some(len), reservation: Some(held) })
            }
            Some(BufferEntry::Writing) | None => Popped::Empty,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Is there one piece of data at most?
    pub(crate) fn is_single(&self) -> bool {
        self.rest.is_empty() && !matches!(self.first, Some(BufferEntry::Segment(_) | BufferEntry::Writing))
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn in_memory(&self) -> u64 {
        self.in_memory
    }

    /// Bytes in files, or on their way to one.
    pub(crate) fn on_disk(&self) -> u64 {
        self.len - self.in_memory
    }

    /// Is a part of it being written?
    pub(crate) fn is_writing(&self) -> bool {
        self.is_writing
    }

    /// Takes the last pieces out, to be written to a file, until no more than `allowed` bytes are in memory, but not
    /// the first piece, and no more than a block. They are in order.
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

    /// The file that what was taken out is to be added to, and where; none if a new one is to be made.
    pub(crate) fn append_target(&self) -> Option<(Arc<OwnedFd>, u64)> {
        // Before what is being written, which is the last.
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

    /// What was taken out has been written.
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
            earlier.held.merge(segment.held);
            self.rest.remove(at);
        } else if let Some(entry) = self.rest.get_mut(at) {
            *entry = BufferEntry::Segment(segment);
        }
    }

    /// What was taken out could not be written and is here again.
    pub(crate) fn restore(&mut self, data: Vec<Data>) {
        self.is_writing = false;
        let mut later = VecDeque::new();
        loop {
            match self.rest.pop_back().or_else(|| self.first.take()) {
                Some(BufferEntry::Writing) | None => break,
                Some(entry) => later.push_front(entry),
            }
        }
        for data in data {
            self.in_memory += data.len() as u64;
            self.push_entry(BufferEntry::Data(data));
        }
        for entry in later {
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
        Segment { file: Arc::clone(file), start, len, held: budget().charge(len) }
    }

    fn file() -> Arc<OwnedFd> {
        Arc::new(std::fs::File::open("/dev/null").unwrap().into())
    }

    /// What comes out, until there is nothing or nothing yet.
    fn drained(buffer: &mut ResponseBuffer) -> Vec<String> {
        let mut out = Vec::new();
        loop {
            match buffer.pop() {
                Popped::Empty => return out,
                Popped::Data(data) => out.push(String::from_utf8(data.to_vec()).unwrap()),
                Popped::Spilled(FilePart { offset, len, .. }) => {
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
    fn the_last_pieces_go_to_a_file_and_all_come_out_in_order() {
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
    fn a_file_is_continued_while_its_end_has_not_been_read() {
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
        // Read while it is written, it is two parts.
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
    fn what_cannot_be_written_comes_out_of_memory_in_order() {
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
    fn a_great_number_of_small_pieces_is_put_together() {
        let mut buffer = ResponseBuffer::default();
        let n_pieces = 20_000;
        for nr in 0..n_pieces {
            buffer.push(Data::small(format!("{nr}\n").into()), budget());
        }
        assert!(buffer.rest.len() < MAX_SEPARATE_PIECES + 10, "{}", buffer.rest.len());
        let expected = (0..n_pieces).map(|nr| nr.to_string() + "\n").collect::<Vec<_>>().concat();
        assert_eq!(buffer.len(), expected.len() as u64);
        assert_eq!(drained(&mut buffer).concat(), expected);
    }

    #[test]
    fn the_first_piece_and_more_than_a_block_at_a_time_stay() {
        let mut buffer = filled(&["aa"]);
        assert!(buffer.take_excess(0).is_empty() && !buffer.is_writing());
        for _ in 0..40 {
            buffer.push(Data::small(Bytes::from(vec![0; 64 * 1024])), budget());
        }
        let excess: usize = buffer.take_excess(0).iter().map(|data| data.len()).sum();
        assert_eq!(excess as u64, BLOCK_BYTES);
    }
}
