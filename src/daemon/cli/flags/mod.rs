//! The command line's definition: commands, rgun's own flags (gunicorn's spelling), and their
//! conversion to settings.
//!
//! `groups` has the flags, one struct for each section of the help; `convert` maps spellings
//! (`--timeout 120` is seconds, `0` is off, `warning` is `warn`). `config` checks the values, so a
//! flag and its key accept the same values. Uvicorn's flags are in `compat`.

pub(super) mod control;
mod convert;
mod groups;
mod reload;
mod settings;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser};
use groups::{
    ApplicationFlags, LimitFlags, ListenFlags, LogFlags, TimeoutFlags, TlsFlags, WebSocketFlags, WorkerFlags,
};

use super::compat::uvicorn;
use super::error::flag_error;
use crate::config::{ConfigError, Layer, Value, name};
pub(super) use control::CONTROL_COMMANDS;
use control::ControlCommand;
use reload::ReloadFlags;
use settings::FlagSettings;

/// The origin, in messages, of the application on the command line.
pub(super) const APP: &str = "APP";

// Lines of at most 78 columns: clap would break longer ones without their indentation.
const AFTER_HELP: &str = "\
Examples:
  rgun mysite.wsgi                           \"application\" of mysite/wsgi.py
  rgun mysite.asgi:app -b :8000 -w 4         \"app\", 4 workers, all addresses
  rgun 'mysite:make()' --chdir /srv/mysite   what make() returns
  sudo rgun check                            check /etc/rgun/rgun.toml as the
                                             user of rgun.service
  rgun reload                                load new code without losing a
                                             request

Settings:
  Flags override the environment (RGUN_<SECTION>_<KEY>, and WEB_CONCURRENCY
  for the workers), which overrides the file, which overrides the defaults.
  Every key has a variable, even a key without a flag:
  RGUN_WORKERS_MAX_MEMORY=512MiB.
  With APP and no --config, ./gunicorn.conf.py is read if there is one.
  Without APP, /etc/rgun/rgun.toml is read; it explains every key.

Gunicorn and uvicorn:
  Flags are gunicorn's; uvicorn's --host and --port, --uds, --factory,
  --app-dir, --access-log, --limit-max-requests, --limit-concurrency,
  --timeout-keep-alive and --timeout-graceful-shutdown are accepted as well.
  GUNICORN_CMD_ARGS and gunicorn.conf.py are read; flags override them.
  Other flags of both are recognized: one that systemd or rgun's design makes
  unnecessary is accepted with a warning; one that cannot be ignored safely is
  refused, and the message says what to do instead.

Exit status:
  1   failure; reload: the new code failed, old workers that are ready keep
      serving; doctor: there is a problem
  64  the command line is wrong
  69  reload, status, workers, requests, top, stacks, scale, drain: no daemon
      answers; doctor: no systemd answers
  78  the configuration is wrong
  A restart does not help after 64 and 78; units should set
  RestartPreventExitStatus=64 78.";

/// The help of `--user` for `rgun check`.
const CHECK_USER: &str = "As root: check as this user, with its groups [default: User= of the unit]";

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "rgun",
    bin_name = "rgun",
    override_usage = "rgun [OPTIONS] [APP]\n       rgun check [OPTIONS] [APP]\n       rgun reload | status | workers | requests | top | stacks | drain [NAME] [OPTIONS]\n       rgun scale COUNT [NAME] [OPTIONS]\n       rgun init [NAME] [OPTIONS]\n       rgun doctor [NAME] [--json]\n       rgun migrate [--write DIR [--yes]] FILE…",
    version,
    about = "Serves a Python application: WSGI and ASGI, one daemon, systemd as its user interface.",
    after_help = AFTER_HELP,
    args_conflicts_with_subcommands = true,
    args_override_self = true,
    disable_help_subcommand = true,
    disable_version_flag = true,
    subcommand_help_heading = "Commands (without one: serve in the foreground)"
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) flags: Flags,
    /// Print the version and exit.
    #[arg(short = 'v', short_alias = 'V', long, action = ArgAction::Version)]
    version: Option<bool>,
    #[command(subcommand)]
    pub(super) command: Option<Subcommand>,
}

