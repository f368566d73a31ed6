//! The flags for reloads that changed files cause. They have the names of uvicorn and gunicorn.

use std::ffi::OsString;

use clap::Args;

use super::convert::{fractional_seconds, reload_engine};
use super::settings::FlagSettings;
use crate::config::{Value, name};

#[derive(Debug, Args)]
#[command(next_help_heading = "Development")]
pub(super) struct ReloadFlags {
    /// Load new code when a file that the application uses changes; the old code serves until the
    /// new one can.
    #[arg(long)]
    reload: bool,

    /// A directory in which every Python file is watched, not only imported ones; may be repeated.
    #[arg(long, value_name = "DIR")]
    reload_dir: Vec<OsString>,

    /// Further files to watch: a pattern of names or paths, such as *.css or conf/site.yaml; may be
    /// repeated.
    #[arg(long, value_name = "PATTERN")]
    reload_include: Vec<String>,

    /// Files and directories not to watch; may be repeated.
    #[arg(long, value_name = "PATTERN")]
    reload_exclude: Vec<String>,

    /// Time without a change after which the reload starts [default: 50ms].
    #[arg(long, value_name = "TIME", allow_negative_numbers = true)]
    reload_delay: Option<String>,

    /// Gunicorn's name for --reload-include.
    #[arg(long, value_name = "PATH", hide = true)]
    reload_extra_file: Vec<String>,

    /// auto, inotify or poll, which file systems without inotify need [default: auto].
    #[arg(long, value_name = "ENGINE")]
    reload_engine: Option<String>,
}

impl ReloadFlags {
    pub(super) fn add_to(&self, settings: &mut FlagSettings) {
        settings.set(name::ON_CHANGE, "--reload", self.reload.then_some(Value::Boolean(true)));
        let dirs = self.reload_dir.iter().map(|dir| Value::os(dir)).collect::<Vec<_>>();
        settings.set(name::RELOAD_DIRS, "--reload-dir", (!dirs.is_empty()).then_some(Value::List(dirs)));
        let include = [&self.reload_include, &self.reload_extra_file];
        let flag = if self.reload_include.is_empty() { "--reload-extra-file" } else { "--reload-include" };
        settings.set(name::RELOAD_INCLUDE, flag, list(include.into_iter().flatten()));
        settings.set(name::RELOAD_EXCLUDE, "--reload-exclude", list(&self.reload_exclude));
        let delay = self.reload_delay.as_deref().map(|time| match fractional_seconds(time) {
            Value::Text(text) if text == "off" => Value::text("0s"),
            value => value,
        });
        settings.set(name::RELOAD_DELAY, "--reload-delay", delay);
        let poll = self.reload_engine.as_deref().map(reload_engine);
        settings.set(name::RELOAD_POLL, "--reload-engine", poll);
    }
}

/// Returns a list of the values; `None` without any.
fn list<'a>(values: impl IntoIterator<Item = &'a String>) -> Option<Value> {
    let mut values = values.into_iter().peekable();
    values.peek()?;
    Some(Value::list(values))
}
