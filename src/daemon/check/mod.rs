//! `rgun check`: boots one worker exactly as the daemon would, and says whether that works. Nothing listens,
//! nothing is served.
//!
//! Root checks as the user of the unit ([`identity`]), and is told what that user may not read ([`access`]) or write
//! ([`databases`]).

mod access;
mod databases;
mod identity;
mod unit;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use rgun_channel::control::{Command, Hooks, Report, Role};
use tokio::sync::mpsc::unbounded_channel;

use crate::cli::{self, CheckIdentity, Invocation};
use crate::config::Config;
use crate::dispatch::{Dispatcher, Notice, Policy, Reactor};
use crate::error_chain::Chain;
use crate::id::{Generation, Life, WorkerId, WorkerNr};
use crate::pool::{self, Identity, Plan, Pool};
use crate::run::{MainMessage, StartupError, notice_sink};
use crate::supervise::Exit;

use access::RequiredAccess;
use identity::CheckContext;

/// Time for the worker to leave after it has been asked to.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Checks, prints the verdict, and returns the exit status: 0, 78 with the reason, or 64 when root names nobody to check
/// as.
pub fn check(invocation: &Invocation, wanted: &CheckIdentity) -> ExitCode {
    let mut warnings = invocation.warnings.clone();
    let outcome = identity::resolve_context(invocation, wanted).and_then(|subject| {
        warnings.clone_from(&subject.invocation.warnings);
        check_context(&subject)
    });
    let (status, verdict) = match outcome {
        Ok(verdict) => (0, verdict),
        Err(StartupError { status, reason }) => (status, format!("error: {reason}")),
    };
    let mut text: String = warnings.iter().flat_map(|warning| ["warning: ", warning, "\n"]).collect();
    text.push_str(&verdict);
    text.push('\n');
    let printed = if status == 0 {
        std::io::stdout().write_all(text.as_bytes())
    } else {
        std::io::stderr().write_all(text.as_bytes())
    };
    ExitCode::from(if printed.is_ok() { status } else { 1 })
}

/// Boots, and looks at what the user may do before and after.
fn check_context(subject: &CheckContext) -> Result<String, StartupError> {
    let CheckContext { invocation, identity, unit } = subject;
    let config = &invocation.config;
    let Some(identity) = identity else { return check_boot(config, None) };
    let may = |needs: &[RequiredAccess]| {
        let problems = access::find_problems(identity, unit.as_ref(), needs)
            .map_err(StartupError::system("check as another user"))?;
        if problems.is_empty() {
            Ok(())
        } else {
            Err(StartupError { status: cli::EX_CONFIG, reason: problems.join("\nerror: ") })
        }
    };
    may(&access::required_by(config, invocation.file()))?;
    let sound = check_boot(config, Some(identity))?;
    let databases =
        databases::find(&config.app, identity).map_err(StartupError::system("ask the application"))?;
    may(&databases.iter().flat_map(|path| RequiredAccess::database(path)).collect::<Vec<_>>())?;
    let whose = unit.as_ref().map(|unit| format!(", as {} runs it", unit.name)).unwrap_or_default();
    Ok(format!("{sound}; checked as {}{whose}", identity.user))
}