/// The commands other than serving.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Subcommand {
    /// Check the configuration and the application, and report all errors; serve nothing.
    #[command(
        override_usage = "rgun check [OPTIONS] [APP]",
        mut_arg("user", |user| user.help(CHECK_USER).long_help(CHECK_USER).help_heading("As root"))
    )]
    Check(Box<CheckFlags>),
    /// The commands for a running daemon.
    #[command(flatten)]
    Control(ControlCommand),
    /// Look at a running or failed service, and say what is wrong and what to do.
    Doctor {
        /// The instance, as in rgun@NAME.service [default: rgun.service].
        #[arg(value_name = "NAME")]
        instance: Option<String>,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Look at a project, and write the configuration, the user and the drop-ins of its service;
    /// show the difference and ask first.
    Init(Init),
    /// Print the configuration and drop-ins that replace a deployment of gunicorn, uvicorn,
    /// fastapi, granian, hypercorn, daphne, uWSGI or NGINX Unit.
    Migrate {
        /// gunicorn.conf.py, systemd units, Procfiles, scripts, uwsgi.ini, NGINX Unit's JSON,
        /// hypercorn.toml, supervisord.conf, Containerfiles, Compose files, manifests of Kubernetes,
        /// quadlet's .container, files with variables (.env). A hyphen is stdin.
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
        /// Also write the files below this directory; on a terminal, ask first; existing files are
        /// kept.
        #[arg(long, value_name = "DIR")]
        write: Option<PathBuf>,
        /// Write without asking.
        #[arg(short, long, requires = "write")]
        yes: bool,
        /// The interpreter that runs a gunicorn.conf.py [default: that of the virtual environment
        /// in its directory].
        #[arg(long, value_name = "PATH")]
        python: Option<OsString>,
    },
}

/// The arguments of `rgun init`.
#[derive(Debug, Args)]
pub(super) struct Init {
    /// The instance, as in rgun@NAME.service [default: rgun.service].
    #[arg(value_name = "NAME")]
    pub(super) instance: Option<String>,
    /// The project's directory.
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(super) directory: PathBuf,
    /// The user of the service [default: the owner of a project in a home directory, else a user of
    /// the service's own].
    #[arg(short, long, value_name = "USER")]
    pub(super) user: Option<String>,
    /// The address to listen on, as in --bind [default: that of the socket unit].
    #[arg(short, long, value_name = "ADDRESS")]
    pub(super) bind: Option<String>,
    /// The interpreter; it also runs a gunicorn.conf.py in the project's directory [default: that
    /// of the project's virtual environment].
    #[arg(long, value_name = "PATH")]
    pub(super) python: Option<OsString>,
    /// Write below this directory, the root of an image; create no user and check nothing.
    #[arg(long, value_name = "DIR")]
    pub(super) root: Option<PathBuf>,
    /// Write without asking.
    #[arg(short, long)]
    pub(super) yes: bool,
}

/// The flags of a check: those of a start, and the identity to check as.
#[derive(Debug, Args)]
pub(super) struct CheckFlags {
    #[command(flatten)]
    pub(super) flags: Flags,

    /// As root: check with this unit's user and settings [default: rgun.service, or the instance
    /// whose file is checked].
    #[arg(long, value_name = "UNIT", help_heading = "As root")]
    pub(super) unit: Option<String>,
}

/// The flags of `rgun` without a subcommand.
#[derive(Debug, Args)]
pub(super) struct Flags {
    /// The application: module, module:attribute or module:factory(). Without an attribute:
    /// "application".
    #[arg(value_name = "APP")]
    app: Option<String>,

    /// The file to read: TOML, or gunicorn's gunicorn.conf.py, file:PATH or python:MODULE [env:
    /// RGUN_CONFIG] [default: /etc/rgun/rgun.toml without APP; ./gunicorn.conf.py, if it exists,
    /// with APP or if there is no /etc/rgun/rgun.toml].
    #[arg(short = 'c', long, value_name = "PATH")]
    config: Option<OsString>,

    #[command(flatten)]
    application: ApplicationFlags,

    #[command(flatten)]
    listen: ListenFlags,

    #[command(flatten)]
    tls: TlsFlags,

