//! The WebSocket clients of the benchmarks: many on one thread, so that they use one core.
//!
//! `bench-websocket ADDRESS PATH CONNECTIONS BYTES [deflate]` opens the connections, 64 at a time,
//! and then prints a line of JSON. After that it reads commands from stdin, one a line, and answers
//! each with a line of JSON:
//! - `echo SECONDS`: every client sends a text message of BYTES, waits for its echo, and sends the
//!   next.
//! - `once`: every client sends one message and waits for its echo.
//!
//! Between commands the clients are idle and answer pings. End of file closes them. After an
//! unexpected event the program exits with 1 and a message on stderr. A latency is the time from
//! before the write to after the read of the whole echo.
//!
//! `tests/bench/websocket_load.py` starts the program and measures its CPU time. The program runs
//! on the core of `tests/bench/run`.

#![forbid(unsafe_code)]

mod client;
mod frame;

use std::io::{self, BufRead as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use client::{Client, MIN_MESSAGE_BYTES, Plan};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, LocalSet};

const USAGE: &str = "usage: bench-websocket ADDRESS PATH CONNECTIONS BYTES [deflate]";
/// Connections opened at a time: fewer than any server's backlog.
const MAX_OPENING: usize = 64;

/// A command for all clients.
#[derive(Clone, Copy, Debug)]
enum Command {
    Idle,
    Echo { until: Instant },
    Once,
    Close,
}

/// The result of a command for one client: latencies in microseconds.
type Report = io::Result<Vec<u32>>;

/// Runs the program. An error goes to stderr.
fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Parses the command line and runs.
fn start() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (address, path, connections, bytes, deflate) = match arguments.as_slice() {
        [address, path, connections, bytes] => (address, path, connections, bytes, false),
        [address, path, connections, bytes, word] if word == "deflate" => {
            (address, path, connections, bytes, true)
        }
        _ => return Err(USAGE.into()),
    };
    let plan = Plan { address: address.parse()?, path: path.clone(), bytes: bytes.parse()?, deflate };
    if !(MIN_MESSAGE_BYTES..=usize::from(u16::MAX)).contains(&plan.bytes) {
        return Err(format!("BYTES is {bytes}: from {MIN_MESSAGE_BYTES} to {}", u16::MAX).into());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, run(plan, connections.parse()?))?;
    Ok(())
}

