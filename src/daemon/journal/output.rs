//! The workers' stdout and stderr: each worker has two pipes, and the thread "output" puts whole
//! lines into the log.
//!
//! # Why not the daemon's descriptors
//! Processes that share a stream break each other's lines: a pipe breaks lines over 4 KiB
//! (pipe(7)), journald breaks a line whenever the writer changes. A stream without a reader would
//! also block the processes.
//!
//! With its own pipes a worker waits only while the log makes progress
//! ([`LogQueue::push_waiting`](super::queue::LogQueue::push_waiting)); when the log stalls, lines
//! are dropped and counted. A journald stream per worker would keep `_PID=`, but a stalled journald
//! would block the worker.
//!
//! # Costs
//! The output is copied once more. `_PID=` is the daemon's, so entries name the worker in
//! `RGUN_WORKER` and `RGUN_PID`. A process that outlives the daemon gets EPIPE.
//!
//! A terminal is inherited, because programs check whether they have one.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{Mode, fchmod};
use rustix::event::epoll;
use rustix::event::{EventfdFlags, eventfd};
use serde_json::{Map, Value};

use crate::id::{WorkerId, WorkerNr};

use super::daemon_log::{self, OutputRoute};
use super::format::{NativeEntry, utc_time};
use super::json;
use super::queue::LogQueue;
use super::thread::LogThread;

/// Maximum number of bytes of a line in one entry; longer lines are split. The default of
/// journald's `LineMax=`.
const MAX_LINE: usize = 48 << 10;

/// Bytes per read: the capacity of a pipe.
const READ_BYTES: usize = 64 << 10;

/// Maximum number of reads from each stream at shutdown. They empty a full pipe; a process that
/// continues to write cannot delay the exit.
const MAX_FINAL_READS: usize = 4;

/// Priority of a line without a prefix such as `<3>` (sd-daemon(3)): informational.
const DEFAULT_PRIORITY: u8 = 6;

/// The epoll data of [`Shared::wake`].
const WAKE_TOKEN: u64 = 0;

/// The pipes, and the thread that reads them.
#[derive(Debug)]
pub struct WorkerOutput {
    shared: Arc<Shared>,
    thread: LogThread,
}

#[derive(Debug)]
struct Shared {
    /// An eventfd, written to after each change of `inbox`.
    wake: OwnedFd,
    inbox: Mutex<Inbox>,
}

#[derive(Debug, Default)]
struct Inbox {
    streams: Vec<Stream>,
    /// The thread must read the remaining output and end.
    stop: bool,
}

/// The users that can open a pipe by its path, `/dev/stdout` or `/dev/stderr`. Only processes that
/// may inspect the worker reach this path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PipeMode {
    /// The daemon's user only, as which the worker runs.
    OwnUser,
    /// Every user, because the worker runs as another user than the daemon.
    AnyUser,
}

/// The stdout and stderr of a worker's process.
#[derive(Debug)]
pub struct WorkerEnds {
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
}

