//! A bounded queue of entries for one descriptor or journald, with a thread that writes them.
//!
//! [`LogQueue::push`] never waits: without room the entry is dropped and counted.
//! [`LogQueue::push_waiting`] waits for room while the reader makes progress. It is for threads
//! other than main and edge, and fills at most half of the queue, so that [`LogQueue::push`] finds
//! room. The number of dropped entries is logged when there is room again.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::sink::Sink;

/// Maximum number of entries in the queue.
const MAX_ENTRIES: usize = 4096;

/// Maximum number of bytes of all entries in the queue. Tracebacks and stacks are long.
const MAX_BYTES: usize = 8 << 20;

/// Maximum time to write one entry; after it the log counts as stalled.
const STALL_TIMEOUT: Duration = Duration::from_secs(1);

/// The queue. Its thread ends with the process.
#[derive(Debug, Default)]
pub(super) struct LogQueue {
    /// Whether the descriptor is the stream that systemd connected to the journal.
    is_journal_stream: bool,
    state: Mutex<QueueState>,
    /// Notified when an entry was added, if [`QueueState::writer_waits`].
    arrived: Condvar,
    /// Notified when an entry was written, if [`QueueState::waiting`] is not 0.
    moved: Condvar,
}

#[derive(Debug, Default)]
struct QueueState {
    entries: VecDeque<QueuedEntry>,
    /// Bytes of [`QueueState::entries`].
    bytes: usize,
    /// Lines that were dropped, and not reported yet.
    dropped: u64,
    writer_waits: bool,
    /// Number of threads that wait for [`LogQueue::moved`].
    waiting: usize,
    /// When the writer took the entry that it is writing. `None` while it writes nothing.
    writing: Option<Instant>,
    /// The last entry could not be written, so a report about dropped lines could not be written
    /// either.
    is_broken: bool,
}

/// The writer's next task.
#[derive(Debug)]
enum WriterTask {
    Write(QueuedEntry),
    ReportDropped(u64),
}

#[derive(Debug)]
struct QueuedEntry {
    bytes: Vec<u8>,
    /// Number of lines in the entry; added to [`QueueState::dropped`] if the entry is dropped.
    lines: u64,
}

impl LogQueue {
    /// Starts the writer. It calls `report_dropped` with the number of dropped lines.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn start(
        sink: Sink,
        name: &str,
        report_dropped: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Arc<Self>> {
        let queue = Arc::new(Self { is_journal_stream: sink.is_journal_stream(), ..Self::default() });
        let writer = Arc::clone(&queue);
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || writer.run_writer(&sink, &report_dropped))?;
        Ok(queue)
    }

    /// Puts the priority before each line of an entry, such as `<3>` (sd-daemon(3)), if journald reads the
    /// lines as a stream: it would give all of them the same priority.
    pub(super) fn prefix_lines(&self, priority: u8, entry: Vec<u8>) -> Vec<u8> {
        if !self.is_journal_stream {
            return entry;
        }
        let lines = entry.split_inclusive(|byte| *byte == b'\n');
        lines.flat_map(|line| [format!("<{priority}>").as_bytes(), line].concat()).collect()
    }

    /// Adds an entry of one line, or counts it as dropped. Never waits.
    pub(super) fn push(&self, bytes: Vec<u8>) {
        let mut state = self.lock();
        if state.has_room(bytes.len(), 1) {
            self.put(&mut state, QueuedEntry { bytes, lines: 1 });
        } else {
            state.dropped += 1;
        }
    }

    /// Adds an entry of `lines` lines. Waits for room until the log stalls, then counts them as
    /// dropped.
    pub(super) fn push_waiting(&self, bytes: Vec<u8>, lines: u64) {
        let mut state = self.lock();
        while !state.has_room(bytes.len(), 2) {
            let stalled = state.writing.map_or(Duration::ZERO, |since| since.elapsed());
            let Some(left) = STALL_TIMEOUT.checked_sub(stalled).filter(|left| !left.is_zero()) else {
                state.dropped += lines;
                return;
            };
            state = self.wait_moved(state, left);
        }
        self.put(&mut state, QueuedEntry { bytes, lines });
    }

    /// Counts lines that were dropped before they reached the queue.
    pub(super) fn count_dropped(&self, lines: u64) {
        let mut state = self.lock();
        state.dropped += lines;
        self.wake_writer(&state);
    }

    /// Waits until everything is written. Returns false if the timeout passed before.
    pub(super) fn flush(&self, timeout: Duration) -> bool {
        let begun = Instant::now();
        let mut state = self.lock();
        loop {
            if state.entries.is_empty() && state.writing.is_none() && state.to_report() == 0 {
                return true;
            }
            let left = timeout.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return false;
            }
            state = self.wait_moved(state, left);
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, state: &mut QueueState, entry: QueuedEntry) {
        state.bytes += entry.bytes.len();
        state.entries.push_back(entry);
        self.wake_writer(state);
    }

    fn wake_writer(&self, state: &QueueState) {
        if state.writer_waits {
            self.arrived.notify_one();
        }
    }

    fn wait_moved<'a>(
        &'a self,
        mut state: MutexGuard<'a, QueueState>,
        timeout: Duration,
    ) -> MutexGuard<'a, QueueState> {
        state.waiting += 1;
        let (mut state, _) = self.moved.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        state
    }

    fn run_writer(&self, sink: &Sink, report_dropped: &dyn Fn(u64)) {
        loop {
            match self.next() {
                WriterTask::Write(entry) => {
                    let lost = if sink.write(&entry.bytes).is_ok() { 0 } else { entry.lines };
                    let mut state = self.lock();
                    state.is_broken = lost > 0;
                    state.dropped += lost;
                    self.end_task(&mut state);
                }
                WriterTask::ReportDropped(lines) => {
                    report_dropped(lines);
                    self.end_task(&mut self.lock());
                }
            }
        }
    }

    fn end_task(&self, state: &mut QueueState) {
        state.writing = None;
        if state.waiting > 0 {
            self.moved.notify_all();
        }
    }

    fn next(&self) -> WriterTask {
        let mut state = self.lock();
        loop {
            let dropped = state.to_report();
            if dropped > 0 && state.has_room(0, 2) {
                state.dropped = 0;
                state.writing = Some(Instant::now());
                return WriterTask::ReportDropped(dropped);
            }
            if let Some(entry) = state.entries.pop_front() {
                state.bytes -= entry.bytes.len();
                state.writing = Some(Instant::now());
                return WriterTask::Write(entry);
            }
            state.writer_waits = true;
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.writer_waits = false;
        }
    }
}

