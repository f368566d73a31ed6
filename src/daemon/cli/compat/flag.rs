//! One row of a table of flags that rgun does not act on: how the flag is spelt, and what becomes of it.

/// A flag that rgun does not act on.
pub(super) struct CompatFlag {
    /// Its long name.
    pub(super) long: &'static str,
    /// Another long name of it.
    pub(super) alias: Option<&'static str>,
    pub(super) short: Option<char>,
    pub(super) arg_kind: ArgKind,
    /// Values that ask for what rgun does anyway.
    pub(super) accepted: &'static [&'static str],
    /// Whether its value is kept out of messages.
    pub(super) is_secret: bool,
    pub(super) handling: Handling,
}

/// What follows a flag.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ArgKind {
    /// It stands alone.
    Switch,
    /// A value.
    Value,
    /// A value that may be left out.
    Optional,
}

/// What comes of a flag. In texts, `{}` is its value.
#[derive(Clone, Copy)]
pub(super) enum Handling {
    /// It asks for what rgun does anyway.
    NoOp,
    /// Accepted without effect; what does it now.
    Ignored(&'static str),
    /// Not done; why, and the remedy.
    Refused(&'static str, &'static str),
    /// Not done yet; the remedy until then.
    NotYet(&'static str),
}

/// A row without peculiarities.
pub(super) const fn flag(long: &'static str, arg_kind: ArgKind, handling: Handling) -> CompatFlag {
    CompatFlag { long, alias: None, short: None, arg_kind, accepted: &[], is_secret: false, handling }
}

impl CompatFlag {
    /// With a short name.
    pub(super) const fn short(mut self, short: char) -> Self {
        self.short = Some(short);
        self
    }

    /// With another long name.
    pub(super) const fn alias(mut self, alias: &'static str) -> Self {
        self.alias = Some(alias);
        self
    }

    /// With values that pass in silence.
    pub(super) const fn accepted(mut self, values: &'static [&'static str]) -> Self {
        self.accepted = values;
        self
    }

    /// With a value that nobody else is to read.
    pub(super) const fn secret(mut self) -> Self {
        self.is_secret = true;
        self
    }
}