fn check_boot(config: &Config, identity: Option<&Identity>) -> Result<String, StartupError> {
    let extension = pool::find_extension()
        .map_err(|error| StartupError { status: cli::EX_CONFIG, reason: error.to_string() })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartupError::system("make a reactor"))?;
    let (tell, mut told) = unbounded_channel();
    let reactor = Reactor::new().map_err(StartupError::system("make the shared page"))?;
    let policy = Policy::default();
    let dispatcher = Dispatcher::new(policy, reactor, notice_sink(&tell));
    let mut pool = Pool::new(extension, None);
    if let Some(identity) = identity {
        pool.run_as(identity.clone());
    }
    let worker = WorkerId { number: WorkerNr(0), life: Life(1) };
    let plan = Plan {
        worker,
        generation: Generation(1),
        app: &config.app,
        hooks: &Hooks::default(),
        threads: u32::from(config.workers.threads.get()),
        concurrency: 1,
        websockets: 0,
        multiprocess: true,
        listeners: &[],
        role: Role::Worker,
        warm_up: "",
        max_memory: None,
        max_requests: None,
        children: Duration::ZERO,
    };
    let spawned = pool
        .spawn(&plan, dispatcher.reactor())
        .map_err(|error| StartupError { status: cli::EX_CONFIG, reason: Chain(&error).to_string() })?;
    let control = spawned.link.control.clone();
    dispatcher.attach(spawned.link);
    let verdict = runtime.block_on(async {
        let talk = async {
            let socket =
                crate::edge::register(control).map_err(StartupError::system("watch the control socket"))?;
            let (mut python, mut warnings) = (String::new(), String::new());
            loop {
                let mut ready =
                    socket.readable().await.map_err(StartupError::system("watch the control socket"))?;
                let open = dispatcher.pump_control(worker);
                ready.clear_ready();
                while let Ok(MainMessage::Dispatch(notice)) = told.try_recv() {
                    let failed = |reason| Err(StartupError { status: cli::EX_CONFIG, reason });
                    match notice {
                        Notice::Report(_, Report::Booting { python: version }) => python = version,
                        Notice::Report(_, Report::Warning(text)) => {
                            warnings.extend(["warning: ", &text, "\n"]);
                        }
                        Notice::Report(_, Report::Ready { interface }) => {
                            return Ok(format!(
                                "{warnings}{} is sound: {interface:?} application, {python} ({}, {})",
                                config.app.target,
                                config.app.python.path.display(),
                                config.app.python.source,
                            ));
                        }
                        Notice::Report(_, Report::Refused(reason)) => return failed(reason),
                        Notice::Report(_, Report::Failed { summary, traceback, .. }) => {
                            let separator = if traceback.is_empty() { "" } else { "\n" };
                            return failed(format!("{summary}{separator}{}", traceback.trim_end()));
                        }
                        Notice::ContractBreached(_, why) if open => {
                            return failed(format!("the worker {why}"));
                        }
                        _ => {}
                    }
                }
                if !open {
                    return Err(StartupError {
                        status: cli::EX_CONFIG,
                        reason: explain_death(&mut pool, config, !python.is_empty()).await,
                    });
                }
            }
        };
        match config.timeouts.boot {
            Some(limit) => tokio::time::timeout(limit, talk).await.unwrap_or_else(|_| {
                Err(StartupError {
                    status: cli::EX_CONFIG,
                    reason: format!(
                        "{} did not finish importing within timeouts.boot ({limit:?})",
                        config.app.target
                    ),
                })
            }),
            None => talk.await,
        }
    });
    stop_worker(&runtime, dispatcher, &mut pool, worker);
    verdict
}

/// The worker closed its socket without a word: its exit says how. `booted`: its interpreter had loaded the extension.
async fn explain_death(pool: &mut Pool, config: &Config, booted: bool) -> String {
    let how = match tokio::time::timeout(EXIT_TIMEOUT, wait_for_exit(pool)).await {
        Ok(how) => how.to_string(),
        Err(_) => "closed its control socket".to_owned(),
    };
    if booted {
        format!("the worker {how} while it imported {}", config.app.target)
    } else {
        let python = &config.app.python;
        format!(
            "the worker {how} without a word: is app.python = {} ({}) a CPython 3.9 or newer?",
            python.path.display(),
            python.source
        )
    }
}

async fn wait_for_exit(pool: &mut Pool) -> Exit {
    loop {
        if let Some(ended) = pool.reap().pop() {
            return ended.how;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn stop_worker(
    runtime: &tokio::runtime::Runtime,
    dispatcher: &Dispatcher,
    pool: &mut Pool,
    worker: WorkerId,
) {
    if pool.is_empty() {
        return;
    }
    // The worker may be gone already; what matters is that it is gone at the end.
    if let Err(error) = dispatcher.command(worker, &Command::Stop) {
        tracing::debug!(%error, "cannot ask the worker to stop, ignoring");
    }
    runtime.block_on(async {
        if tokio::time::timeout(EXIT_TIMEOUT, wait_for_exit(pool)).await.is_err() {
            pool.kill(worker);
        }
    });
}
