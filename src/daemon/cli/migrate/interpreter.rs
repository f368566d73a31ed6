//! Finds the interpreter of a command: the one beside the server's script, or that of the virtual
//! environment which the command's variables name.

use super::words::{Known, Scope};

/// Returns the interpreter of a server's script; `None` for a script without a directory. If this
/// machine has the script, its first line names the interpreter; otherwise the interpreter has the
/// usual name in the same directory.
pub(super) fn of_script(script: &str) -> Option<String> {
    let (directory, _) = script.rsplit_once('/')?;
    let named = std::fs::read_to_string(script).ok().and_then(|text| {
        let interpreter = text.lines().next()?.strip_prefix("#!/")?.trim();
        let (_, name) = interpreter.rsplit_once('/')?;
        (name.starts_with("python") && !name.contains(' ')).then(|| format!("/{interpreter}"))
    });
    Some(named.unwrap_or_else(|| match directory {
        // Debian has no `python` there, and `pip install --user` installs no interpreter.
        "/usr/bin" | "/bin" => "/usr/bin/python3".to_owned(),
        user if user.ends_with("/.local/bin") => "/usr/bin/python3".to_owned(),
        _ => format!("{directory}/python"),
    }))
}

/// Returns the interpreter of a virtual environment, and the variable that names the environment:
/// `VIRTUAL_ENV`, or `PATH` by its first directory.
pub(super) fn of_variables(scope: &Scope) -> Option<(String, &'static str)> {
    let value = |name| match scope.get(name)? {
        Known::Value(value) => Some(value.as_str()).filter(|value| value.starts_with('/')),
        Known::Not(_) => None,
    };
    if let Some(prefix) = value("VIRTUAL_ENV") {
        return Some((format!("{}/bin/python", prefix.trim_end_matches('/')), "VIRTUAL_ENV"));
    }
    let first = value("PATH")?.split(':').next()?.trim_end_matches('/');
    let is_system =
        ["/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/snap/bin"]
            .contains(&first)
            || first.ends_with("/.local/bin");
    (first.ends_with("/bin") && !is_system).then(|| (format!("{first}/python"), "PATH"))
}

/// Makes a relative path with a slash absolute, if the directory is known.
pub(super) fn below(directory: Option<String>, path: String) -> String {
    match directory {
        Some(directory) if path.contains('/') && !path.starts_with('/') => {
            format!("{directory}/{}", path.trim_start_matches("./"))
        }
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::TestDir;

    #[test]
    fn interpreter_is_the_one_that_the_script_names() {
        let place = TestDir::new();
        let script = |first: &str| {
            place.file("bin/gunicorn", format!("{first}\nimport gunicorn\n").as_bytes(), 0o755);
            of_script(&place.join("bin/gunicorn").display().to_string()).unwrap()
        };
        let beside = place.join("bin/python").display().to_string();
        assert_eq!(script("#!/srv/venv/bin/python3.13"), "/srv/venv/bin/python3.13");
        assert_eq!(script("#! /srv/venv/bin/python"), beside, "pip writes no space there");
        assert_eq!(script("#!/usr/bin/env python3"), beside);
        assert_eq!(script("#!/bin/sh"), beside);
    }

    #[test]
    fn interpreter_of_an_absent_script_is_guessed_by_directory() {
        for (script, python) in [
            ("/no/such/venv/bin/gunicorn", Some("/no/such/venv/bin/python")),
            ("/usr/bin/no-such-server", Some("/usr/bin/python3")),
            ("/home/a/.local/bin/no-such-server", Some("/usr/bin/python3")),
            ("venv/bin/no-such-server", Some("venv/bin/python")),
            ("gunicorn", None),
        ] {
            assert_eq!(of_script(script).as_deref(), python, "{script}");
        }
    }

    #[test]
    fn variables_name_a_virtual_environment() {
        for (variable, value, python) in [
            ("VIRTUAL_ENV", "/opt/venv", Some("/opt/venv/bin/python")),
            ("PATH", "/opt/venv/bin:/usr/bin", Some("/opt/venv/bin/python")),
            ("PATH", "/usr/local/bin:/opt/venv/bin", None),
            ("PATH", "/root/.local/bin:/usr/bin", None),
            ("PATH", "$HOME/bin", None),
        ] {
            let scope: Scope = [(variable, value)].into_iter().collect();
            assert_eq!(of_variables(&scope).map(|(path, _)| path).as_deref(), python, "{value}");
        }
    }
}