/// The daemon's ends of a worker's pipes. Nothing is read from them until they are passed to
/// [`WorkerOutput::follow`], once the process's pid is known.
#[derive(Debug)]
pub struct DaemonEnds(Vec<(OwnedFd, StreamName, OutputRoute)>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StreamName {
    Stdout,
    Stderr,
}

/// A pipe that is read.
#[derive(Debug)]
struct Stream {
    fd: OwnedFd,
    lines: LineSplitter,
}

/// Splits a stream into lines.
#[derive(Debug)]
struct LineSplitter {
    name: StreamName,
    route: OutputRoute,
    /// The worker's seat. `None` for a zygote, and for the process of the arbiter's hooks.
    worker: Option<u16>,
    pid: u32,
    /// The start of an unfinished line.
    partial: Vec<u8>,
    /// The next bytes continue a line that was split.
    is_continued: bool,
}

impl WorkerOutput {
    /// Starts the thread. Returns `None` if workers inherit the daemon's stdout and stderr.
    ///
    /// # Errors
    /// When the thread, its eventfd or its epoll instance cannot be made.
    pub fn start() -> io::Result<Option<Self>> {
        match daemon_log::routes() {
            None | Some([OutputRoute::Inherited, OutputRoute::Inherited]) => return Ok(None),
            Some(_) => {}
        }
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKE_TOKEN), epoll::EventFlags::IN)?;
        let shared = Arc::new(Shared { wake, inbox: Mutex::default() });
        let reader =
            OutputReader { epoll, shared: Arc::clone(&shared), streams: HashMap::new(), last: WAKE_TOKEN };
        let thread = LogThread::spawn("output", move || reader.run())?;
        Ok(Some(Self { shared, thread }))
    }

    /// Makes the pipes of a process that is about to be spawned.
    ///
    /// # Errors
    /// The error of `pipe2(2)`: too many open files.
    pub fn pipes(&self, mode: PipeMode) -> io::Result<(WorkerEnds, DaemonEnds)> {
        let [to_stdout, to_stderr] =
            daemon_log::routes().unwrap_or([OutputRoute::Inherited, OutputRoute::Inherited]);
        let mut ours = Vec::new();
        let stdout = open_stream(&io::stdout(), StreamName::Stdout, to_stdout, &mut ours)?;
        let stderr = open_stream(&io::stderr(), StreamName::Stderr, to_stderr, &mut ours)?;
        if mode == PipeMode::AnyUser {
            let piped = |name| ours.iter().any(|(_, other, _)| *other == name);
            let pipes = [(StreamName::Stdout, &stdout), (StreamName::Stderr, &stderr)];
            for (_, pipe) in pipes.into_iter().filter(|(name, _)| piped(*name)) {
                fchmod(pipe, Mode::from_bits_truncate(0o622))?;
            }
        }
        Ok((WorkerEnds { stdout, stderr }, DaemonEnds(ours)))
    }

    /// Starts reading the pipes of a worker's process; `None` for a process that is not a worker.
    pub fn follow(&self, ends: DaemonEnds, worker: Option<WorkerId>, pid: u32) {
        let worker = worker.filter(|worker| worker.number != WorkerNr::ZYGOTE).map(|worker| worker.number.0);
        let streams = ends.0.into_iter().map(|(fd, name, route)| Stream {
            fd,
            lines: LineSplitter { name, route, worker, pid, partial: Vec::new(), is_continued: false },
        });
        self.shared.inbox().streams.extend(streams);
        self.shared.wake();
    }

    /// Reads the workers' last output and ends the thread. Waits at most for the timeout.
    pub fn stop(self, timeout: Duration) {
        self.shared.inbox().stop = true;
        self.shared.wake();
        if let Err(failure) = self.thread.join_timeout(timeout) {
            tracing::warn!(?failure, "the workers' last output may be missing");
        }
    }
}

/// Returns the worker's end of a stream: a pipe, or the daemon's own descriptor. Adds the daemon's
/// end of a pipe to `ours`.
fn open_stream(
    own: &impl AsFd,
    name: StreamName,
    route: OutputRoute,
    ours: &mut Vec<(OwnedFd, StreamName, OutputRoute)>,
) -> io::Result<OwnedFd> {
    if matches!(route, OutputRoute::Inherited) {
        return own.as_fd().try_clone_to_owned();
    }
    let (reading, writing) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&reading, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    ours.push((reading, name, route));
    Ok(writing)
}

