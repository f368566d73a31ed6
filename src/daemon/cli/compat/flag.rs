//! The row type of the tables of foreign flags and settings: the spelling, and the handling.

use std::borrow::Cow;

/// A flag of gunicorn or uvicorn, or a setting of `gunicorn.conf.py`.
pub(in crate::cli) struct CompatFlag {
    /// The long name, without hyphens; empty for a setting that has no flag.
    pub(in crate::cli) long: &'static str,
    /// The name in `gunicorn.conf.py`, if it differs from the flag's name with underscores.
    setting: Option<&'static str>,
    /// Gunicorn's default, if rgun ignores this value in `gunicorn.conf.py`: many files spell out
    /// all defaults.
    pub(in crate::cli) default: Option<&'static str>,
    /// A second long name.
    pub(super) alias: Option<&'static str>,
    pub(super) short: Option<char>,
    pub(in crate::cli) arg_kind: ArgKind,
    /// Values that are accepted without a warning, because they describe what rgun does.
    pub(in crate::cli) accepted: &'static [&'static str],
    /// A value that is accepted with a warning, and the warning's text after "ignored; ".
    pub(super) ignored: Option<(&'static str, &'static str)>,
    /// Whether a worker applies the setting when it runs `gunicorn.conf.py`.
    pub(in crate::cli) is_applied_by_worker: bool,
    /// Whether messages must not contain the value.
    pub(super) is_secret: bool,
    pub(in crate::cli) handling: Handling,
}

/// The kind of a flag's or setting's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum ArgKind {
    /// The flag has no value; the setting is a boolean.
    Switch,
    /// As `Switch`, but the flag means False, and its absence True or None.
    NegatedSwitch,
    /// One value. In `gunicorn.conf.py`, it may be a list, which the flag writes with commas.
    Value,
    /// The flag may be repeated; the setting is a list.
    List,
    /// A function in `gunicorn.conf.py`; there is no flag.
    Function,
}

/// The handling of a flag or setting. In the texts, `{}` is replaced by its value.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) enum Handling {
    /// Sets this key of the configuration. `flags` declares the flag.
    Key(&'static str),
    /// A flag for the command line only. In `gunicorn.conf.py` the setting is ignored, for this
    /// reason.
    FlagOnly(&'static str),
    /// A function of `gunicorn.conf.py` that a separate process calls.
    BesideDaemon,
    /// Accepted without a warning: it describes what rgun does.
    NoOp,
    /// Accepted with a warning that says what replaces the flag.
    Ignored(&'static str),
    /// Refused with a reason and a hint.
    Refused(&'static str, &'static str),
    /// Refused, because planned for a later version, with a hint.
    NotYet(&'static str),
}

/// A row with the defaults for all other fields.
pub(super) const fn flag(long: &'static str, arg_kind: ArgKind, handling: Handling) -> CompatFlag {
    CompatFlag {
        long,
        setting: None,
        default: None,
        alias: None,
        short: None,
        arg_kind,
        accepted: &[],
        ignored: None,
        is_applied_by_worker: false,
        is_secret: false,
        handling,
    }
}

/// A row for a setting of `gunicorn.conf.py` that has no flag.
pub(super) const fn setting(name: &'static str, arg_kind: ArgKind, handling: Handling) -> CompatFlag {
    flag("", arg_kind, handling).setting(name)
}

impl CompatFlag {
    /// The name in `gunicorn.conf.py`.
    pub(in crate::cli) fn setting_name(&self) -> Cow<'static, str> {
        self.setting.map_or_else(|| self.long.replace('-', "_").into(), Cow::Borrowed)
    }

    /// Returns the long names, the main one first.
    pub(super) fn long_names(&self) -> impl Iterator<Item = &'static str> + use<> {
        std::iter::once(self.long).chain(self.alias)
    }

    /// Returns whether the flag has this name.
    pub(in crate::cli) fn is_called(&self, long: &str) -> bool {
        !long.is_empty() && (self.long == long || self.alias == Some(long))
    }

    /// Returns whether the command line gets this flag from the table, not from `flags`.
    pub(super) fn is_unsupported_flag(&self) -> bool {
        !self.long.is_empty() && !matches!(self.handling, Handling::Key(_) | Handling::FlagOnly(_))
    }

    /// Sets the name in `gunicorn.conf.py`.
    pub(super) const fn setting(mut self, name: &'static str) -> Self {
        self.setting = Some(name);
        self
    }

    /// Sets gunicorn's default, a value that is ignored in `gunicorn.conf.py`.
    pub(super) const fn default(mut self, value: &'static str) -> Self {
        self.default = Some(value);
        self
    }

    /// Leaves the setting in `gunicorn.conf.py` to the workers.
    pub(super) const fn applied_by_worker(mut self) -> Self {
        self.is_applied_by_worker = true;
        self
    }

    /// Adds a short name.
    pub(super) const fn short(mut self, short: char) -> Self {
        self.short = Some(short);
        self
    }

    /// Adds a second long name.
    pub(super) const fn alias(mut self, alias: &'static str) -> Self {
        self.alias = Some(alias);
        self
    }

    /// Adds a value that is accepted with a warning.
    pub(super) const fn ignored(mut self, value: &'static str, now: &'static str) -> Self {
        self.ignored = Some((value, now));
        self
    }

    /// Adds values that are accepted without a warning.
    pub(super) const fn accepted(mut self, values: &'static [&'static str]) -> Self {
        self.accepted = values;
        self
    }

    /// Keeps the value out of messages.
    pub(super) const fn secret(mut self) -> Self {
        self.is_secret = true;
        self
    }
}
