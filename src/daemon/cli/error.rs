//! The error for a refused flag, for `flags` and `compat`.

use crate::config::ConfigError;

/// The error for `flag`, as typed.
pub(super) fn flag_error(flag: &str, reason: &str, hint: &str) -> ConfigError {
    ConfigError {
        origin: flag.to_owned(),
        key: String::new(),
        value: None,
        reason: reason.to_owned(),
        hint: Some(hint.to_owned()),
    }
}
