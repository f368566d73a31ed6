//! `[control]`: which users may read from the control socket besides root and the daemon's user.

use super::checker::Checker;
use super::keys::name;
use super::value::Setting;
use super::{Control, ValueError, read};

/// Reads the section.
pub(super) fn read(checker: &mut Checker<'_>) -> Control {
    Control { group: checker.read(name::CONTROL_GROUP, None, group) }
}

fn group(setting: &Setting) -> Result<Option<String>, ValueError> {
    let text = read::text(setting)?;
    if text == "off" {
        return Ok(None);
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if text.is_empty() || !text.chars().all(is_name) {
        return Err(
            ValueError::new("cannot be the name of a group").with_hint("write e.g. \"adm\", or \"off\"")
        );
    }
    Ok(Some(text.to_owned()))
}
