//! The lines that the daemon writes to a terminal about its start, its reloads and its stop. The
//! other log formats have entries with more detail instead.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rgun_channel::control::Interface;

use super::operator_text::{describe_count, describe_timeout, hint_at_workers};
use crate::config::{Config, units};
use crate::escape::escape_path;
use crate::net::Listener;

/// The lines of one run of the daemon.
#[derive(Debug)]
pub(super) struct TerminalLog {
    started: Instant,
    /// The listeners' addresses as URLs, or as `unix:` and a path.
    addresses: Vec<String>,
    /// The version of Python that the last booting worker has reported, such as `3.11.7`; `None`
    /// before the first report.
    python: Option<String>,
    /// Workers that have become ready since the last reload began.
    n_ready: usize,
    /// The application and its interpreter, for a start that fails. `None` once they were shown.
    unshown: Option<(String, PathBuf)>,
}

/// Logs a line that only a terminal shows.
macro_rules! show {
    ($level:ident, $($message:tt)+) => {
        tracing::$level!(target: "rgun::terminal", $($message)+)
    };
}

impl TerminalLog {
    /// Notes the start and the listeners.
    pub(super) fn new(config: &Config, listeners: &[Listener]) -> Self {
        let address = |listener: &Listener| {
            let address = listener.address();
            let scheme = if config.listen.speaks_tls(&listener.name) { "https" } else { "http" };
            match address.starts_with("unix:") {
                true if scheme == "https" => format!("{address} (TLS)"),
                true => address,
                false => format!("{scheme}://{address}"),
            }
        };
        Self {
            started: Instant::now(),
            addresses: listeners.iter().map(address).collect(),
            python: None,
            n_ready: 0,
            unshown: Some((config.app.target.to_string(), config.app.python.path.clone())),
        }
    }

    /// Notes the interpreter that a worker reports: `CPython 3.11.7`.
    pub(super) fn note_python(&mut self, version: &str) {
        self.python = version.split_whitespace().nth(1).map(str::to_owned);
    }

    /// Notes that a worker is ready.
    pub(super) fn note_ready(&mut self) {
        self.n_ready += 1;
    }

    /// Notes that a reload begins.
    pub(super) fn note_reload(&mut self) {
        self.n_ready = 0;
    }

    /// Shows the application and the addresses, when the first worker is ready.
    pub(super) fn show_ready(&self, config: &Config, interface: Interface, cores: usize) {
        show!(
            info,
            "rgun {}  {}  {}",
            env!("CARGO_PKG_VERSION"),
            config.app.target,
            self.service(config, interface, cores)
        );
        show!(
            info,
            "ready on {} after {}   (Ctrl-C stops, kill -HUP {} reloads)",
            self.addresses.join(", "),
            seconds(self.started.elapsed()),
            std::process::id()
        );
    }

    /// Shows the application and the addresses when the first boot fails, before the error.
    pub(super) fn show_failed_start(&mut self) {
        let Some((target, python)) = self.unshown.take() else { return };
        show!(
            info,
            "rgun {}  {target}  {}({}), listening on {}",
            env!("CARGO_PKG_VERSION"),
            self.python_version(),
            escape_path(environment_of(&python)),
            self.addresses.join(", ")
        );
    }

    /// Returns `Python 3.11.7 ` with the space, or an empty text before a worker's report.
    fn python_version(&self) -> String {
        self.python.as_deref().map(|version| format!("Python {version} ")).unwrap_or_default()
    }

    /// Shows that a reload was completed.
    pub(super) fn show_reloaded(&self, took: Duration) {
        let workers = match self.n_ready {
            1 => "1 new worker serves".to_owned(),
            n => format!("{n} new workers serve"),
        };
        show!(info, "reloaded in {}: {workers}", seconds(took));
    }

    /// Describes the application:
    /// `WSGI, 5 workers x 1 thread, request timeout 30s, Python 3.11.7 (/srv/mysite/.venv)`.
    fn service(&self, config: &Config, interface: Interface, cores: usize) -> String {
        let is_asgi = interface == Interface::Asgi;
        let (more, timeout) = (hint_at_workers(config), describe_timeout(config));
        format!(
            "{}, {}{more}, {timeout}, {}({})",
            if is_asgi { "ASGI" } else { "WSGI" },
            capacity(config, is_asgi, cores),
            self.python_version(),
            escape_path(environment_of(&config.app.python.path))
        )
    }
}

