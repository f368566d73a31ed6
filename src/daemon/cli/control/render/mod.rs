//! The replies of the daemon as text for people. Programs use `--json`.

use std::fmt::Write as _;
use std::time::Duration;

use self::Align::{Left, Right};
use crate::control::{
    DrainReply, RequestState, RequestsReply, ScaleReply, StacksReply, StatusReply, WorkerEntry, WorkersReply,
};

/// Formats the state of the service, one line for each group of numbers.
pub(super) fn status(reply: &StatusReply) -> String {
    let generation = match reply.pending_generation {
        Some(pending) => format!("{} ({pending} is booting)", reply.generation),
        None => reply.generation.to_string(),
    };
    let drained = if reply.draining { "health checks get 503 until rgun drain --undo" } else { "no" };
    let rows = [
        ("status", reply.status.clone()),
        ("generation", generation),
        ("workers", format!("{} of {} ready", reply.workers_ready, reply.workers_desired)),
        ("requests", format!("{} running, {} queued; {} slots", reply.running, reply.queued, reply.slots)),
        ("wait p95", duration(reply.wait_p95_usec)),
        ("responses", format!("{}, {} failed", reply.responses, reply.failed_responses)),
        (
            "faults",
            format!("{} crashes of workers, {} failed boots", reply.worker_crashes, reply.boot_failures),
        ),
        ("drained", drained.to_owned()),
        ("daemon", format!("rgun {}, process {}", reply.version, reply.pid)),
    ];
    let rows = rows.map(|(name, value)| vec![format!("{name}:"), value]);
    table(&[Left, Left], &rows)
}

/// Formats the workers, one line each.
pub(super) fn workers(reply: &WorkersReply) -> String {
    if reply.workers.is_empty() {
        return "no worker runs\n".to_owned();
    }
    let head = [
        "WORKER",
        "PID",
        "GENERATION",
        "STATE",
        "FOR",
        "RUNNING",
        "WEBSOCKETS",
        "RESPONSES",
        "FAILED",
        "MEMORY",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(reply.workers.iter().map(worker_row));
    table(&[Right, Right, Right, Left, Right, Right, Right, Right, Right, Right], &rows)
}

fn worker_row(worker: &WorkerEntry) -> Vec<String> {
    vec![
        worker.number.map_or_else(|| "zygote".to_owned(), |number| number.to_string()),
        worker.pid.map_or_else(dash, |pid| pid.to_string()),
        worker.generation.to_string(),
        worker.state.clone(),
        duration(worker.state_usec),
        format!("{}/{}", worker.running, worker.slots),
        worker.websockets.to_string(),
        worker.responses.to_string(),
        worker.failed_responses.to_string(),
        worker.memory.map_or_else(dash, size),
    ]
}

/// Formats the requests, one line each.
pub(super) fn requests(reply: &RequestsReply) -> String {
    if reply.requests.is_empty() {
        return "no request is queued or running\n".to_owned();
    }
    let head = ["ELAPSED", "STATE", "WORKER", "CLIENT", "METHOD", "PATH", "ID"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(reply.requests.iter().map(|request| {
        let state = match request.state {
            RequestState::Queued => "queued",
            RequestState::Running => "running",
        };
        vec![
            duration(request.elapsed_usec),
            state.to_owned(),
            request.worker.map_or_else(dash, |worker| worker.to_string()),
            request.client.clone().unwrap_or_else(dash),
            request.method.clone(),
            request.path.clone(),
            request.id.clone(),
        ]
    }));
    let mut text = table(&[Right, Left, Right, Left, Left, Left, Left], &rows);
    if reply.total > reply.requests.len() {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} of {} requests, the longest", reply.requests.len(), reply.total);
    }
    text
}

/// Formats the stacks of each worker, with the worker's number above them.
pub(super) fn stacks(reply: &StacksReply) -> String {
    if reply.workers.is_empty() {
        return "no worker is ready\n".to_owned();
    }
    let texts = reply.workers.iter().map(|worker| {
        let pid = worker.pid.map_or_else(dash, |pid| pid.to_string());
        let stacks = match &worker.stacks {
            Some(stacks) => stacks.trim_end(),
            None => "no answer; C code may hold the GIL, or the worker has just exited",
        };
        format!("worker {}, process {pid}:\n{stacks}\n", worker.worker)
    });
    texts.collect::<Vec<_>>().join("\n")
}

/// Confirms the number of workers.
pub(super) fn scale(reply: &ScaleReply) -> String {
    format!("workers until the next reload: {}\n", reply.workers)
}

/// Confirms whether the service is drained.
pub(super) fn drain(reply: &DrainReply) -> String {
    if reply.draining {
        "drained: health checks get 503 until rgun drain --undo or the next start; other requests are served\n"
            .to_owned()
    } else {
        "not drained: health checks get 200 while a worker can serve\n".to_owned()
    }
}

/// The alignment of a column.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Align {
    Left,
    Right,
}

/// Aligns the columns of a table, two spaces apart. Every row has a cell for each column.
fn table(columns: &[Align], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(columns).zip(&widths).map(|((cell, align), width)| match align {
            Left => format!("{cell:<width$}"),
            Right => format!("{cell:>width$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn dash() -> String {
    "-".to_owned()
}

/// Formats a number of microseconds in its largest one or two units: `850 us`, `1.5 s`, `2h 05m`.
fn duration(micros: u64) -> String {
    let duration = Duration::from_micros(micros);
    let secs = duration.as_secs();
    match secs {
        0 if micros < 1000 => format!("{micros} us"),
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{:.1} s", duration.as_secs_f64()),
        60..3600 => format!("{}m {:02}s", secs / 60, secs % 60),
        3600..86400 => format!("{}h {:02}m", secs / 3600, secs % 3600 / 60),
        _ => format!("{}d {:02}h", secs / 86400, secs % 86400 / 3600),
    }
}

/// Formats a number of bytes in MiB, the unit that suits the memory of a worker.
fn size(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

#[cfg(test)]
mod tests;
