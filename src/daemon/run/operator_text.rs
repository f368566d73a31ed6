//! Texts of the operator's log about the application, its interpreter and the reasons for replacing
//! workers.

use rgun_channel::control::Interface;

use crate::config::{Config, Python, PythonSource, units};
use crate::escape::escape_path;
use crate::id::Generation;
use crate::pool::OomCause;
use crate::supervise::{RecycleReason, name_of_signal};

/// `mysite.wsgi:application is WSGI: 5 workers with 1 thread each, request timeout 30s`. A default
/// that exists only with APP on the command line is followed by the flag that changes it.
pub(super) fn describe_service(config: &Config, interface: Interface, cores: usize) -> String {
    let is_asgi = interface == Interface::Asgi;
    let workers = describe_count(config, cores);
    let threads = match config.workers.threads.get() {
        _ if is_asgi => String::new(),
        1 => " with 1 thread".to_owned(),
        threads => format!(" with {threads} threads"),
    };
    let (_, max) = config.workers.count.bounds(cores);
    let each = if is_asgi || max.get() == 1 { "" } else { " each" };
    let (more, timeout) = (hint_at_workers(config), describe_timeout(config));
    format!("{} is {interface}: {workers}{threads}{each}{more}, {timeout}", config.app.target)
}

/// Describes the number of workers: `5 workers`, `1 to 9 workers`.
pub(super) fn describe_count(config: &Config, cores: usize) -> String {
    match config.workers.count.bounds(cores) {
        (min, max) if min < max => format!("{min} to {max} workers"),
        (_, count) if count.get() == 1 => "1 worker".to_owned(),
        (_, count) => format!("{count} workers"),
    }
}

/// Names the flag that starts more workers than the default of APP on the command line.
pub(super) fn hint_at_workers(config: &Config) -> &'static str {
    if config.app_argument.one_worker { " (--workers starts more)" } else { "" }
}

/// Describes `timeouts.request`: `request timeout 30s`.
pub(super) fn describe_timeout(config: &Config) -> String {
    match config.timeouts.request {
        Some(timeout) => format!("request timeout {}", units::format_duration(timeout)),
        None if config.app_argument.untimed_asgi => "no request timeout (--timeout sets one)".to_owned(),
        None => "no request timeout".to_owned(),
    }
}

/// Says what a reload does while the new generation boots. `old_ready`: a worker of the old one is ready.
pub(super) fn describe_reload(generation: Generation, old_ready: bool) -> String {
    let meanwhile = if old_ready {
        "the old workers keep serving"
    } else {
        "no old worker is ready: requests wait or get 503 until a new one is"
    };
    format!("generation {generation} boots; {meanwhile}")
}

/// `/usr/bin/python3 (python3 on PATH)`.
pub(super) fn describe_python(python: &Python) -> String {
    format!("{} ({})", escape_path(&python.path), python.source)
}

/// The end of a sentence about an import that failed: the interpreter that lacks the module, and
/// the remedy.
pub(crate) fn explain_missing_module(python: &Python) -> String {
    let remedy = match python.source {
        PythonSource::Path => {
            "no virtual environment was found, so this is the system's; name yours with --python or app.python"
        }
        _ => "install the module there, or name another interpreter with --python or app.python",
    };
    format!("; the interpreter is {}: {remedy}", describe_python(python))
}

/// Returns the addition to the entry about a worker that the OOM killer has killed.
pub(super) fn describe_oom_kill(cause: OomCause) -> &'static str {
    match cause {
        OomCause::WorkerLimit => " (out of memory: it reached its hard limit, 1.5 times workers.max_memory)",
        OomCause::UnitLimit => {
            " (out of memory: all processes of the unit together reached the unit's limit, MemoryMax=)"
        }
        OomCause::Elsewhere => " (out of memory: the machine, or a slice above the unit, had no memory left)",
    }
}

pub(super) fn describe_recycling(reason: RecycleReason) -> String {
    match reason {
        RecycleReason::Requests { served } => format!("has served {served} requests (workers.max_requests)"),
        RecycleReason::Memory { bytes, limit } => {
            format!("uses {} of workers.max_memory = {}", format_mebibytes(bytes), format_mebibytes(limit))
        }
        RecycleReason::Lifetime => "has reached workers.max_lifetime".to_owned(),
        RecycleReason::Refork => "has served workers.refork requests and becomes the zygote".to_owned(),
        RecycleReason::Signal { signal } => format!("received {}", name_of_signal(signal)),
    }
}

fn format_mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::super::testing::configuration;
    use super::*;

    #[test]
    fn missing_module_names_the_interpreter_and_a_remedy() {
        let text = |source| explain_missing_module(&Python { path: "/v/bin/python".into(), source });
        assert_eq!(
            text(PythonSource::Path),
            "; the interpreter is /v/bin/python (python3 on PATH): no virtual environment was found, so this is the \
             system's; name yours with --python or app.python"
        );
        assert_eq!(
            text(PythonSource::Variable("VIRTUAL_ENV")),
            "; the interpreter is /v/bin/python (from $VIRTUAL_ENV): install the module there, or name another \
             interpreter with --python or app.python"
        );
    }

    #[test]
    fn service_is_described_with_capacity_and_timeout() {
        use Interface::{Asgi, Wsgi};
        for (args, interface, text) in [
            (
                &["a"][..],
                Wsgi,
                "a:application is WSGI: 1 worker with 1 thread (--workers starts more), request timeout 30s",
            ),
            (
                &["a", "-w", "auto"],
                Wsgi,
                "a:application is WSGI: 9 workers with 1 thread each, request timeout 30s",
            ),
            (
                &["a", "-w", "1", "--threads", "8"],
                Wsgi,
                "a:application is WSGI: 1 worker with 8 threads, request timeout 30s",
            ),
            (
                &["a", "-w", "2-4", "-t", "0"],
                Asgi,
                "a:application is ASGI: 2 to 4 workers, no request timeout",
            ),
            (&["a", "-w", "2", "-t", "90"], Asgi, "a:application is ASGI: 2 workers, request timeout 90s"),
        ] {
            assert_eq!(describe_service(&configuration(args), interface, 4), text);
        }
    }
}
