//! The daemon's log: connects `tracing` to journald or stderr. `run` starts it.
//!
//! The logging thread formats the entry and puts it into a bounded [`LogQueue`]; a thread of the
//! queue writes it. A full pipe or a hanging journald therefore blocks neither supervision nor
//! requests. (`tracing-journald` and `tracing-subscriber` write on the logging thread.) Panic
//! messages go the same way.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::Cell;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::panic::PanicHookInfo;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use nix::sys::stat::{FileStat, SFlag, fstat};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{AccessLog, Level, Log, LogFormat};

use super::catalog::OperatorEvent;
use super::format::{Format, priority};
use super::markers::{ACCESS, TERMINAL};
use super::queue::LogQueue;
use super::sink::{JOURNALD, Journald, Sink, is_journal_stream};

/// Maximum time to write the last entries before the exit: a log without a reader must not use up
/// `TimeoutStopSec=`.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The destination of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// journald's native socket.
    Journal,
    /// Lines on stderr.
    Stderr,
    /// Lines for a person: stderr is a terminal.
    Terminal,
}

/// The form of a worker's lines that do not go to journald.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineForm {
    /// As printed: no fields (`log.format = "auto"`).
    Raw,
    /// As printed; fields follow a line of a request, and a record.
    Text,
    /// A JSON object.
    Json,
}

/// The destination of a worker's stdout or stderr.
#[derive(Debug, Clone)]
pub(super) enum OutputRoute {
    /// The worker inherits the daemon's descriptor: a terminal, or `/dev/null`.
    Inherited,
    /// Whole lines, to this queue's descriptor.
    Lines(Arc<LogQueue>),
    /// One entry per line, to journald.
    Entries(Arc<LogQueue>),
}

#[derive(Debug)]
struct LogOutputs {
    /// Writes to the [`Destination`].
    queue: Arc<LogQueue>,
    /// Writes the access log to stdout. `None` if the access log goes to `queue`.
    access: Option<Arc<LogQueue>>,
    stdout: OutputRoute,
    stderr: OutputRoute,
    /// The form of workers' lines.
    line_form: LineForm,
    /// Whether entries go to journald's native socket.
    is_native: bool,
    /// Whether an access log on stdout would be a stream of its own.
    can_split: bool,
}

/// The log of this process.
static LOG: OnceLock<LogOutputs> = OnceLock::new();

/// Replaces the filter that [`start`] installed.
static SET_FILTER: OnceLock<Box<dyn Fn(Targets) + Send + Sync>> = OnceLock::new();

thread_local! {
    /// Whether this thread waits for room in the queue.
    static WAITS_WHEN_FULL: Cell<bool> = const { Cell::new(false) };
}

/// Changes the least severe level that is logged.
pub fn set_level(level: Level) {
    if let Some(set) = SET_FILTER.get() {
        set(filter(level));
    }
}

fn filter(level: Level) -> Targets {
    let filter = match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    // Libraries log warnings and errors, at most. h2 logs its warnings only at level debug and
    // above, because clients could flood the log with them.
    let h2 = if filter >= LevelFilter::DEBUG { LevelFilter::WARN } else { LevelFilter::OFF };
    Targets::new()
        .with_default(filter.min(LevelFilter::WARN))
        .with_target("rgun", filter)
        .with_target("h2", h2)
}

/// Returns a filter that [`set_level`] can change.
fn adjustable<S: 'static>(level: Level) -> reload::Layer<Targets, S> {
    let (filter, handle) = reload::Layer::new(filter(level));
    let set = move |filter| {
        if let Err(error) = handle.reload(filter) {
            tracing::warn!(%error, "cannot change log.level");
        }
    };
    let _first = SET_FILTER.set(Box::new(set));
    filter
}