    #[command(flatten)]
    workers: WorkerFlags,

    #[command(flatten)]
    timeouts: TimeoutFlags,

    #[command(flatten)]
    limits: LimitFlags,

    #[command(flatten)]
    websocket: WebSocketFlags,

    #[command(flatten)]
    log: LogFlags,

    #[command(flatten)]
    reload: ReloadFlags,

    /// Gunicorn's name for `http.underscores`.
    #[arg(long, hide = true)]
    header_map: Option<String>,

    /// Gunicorn's name for `http.http2`.
    #[arg(long, hide = true)]
    http_protocols: Option<String>,

    /// Uvicorn's name for `http.http2 = true`.
    #[arg(long, hide = true)]
    http2: bool,

    /// Gunicorn's name for `limits.streams`.
    #[arg(long, allow_negative_numbers = true, hide = true)]
    http2_max_concurrent_streams: Option<String>,

    /// Gunicorn's name for `rgun check`.
    #[arg(long, hide = true)]
    check_config: bool,

    #[command(flatten)]
    uvicorn: uvicorn::UvicornFlags,
}

/// The result of [`Flags::parse`].
pub(super) struct ParsedFlags {
    /// The settings that the flags set.
    pub(super) layer: Layer,
    /// The value of `--config`.
    pub(super) config: Option<OsString>,
    /// Whether `--check-config` is present.
    pub(super) check: bool,
}

impl Flags {
    /// Removes `--user` from the flags and returns it. For `rgun check`, the flag names the user of the
    /// whole service, not the one that workers run as.
    pub(super) fn take_user(&mut self) -> Option<String> {
        self.workers.user.take()
    }

    /// Returns APP, as typed.
    pub(super) fn app(&self) -> Option<&str> {
        self.app.as_deref()
    }

    /// Completes a `--host` without `--port`, or the reverse, with the value that `part` returns.
    pub(super) fn complete_address(&mut self, part: impl Fn(&str) -> Option<String>) {
        self.uvicorn.complete_address(part);
    }

    /// Calls APP, as `--factory` does, unless APP is a call.
    pub(super) fn call_app(&mut self) {
        self.uvicorn.factory |= self.app.as_deref().is_some_and(|app| !app.contains('('));
    }

    /// Converts the flags to settings. Refused and contradictory flags go to `errors`.
    pub(super) fn parse(&self, warnings: &mut Vec<String>, errors: &mut Vec<ConfigError>) -> ParsedFlags {
        let Self { app, uvicorn, .. } = self;
        let mut settings = FlagSettings::default();
        settings.set(name::TARGET, APP, uvicorn.target(app.as_deref(), errors));
        self.application.add_to(&mut settings, uvicorn, warnings, errors);
        self.listen.add_to(&mut settings, uvicorn, errors);
        self.tls.add_to(&mut settings);
        settings.set(name::UNDERSCORES, "--header-map", self.header_map.as_deref().map(convert::underscores));
        let protocols = self.http_protocols.as_deref().map(convert::http2);
        settings.set(name::HTTP2, "--http-protocols", protocols);
        settings.set(name::HTTP2, "--http2", self.http2.then_some(Value::Boolean(true)));
        let streams = self.http2_max_concurrent_streams.as_deref().map(Value::text);
        settings.set(name::STREAMS, "--http2-max-concurrent-streams", streams);
        self.workers.add_to(&mut settings, uvicorn);
        self.timeouts.add_to(&mut settings, uvicorn);
        self.limits.add_to(&mut settings, uvicorn, warnings);
        self.websocket.add_to(&mut settings);
        self.log.add_to(&mut settings, uvicorn, warnings, errors);
        self.reload.add_to(&mut settings);
        if let Some(command) = app.as_deref().filter(|app| *app == "check" || CONTROL_COMMANDS.contains(app))
        {
            // Clap takes a command after a flag as APP, and rgun would serve a module of that name.
            errors.push(flag_error(
                APP,
                &format!("the command \"{command}\" must come first"),
                &format!(
                    "write rgun {command} and then its flags; for a module of that name write {command}:application"
                ),
            ));
        }
        ParsedFlags { layer: settings.into_layer(), config: self.config.clone(), check: self.check_config }
    }
}