impl Shared {
    fn inbox(&self) -> std::sync::MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // EAGAIN: the counter is full, so a wakeup is pending (eventfd(2)).
        let _ = nix::unistd::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

/// The state of the thread.
struct OutputReader {
    epoll: OwnedFd,
    shared: Arc<Shared>,
    streams: HashMap<u64, Stream>,
    /// The number of the newest stream.
    last: u64,
}

impl OutputReader {
    fn run(mut self) {
        let mut buffer = vec![0; READ_BYTES];
        let mut events = Vec::with_capacity(64);
        loop {
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot wait for the workers' output any more");
                    return;
                }
            }
            for event in events.drain(..) {
                let number = event.data.u64();
                if number == WAKE_TOKEN {
                    if self.take_inbox() {
                        self.drain_streams(&mut buffer);
                        return;
                    }
                } else if let Some(stream) = self.streams.get_mut(&number)
                    && !stream.read(&mut buffer)
                {
                    // Closing the descriptor removes it from the epoll set.
                    self.streams.remove(&number);
                }
            }
        }
    }

    /// Adds the new streams. Returns true when the thread must end.
    fn take_inbox(&mut self) -> bool {
        // EAGAIN: the counter is zero, so there was no new wakeup.
        let _ = nix::unistd::read(&self.shared.wake, &mut [0; 8]);
        let Inbox { streams, stop: end } = std::mem::take(&mut *self.shared.inbox());
        for stream in streams {
            self.last += 1;
            let data = epoll::EventData::new_u64(self.last);
            match epoll::add(&self.epoll, &stream.fd, data, epoll::EventFlags::IN) {
                Ok(()) => {
                    self.streams.insert(self.last, stream);
                }
                Err(error) => tracing::error!(%error, "cannot read a worker's output"),
            }
        }
        end
    }

    fn drain_streams(mut self, buffer: &mut [u8]) {
        for (_, mut stream) in self.streams.drain() {
            let mut reads = 0;
            while reads < MAX_FINAL_READS && stream.has_input() && stream.read(buffer) {
                reads += 1;
            }
            stream.lines.end();
        }
    }
}

impl Stream {
    /// Reads once. Returns false at the end of the stream.
    fn read(&mut self, buffer: &mut [u8]) -> bool {
        match nix::unistd::read(&self.fd, buffer) {
            Ok(0) => {
                self.lines.end();
                false
            }
            Ok(len) => {
                self.lines.push(buffer.get(..len).unwrap_or_default());
                true
            }
            Err(Errno::EAGAIN | Errno::EINTR) => true,
            Err(errno) => {
                tracing::error!(error = %errno, "cannot read a worker's output any more");
                self.lines.end();
                false
            }
        }
    }

