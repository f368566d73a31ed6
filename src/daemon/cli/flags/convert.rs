//! Converts values from gunicorn's and uvicorn's spelling into that of the configuration file.

use crate::config::{Value, nearest};

/// Adds the unit to gunicorn's whole seconds; a time of zero becomes `zero`. `config` checks
/// everything else.
pub(super) fn seconds(time: &str, zero: &str) -> Value {
    let plain = !time.is_empty() && time.bytes().all(|byte| byte.is_ascii_digit());
    match plain {
        true if time.bytes().all(|byte| byte == b'0') => Value::text(zero),
        true => Value::text(format!("{time}s")),
        false => Value::text(time),
    }
}

/// Converts uvicorn's floating-point seconds (`20.0`, `0.2`), rounded up to milliseconds; zero is
/// "off".
pub(super) fn fractional_seconds(time: &str) -> Value {
    let value = match milliseconds(time) {
        None => return seconds(time, "off"),
        Some(0) => return Value::text("off"),
        Some(time) => time,
    };
    if value % 1000 == 0 {
        Value::text(format!("{}s", value / 1000))
    } else {
        Value::text(format!("{value}ms"))
    }
}

/// Converts a number of seconds with a decimal point to milliseconds, rounded up; `None` if `time`
/// is no such number.
fn milliseconds(time: &str) -> Option<u64> {
    let (whole, fraction) = time.split_once('.')?;
    let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) || time.len() < 2 {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let (mut value, mut is_more) = (whole, false);
    for at in 0..fraction.len().max(3) {
        let digit = fraction.as_bytes().get(at).map_or(0, |digit| u64::from(digit - b'0'));
        if at < 3 {
            value = value.checked_mul(10)?.checked_add(digit)?;
        } else {
            is_more |= digit > 0;
        }
    }
    value.checked_add(u64::from(is_more))
}

/// Maps gunicorn's `--header-map` to a value of `http.underscores`.
pub(super) fn underscores(map: &str) -> Value {
    Value::text(if map == "dangerous" { "allow" } else { map })
}

/// Maps gunicorn's `--http-protocols` to a value of `http.http2`. HTTP/1.1 is always served.
pub(super) fn http2(protocols: &str) -> Value {
    let mut has_http2 = false;
    for protocol in protocols.split(',') {
        match protocol.trim() {
            "h1" => {}
            "h2" => has_http2 = true,
            // `config` reports the value.
            _ => return Value::text(protocols),
        }
    }
    Value::Boolean(has_http2)
}

/// Maps gunicorn's log levels to those of `log.level`.
pub(super) fn level(level: &str) -> Value {
    Value::text(match level.to_ascii_lowercase().as_str() {
        "critical" => "error",
        "warning" => "warn",
        other => return Value::text(other),
    })
}

/// Maps gunicorn's `--reload-engine` to a value of `reload.poll`.
pub(super) fn reload_engine(engine: &str) -> Value {
    match engine {
        "auto" | "inotify" => Value::Boolean(false),
        "poll" => Value::Boolean(true),
        // `config` reports the value.
        other => Value::text(other),
    }
}

/// The equivalent of one of gunicorn's worker classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WorkerClass {
    /// A value of `app.interface`.
    pub(super) interface: &'static str,
    /// Whether threads take the place of the class's own concurrency, such as greenlets.
    pub(super) needs_threads: bool,
    /// Whether the class is one of hypercorn's, which are event loops.
    pub(super) is_loop: bool,
}

/// Worker classes, of which the nearest is suggested for a misspelled one.
const WORKER_CLASSES: [&str; 12] = [
    "sync",
    "gthread",
    "gevent",
    "eventlet",
    "tornado",
    "asgi",
    "uvicorn.workers.UvicornWorker",
    "uvicorn_worker.UvicornWorker",
    "gunicorn.workers.gthread.ThreadWorker",
    "gunicorn.workers.ggevent.GeventWorker",
    "gunicorn.workers.geventlet.EventletWorker",
    "uvloop",
];

/// Maps one of gunicorn's worker classes.
///
/// # Errors
/// The remedy for a class that rgun has no equivalent of, or that is misspelled.
pub(super) fn worker_class(class: &str) -> Result<WorkerClass, String> {
    let base = WorkerClass { interface: "auto", needs_threads: false, is_loop: false };
    let same = |interface| Ok(WorkerClass { interface, ..base });
    match class {
        "sync" | "gthread" | "gunicorn.workers.sync.SyncWorker" | "gunicorn.workers.gthread.ThreadWorker" => {
            same("wsgi")
        }
        "asgi"
        | "uvicorn.workers.UvicornWorker"
        | "uvicorn.workers.UvicornH11Worker"
        | "uvicorn_worker.UvicornWorker"
        | "uvicorn_worker.UvicornH11Worker" => same("asgi"),
        "tornado" | "gunicorn.workers.gtornado.TornadoWorker" => Err(
            "serve the tornado application with its own HTTPServer; rgun serves WSGI and ASGI applications"
                .to_owned(),
        ),
        "gevent"
        | "gevent_wsgi"
        | "gevent_pywsgi"
        | "eventlet"
        | "gunicorn.workers.ggevent.GeventWorker"
        | "gunicorn.workers.ggevent.GeventPyWSGIWorker"
        | "gunicorn.workers.geventlet.EventletWorker" => {
            Ok(WorkerClass { interface: "wsgi", needs_threads: true, ..base })
        }
        "asyncio" | "uvloop" => Ok(WorkerClass { is_loop: true, ..base }),
        "trio" => Err(
            "remove it if the application runs on asyncio too, as one written with anyio does; rgun runs no trio"
                .to_owned(),
        ),
        other => match nearest(other, WORKER_CLASSES) {
            Some(class) => Err(format!("did you mean {class}?")),
            None => Ok(WorkerClass { needs_threads: true, ..base }),
        },
    }
}

/// Converts the numbers of Python's `ssl.CERT_NONE`, `CERT_OPTIONAL` and `CERT_REQUIRED`.
pub(super) fn client_auth(mode: &str) -> Value {
    Value::text(match mode {
        "0" | "CERT_NONE" => "off",
        "1" | "CERT_OPTIONAL" => "optional",
        "2" | "CERT_REQUIRED" => "required",
        other => other,
    })
}