impl QueueState {
    /// Returns the number of dropped lines to report now.
    fn to_report(&self) -> u64 {
        if self.is_broken { 0 } else { self.dropped }
    }

    /// Returns whether an entry fits into `1/part` of the queue. An empty queue takes an entry of
    /// any size.
    fn has_room(&self, bytes: usize, part: usize) -> bool {
        self.entries.is_empty()
            || self.entries.len() < MAX_ENTRIES / part && self.bytes + bytes <= MAX_BYTES / part
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{BufRead, BufReader};
    use std::sync::Weak;

    use super::*;

    /// A queue that writes to a pipe, and the pipe's other end.
    fn piped() -> (Arc<LogQueue>, BufReader<File>) {
        let (reading, writing) = nix::unistd::pipe().unwrap();
        let to_report: Arc<Mutex<Weak<LogQueue>>> = Arc::default();
        let known = Arc::clone(&to_report);
        let queue = LogQueue::start(Sink::Descriptor(writing), "log-test", move |dropped| {
            if let Some(queue) = known.lock().unwrap().upgrade() {
                queue.push(format!("{dropped} dropped\n").into_bytes());
            }
        })
        .unwrap();
        *to_report.lock().unwrap() = Arc::downgrade(&queue);
        (queue, BufReader::new(File::from(reading)))
    }

    fn line(reader: &mut BufReader<File>) -> String {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        line
    }

    #[test]
    fn entries_are_written_in_order_and_flush_waits() {
        let (queue, mut reader) = piped();
        for number in 0..100 {
            queue.push(format!("{number}\n").into_bytes());
        }
        assert!(queue.flush(Duration::from_secs(20)));
        for number in 0..100 {
            assert_eq!(line(&mut reader), format!("{number}\n"));
        }
    }

    #[test]
    fn stalled_log_blocks_no_thread_and_the_loss_is_counted() {
        let (queue, mut reader) = piped();
        let begun = Instant::now();
        // Twice the capacity of queue and pipe.
        let long = "x".repeat(1023) + "\n";
        for _ in 0..20_000 {
            queue.push(long.clone().into_bytes());
        }
        for _ in 0..100 {
            queue.push_waiting(long.clone().into_bytes(), 3);
        }
        assert!(!queue.flush(Duration::from_millis(50)));
        // One stall, not one for each entry.
        assert!(begun.elapsed() < 10 * STALL_TIMEOUT, "{:?}", begun.elapsed());
        let (mut read, mut dropped) = (0, 0);
        while read + dropped < 20_300 {
            let line = line(&mut reader);
            if let Some(count) = line.strip_suffix(" dropped\n") {
                dropped += count.parse::<u64>().unwrap();
            } else {
                assert_eq!(line, long);
                read += 1;
            }
        }
        assert!(read > 4000 && dropped > 300, "{read} read, {dropped} dropped");
        assert_eq!(read + dropped, 20_300);
    }

    #[test]
    fn flush_does_not_wait_for_an_unwritable_log() {
        let (queue, reader) = piped();
        drop(reader);
        queue.push(b"to nobody\n".to_vec());
        assert!(queue.flush(Duration::from_secs(20)));
        assert_eq!(queue.lock().dropped, 1);
    }

    #[test]
    fn drops_counted_elsewhere_are_reported_at_once() {
        let (queue, mut reader) = piped();
        queue.count_dropped(7);
        assert_eq!(line(&mut reader), "7 dropped\n");
    }

    #[test]
    fn waiting_pushes_leave_room_for_others() {
        let (queue, mut reader) = piped();
        let flood = Arc::clone(&queue);
        let long = "x".repeat(1023) + "\n";
        let flooded = thread::spawn(move || {
            for _ in 0..10_000 {
                flood.push_waiting(long.clone().into_bytes(), 1);
            }
        });
        flooded.join().unwrap();
        queue.push(b"worker 0 was killed\n".to_vec());
        while line(&mut reader) != "worker 0 was killed\n" {}
    }

    #[test]
    fn waiting_pushes_lose_nothing_while_the_log_is_read() {
        let (queue, mut reader) = piped();
        let flood = Arc::clone(&queue);
        let flooded = thread::spawn(move || {
            for number in 0..50_000_u32 {
                flood.push_waiting(format!("{number}\n").into_bytes(), 1);
            }
        });
        for number in 0..50_000_u32 {
            assert_eq!(line(&mut reader), format!("{number}\n"));
        }
        flooded.join().unwrap();
    }
}
