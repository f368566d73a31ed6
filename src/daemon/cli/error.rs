//! The error of a flag that is refused, for `flags` and `compat`.

use crate::config::ConfigError;

/// A flag that is not done, as an error.
pub(super) fn flag_error(flag: &str, reason: &str, hint: &str) -> ConfigError {
    ConfigError {
        origin: flag.to_owned(),
        key: String::new(),
        value: None,
        reason: reason.to_owned(),
        hint: Some(hint.to_owned()),
    }
}
