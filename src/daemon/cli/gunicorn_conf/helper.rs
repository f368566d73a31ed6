//! Runs `gunicorn.conf.py` in a process of its own: `helper.py`, run by the application's
//! interpreter.
//!
//! The process has a limited time, and its standard output and error are the log. The process
//! answers in JSON and waits to be killed with its process group, so that no process that the file
//! started can keep the caller waiting. The process ends when its standard input, a pipe, is
//! closed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;

use super::location::ConfLocation;

const SCRIPT: &str = include_str!("helper.py");

/// Maximum size of the answer. Settings take a few kilobytes.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// Time that the process may take to exit after it has closed the pipe.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);

/// Changes the command that starts the interpreter, such as its user.
pub(crate) type Adjust<'a> = &'a dyn Fn(&mut Command);

/// The names and the process state that the file sets.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ConfNames {
    /// Settings of gunicorn with their values, as `plain` in `helper.py` makes them.
    pub(super) values: BTreeMap<String, Value>,
    /// Other names.
    pub(super) others: Vec<String>,
    /// Environment variables that the file adds or changes: `NAME=value`, as `plain` makes them.
    pub(super) environ: Vec<Value>,
    /// Directories that the file adds to `sys.path`, absolute, as `plain` makes them.
    pub(super) directories: Vec<Value>,
}

/// A failure to get the settings.
#[derive(Debug, thiserror::Error)]
pub(super) enum HelperError {
    /// The interpreter cannot be started or read.
    #[error("{python} cannot run it: {error}")]
    Io { python: String, error: io::Error },
    /// The file raised an exception.
    #[error("raised {summary}")]
    Raised {
        /// The exception's type and message.
        summary: String,
        /// `FILE:LINE` of the configuration file that raised the exception, or of a syntax error.
        place: Option<String>,
        /// `FILE:LINE` of the innermost frame, if it differs from `place`.
        inner: Option<String>,
    },
    /// The file did not return in time.
    #[error("did not return within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
    /// The process ended before it answered.
    #[error("ended its process before it returned ({0})")]
    Ended(String),
    /// The answer is too long or not JSON.
    #[error("has settings that cannot be read: {0}")]
    BadAnswer(String),
}

/// Runs the file or imports the module at `location` in `cwd`, and returns its names. `known` are
/// the settings to return.
///
/// # Errors
/// The file raised, took longer than `limit`, or its process ended.
pub(super) fn run(
    python: &Path,
    location: &ConfLocation,
    known: &str,
    cwd: &Path,
    limit: Duration,
    adjust: Adjust<'_>,
) -> Result<ConfNames, HelperError> {
    let mut command = command(python, "settings", location, known, cwd);
    adjust(&mut command);
    // `adjust` may clear the environment, but not arguments and descriptors.
    Helper::start(&mut command)?.read_answer(limit)
}

/// Returns the command that starts the interpreter. `mode` is explained in `helper.py`.
pub(super) fn command(
    python: &Path,
    mode: &str,
    location: &ConfLocation,
    known: &str,
    cwd: &Path,
) -> Command {
    let mut command = Command::new(python);
    let (kind, name) = match location {
        ConfLocation::File(path) => ("file", path.as_os_str()),
        ConfLocation::Module(module) => ("module", module.as_ref()),
    };
    command.arg("-c").arg(SCRIPT).arg(mode).arg(kind).arg(name).arg(known);
    command.current_dir(cwd).process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// A process that runs `helper.py`; killed with its group on drop.
#[derive(Debug)]
pub(super) struct Helper {
    child: Child,
    answers: File,
    python: String,
}

impl Helper {
    /// Starts the process.
    pub(super) fn start(command: &mut Command) -> Result<Self, HelperError> {
        let python = command.get_program().to_string_lossy().into_owned();
        let started = command.spawn().and_then(|mut child| {
            let pipe = child.stdout.take().ok_or_else(|| io::Error::other("it has no standard output"))?;
            Ok((child, File::from(OwnedFd::from(pipe))))
        });
        match started {
            Ok((child, answers)) => Ok(Self { child, answers, python }),
            Err(error) => Err(HelperError::Io { python, error }),
        }
    }

    /// Writes a line to the process's standard input.
    pub(super) fn send(&mut self, line: &str) -> Result<(), HelperError> {
        let Some(pipe) = self.child.stdin.as_mut() else { return Ok(()) };
        pipe.write_all(format!("{line}\n").as_bytes())
            .map_err(|error| HelperError::Io { python: self.python.clone(), error })
    }

    /// The id of the process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the process's next answer.
    pub(super) fn read_answer(&mut self, limit: Duration) -> Result<ConfNames, HelperError> {
        match read_answer(&mut self.answers, limit) {
            Ok(HelperAnswer::Complete(bytes)) => parse(&bytes),
            Ok(HelperAnswer::TooLong) => Err(HelperError::BadAnswer("they take more than 4 MiB".to_owned())),
            Ok(HelperAnswer::TimedOut) => Err(HelperError::TimedOut(limit)),
            Ok(HelperAnswer::Missing) => Err(HelperError::Ended(end(&mut self.child, true))),
            Err(error) => Err(HelperError::Io { python: self.python.clone(), error }),
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        end(&mut self.child, false);
    }
}

/// The outcome of reading the pipe.
enum HelperAnswer {
    Complete(Vec<u8>),
    TooLong,
    TimedOut,
    /// The pipe was closed before the answer was complete.
    Missing,
}

fn read_answer(pipe: &mut File, limit: Duration) -> io::Result<HelperAnswer> {
    let deadline = Instant::now() + limit;
    let (mut bytes, mut part) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) if left.is_zero() => return Ok(HelperAnswer::TimedOut),
            Ok(0) | Err(nix::errno::Errno::EINTR) => continue,
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        let n_read = pipe.read(&mut part)?;
        if n_read == 0 {
            return Ok(HelperAnswer::Missing);
        }
        let part = &part[..n_read];
        if let Some(end) = part.iter().position(|byte| *byte == 0) {
            bytes.extend_from_slice(&part[..end]);
            return Ok(HelperAnswer::Complete(bytes));
        }
        bytes.extend_from_slice(part);
        if bytes.len() > MAX_ANSWER_BYTES {
            return Ok(HelperAnswer::TooLong);
        }
    }
}