/// Runs from the first handshake to the last close.
async fn run(plan: Plan, connections: usize) -> io::Result<()> {
    let clients = open(plan, connections).await?;
    let deflated = clients.iter().filter(|client| client.deflate).count();
    let (commands, received_commands) = watch::channel(Command::Idle);
    let (report, mut reports) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    for client in clients {
        tasks.spawn_local(run_client(client, received_commands.clone(), report.clone()));
    }
    println!(r#"{{"open":{connections},"deflate":{deflated}}}"#);
    let mut lines = read_lines();
    loop {
        let line = tokio::select! {
            line = lines.recv() => line,
            Some(early) = reports.recv() => return early.map(|_| ()),
        };
        let Some(line) = line else { break };
        let begun = Instant::now();
        let command = parse(&line, begun)?;
        commands.send_replace(command);
        let mut times = Vec::new();
        for _ in 0..connections {
            times.extend(reports.recv().await.ok_or_else(|| io::Error::other("all clients have ended"))??);
        }
        let seconds = match command {
            Command::Echo { until } => until - begun,
            _ => begun.elapsed(),
        };
        println!("{}", summarize(times, seconds));
    }
    commands.send_replace(Command::Close);
    while tasks.join_next().await.is_some() {}
    Ok(())
}

/// Opens all clients, a few at a time. Fails with the first error.
async fn open(plan: Plan, connections: usize) -> io::Result<Vec<Client>> {
    let mut clients = Vec::with_capacity(connections);
    let mut opening = JoinSet::new();
    for number in 0..connections {
        if opening.len() == MAX_OPENING {
            clients.extend(next(&mut opening).await?);
        }
        let plan = plan.clone();
        opening.spawn_local(async move { Client::open(&plan, number).await });
    }
    while !opening.is_empty() {
        clients.extend(next(&mut opening).await?);
    }
    Ok(clients)
}

/// Returns the next client that has been opened.
async fn next(opening: &mut JoinSet<io::Result<Client>>) -> io::Result<Option<Client>> {
    opening.join_next().await.transpose().map_err(io::Error::other)?.transpose()
}

/// Runs one client, which is idle between commands. An error is reported and ends the client.
async fn run_client(mut client: Client, mut commands: watch::Receiver<Command>, report: mpsc::UnboundedSender<Report>) {
    loop {
        let error = tokio::select! {
            changed = commands.changed() => changed.err().map(io::Error::other),
            error = client.idle() => Some(error),
        };
        let done = match (error, *commands.borrow_and_update()) {
            (Some(error), _) => Err(error),
            (None, Command::Idle) => continue,
            (None, Command::Close) => return client.close().await,
            (None, Command::Once) => echo(&mut client, None).await,
            (None, Command::Echo { until }) => echo(&mut client, Some(until)).await,
        };
        let failed = done.is_err();
        // The receiver is dropped after the error of another client.
        if report.send(done).is_err() || failed {
            return;
        }
    }
}

/// Sends messages in a closed loop `until` this time; one message if `until` is `None`. The last
/// echo is awaited, but not counted if it is late.
async fn echo(client: &mut Client, until: Option<Instant>) -> Report {
    let mut times = Vec::new();
    let mut begin = Instant::now();
    loop {
        client.echo().await?;
        let end = Instant::now();
        if until.is_some_and(|until| end > until) {
            return Ok(times);
        }
        times.push(u32::try_from((end - begin).as_micros()).unwrap_or(u32::MAX));
        if until.is_none() {
            return Ok(times);
        }
        begin = end;
    }
}

/// Parses a command.
fn parse(line: &str, now: Instant) -> io::Result<Command> {
    let seconds = line.strip_prefix("echo ").and_then(|seconds| seconds.parse().ok());
    let length = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    match (line, length) {
        ("once", _) => Ok(Command::Once),
        (_, Some(length)) => Ok(Command::Echo { until: now + length }),
        _ => Err(io::Error::other(format!("no such command: {line:?}; there are `echo SECONDS` and `once`"))),
    }
}

/// Formats the number of messages, the time and latencies (nearest rank) as a line of JSON.
fn summarize(mut times: Vec<u32>, seconds: Duration) -> String {
    times.sort_unstable();
    let rank =
        |share: usize| times.get((times.len() * share).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0);
    format!(
        r#"{{"messages":{},"seconds":{},"p50_us":{},"p99_us":{},"max_us":{}}}"#,
        times.len(),
        seconds.as_secs_f64(),
        rank(50),
        rank(99),
        rank(100),
    )
}

/// Reads the lines of stdin in a thread, which ends with stdin.
fn read_lines() -> mpsc::UnboundedReceiver<String> {
    let (sender, lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        // An unreadable line ends the program like the end of file.
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_the_nearest_rank() {
        let line = summarize((1..=200).rev().collect(), Duration::from_millis(500));
        assert_eq!(line, r#"{"messages":200,"seconds":0.5,"p50_us":100,"p99_us":198,"max_us":200}"#);
        assert!(summarize(Vec::new(), Duration::ZERO).starts_with(r#"{"messages":0,"#));
    }

    #[test]
    fn an_unknown_command_is_refused() {
        let now = Instant::now();
        assert!(matches!(parse("once", now), Ok(Command::Once)));
        assert!(
            matches!(parse("echo 0.5", now), Ok(Command::Echo { until }) if until - now == Duration::from_millis(500))
        );
        for line in ["echo", "echo x", "echo -1", "quit"] {
            assert!(parse(line, now).is_err(), "{line}");
        }
    }
}
