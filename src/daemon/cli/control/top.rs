//! `rgun top`: one screen with the state of the service, its workers and its requests, which is drawn
//! again every second until q is pressed.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, raise};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::render;
use super::reply::{REPLY_TIMEOUT, parse, print};
use crate::control::{CallError, ControlClient, RequestsReply, StatusReply, WorkersReply};

/// Interval between two screens.
const INTERVAL: Duration = Duration::from_secs(1);

/// Time allowed for a reply while a screen is shown: keys are read only between two screens.
const SCREEN_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum time that a signal waits for the terminal to take text.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);

/// Maximum number of requests on a screen.
const MAX_REQUESTS: usize = 50;

/// The alternate screen, without a cursor; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// The state at one moment.
struct Sample {
    at: Instant,
    status: StatusReply,
    workers: WorkersReply,
    requests: RequestsReply,
}

impl Sample {
    fn read(path: &Path, timeout: Duration) -> Result<Self, CallError> {
        let mut daemon = ControlClient::connect(path)?;
        daemon.set_timeout(timeout)?;
        let limit = json!({ "limit": MAX_REQUESTS });
        Ok(Self {
            at: Instant::now(),
            status: call(&mut daemon, "Status", json!({}))?,
            workers: call(&mut daemon, "Workers", json!({}))?,
            requests: call(&mut daemon, "Requests", limit)?,
        })
    }

    /// Returns the screen. `earlier`: the sample before, for rates.
    fn text(&self, earlier: Option<&Self>) -> String {
        let mut text = render::status(&self.status);
        if let Some(earlier) = earlier.filter(|earlier| earlier.status.pid == self.status.pid) {
            let seconds = self.at.saturating_duration_since(earlier.at).as_secs_f64().max(0.001);
            let rate = |now: u64, before: u64| {
                let n_more = u32::try_from(now.saturating_sub(before)).unwrap_or(u32::MAX);
                f64::from(n_more) / seconds
            };
            let answered = rate(self.status.responses, earlier.status.responses);
            let failed = rate(self.status.failed_responses, earlier.status.failed_responses);
            // Writing to a String cannot fail.
            let _ = writeln!(text, "rate:        {answered:.0} responses/s, {failed:.0} failed/s");
        }
        format!("{text}\n{}\n{}", render::workers(&self.workers), render::requests(&self.requests))
    }
}

fn call<T: DeserializeOwned>(
    daemon: &mut ControlClient,
    method: &str,
    parameters: Value,
) -> Result<T, CallError> {
    let parameters = if let Value::Object(parameters) = parameters { parameters } else { Map::new() };
    parse(daemon.call(&format!("io.rgun.Server.{method}"), parameters, None)?)
}

/// Shows the state of the daemon with this control socket. `once`, or without a terminal: prints it
/// once.
///
/// # Errors
/// The daemon cannot be asked, or the terminal fails.
pub(super) fn run(path: &Path, once: bool) -> Result<(), CallError> {
    let mut sample = Sample::read(path, REPLY_TIMEOUT)?;
    if once || !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Ok(print(&sample.text(None))?);
    }
    let screen = Screen::enter()?;
    let mut text = sample.text(None);
    loop {
        screen.draw(&text)?;
        if wait_for_quit()? {
            return Ok(());
        }
        // While the daemon restarts, the screen shows the error.
        match Sample::read(path, SCREEN_TIMEOUT) {
            Ok(next) => {
                text = next.text(Some(&sample));
                sample = next;
            }
            Err(error) => text = format!("no reply from the daemon ({error}); trying again\n"),
        }
    }
}

/// Returns the control sequences and the text of a screen.
fn screen(text: &str, columns: usize, rows: usize) -> String {
    let shown = text.lines().take(rows - 2).chain(["", "q: quit"]);
    let lines: Vec<String> =
        shown.map(|line| line.chars().take(columns).collect::<String>() + "\x1b[K").collect();
    format!("\x1b[H{}\x1b[J", lines.join("\r\n"))
}