/// Describes the number of workers and threads: `5 workers x 1 thread`. ASGI has no threads to
/// name, since a worker's event loop serves all its requests.
fn capacity(config: &Config, is_asgi: bool, cores: usize) -> String {
    let workers = describe_count(config, cores);
    match config.workers.threads.get() {
        _ if is_asgi => workers,
        1 => format!("{workers} x 1 thread"),
        threads => format!("{workers} x {threads} threads"),
    }
}

/// Returns the virtual environment of an interpreter, or the interpreter itself.
fn environment_of(python: &Path) -> &Path {
    let prefix = python.parent().and_then(Path::parent);
    prefix.filter(|prefix| prefix.join("pyvenv.cfg").is_file()).unwrap_or(python)
}

/// Formats a duration as `0.12 s`.
fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

/// Shows that a reload failed. `reason` is one line. `old_ready`: a worker with the old code is ready.
pub(super) fn show_failed_reload(reason: &str, old_ready: bool) {
    let old = if old_ready { "the old code keeps serving" } else { "no worker with the old code is ready" };
    show!(error, "reload failed: {reason}; {old}");
}

/// Shows that the daemon stops, and how many requests it finishes first. `is_interrupt`: Ctrl-C
/// stops it; a space then separates the line from the terminal's `^C`.
pub(super) fn show_stopping(n_requests: usize, drain: Duration, is_interrupt: bool) {
    let space = if is_interrupt { " " } else { "" };
    let again = if is_interrupt { "; Ctrl-C again stops at once" } else { "" };
    let at_most = units::format_duration(drain);
    match n_requests {
        0 => show!(info, "{space}stopping"),
        1 => show!(info, "{space}stopping: 1 request under way, at most {at_most}{again}"),
        n => show!(info, "{space}stopping: {n} requests under way, at most {at_most}{again}"),
    }
}

/// Shows that the daemon has stopped.
pub(super) fn show_stopped() {
    show!(info, "stopped");
}

#[cfg(test)]
mod tests {
    use super::super::testing::configuration;
    use super::*;

    fn log(python: Option<&str>) -> TerminalLog {
        let mut log = TerminalLog {
            started: Instant::now(),
            addresses: Vec::new(),
            python: None,
            n_ready: 0,
            unshown: None,
        };
        if let Some(python) = python {
            log.note_python(python);
        }
        log
    }

    #[test]
    fn service_names_capacity_timeout_and_python() {
        use Interface::{Asgi, Wsgi};
        for (args, interface, expected) in [
            (
                &["a"][..],
                Wsgi,
                "WSGI, 1 worker x 1 thread (--workers starts more), request timeout 30s, Python 3.11.7",
            ),
            (&["a", "-w", "auto"], Wsgi, "WSGI, 9 workers x 1 thread, request timeout 30s, Python 3.11.7"),
            (
                &["a", "-w", "2-4", "--threads", "8"],
                Wsgi,
                "WSGI, 2 to 4 workers x 8 threads, request timeout 30s, Python 3.11.7",
            ),
            (&["a", "-w", "2", "-t", "0"], Asgi, "ASGI, 2 workers, no request timeout, Python 3.11.7"),
        ] {
            let config = configuration(args);
            let text = log(Some("CPython 3.11.7")).service(&config, interface, 4);
            assert_eq!(text.rsplit_once(" (").map(|(text, _)| text), Some(expected));
        }
        assert!(!log(None).service(&configuration(&["a"]), Wsgi, 1).contains("Python "));
    }

    #[test]
    fn virtual_environment_is_named_instead_of_its_interpreter() {
        let place = crate::config::testing::TestDir::new();
        let python = place.join(".venv/bin/python");
        assert_eq!(environment_of(&python), python);
        place.file(".venv/pyvenv.cfg", b"", 0o644);
        assert_eq!(environment_of(&python), place.join(".venv"));
    }
}
