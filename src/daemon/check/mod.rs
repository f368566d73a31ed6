//! `rgun check`: boots one worker as the daemon would, and prints whether it became ready. Nothing
//! is served.
//!
//! For root, the check runs as the user of the systemd unit ([`identity`]), and also prints which
//! files this user cannot read or write ([`access`]). [`app_settings`] finds the databases of the
//! application.

mod access;
mod app_settings;
mod identity;
mod unit;
mod unit_syntax;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rgun_channel::control::{Command, Hooks, Preload, Report, Role};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::cli::{CheckIdentity, Invocation, UnreadInvocation};
use crate::config::{self, Config, MaxTasks, name};
use crate::dispatch::{Dispatcher, Notice, Policy};
use crate::edge::register;
use crate::error_chain::Chain;
use crate::id::{Generation, Incarnation, WorkerId, WorkerNr};
use crate::link::Reactor;
use crate::pool::{self, Pool, SpawnSpec, UserIdentity};
use crate::run::{
    MainMessage, StartupError, explain_missing_module, load_tls, notice_sink, preload, worker_hooks,
};
use crate::supervise::Exit;

use access::RequiredAccess;
use app_settings::AppSettings;
use identity::CheckContext;
use unit::Unit;

/// Time for the worker to exit after a Stop command.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs the check and prints the verdict. Returns the exit status: 0, 78 (EX_CONFIG), 64 (EX_USAGE)
/// when the user to check as is missing or wrong, 71 (EX_OSERR) when a system call fails, or 1 when
/// the verdict cannot be printed.
pub fn check(invocation: &Invocation, wanted: &CheckIdentity) -> ExitCode {
    let mut warnings = invocation.warnings.clone();
    let outcome = identity::resolve_context(invocation, wanted).and_then(|context| {
        warnings.clone_from(&context.invocation.warnings);
        check_context(&context, &mut warnings)
    });
    print_verdict(outcome, invocation.notice(), &warnings)
}

/// Runs [`check`] for root with a configuration in Python, which is executed as the user of the
/// check.
pub fn check_python(unread: &UnreadInvocation, wanted: &CheckIdentity) -> ExitCode {
    let mut warnings = Vec::new();
    let outcome = identity::read_context(unread, wanted).and_then(|context| {
        warnings.clone_from(&context.invocation.warnings);
        check_context(&context, &mut warnings)
    });
    print_verdict(outcome, unread.notice(), &warnings)
}

/// Prints the notice, the warnings and the verdict, and returns the exit status.
fn print_verdict(
    outcome: Result<String, StartupError>,
    notice: Option<String>,
    warnings: &[String],
) -> ExitCode {
    let (status, verdict) = match outcome {
        Ok(verdict) => (0, verdict),
        Err(StartupError { status, reason, .. }) => (status, format!("error: {reason}")),
    };
    let mut text = notice.map(|notice| format!("note: {notice}\n")).unwrap_or_default();
    text.extend(warnings.iter().flat_map(|warning| ["warning: ", warning, "\n"]));
    text.push_str(&verdict);
    text.push('\n');
    let printed = if status == 0 {
        std::io::stdout().write_all(text.as_bytes())
    } else {
        std::io::stderr().write_all(text.as_bytes())
    };
    ExitCode::from(if printed.is_ok() { status } else { 1 })
}

/// Boots a worker as the user of `context`. Before the boot, checks which files the user can read;
/// after the boot, which databases the user can write, and whether something serves the
/// application's static files.
fn check_context(context: &CheckContext, warnings: &mut Vec<String>) -> Result<String, StartupError> {
    let CheckContext { invocation, identity, unit } = context;
    let config = &without_credentials(&invocation.config, warnings);
    let tls = load_tls(config, None).map_err(|error| StartupError::config_reason(error.to_string()))?;
    warnings.extend(tls.map(|tls| tls.warnings).unwrap_or_default());
    warnings.extend(unit.as_ref().and_then(|unit| warn_unused_bind(config, unit)));
    let workers = context.find_worker_identity(config)?;
    context.check_control_group()?;
    let app_user = workers.as_ref().or(identity.as_ref());
    let as_workers =
        workers.as_ref().map(|user| format!("; its workers as {}", user.user)).unwrap_or_default();
    let Some(identity) = identity else {
        let verdict = check_boot(config, app_user)?;
        read_settings(config, app_user, warnings)?;
        return Ok(format!("{verdict}{as_workers}"));
    };
    let require = |user: &UserIdentity, needs: &[RequiredAccess]| {
        let problems = access::find_problems(user, unit.as_ref(), needs)
            .map_err(StartupError::system("check as another user"))?;
        if problems.is_empty() {
            Ok(())
        } else {
            Err(StartupError::config_reason(problems.join("\nerror: ")))
        }
    };
    require(identity, &access::required_by(config, invocation.file()))?;
    if let Some(workers) = &workers {
        require(workers, &access::required_by_workers(config))?;
    }
    let verdict = check_boot(config, app_user)?;
    let settings = read_settings(config, app_user, warnings)?;
    let databases: Vec<_> =
        settings.databases.iter().flat_map(|path| RequiredAccess::database(path)).collect();
    require(app_user.unwrap_or(identity), &databases)?;
    let of_unit = unit.as_ref().map(|unit| format!(", as {} runs it", unit.name)).unwrap_or_default();
    Ok(format!("{verdict}; checked as {}{of_unit}{as_workers}", identity.user))
}