/// Waits for a key for [`INTERVAL`]. Returns true if the key is q, Ctrl-C or Ctrl-D, or if the terminal
/// is gone.
fn wait_for_quit() -> io::Result<bool> {
    let deadline = Instant::now() + INTERVAL;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let stdin = io::stdin();
        let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            // EINTR: draw again.
            Ok(0) | Err(nix::errno::Errno::EINTR) => return Ok(false),
            Ok(_) => {
                // Not by `Stdin`, whose buffer poll(2) does not see.
                let mut keys = [0; 64];
                let n_read = rustix::io::read(&stdin, &mut keys)?;
                if n_read == 0 || keys.iter().take(n_read).any(|key| matches!(key, b'q' | b'Q' | 3 | 4)) {
                    return Ok(true);
                }
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The terminal in the mode for the screen. Restores its earlier mode when it is dropped.
struct Screen(Arc<TerminalMode>);

/// The earlier state of the terminal.
struct TerminalMode {
    earlier: Termios,
    /// Locked while something is drawn.
    drawing: Mutex<()>,
}

impl Screen {
    fn enter() -> io::Result<Self> {
        let earlier = tcgetattr(io::stdin())?;
        let mut mode = earlier.clone();
        // Ctrl-C arrives as a key.
        mode.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
        let screen = Self(Arc::new(TerminalMode { earlier, drawing: Mutex::new(()) }));
        screen.0.restore_on_signals()?;
        tcsetattr(io::stdin(), OptionalActions::Now, &mode)?;
        screen.print(ENTER)?;
        Ok(screen)
    }

    /// Draws a text in one write, cut to the size of the terminal.
    fn draw(&self, text: &str) -> io::Result<()> {
        let size =
            tcgetwinsize(io::stdout()).map(|size| (usize::from(size.ws_col), usize::from(size.ws_row)));
        // Some terminals do not know their size.
        let (columns, rows) =
            size.ok().filter(|(columns, rows)| *columns > 0 && *rows > 2).unwrap_or((80, 24));
        self.print(&screen(text, columns, rows))
    }

    fn print(&self, text: &str) -> io::Result<()> {
        let _drawing = self.0.drawing.lock().unwrap_or_else(PoisonError::into_inner);
        print(text)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nothing else can be done if the terminal is gone.
        let _ = self.print(LEAVE);
        let _ = self.0.restore_modes();
    }
}

impl TerminalMode {
    /// Starts a thread that restores the terminal when a signal ends the process.
    fn restore_on_signals(self: &Arc<Self>) -> io::Result<()> {
        let signals: SigSet =
            [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM].into_iter().collect();
        // Blocked in all threads, as sigwait(3) requires.
        signals.thread_block()?;
        let mode = Arc::clone(self);
        let end = move || {
            let Ok(signal) = signals.wait() else { return };
            let _ = mode.restore_modes();
            // Until the end of the process, so that nothing is drawn any more.
            let _drawing = mode.lock_for(LEAVE_TIMEOUT);
            if can_print(LEAVE_TIMEOUT) {
                // Not by `Stdout`, whose lock the other thread may have.
                let _ = rustix::io::write(io::stdout(), LEAVE.as_bytes());
            }
            // Ends the process as the signal does by default, unless it is ignored.
            let _ = signals.thread_unblock().and_then(|()| raise(signal));
            std::process::exit(128 + signal as i32);
        };
        thread::Builder::new().name("signals".to_owned()).spawn(end).map(drop)
    }

    fn restore_modes(&self) -> rustix::io::Result<()> {
        tcsetattr(io::stdin(), OptionalActions::Now, &self.earlier)
    }

    /// Waits until nothing is drawn. `None` after the timeout: the terminal does not take what is drawn.
    fn lock_for(&self, timeout: Duration) -> Option<MutexGuard<'_, ()>> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.drawing.try_lock() {
                Ok(guard) => return Some(guard),
                Err(TryLockError::Poisoned(error)) => return Some(error.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return None,
                Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

/// Returns whether the terminal takes text within a time: Ctrl-S stops it.
fn can_print(timeout: Duration) -> bool {
    let stdout = io::stdout();
    let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::POLLOUT)];
    poll(&mut fds, PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX))
        .is_ok_and(|n_ready| n_ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn screen_is_cut_to_the_terminal() {
        assert_eq!(
            screen("abcdef\nb\nc\n", 4, 4),
            "\x1b[Habcd\x1b[K\r\nb\x1b[K\r\n\x1b[K\r\nq: q\x1b[K\x1b[J"
        );
    }
}
