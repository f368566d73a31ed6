//! `reload.on_change` and the keys that configure it.

use std::path::Path;

use glob::Pattern;

use super::checker::Checker;
use super::keys::name;
use super::value::Setting;
use super::{OnChange, ValueError, paths, read};

/// Reads the keys. Relative directories are relative to `base`, the application's directory.
pub(super) fn read(checker: &mut Checker<'_>, base: &Path) -> OnChange {
    let defaults = OnChange::default();
    OnChange {
        enabled: checker.read(name::ON_CHANGE, defaults.enabled, read::boolean),
        dirs: checker.read(name::RELOAD_DIRS, defaults.dirs, |setting| paths::directories(setting, base)),
        include: checker.read(name::RELOAD_INCLUDE, defaults.include, patterns),
        exclude: checker.read(name::RELOAD_EXCLUDE, defaults.exclude, patterns),
        delay: checker.read(name::RELOAD_DELAY, defaults.delay, |setting| {
            read::timeout_or_zero(setting, "write a short time, e.g. \"50ms\", or on_change = false")
        }),
        poll: checker.read(name::RELOAD_POLL, defaults.poll, read::boolean),
    }
}

fn patterns(setting: &Setting) -> Result<Vec<Pattern>, ValueError> {
    let pattern = |text: &str| {
        if text.is_empty() {
            return Err(
                ValueError::new("has an empty pattern").with_hint("write e.g. \"*.css\", or remove it")
            );
        }
        Pattern::new(text).map_err(|error| {
            ValueError::new(format!(
                "has the pattern {text:?}, which is wrong at character {}: {}",
                error.pos, error.msg
            ))
            .with_hint("write e.g. \"*.css\", \"conf/site.yaml\" or \"data/**/*.json\"; [*] is a literal *")
        })
    };
    read::strings(setting)?.into_iter().map(pattern).collect()
}
