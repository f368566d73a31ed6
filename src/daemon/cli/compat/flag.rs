//! One row of a table of flags that rgun does not act on: how the flag is spelt, and what becomes of it.

/// A flag that rgun does not act on.
pub(super) struct Foreign {
    /// Its long name.
    pub(super) long: &'static str,
    /// Another long name of it.
    pub(super) alias: Option<&'static str>,
    pub(super) short: Option<char>,
    pub(super) takes: Takes,
    /// Values that ask for what rgun does anyway.
    pub(super) fine: &'static [&'static str],
    /// Whether its value is kept out of messages.
    pub(super) is_secret: bool,
    pub(super) verdict: Verdict,
}

/// What follows a flag.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// It stands alone.
    Nothing,
    /// A value.
    Value,
    /// A value that may be left out.
    Optional,
}

/// What comes of a flag. In texts, `{}` is its value.
#[derive(Clone, Copy)]
pub(super) enum Verdict {
    /// It asks for what rgun does anyway.
    Anyway,
    /// Accepted without effect; what does it now.
    Ignored(&'static str),
    /// Not done; why, and the remedy.
    Refused(&'static str, &'static str),
    /// Not done yet; the remedy until then.
    Later(&'static str),
}

/// A row without peculiarities.
pub(super) const fn flag(long: &'static str, takes: Takes, verdict: Verdict) -> Foreign {
    Foreign { long, alias: None, short: None, takes, fine: &[], is_secret: false, verdict }
}

impl Foreign {
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
    pub(super) const fn fine(mut self, values: &'static [&'static str]) -> Self {
        self.fine = values;
        self
    }

    /// With a value that nobody else is to read.
    pub(super) const fn secret(mut self) -> Self {
        self.is_secret = true;
        self
    }
}