/// Returns a warning about `listen.bind` if systemd passes the service its sockets.
fn warn_unused_bind(config: &Config, unit: &Unit) -> Option<String> {
    let sockets = unit.sockets();
    if sockets.is_empty() || !config.listen.explicit {
        return None;
    }
    let addresses: Vec<_> = config.listen.bind.iter().map(ToString::to_string).collect();
    Some(format!(
        "{} = {} has no effect: {} listens on the sockets of {}; change ListenStream= there (systemctl edit {})",
        name::BIND,
        addresses.join(", "),
        unit.name,
        sockets.join(" and "),
        sockets[0]
    ))
}

/// Returns the configuration without the unit's credentials, which only systemd can read; warns
/// about them.
fn without_credentials(config: &Config, warnings: &mut Vec<String>) -> Config {
    let (tls, mut unknown) = config.tls.split_unknown_credentials();
    unknown.extend_from_slice(&config.app.unknown_credentials);
    if !unknown.is_empty() {
        warnings.push(format!(
            "the unit's credentials are not checked ({}): systemd gives them to the running service alone, and \
             $CREDENTIALS_DIRECTORY is not set here; rgun reads them when it starts",
            unknown.join(", ")
        ));
    }
    Config { tls, ..config.clone() }
}

/// Reads the application's settings; warns if nothing serves its static files.
fn read_settings(
    config: &Config,
    identity: Option<&UserIdentity>,
    warnings: &mut Vec<String>,
) -> Result<AppSettings, StartupError> {
    let settings = app_settings::read(&config.app, identity);
    let settings = settings.map_err(StartupError::system("read the application's settings"))?;
    warnings.extend(settings.static_warning(config));
    Ok(settings)
}

/// Boots a worker and returns the verdict, a text to print.
fn check_boot(config: &Config, identity: Option<&UserIdentity>) -> Result<String, StartupError> {
    let extension = pool::find_extension().map_err(|error| StartupError::config_reason(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartupError::system("create the reactor"))?;
    let (messages_tx, messages_rx) = unbounded_channel();
    let reactor = Reactor::new().map_err(StartupError::system("create the reactor's shared page"))?;
    // A check sends one request at a time, for which the number of cores makes no difference.
    let dispatcher = Dispatcher::new(Policy::default(), 1, reactor, notice_sink(&messages_tx));
    let mut pool = Pool::new(extension, None);
    let (hooks, preload) = (worker_hooks(config), preload(config));
    let spec = SpawnSpec { identity, ..spawn_spec(config, &hooks, &preload) };
    let worker = spec.worker;
    let spawned = pool
        .spawn(&spec, dispatcher.reactor())
        .map_err(|error| StartupError::config_reason(Chain(&error).to_string()))?;
    let control = spawned.link.control.clone();
    dispatcher.attach(spawned.link);
    let mut boot = Boot { config, dispatcher, pool: &mut pool, worker, messages: messages_rx };
    let verdict = runtime.block_on(async {
        let finished = boot.run(control);
        match config.timeouts.boot {
            Some(limit) => tokio::time::timeout(limit, finished).await.unwrap_or_else(|_| {
                Err(StartupError::config_reason(format!(
                    "{} did not finish importing within timeouts.boot ({limit:?})",
                    imported(config)
                )))
            }),
            None => finished.await,
        }
    });
    stop_worker(&runtime, dispatcher, &mut pool, worker);
    verdict
}

/// Returns the specification of a worker that serves no requests.
fn spawn_spec<'a>(config: &'a Config, hooks: &'a Hooks, preload: &'a Preload) -> SpawnSpec<'a> {
    SpawnSpec {
        worker: WorkerId { number: WorkerNr(0), incarnation: Incarnation(1) },
        generation: Generation(1),
        app: &config.app,
        identity: None,
        hooks,
        threads: u32::from(config.workers.threads.get()),
        concurrency: 1,
        max_websockets: 0,
        multiprocess: true,
        report_sources: false,
        log_records: false,
        listeners: &[],
        role: Role::Check,
        preload,
        max_memory: None,
        max_tasks: MaxTasks::Off,
        cpu_weight: None,
        max_requests: None,
        children_timeout: Duration::ZERO,
    }
}

