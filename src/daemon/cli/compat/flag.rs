//! The row type of the tables of unsupported flags: a flag's spelling, and its handling.

/// A flag of gunicorn or uvicorn that rgun does not support.
pub(super) struct CompatFlag {
    /// The long name, without hyphens.
    pub(super) long: &'static str,
    /// A second long name.
    pub(super) alias: Option<&'static str>,
    pub(super) short: Option<char>,
    pub(super) arg_kind: ArgKind,
    /// Values that are accepted without a warning, because they describe what rgun does.
    pub(super) accepted: &'static [&'static str],
    /// Whether messages must not contain the value.
    pub(super) is_secret: bool,
    pub(super) handling: Handling,
}

/// Whether a flag has a value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ArgKind {
    /// No value.
    Switch,
    /// A required value.
    Value,
}

/// The handling of a flag. In the texts, `{}` is replaced by its value.
#[derive(Clone, Copy)]
pub(super) enum Handling {
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
    CompatFlag { long, alias: None, short: None, arg_kind, accepted: &[], is_secret: false, handling }
}

impl CompatFlag {
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
