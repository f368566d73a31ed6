//! `[health]`: the paths under which the daemon itself answers health checks.

use super::checker::Checker;
use super::keys::name;
use super::value::Setting;
use super::{Health, StaticMount, ValueError, mounts, read};

/// Reads the section. Warns about a health path that hides a file of `static_mounts`, and about a
/// mount whose fallback file is missing.
pub(super) fn read(checker: &mut Checker<'_>, static_mounts: &[StaticMount]) -> Health {
    let path = checker.read(name::HEALTH_PATH, None, |setting| path(setting, "/-/healthz"));
    let live_path = checker.read(name::HEALTH_LIVE_PATH, None, |setting| {
        let live_path = self::path(setting, "/-/livez")?;
        if live_path.is_some() && live_path == path {
            return Err(ValueError::new("is the same path as health.path")
                .with_hint("write another one, e.g. \"/-/livez\": liveness must not depend on the workers"));
        }
        Ok(live_path)
    });
    let health = Health { path, live_path };
    checker.warnings.extend(mounts::warnings(static_mounts, &health));
    health
}

fn path(setting: &Setting, example: &str) -> Result<Option<String>, ValueError> {
    let text = read::text(setting)?;
    if text == "off" {
        return Ok(None);
    }
    let hint = format!("write a path that the application does not use, e.g. {example:?}, or \"off\"");
    if !text.starts_with('/') {
        return Err(ValueError::new("is not a path").with_hint(hint));
    }
    match text.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '#' | '?')) {
        Some(c) => Err(ValueError::new(format!("contains {c:?}; a path alone is expected")).with_hint(hint)),
        None => Ok(Some(text.to_owned())),
    }
}
