//! Recognizes TOML files of other programs, which get one error instead of one for each key.

use std::path::Path;

use toml::de::DeTable;

use super::{ConfigError, keys};

/// Names that hypercorn's configuration file has outside of any table.
pub(crate) const HYPERCORN_NAMES: [&str; 7] =
    ["bind", "insecure_bind", "quic_bind", "workers", "worker_class", "application_path", "accesslog"];

/// Tables of `pyproject.toml` (PEP 518, PEP 621).
const PYPROJECT_TABLES: [&str; 3] = ["tool", "project", "build-system"];

/// Returns the error about a file that belongs to another program: a file with names, none of which
/// is a section of rgun, even a misspelled one. `None` for a file of rgun.
pub(super) fn explain(path: &Path, document: &DeTable<'_>) -> Option<ConfigError> {
    let names: Vec<(&str, bool)> =
        document.iter().map(|(name, value)| (name.get_ref().as_ref(), value.get_ref().is_table())).collect();
    let is_own = |(name, is_table): (&str, bool)| {
        let sections = keys::SECTIONS.iter().chain(keys::PLANNED_SECTIONS).copied();
        is_table && keys::nearest(name, sections).is_some() || name == keys::name::STATIC
    };
    if document.is_empty() || names.iter().copied().any(is_own) {
        return None;
    }
    let has =
        |wanted: &[&str], table: bool| names.iter().any(|(name, is)| *is == table && wanted.contains(name));
    let shown = path.display();
    let (reason, hint) = if has(&PYPROJECT_TABLES, true) {
        (
            "is a pyproject.toml, from which rgun reads nothing",
            "write a file of rgun's own, such as rgun.toml; rgun.toml(5) lists its keys".to_owned(),
        )
    } else if has(&HYPERCORN_NAMES, false) {
        (
            "seems to be hypercorn's file: its keys are outside of any section",
            format!("rgun migrate {shown} prints the rgun.toml that replaces it"),
        )
    } else if names.iter().any(|(name, is_table)| !is_table && keys::stray_key_hint(name).is_some()) {
        return None;
    } else {
        (
            "seems to be the file of another program: it has no section of rgun",
            format!(
                "name a file of rgun, whose keys rgun.toml(5) lists; if {shown} configures another server, rgun \
                 migrate {shown} prints the rgun.toml that replaces it"
            ),
        )
    };
    Some(ConfigError {
        origin: shown.to_string(),
        key: String::new(),
        value: None,
        reason: reason.to_owned(),
        hint: Some(hint),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(text: &str) -> Option<String> {
        let (document, _) = DeTable::parse_recoverable(text);
        explain(Path::new("/srv/x.toml"), document.get_ref()).map(|error| error.to_string())
    }

    #[test]
    fn file_of_another_program_gets_one_error() {
        for (text, expected) in [
            (
                "bind = [\"0.0.0.0:80\"]\nworkers = 4\n",
                "/srv/x.toml: seems to be hypercorn's file: its keys are outside of any section\n    hint: rgun migrate \
                 /srv/x.toml prints the rgun.toml that replaces it",
            ),
            (
                "[tool.black]\nline-length = 88\n[project]\nname = \"x\"\n",
                "/srv/x.toml: is a pyproject.toml, from which rgun reads nothing\n    hint: write a file of rgun's own, such \
                 as rgun.toml; rgun.toml(5) lists its keys",
            ),
            (
                "primary_region = \"fra\"\n[http_service]\ninternal_port = 80\n",
                "/srv/x.toml: seems to be the file of another program: it has no section of rgun\n    hint: name a file of \
                 rgun, whose keys rgun.toml(5) lists; if /srv/x.toml configures another server, rgun migrate /srv/x.toml \
                 prints the rgun.toml that replaces it",
            ),
        ] {
            assert_eq!(reason(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn file_of_rgun_is_not_taken_for_another() {
        for text in [
            "",
            "[app]\ntarget = \"a\"\n",
            "workers = 4\n[app]\ntarget = \"a\"\n",
            "[worker]\ncount = 2\n",
            "[admin]\n",
            "target = \"a\"\n",
            "[[static]]\nurl = \"/\"\n",
        ] {
            assert_eq!(reason(text), None, "{text}");
        }
    }
}
