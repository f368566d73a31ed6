//! A worker without Python: the daemon's integration tests run it in place of the interpreter.
//!
//! The daemon starts it as `PYTHON -c CODE SO_PATH`. It ignores its arguments, takes the control
//! socket from fd 3 and speaks the contract of `rgun-channel`, with one thread per slot as the real
//! worker has. The request's path selects the response: correct, late, none, or a breach of the
//! contract. It breaks the contract only where the tables in `requests.rs`, `breaches.rs`,
//! `asgi.rs` and `websocket.rs` say so. It knows nothing of Python, WSGI or the daemon's
//! configuration. `cargo test` builds it as the example `fake_worker` of `rgun-channel`.
//!
//! # Boot: `RGUN_FAKE`
//! The value is a list of behaviours, separated by commas and executed in order. `@PATH` reads the
//! list from a file at each boot, so that a test can change the next process; a missing file is the
//! empty list. An unknown behaviour exits with status 64.
//!
//! | value | effect |
//! |---|---|
//! | (empty) | Booting, Ready, serves |
//! | `slow:MS` | sleeps before Booting |
//! | `slow-app:MS` | sleeps between Booting and Ready |
//! | `silent` | sends no report, waits for Stop |
//! | `never` | Booting, never Ready, waits for Stop |
//! | `failed` / `failed-config` | Booting, Failed of kind App (with a traceback) / Config, exits 1 |
//! | `refused` | Refused, as the bootstrap writes it, exits 1 |
//! | `exit:CODE` / `exit-booting:CODE` | exits before / after Booting without a report |
//! | `abort` | aborts before Booting |
//! | `garbage` | sends a malformed message, then waits for Stop |
//! | `ready-twice` | sends Ready a second time |
//! | `ready-auto` | sends Ready without an interface, as only a zygote may |
//! | `ignore-stop` | serves, and ignores Stop |
//! | `asgi` | is an ASGI worker, see `asgi.rs` |
//! | `mute` | serves, and ignores DumpStacks and the signal for it |
//!
//! DumpStacks always writes the same stack; with an exchange, only while that exchange runs. The
//! fake worker cannot be a zygote: it exits with status 64.

mod asgi;
mod breaches;
mod requests;
mod response;
mod takeover;
mod websocket;
mod worker;

use std::error::Error;
use std::io::Write as _;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{env, fs, io, panic, process, thread};

use rgun_channel::control::{
    self, CONTROL_FD, Command, FailureKind, Interface, MAX_MESSAGE_BYTES, Report, Role,
};

use worker::{Worker, ignore_stacks_signal, receive, serve};

pub(crate) type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Maximum time to wait for an event that the contract guarantees.
pub(crate) const WAIT_TIMEOUT: Duration = Duration::from_secs(10);

/// Exit status for an unintended breach of the contract, by the fake worker or the daemon
/// (EX_SOFTWARE).
pub(crate) const EXIT_SOFTWARE: i32 = 70;

fn main() {
    // A panic exits the process: if only the panicking thread ended, its slot would seem to hang.
    panic::set_hook(Box::new(|panic| quit(EXIT_SOFTWARE, &panic.to_string())));
    match boot() {
        Ok(()) => {}
        Err(error) => quit(EXIT_SOFTWARE, &error.to_string()),
    }
}

