//! The catalog of the events that an operator meets in the journal (systemd-catalog(7)): each has a
//! `MESSAGE_ID=`, by which `journalctl -x` finds the explanation, and `journalctl MESSAGE_ID=…` all
//! entries of one kind.
//!
//! The table is the only source: `packaging/catalog/rgun.catalog` and the list in
//! `packaging/doc/journal.md` are made from it (`UPDATE_DOCS=1 cargo test -p rgun catalog`). An id
//! never changes its meaning; an event that is no longer logged keeps its row until the next major
//! version.

/// Defines the enum, the ids and the texts.
macro_rules! operator_events {
    ($($(#[$doc:meta])* $name:ident = $id:literal, $subject:literal, $text:literal;)*) => {
        /// An event that an operator may have to act on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum OperatorEvent {
            $($(#[$doc])* $name,)*
        }

        impl OperatorEvent {
            /// All events, in the order of the catalog.
            pub const EVENTS: &[Self] = &[$(Self::$name),*];

            /// Returns the value of `MESSAGE_ID=`: 128 bits in hexadecimal digits.
            pub const fn id(self) -> &'static str {
                match self {
                    $(Self::$name => $id,)*
                }
            }

            /// Returns the one-line subject of the catalog's entry.
            pub const fn subject(self) -> &'static str {
                match self {
                    $(Self::$name => $subject,)*
                }
            }

            /// Returns the explanation and the remedy. `@FIELD@` is replaced by journalctl with
            /// the field of the entry. Lines are wrapped at 80 columns when the catalog is made.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

operator_events! {
    /// The first worker since the start is ready.
    Ready = "8881b97fd3cb4771b222a7d98772a5a3", "rgun serves",
        "The first worker is ready: clients are answered now. The entry names the application, \
        the number of workers and threads, and the request timeout.";

    /// The daemon cannot start.
    StartFailed = "c1b1de68c54042a4a4eaad12df34e232", "rgun could not start",
        "The entry gives the reason and names the setting. After an error of the configuration \
        (exit status 78) or of the command line (64), systemd does not start the service again. \
        `systemctl status` shows which setting is wrong, without its value.\n\n\
        What to do: correct the setting, run `rgun check`, then `systemctl restart` the unit.";

    /// A worker has exited before it was ready, or was killed because it was not ready in time.
    BootFailed = "6a9c2832547746c68d675a0faebfeb26", "A worker did not boot",
        "The worker could not load the application: the entry has the reason and, the first time, \
        the traceback. During a reload, the daemon discards the new code, and old workers that are \
        ready keep serving. Otherwise it tries again, with a growing pause. If other workers serve, clients \
        notice nothing; without any worker, they are answered 503.\n\n\
        What to do: `rgun check` loads the application as the service's user and shows the same \
        error. After a correction, reload again, wait for the next attempt or run `systemctl \
        restart` on the unit.";

    /// A worker exited by itself, or was killed from outside.
    WorkerDied = "eb9a0404a59c41a481a5b6aa1c3be40e", "A worker died",
        "A worker process ended by itself or was killed by a signal; @RGUN_WORKER@ is its number. \
        The entry names the requests that it was running. Their clients were answered 502; with \
        workers.retry, requests that are safe to repeat went to another worker instead. The \
        daemon starts a new worker.\n\n\
        What to do: after SIGSEGV or SIGABRT, look for a core dump (`coredumpctl list`) and for \
        a faulty C extension. After SIGKILL, look for the kernel's OOM killer (`journalctl -k -g \
        oom`), or raise workers.max_memory if the entry names it.";

    /// A worker broke the contract of its channel.
    WorkerMisbehaved = "c0bfd6b1f68d41689d4d4a4e6c7e7dab", "A worker broke the channel's contract",
        "The worker wrote something into its shared memory that no correct worker writes, and was \
        killed. Either the application's native code overwrites memory that is not its own, or \
        this is a bug in rgun.\n\n\
        What to do: if it happens again, report it with this entry.";

    /// A request has exceeded its deadline.
    Deadline = "ee3cd5a4347c4383b85f0d64723801bd", "A request exceeded its deadline",
        "The application took longer than timeouts.request for the request @RGUN_REQUEST_ID@. Its \
        client was answered 504; if the response had begun, its connection was closed. The entry \
        has the Python stack of each thread of the worker at that moment: the first one shows \
        where the time is spent. A worker whose thread does not return is replaced.\n\n\
        What to do: see the stack. If requests may take this long, raise timeouts.request, or \
        set it for this path alone with [[timeouts.path]].";

    /// A worker is being replaced because of a request over its deadline.
    WorkerReplaced = "647cff4b23294d4eb13e56ebca78056c", "A worker is being replaced",
        "A thread of the worker is still busy with a request over its deadline. A new worker \
        takes the place of this one, which may finish its other requests first.";

    /// A worker is replaced because it has reached a limit, or received a signal.
    Recycled = "19e0c54c24e14587b8245c8dc7b1383e", "A worker is renewed",
        "A worker has reached workers.max_requests, workers.max_memory or workers.max_lifetime, or \
        received a signal; the entry says which. The worker serves until its successor is ready. If the \
        last reload did not succeed, a worker that has reached a number of requests or an age serves until \
        a reload succeeds.";

    /// A worker serves code that a reload has rejected.
    RejectedCode = "420f398520364182ad00ec6ff1c47956", "A worker serves code that a reload has rejected",
        "The last reload failed or was rolled back, but the files are still there: a worker that was \
        started since then, after a crash or because of the load, has imported them.\n\n\
        What to do: repair the files, and reload. With workers.preload, or with a directory of its own for \
        each release, workers that are started later have the code of the others.";

    /// A worker has not finished its requests, or has not exited, in time.
    Overdue = "fa0023aeeb2646c69bb80ce0ceb53cec", "A worker exceeds a time limit",
        "The worker did not finish its requests within timeouts.drain, so it is asked to exit; or it did \
        not exit when it was asked to, so it is killed. The entry gives the time, and the Python stacks of \
        a worker that did not exit.\n\n\
        What to do: raise timeouts.drain if requests may take that long; repair a hanging clean-up (a \
        thread that is not a daemon thread, atexit, the lifespan's shutdown). If the worker could not be \
        killed either, a device or network file system holds it (`ps -o stat,wchan`).";

    /// A request is given to another worker after the first one died.
    Retried = "71f801aaefe9460f8b3778bafcade7a6", "A request is repeated in another worker",
        "The worker that ran the request @RGUN_REQUEST_ID@ died. The request is repeated in \
        another worker (workers.retry), and its client notices nothing but the delay.";

    /// A reload was refused because of the configuration.
    ReloadRefused = "6a8f9eaa3f844510adb94f7248965574", "A reload was refused",
        "The new configuration is wrong, and nothing has changed; the entry names each key, its \
        value and the remedy.\n\n\
        What to do: correct it, run `rgun check`, then `systemctl reload` the unit again.";

    /// The event loop of a worker is blocked.
    Stalled = "a0998f250f6441d3bc10a45c88099a7b", "An event loop is blocked",
        "A call in a coroutine has not returned for timeouts.stall; meanwhile none of the \
        requests of this worker makes progress. The entry has the Python stack.\n\n\
        What to do: move the call into a thread (`asyncio.to_thread`, `run_in_threadpool`), or \
        declare the function with `def` where the framework then uses threads.";

    /// A request has been running for longer than `log.slow`.
    SlowRequest = "042164d4c9ac4bf39ecec20443f3b01b", "A request is slow",
        "The request @RGUN_REQUEST_ID@ has been running for longer than log.slow. The entry has \
        the Python stack of its thread at that moment. The request continues.";

    /// The application raised an exception, or the daemon answered 5xx in its place.
    Exception = "32671019391940b39359f97e758a88c4", "A request failed",
        "The application raised an exception, or broke its protocol, and the entry has the traceback; \
        or its worker died. The client was answered @RGUN_STATUS@ without any text of the exception. Give users the \
        id of their request (X-Request-ID) to find this entry:\n\n    journalctl RGUN_REQUEST_ID=@RGUN_REQUEST_ID@";

    /// A request was refused before it reached the application.
    Refused = "bf76b620326a48bf9618bb9ef6d650b0", "A request was refused",
        "rgun answered @RGUN_STATUS@ without asking the application; RGUN_KIND=@RGUN_KIND@ is the \
        reason, and RGUN_MORE= is the number of further refusals of this kind within a second.\n\n\
        What to do: single malformed requests from scanners need no action. queue_full, \
        queue_too_slow and queue_timeout mean that there are too few workers for the load, or \
        that the application is slow: see the waits in `systemctl status`, and raise \
        workers.count or workers.threads.";

    /// The application answered with a status of 500 or above.
    ServerError = "498a07ee777e4c209fceee4d8f57efd2", "The application answered with an error",
        "The application itself answered @RGUN_STATUS@. It handled the exception, if there was one, \
        so rgun has no traceback: frameworks log it with Python's logging. Without log.access, \
        RGUN_MORE= is the number of further such responses within a second, and the entry has the \
        request ids of up to 32 of them; with log.access, this is the entry of one request in the \
        access log.\n\n\
        What to do: look at the output of worker @RGUN_WORKER@ just before this entry \
        (`journalctl RGUN_WORKER=@RGUN_WORKER@`). If the traceback is missing, let the framework log \
        it to standard error; Django by default only mails it to ADMINS (LOGGING in its settings).";

    /// Requests with one method and path are refused, because they have killed two workers.
    Quarantined = "7adc342cbd9f458984bf47f5643ff8d0", "Requests that kill workers are refused",
        "Two workers died within a minute while they ran @RGUN_METHOD@ @RGUN_PATH@. Such requests \
        are answered 503 for a while, so that they do not kill the other workers one after the \
        other.\n\n\
        What to do: see the entries about the two deaths.";

    /// A reload begins.
    ReloadStarted = "9ccca38f4beb4ef187edbcd4f9ab1398", "A reload has begun",
        "Workers with the new code and configuration boot next to the old ones, which serve \
        until the new ones are ready.";

    /// A reload has succeeded.
    Reloaded = "932e3ceaead84ea6a463bdc4e2c19c03", "A reload has succeeded",
        "The workers of generation @RGUN_GENERATION@ serve. The old ones finish their requests \
        and exit.";

    /// A reload has failed; ready workers keep the old code.
    ReloadFailed = "9e3ea2b196a54e05b67492ebfac6be80", "A reload has failed; ready workers keep the old code",
        "The new code or configuration does not work, and is discarded: the entry has the reason. \
        Old workers that are ready keep serving, and no request was lost. If none was ready, \
        nothing has changed for clients: requests wait or are answered 503 until a worker with the \
        old code is ready, or a reload succeeds.\n\n\
        What to do: correct the error, run `rgun check`, then `systemctl reload` the unit again.";

    /// A reload has accepted settings that only a restart applies.
    RestartNeeded = "68b45e9fd92649b791998d0b3224458b", "Settings need a restart",
        "Keys have changed that are read only at the start, because sockets and the streams of the \
        log exist from then on. The reload has applied all other keys. The entry names each of \
        these keys, its value in use and the new one.\n\n\
        What to do: run the command in the entry; with a socket unit, a restart refuses no \
        connection. Or undo the change.";

    /// New workers failed after a reload, and the old ones serve again.
    RolledBack = "551a2a72aedf427390c4f2a5d3d70fbb", "A reload was rolled back",
        "The new workers failed within reload.watch after the reload: the entry has the reason. \
        The workers of generation @RGUN_GENERATION@, with the old code, serve again.\n\n\
        What to do: see the errors of the new workers above this entry. The next reload tries \
        the new code again.";

    /// Requests were aborted, because they did not end within `timeouts.drain`.
    DrainTimedOut = "c044415bf4924180892f6c4723f33a6a", "Requests were aborted when the service stopped",
        "Requests were still running when timeouts.drain had passed after the stop began. Their \
        connections were closed.\n\n\
        What to do: raise timeouts.drain, and TimeoutStopSec= above it, if requests may take \
        that long.";

    /// The number of workers has changed.
    Resized = "78972dff1d7e4ea6b1f1f4ad65e35ebe", "The number of workers has changed",
        "The entry gives the old and the new number and the cause: the load, a signal (TTIN, \
        TTOU), or idleness (workers.idle_exit).";

    /// The daemon exits, because it has not been used for `daemon.idle_exit`.
    IdleExit = "06789dc160d04e15bad4656fd0b10b8d", "rgun exits until the next connection",
        "No request has arrived for the time in daemon.idle_exit. The service stops and frees its \
        memory; its socket stays open, and the next connection starts the service again. The first \
        request then waits until a worker has booted.\n\n\
        What to do: nothing. If the service starts and exits again and again although nobody uses \
        it, look for a monitor that opens connections, and set daemon.idle_exit longer or \"off\".";

    /// Memory is short.
    MemoryPressure = "c92e3c15aa4c4def98d906d13f03695b", "Memory is short",
        "Processes of the service wait for memory, because the machine or a limit of the service has \
        little left (pressure stall information). Idle workers above the minimum of workers.count \
        exit, the others collect garbage and trim their heaps once they run no request, and no \
        requests are prefetched, until memory has not been short for 10 s.\n\n\
        What to do: see which services use the memory (`systemd-cgtop -m`). Lower workers.count, set \
        workers.max_memory, or raise MemoryHigh= and MemoryMax= of the unit.";

    /// Memory is no longer short.
    MemoryPressureEnded = "563e7a9d699441a48e24c24a9ff07c19", "Memory is no longer short",
        "The service has not waited for memory for 10 s. Requests are prefetched again, and the load \
        decides the number of workers.";

    /// The daemon cannot serve its metrics.
    MetricsFailed = "b6edeedca16b4069ab041a25170ef3e5", "Metrics are not served",
        "An address of metrics.bind cannot be opened, or its socket has failed; the entry has the \
        reason. The application is served, and so are metrics at other addresses.\n\n\
        What to do: `ss -ltnp` shows which process uses an address. Free the address, or correct \
        metrics.bind; then run `systemctl restart` on the unit.";

    /// Log entries were dropped.
    EntriesDropped = "da9dc0e8192c460bb3d5ac9ddda03d03", "Log entries were dropped",
        "The log's reader could not keep up, and @RGUN_DROPPED@ entries were dropped. Requests \
        are never delayed by the log.\n\n\
        What to do: log less (log.access = false, log.level), or raise LogRateLimitBurst= of the \
        unit.";

    /// A listening socket does not accept connections.
    AcceptFailed = "d9c2fcbf7f174b268d3bcacce325f105", "A listening socket has failed",
        "accept(2) fails on the listener @RGUN_LISTENER@, and trying again would not help. The \
        daemon stops, so that systemd can start it again.\n\n\
        What to do: see the error in the entry, and `systemctl status` of the socket unit.";

    /// The thread that owns the connections does not answer.
    EdgeHung = "03cbc659452c4597b4220897c5c63041", "The daemon hangs",
        "The thread that owns all connections has not answered for half of WatchdogSec=. This is \
        a bug in rgun, or the machine was stopped for that long. systemd aborts the daemon and \
        starts it again; connections wait in the socket's backlog.\n\n\
        What to do: report it with the entries before this one. For a core dump of the next hang, set \
        Environment=RGUN_DUMPABLE=1 in a drop-in; workers can then read the daemon's memory.";
}

/// The catalog as `packaging/catalog/rgun.catalog`, in the format of systemd-catalog(7).
#[cfg(test)]
fn render_catalog() -> String {
    let mut catalog = "# Explanations of rgun's journal entries (journalctl -x); made from src/daemon/journal/catalog.rs.\n".to_owned();
    for event in OperatorEvent::EVENTS {
        let (id, subject) = (event.id(), event.subject());
        let fields = format!("\n-- {id}\nSubject: {subject}\nDefined-By: rgun\nDocumentation: man:rgun(8)\n");
        catalog.push_str(&fields);
        for line in event.text().split('\n') {
            catalog.push('\n');
            catalog.push_str(&wrap(line, 80));
        }
        catalog.push('\n');
    }
    catalog
}

/// Wraps a paragraph; one that begins with spaces is a command and stays as it is.
#[cfg(test)]
fn wrap(paragraph: &str, columns: usize) -> String {
    if paragraph.starts_with(' ') {
        return paragraph.to_owned();
    }
    let mut text = String::new();
    let mut column = 0;
    for word in paragraph.split(' ') {
        let width = word.chars().count();
        if column > 0 && column + 1 + width > columns {
            text.push('\n');
            column = 0;
        } else if column > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += width;
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    const JOURNAL_DOC: &str = "packaging/doc/journal.md";

    fn document(path: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
    }

    /// Compares a file with its text, or writes it if `UPDATE_DOCS` is set.
    fn assert_document(path: &str, expected: &str) {
        let file = document(path);
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, expected).unwrap();
        }
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(text, expected, "{path} differs: UPDATE_DOCS=1 cargo test -p rgun catalog");
    }

    #[test]
    fn ids_are_distinct_128_bit_numbers() {
        let ids: BTreeSet<&str> = OperatorEvent::EVENTS.iter().map(|event| event.id()).collect();
        assert_eq!(ids.len(), OperatorEvent::EVENTS.len());
        for id in ids {
            assert!(
                id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')),
                "{id}"
            );
        }
    }

    #[test]
    fn catalog_is_made_from_the_table() {
        assert_document("packaging/catalog/rgun.catalog", &render_catalog());
    }

    #[test]
    fn journal_document_lists_the_events() {
        let row = |event: &OperatorEvent| format!("| {} | `{}` |\n", event.subject(), event.id());
        let rows = OperatorEvent::EVENTS.iter().map(row).collect::<Vec<_>>().concat();
        let text = std::fs::read_to_string(document(JOURNAL_DOC)).unwrap();
        let head = "| event | `MESSAGE_ID` |\n|---|---|\n";
        let (before, after) = text.split_once(head).unwrap();
        let (_, after) = after.split_once("\n\n").unwrap();
        assert_document(JOURNAL_DOC, &format!("{before}{head}{rows}\n{after}"));
    }

    #[test]
    fn every_event_is_logged_somewhere() {
        let mut unused: BTreeSet<String> =
            OperatorEvent::EVENTS.iter().map(|event| format!("OperatorEvent::{event:?}")).collect();
        let mut directories = vec![document("src/daemon")];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let source = std::fs::read_to_string(&path).unwrap();
                    unused.retain(|event| !source.contains(event.as_str()));
                }
            }
        }
        assert!(unused.is_empty(), "{unused:?}");
    }
}