/// A worker that is booting.
struct Boot<'a> {
    config: &'a Config,
    dispatcher: &'static Dispatcher,
    pool: &'a mut Pool,
    worker: WorkerId,
    messages: UnboundedReceiver<MainMessage>,
}

impl Boot<'_> {
    /// Reads the worker's reports until the worker is ready or has failed. Returns the verdict.
    async fn run(&mut self, control: Arc<OwnedFd>) -> Result<String, StartupError> {
        let watching = "watch the control socket";
        let socket = register(control).map_err(StartupError::system(watching))?;
        let (mut python, mut warnings) = (String::new(), String::new());
        loop {
            let mut ready = socket.readable().await.map_err(StartupError::system(watching))?;
            let is_open = self.dispatcher.read_reports(self.worker);
            ready.clear_ready();
            while let Ok(MainMessage::Dispatch(notice)) = self.messages.try_recv() {
                match notice {
                    Notice::Report(_, Report::Booting { python: version }) => python = version,
                    Notice::Report(_, Report::Warning(text)) => {
                        warnings.extend(["warning: ", &text, "\n"]);
                    }
                    Notice::Report(_, Report::Ready { interface }) => {
                        let app = &self.config.app;
                        return Ok(format!(
                            "{warnings}{} is ready to serve: {interface} application, {python} ({}, {})",
                            app.target,
                            app.python.path.display(),
                            app.python.source,
                        ));
                    }
                    Notice::Report(_, Report::Refused(reason)) => {
                        return Err(StartupError::config_reason(reason));
                    }
                    Notice::Report(_, Report::Failed { summary, traceback, .. }) => {
                        let separator = if traceback.is_empty() { "" } else { "\n" };
                        let missing = summary.contains("ModuleNotFoundError: ");
                        let python = &self.config.app.python;
                        let interpreter =
                            if missing { explain_missing_module(python) } else { String::new() };
                        return Err(StartupError::config_reason(format!(
                            "{summary}{interpreter}{separator}{}",
                            traceback.trim_end()
                        )));
                    }
                    Notice::ContractBreached(_, reason) if is_open => {
                        return Err(StartupError::config_reason(format!("the worker {reason}")));
                    }
                    _ => {}
                }
            }
            if !is_open {
                return Err(StartupError::config_reason(
                    explain_death(self.pool, self.config, !python.is_empty()).await,
                ));
            }
        }
    }
}

/// Explains why the worker closed its socket without a report. `booted`: the worker's
/// interpreter had loaded the extension.
async fn explain_death(pool: &mut Pool, config: &Config, booted: bool) -> String {
    let how = match tokio::time::timeout(EXIT_TIMEOUT, wait_for_exit(pool)).await {
        Ok(how) => how.to_string(),
        Err(_) => "closed its worker socket".to_owned(),
    };
    if booted {
        format!("the worker {how} while it imported {}", imported(config))
    } else {
        let python = &config.app.python;
        format!(
            "the worker {how} without a message: is app.python = {} ({}) a CPython 3.9 or newer?",
            python.path.display(),
            python.source
        )
    }
}

/// Names what a booting worker imports.
fn imported(config: &Config) -> String {
    let target = &config.app.target;
    match &config.workers.preload {
        config::Preload::Modules(_) => format!("{target} or a module of workers.preload"),
        config::Preload::Off | config::Preload::Application => target.to_string(),
    }
}

async fn wait_for_exit(pool: &mut Pool) -> Exit {
    loop {
        if let Some(exit) = pool.reap().pop() {
            return exit.status;
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
    if let Err(error) = dispatcher.command(worker, &Command::Stop) {
        tracing::debug!(%error, "cannot ask the worker to stop, ignoring");
    }
    runtime.block_on(async {
        if tokio::time::timeout(EXIT_TIMEOUT, wait_for_exit(pool)).await.is_err() {
            pool.kill(worker);
        }
    });
}