/// Receives Start, executes the behaviours of `RGUN_FAKE`, and serves until Stop.
fn boot() -> Outcome {
    #[expect(unsafe_code, reason = "the worker socket is inherited by number")]
    // SAFETY: the daemon has opened this descriptor before exec; nothing else in this process owns
    // it.
    let socket = unsafe { OwnedFd::from_raw_fd(CONTROL_FD) };
    let mut buffer = vec![0; MAX_MESSAGE_BYTES];
    let received = receive(socket.as_fd(), &mut buffer)?;
    if received.len == 0 {
        return Ok(());
    }
    let Command::Start(start) = Command::decode(&buffer[..received.len])? else {
        return Err("the first command was not Start".into());
    };
    let Ok([map, reactor, eventfd, stacks, wake]) = <[OwnedFd; 5]>::try_from(received.fds) else {
        return Err("Start came without its five descriptors".into());
    };
    if start.role == Role::Zygote {
        quit(64, "a fake cannot be a zygote");
    }
    ignore_stacks_signal();
    let mut worker = Worker::new(socket, *start, map.as_fd(), reactor.as_fd(), eventfd, stacks)?;

    let mut wake = Some(wake);
    let mut ignores_stop = false;
    let mut ready = 1;
    let mut knows_interface = true;
    let mut before_ready = Duration::ZERO;
    let mut wait_after_booting = false;
    let mut after_booting = None;
    for behaviour in behaviours()?.split(',').map(str::trim).filter(|behaviour| !behaviour.is_empty()) {
        let (name, argument) = behaviour.split_once(':').unwrap_or((behaviour, "0"));
        match name {
            "slow" => thread::sleep(milliseconds(argument)?),
            "slow-app" => before_ready = milliseconds(argument)?,
            "silent" => return worker.wait_for_stop(),
            "never" => wait_after_booting = true,
            "failed" => after_booting = Some(BootEnd::Failed(FailureKind::App)),
            "failed-config" => after_booting = Some(BootEnd::Failed(FailureKind::Config)),
            "refused" => {
                worker.report(&Report::Refused("this fake runs no Python".into()), &[])?;
                quit(1, "refused, as RGUN_FAKE requests")
            }
            "exit" => quit(argument.parse()?, "exits before Booting, as RGUN_FAKE requests"),
            "exit-booting" => after_booting = Some(BootEnd::Exit(argument.parse()?)),
            "abort" => process::abort(),
            "garbage" => {
                control::send(&worker.socket, &[0xff; 32], &[])?;
                return worker.wait_for_stop();
            }
            "ready-twice" => ready = 2,
            "ready-auto" => knows_interface = false,
            "ignore-stop" => ignores_stop = true,
            "mute" => worker.mute = true,
            "asgi" => worker.events = wake.take().map(asgi::Loop::new),
            unknown => quit(64, &format!("RGUN_FAKE: unknown behaviour {unknown:?}")),
        }
    }

    worker.report(&Report::Booting { python: "CPython 3.99.0 (fake)".into() }, &[])?;
    match after_booting {
        None => {}
        Some(BootEnd::Exit(code)) => quit(code, "exits after Booting, as RGUN_FAKE requests"),
        Some(BootEnd::Failed(kind)) => {
            let traceback = match kind {
                FailureKind::App => {
                    "Traceback (most recent call last):\n  File \"fake.py\", line 1\nFake: boom\n"
                }
                FailureKind::Config => "",
            };
            let summary = "the fake application does not load".to_owned();
            let headline = "loading it raised Fake (fake.py, line 1)".to_owned();
            worker
                .report(&Report::Failed { kind, summary, traceback: traceback.to_owned(), headline }, &[])?;
            quit(1, "failed, as RGUN_FAKE requests")
        }
    }
    if wait_after_booting {
        return worker.wait_for_stop();
    }
    thread::sleep(before_ready);
    for _ in 0..ready {
        let interface = match &worker.events {
            _ if !knows_interface => Interface::Auto,
            Some(_) => Interface::Asgi,
            None => Interface::Wsgi,
        };
        worker.report(&Report::Ready { interface }, &[])?;
    }
    serve(&Arc::new(worker), ignores_stop)
}

/// The end of a boot that does not reach Ready.
enum BootEnd {
    Exit(i32),
    Failed(FailureKind),
}

/// Returns the value of `RGUN_FAKE`, or the content of the file that it names.
fn behaviours() -> io::Result<String> {
    let value = env::var("RGUN_FAKE").unwrap_or_default();
    match value.strip_prefix('@') {
        None => Ok(value),
        Some(path) => match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            content => content,
        },
    }
}

pub(crate) fn milliseconds(argument: &str) -> Outcome<Duration> {
    Ok(Duration::from_millis(argument.parse()?))
}

/// Returns `len` bytes that can be checked by their position: the byte at `i` is `i % 251`.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    let block: Vec<u8> = (0..=250).collect();
    let mut bytes = block.repeat(len / block.len() + 1);
    bytes.truncate(len);
    bytes
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn hang() -> ! {
    loop {
        thread::park();
    }
}

#[expect(clippy::exit, reason = "an intended exit")]
pub(crate) fn quit(code: i32, why: &str) -> ! {
    // Tests find the reason on stderr. One write, so that the daemon's lines on the same terminal are
    // not torn. If it fails, there is no reader.
    let line = format!("fake worker {}: {why}\n", process::id());
    drop(io::stderr().write_all(line.as_bytes()));
    process::exit(code)
}