/// Kills the process with its group, and returns how it ended. `is_exiting`: the process has closed
/// the pipe, and probably exits by itself.
fn end(child: &mut Child, is_exiting: bool) -> String {
    let deadline = Instant::now() + if is_exiting { EXIT_TIMEOUT } else { Duration::ZERO };
    // The daemon's main loop reaps children that it does not know; the status of this child is then
    // unknown.
    let mut exited = child.try_wait();
    while matches!(exited, Ok(None)) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
        exited = child.try_wait();
    }
    if let Ok(None) = exited {
        // ESRCH: the process and its group have just ended.
        let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
        // Fails only if another part of this process has reaped the child.
        let _ = child.wait();
    }
    match exited {
        Ok(Some(status)) => status.to_string(),
        Ok(None) => "it closed the pipe".to_owned(),
        Err(_) => "its exit status is unknown".to_owned(),
    }
}

fn parse(bytes: &[u8]) -> Result<ConfNames, HelperError> {
    let bad = |what: &str| HelperError::BadAnswer(what.to_owned());
    let mut answer: Value =
        serde_json::from_slice(bytes).map_err(|error| HelperError::BadAnswer(error.to_string()))?;
    if let Some(error) = answer.get("error") {
        let text = |key: &str| error.get(key).and_then(Value::as_str).map(str::to_owned);
        let line = error.get("line").and_then(Value::as_u64);
        let place = text("file").map(|file| line.map_or(file.clone(), |line| format!("{file}:{line}")));
        let summary = text("summary").unwrap_or_default();
        return Err(HelperError::Raised { summary, place, inner: text("inner") });
    }
    let Some(Value::Object(values)) = answer.get_mut("values").map(Value::take) else {
        return Err(bad("the answer has no values"));
    };
    let list = |key| answer.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    Ok(ConfNames {
        values: values.into_iter().collect(),
        others: list("others").iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        environ: list("environ").to_vec(),
        directories: list("directories").to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::TestDir;

    /// Runs a shell script in place of the interpreter.
    fn answer_of(script: &str) -> Result<ConfNames, HelperError> {
        answer_within(Duration::from_secs(30), script)
    }

    fn answer_within(limit: Duration, script: &str) -> Result<ConfNames, HelperError> {
        let place = TestDir::new();
        let (source, python) =
            (place.file("script", format!("#!/bin/sh\n{script}").as_bytes(), 0o755), place.join("python"));
        // Another test may fork while this process has the script open for writing; execve(2) would
        // then fail with ETXTBSY.
        assert!(Command::new("cp").args([&source, &python]).status().unwrap().success());
        let location = ConfLocation::File("/srv/gunicorn.conf.py".into());
        run(&python, &location, "workers", place.path(), limit, &|_| {})
    }

    #[test]
    fn answer_ends_at_the_nul_not_at_the_end_of_the_pipe() {
        let names =
            answer_of(r#"printf '{"values":{"workers":"4"},"others":["cores"]}\0'; sleep 60"#).unwrap();
        assert_eq!(names.values["workers"], "4");
        assert_eq!(names.others, ["cores"]);
    }

    #[test]
    fn helper_that_never_answers_times_out() {
        let outcome = answer_within(Duration::from_millis(100), "exec sleep 60");
        assert!(matches!(outcome, Err(HelperError::TimedOut(_))), "{outcome:?}");
    }

    #[test]
    fn helper_that_exits_is_reported_with_its_status() {
        let error = answer_of("exit 3").unwrap_err();
        assert!(error.to_string().contains("before it returned ("), "{error}");
    }

    #[test]
    fn endless_answer_is_refused() {
        let error = answer_of("exec yes").unwrap_err();
        assert!(error.to_string().contains("more than 4 MiB"), "{error}");
    }

    #[test]
    fn answer_that_is_not_json_is_refused() {
        let error = answer_of(r"printf 'hello\0'; sleep 60").unwrap_err();
        assert!(matches!(error, HelperError::BadAnswer(_)), "{error}");
    }

    #[test]
    fn exception_is_reported_with_its_place() {
        let error = answer_of(
            r#"printf '{"error":{"summary":"KeyError: 1","file":"/a.py","line":3,"inner":null}}\0'"#,
        );
        let Err(HelperError::Raised { summary, place, inner }) = error else { panic!("{error:?}") };
        assert_eq!((summary.as_str(), place.as_deref(), inner), ("KeyError: 1", Some("/a.py:3"), None));
    }
}
