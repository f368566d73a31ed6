//! The state of one check: [`Checker::read`] finds the value of highest precedence, records an
//! error with its origin, and continues with the default, so that the next key is checked too.
//!
//! `check` and the modules of single sections use the [`Checker`].

use std::path::Path;

use super::value::{Setting, Source};
use super::{Config, ConfigError, Environment, Layer, ValueError};

/// The settings by source, and the variables and paths on which relative paths and the search for
/// the interpreter depend.
pub(crate) struct Layers<'a> {
    /// Settings from flags.
    pub(crate) command_line: Layer,
    /// Settings from variables.
    pub(crate) variables: Layer,
    /// Settings from the file.
    pub(crate) file: Layer,
    /// All variables, because some determine the interpreter.
    pub(crate) environment: &'a Environment,
    /// The path of the file; `None` if none was read.
    pub(crate) path: Option<&'a Path>,
    /// The current directory; absolute.
    pub(crate) cwd: &'a Path,
    /// The absolute path by which `rgun` was started; a symlink in the last component is not
    /// resolved. `None` if the path is unknown.
    pub(crate) program: Option<&'a Path>,
}

/// A checked configuration and its warnings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loaded {
    /// The checked configuration.
    pub(crate) config: Config,
    /// For the log, one sentence each.
    pub(crate) warnings: Vec<String>,
}

/// Maximum length in bytes of a value in an error.
const MAX_SHOWN: usize = 512;

/// The sources of the settings, and the errors and warnings found so far.
pub(super) struct Checker<'a> {
    pub(super) layers: &'a Layers<'a>,
    pub(super) errors: Vec<ConfigError>,
    pub(super) warnings: Vec<String>,
}

impl<'a> Checker<'a> {
    /// Returns the setting of highest precedence. An implied default has the lowest.
    pub(super) fn setting(&self, key: &str) -> Option<&'a Setting> {
        let Layers { command_line, variables, file, .. } = self.layers;
        let settings = || [command_line, variables, file].into_iter().filter_map(|layer| layer.get(key));
        settings().find(|setting| setting.source != Source::Implied).or_else(|| settings().next())
    }

    /// Reads the value of highest precedence; without a valid value, returns the default.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        default: T,
        reader: impl FnOnce(&Setting) -> Result<T, ValueError>,
    ) -> T {
        let Some(setting) = self.setting(key) else { return default };
        reader(setting).unwrap_or_else(|error| {
            self.push_error(key, setting, error);
            default
        })
    }

    /// Records an error about a key that is set.
    pub(super) fn push_error(&mut self, key: &'static str, setting: &Setting, error: ValueError) {
        self.errors.push(ConfigError {
            origin: setting.origin.clone(),
            key: key.to_owned(),
            value: Some(shorten(setting.value.to_string())),
            reason: error.reason,
            hint: error.hint,
        });
    }

    /// Records an error about a value that may be a secret, without the value.
    pub(super) fn push_secret(&mut self, key: &'static str, setting: &Setting, error: ValueError) {
        self.errors.push(ConfigError {
            origin: setting.origin.clone(),
            key: key.to_owned(),
            value: None,
            reason: error.reason,
            hint: error.hint,
        });
    }

    /// Records an error about a key that is not set.
    pub(super) fn push_missing(&mut self, key: &'static str, error: ValueError) {
        self.errors.push(ConfigError {
            origin: self.layers.path.map_or_else(|| "rgun".to_owned(), |path| path.display().to_string()),
            key: key.to_owned(),
            value: None,
            reason: error.reason,
            hint: error.hint,
        });
    }

    /// Reports that `key` has no effect without `other`, unless `other` has an error of its own.
    pub(super) fn require(&mut self, key: &'static str, other: &str, reason: &str, hint: &str) {
        if self.errors.iter().any(|error| error.key == other) {
            return;
        }
        if let Some(setting) = self.setting(key) {
            self.push_error(key, setting, ValueError::new(reason).with_hint(hint));
        }
    }
}

/// Returns a value as errors show it: the end of a long one is replaced by "…".
fn shorten(mut value: String) -> String {
    if value.len() > MAX_SHOWN {
        value.truncate(value.floor_char_boundary(MAX_SHOWN));
        value.push('…');
    }
    value
}