/// Starts the log and its threads, which do not use the environment. Must be called once, before
/// any other thread exists.
///
/// # Errors
/// When a thread cannot be started, or stderr is closed.
pub fn start(log: &Log) -> io::Result<Destination> {
    let is_native = log.format == LogFormat::Auto && is_journal_stream(io::stderr());
    let journald = if is_native { Journald::new(JOURNALD).ok().filter(Journald::is_there) } else { None };
    let (destination, format) = match (&journald, log.format) {
        (Some(_), _) => (Destination::Journal, Format::Native),
        (None, LogFormat::Json) => (Destination::Stderr, Format::Json),
        (None, LogFormat::Auto) if io::stderr().is_terminal() => {
            (Destination::Terminal, Format::Terminal { colours: wants_colours() })
        }
        (None, LogFormat::Auto | LogFormat::Text) => (Destination::Stderr, Format::Text),
    };
    let sink = match journald {
        Some(journald) => Sink::Journald(journald),
        None => Sink::Descriptor(io::stderr().as_fd().try_clone_to_owned()?),
    };
    let queue = LogQueue::start(sink, "log", report_dropped)?;
    let stdout = stdout_route(destination, &queue)?;
    let stderr = route_of_log(destination, &queue);
    let can_split = destination != Destination::Journal && !is_one_stream();
    let access = if can_split && log.access == AccessLog::Stdout {
        Some(access_stream(format, &stdout)?)
    } else {
        None
    };
    let access_queue = access.as_ref().map(|stream| Arc::clone(&stream.queue));
    let layer = QueueLayer { log: LogStream { format, queue: Arc::clone(&queue) }, access };
    let _first = LOG.set(LogOutputs {
        queue,
        access: access_queue,
        stdout,
        stderr,
        line_form: match log.format {
            LogFormat::Auto => LineForm::Raw,
            LogFormat::Text => LineForm::Text,
            LogFormat::Json => LineForm::Json,
        },
        is_native: destination == Destination::Journal,
        can_split,
    });
    tracing_subscriber::registry().with(layer.with_filter(adjustable(log.level))).init();
    std::panic::set_hook(Box::new(log_panic));
    Ok(destination)
}

/// Starts the log with its default settings if stderr is the journal. Returns whether entries go to
/// journald. Called instead of [`start`] when there is no valid configuration.
pub fn start_in_journal() -> bool {
    is_journal_stream(io::stderr()) && start(&Log::default()).is_ok_and(|log| log == Destination::Journal)
}

/// Waits until all entries are written, and processed by journald if they go there; at most a
/// second.
pub fn flush() {
    let Some(LogOutputs { queue, access, stdout, is_native, .. }) = LOG.get() else { return };
    let begun = Instant::now();
    let mut is_written = queue.flush(FLUSH_TIMEOUT);
    let stdout = if let OutputRoute::Lines(stdout) = stdout { Some(stdout) } else { access.as_ref() };
    if let Some(stdout) = stdout {
        is_written &= stdout.flush(FLUSH_TIMEOUT.saturating_sub(begun.elapsed()));
    }
    if *is_native && let Ok(journald) = Journald::new(JOURNALD) {
        is_written &= journald.wait_until_processed(FLUSH_TIMEOUT.saturating_sub(begun.elapsed()));
    }
    // A log that is not read in time cannot take an entry about the loss either.
    let _ = is_written;
}

/// Makes this thread wait for room in the queue when it logs. The main and edge threads must not
/// call this.
pub(super) fn wait_when_full() {
    WAITS_WHEN_FULL.set(true);
}

/// Counts entries that were dropped before they reached this log.
pub(super) fn count_dropped(entries: u64) {
    if let Some(log) = LOG.get() {
        log.queue.count_dropped(entries);
    }
}

/// Returns the destinations of workers' stdout and stderr. `None` before [`start`].
pub(super) fn routes() -> Option<[OutputRoute; 2]> {
    LOG.get().map(|log| [log.stdout.clone(), log.stderr.clone()])
}

/// Returns whether `log.access = "stdout"` differs from `true`, because stdout is another stream than
/// that of the log.
pub fn can_split_access_log() -> bool {
    LOG.get().is_some_and(|log| log.can_split)
}

/// Returns the form of workers' lines that do not go to journald.
pub(super) fn line_form() -> LineForm {
    LOG.get().map_or(LineForm::Raw, |log| log.line_form)
}