    fn has_input(&self) -> bool {
        let mut poll = [nix::poll::PollFd::new(self.fd.as_fd(), nix::poll::PollFlags::POLLIN)];
        nix::poll::poll(&mut poll, nix::poll::PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

impl LineSplitter {
    fn push(&mut self, bytes: &[u8]) {
        let (whole, rest) = match bytes.iter().rposition(|byte| *byte == b'\n') {
            Some(at) => bytes.split_at(at + 1),
            None => (&[][..], bytes),
        };
        if !whole.is_empty() {
            let whole = if self.partial.is_empty() {
                whole.to_vec()
            } else {
                let mut lines = std::mem::take(&mut self.partial);
                lines.extend_from_slice(whole);
                lines
            };
            self.log(whole);
            self.is_continued = false;
        }
        self.partial.extend_from_slice(rest);
        if self.partial.len() > MAX_LINE {
            let piece = std::mem::take(&mut self.partial);
            self.log(piece);
            self.is_continued = true;
        }
    }

    /// Logs the unfinished line at the end of the stream.
    fn end(&mut self) {
        if !self.partial.is_empty() {
            let mut line = std::mem::take(&mut self.partial);
            line.push(b'\n');
            self.log(line);
        }
    }

    /// Logs whole lines, or a part of a line that is too long.
    fn log(&self, text: Vec<u8>) {
        match &self.route {
            OutputRoute::Inherited => {}
            OutputRoute::Lines(queue) if daemon_log::is_json() => self.log_json(&text, queue),
            OutputRoute::Lines(queue) => push_lines(queue, text),
            OutputRoute::Entries(queue) => {
                let mut is_continued = self.is_continued;
                for line in text.split(|byte| *byte == b'\n') {
                    for piece in line.chunks(MAX_LINE) {
                        if let Some(entry) = self.entry(piece, is_continued) {
                            queue.push_waiting(entry, 1);
                        }
                        is_continued = true;
                    }
                    is_continued = false;
                }
            }
        }
    }

    /// Logs lines as JSON: a line that is an object stays as it is, another becomes the message of
    /// an entry on the same stream. The records of `server.log` become entries of the daemon.
    fn log_json(&self, text: &[u8], queue: &LogQueue) {
        let mut others = Vec::new();
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let record = if self.is_continued { None } else { hook_record(line, self.pid) };
            let Some((level, message)) = record else {
                match self.json_entry(line) {
                    Some(entry) => others.extend_from_slice(entry.as_bytes()),
                    None => others.extend_from_slice(line),
                }
                continue;
            };
            push_lines(queue, std::mem::take(&mut others));
            let (worker, pid) = (self.worker, self.pid);
            match level {
                "CRITICAL" | "ERROR" => {
                    tracing::error!(rgun.worker = worker, rgun.pid = pid, "{message}");
                }
                "WARNING" => tracing::warn!(rgun.worker = worker, rgun.pid = pid, "{message}"),
                "DEBUG" => tracing::debug!(rgun.worker = worker, rgun.pid = pid, "{message}"),
                _ => tracing::info!(rgun.worker = worker, rgun.pid = pid, "{message}"),
            }
        }
        push_lines(queue, others);
    }

    /// Returns the entry of a line, in JSON. `None` if the line is blank, a JSON object, or a
    /// part of a line that is too long.
    fn json_entry(&self, line: &[u8]) -> Option<String> {
        let text = line.strip_suffix(b"\n").filter(|_| !self.is_continued)?;
        if text.trim_ascii().is_empty() || serde_json::from_slice::<Map<String, Value>>(text).is_ok() {
            return None;
        }
        let (priority, text) = priority(text);
        let level = match priority {
            0..=3 => "error",
            4 => "warn",
            5 | 6 => "info",
            _ => "debug",
        };
        Some(json::output_line(utc_time(), level, &String::from_utf8_lossy(text), self.worker, self.pid))
    }

    /// Returns an entry for journald. `None` for a blank line, which journald would discard.
    fn entry(&self, line: &[u8], is_continued: bool) -> Option<Vec<u8>> {
        let (priority, line) = if is_continued { (DEFAULT_PRIORITY, line) } else { priority(line) };
        let line = line.trim_ascii_end();
        if line.is_empty() {
            return None;
        }
        let mut entry = NativeEntry::new(priority);
        if let Some(worker) = self.worker {
            entry.field("RGUN_WORKER", worker.to_string().as_bytes());
        }
        entry.field("RGUN_PID", self.pid.to_string().as_bytes());
        let name = match self.name {
            StreamName::Stdout => "stdout",
            StreamName::Stderr => "stderr",
        };
        entry.field("RGUN_STREAM", name.as_bytes());
        entry.field("MESSAGE", line);
        Some(entry.into_bytes())
    }
}

/// Puts whole lines into the log.
fn push_lines(queue: &LogQueue, text: Vec<u8>) {
    let lines = text.split_inclusive(|byte| *byte == b'\n').count();
    if lines > 0 {
        queue.push_waiting(text, lines as u64);
    }
}

/// Returns level and message of a line that `server.log` has written in the process `pid`:
/// `[4711] [INFO] text` (`logger` in src/worker/hook_objects.py).
fn hook_record(line: &[u8], pid: u32) -> Option<(&str, &str)> {
    let line = std::str::from_utf8(line).ok()?.trim_end();
    let rest = line.strip_prefix('[')?.strip_prefix(&pid.to_string())?.strip_prefix("] [")?;
    let (level, message) = rest.split_once("] ")?;
    ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"].contains(&level).then_some((level, message))
}

/// Splits the priority off a line: `<3>text` has priority 3 (sd-daemon(3)).
fn priority(line: &[u8]) -> (u8, &[u8]) {
    match line {
        [b'<', digit @ b'0'..=b'7', b'>', rest @ ..] => (digit - b'0', rest),
        _ => (DEFAULT_PRIORITY, line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_records_of_the_process_itself_are_recognized() {
        let record = |line: &str| {
            hook_record(line.as_bytes(), 4711).map(|(level, text)| (level.to_owned(), text.to_owned()))
        };
        assert_eq!(record("[4711] [INFO] ready\n"), Some(("INFO".to_owned(), "ready".to_owned())));
        assert_eq!(record("[4711] [WARNING] a [b] c"), Some(("WARNING".to_owned(), "a [b] c".to_owned())));
        for line in ["[47] [INFO] x", "[47110] [INFO] x", "[4711] [NOTE] x", "4711 INFO x", "{\"a\": 1}", ""]
        {
            assert_eq!(record(line), None, "{line}");
        }
    }
}
