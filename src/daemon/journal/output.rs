//! The workers' stdout and stderr: each worker has two pipes, and the thread "output" puts whole
//! lines, and records of Python's `logging`, into the log ([`super::output_lines`]).
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

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{Mode, fchmod};
use rgun_channel::log_record::LogToken;
use rustix::event::epoll;
use rustix::event::{EventfdFlags, Timespec, eventfd};

use crate::id::{Generation, WorkerId, WorkerNr};

use super::daemon_log::{self, OutputRoute};
use super::output_entry::{OutputSource, StreamName};
use super::output_lines::LineSplitter;
use super::thread::LogThread;

/// Bytes per read: the capacity of a pipe.
const READ_BYTES: usize = 64 << 10;

/// Maximum number of reads from each stream at shutdown. They empty a full pipe; a process that
/// continues to write cannot delay the exit.
const MAX_FINAL_READS: usize = 4;

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

/// A pipe that is read.
#[derive(Debug)]
struct Stream {
    fd: OwnedFd,
    lines: LineSplitter,
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
        let reader = OutputReader {
            epoll,
            shared: Arc::clone(&shared),
            streams: HashMap::new(),
            holding: BTreeSet::new(),
            last: WAKE_TOKEN,
        };
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
    /// `log_token`: that of the process, `None` if it sends no records of logging.
    pub fn follow(
        &self,
        ends: DaemonEnds,
        log_token: Option<LogToken>,
        worker: Option<(WorkerId, Generation)>,
        pid: u32,
    ) {
        let generation = worker.map(|(_, generation)| generation.0);
        let worker =
            worker.filter(|(worker, _)| worker.number != WorkerNr::ZYGOTE).map(|(worker, _)| worker.number.0);
        let streams = ends.0.into_iter().map(|(fd, name, route)| {
            let source = OutputSource { name, worker, generation, pid };
            Stream { fd, lines: LineSplitter::new(route, source, log_token) }
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
    /// The streams that hold a traceback ([`LineSplitter::deadline`]).
    holding: BTreeSet<u64>,
    /// The number of the newest stream.
    last: u64,
}

impl OutputReader {
    fn run(mut self) {
        let mut buffer = vec![0; READ_BYTES];
        let mut events = Vec::with_capacity(64);
        loop {
            let timeout = self.timeout();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
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
                } else if let Some(stream) = self.streams.get_mut(&number) {
                    if !stream.read(&mut buffer) {
                        // Closing the descriptor removes it from the epoll set.
                        self.streams.remove(&number);
                    } else if stream.lines.deadline().is_some() {
                        self.holding.insert(number);
                    }
                }
            }
            // After the reads: the next line may have come in time.
            self.release_expired(Instant::now());
        }
    }

    /// Returns the time until a stream must release its traceback.
    fn timeout(&self) -> Option<Timespec> {
        let streams = self.holding.iter().filter_map(|number| self.streams.get(number));
        let deadline = streams.filter_map(|stream| stream.lines.deadline()).min()?;
        Timespec::try_from(deadline.saturating_duration_since(Instant::now())).ok()
    }

    fn release_expired(&mut self, now: Instant) {
        let streams = &mut self.streams;
        self.holding.retain(|number| {
            let Some(stream) = streams.get_mut(number) else { return false };
            stream.lines.release_expired(now);
            stream.lines.deadline().is_some()
        });
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