struct QueueLayer {
    log: LogStream,
    /// The access log. `None` if it goes to `log`.
    access: Option<LogStream>,
}

/// A queue of entries and their format.
struct LogStream {
    format: Format,
    queue: Arc<LogQueue>,
}

impl<S: Subscriber> Layer<S> for QueueLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let target = event.metadata().target();
        if target == TERMINAL && !matches!(self.log.format, Format::Terminal { .. }) {
            return;
        }
        let access = self.access.as_ref().filter(|_| target == ACCESS);
        let LogStream { format, queue } = access.unwrap_or(&self.log);
        let mut entry = format.entry(event);
        if *format != Format::Native {
            entry = queue.prefix_lines(priority(*event.metadata().level()), entry);
        }
        if WAITS_WHEN_FULL.get() {
            queue.push_waiting(entry, 1);
        } else {
            queue.push(entry);
        }
    }
}

fn report_dropped(lines: u64) {
    tracing::warn!(
        message_id = OperatorEvent::EntriesDropped.id(),
        rgun.dropped = lines,
        "the log was not read fast enough: {lines} lines are missing; check journald, or the process that reads \
         rgun's stderr and stdout"
    );
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("<unnamed>");
    let place = info.location().map(|place| format!(" at {place}")).unwrap_or_default();
    let what = info.payload_as_str().unwrap_or("a value that is not text");
    let backtrace = Backtrace::capture();
    let backtrace = match backtrace.status() {
        BacktraceStatus::Captured => format!("\n{backtrace}"),
        _ => String::new(),
    };
    tracing::error!("thread {name} panicked{place}, which is a bug in rgun: {what}{backtrace}");
    if name == "main" {
        // The process ends with this thread.
        flush();
    }
}

fn route_of_log(destination: Destination, queue: &Arc<LogQueue>) -> OutputRoute {
    match destination {
        Destination::Journal => OutputRoute::Entries(Arc::clone(queue)),
        Destination::Stderr | Destination::Terminal if is_device(fstat(io::stderr())) => {
            OutputRoute::Inherited
        }
        Destination::Stderr | Destination::Terminal => OutputRoute::Lines(Arc::clone(queue)),
    }
}

fn stdout_route(destination: Destination, queue: &Arc<LogQueue>) -> io::Result<OutputRoute> {
    if is_one_stream() {
        return Ok(route_of_log(destination, queue));
    }
    if is_device(fstat(io::stdout())) {
        return Ok(OutputRoute::Inherited);
    }
    let sink = Sink::Descriptor(io::stdout().as_fd().try_clone_to_owned()?);
    LogQueue::start(sink, "stdout", report_dropped).map(OutputRoute::Lines)
}

/// Returns the stream to stdout for the access log. `format` is the format of all other entries.
fn access_stream(format: Format, stdout: &OutputRoute) -> io::Result<LogStream> {
    let format = match format {
        Format::Terminal { .. } if !io::stdout().is_terminal() => Format::Text,
        other => other,
    };
    let queue = match stdout {
        OutputRoute::Lines(queue) => Arc::clone(queue),
        OutputRoute::Inherited | OutputRoute::Entries(_) => {
            let sink = Sink::Descriptor(io::stdout().as_fd().try_clone_to_owned()?);
            LogQueue::start(sink, "stdout", report_dropped)?
        }
    };
    Ok(LogStream { format, queue })
}

/// Returns whether stdout and stderr are the same file.
fn is_one_stream() -> bool {
    matches!((fstat(io::stdout()), fstat(io::stderr())), (Ok(one), Ok(other))
        if (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

/// Returns whether the file is a character device, as terminals and `/dev/null` are. Workers
/// inherit such a file, because programs check for a terminal.
fn is_device(stat: nix::Result<FileStat>) -> bool {
    stat.is_ok_and(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR)
}

/// Returns whether a terminal gets colours: not with `NO_COLOR` (<https://no-color.org>), and not
/// if the terminal is known to have none.
fn wants_colours() -> bool {
    let is_set = |variable| std::env::var_os(variable).is_some_and(|value| !value.is_empty());
    !is_set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|terminal| terminal != "dumb")
}
