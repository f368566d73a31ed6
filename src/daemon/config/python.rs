//! Finds the interpreter the workers run.
//!
//! The interpreter is the configured one, or else the first of: `$VIRTUAL_ENV/bin/python`, `.venv/bin/python` and `venv/bin/python` in the
//! application's directory, `python3` on PATH. The path is never canonicalized: a virtual environment's
//! `bin/python` is a symlink, and Python looks for `pyvenv.cfg` beside the path it was started with (PEP 405), so the
//! symlink's target would be the wrong Python.
//!
//! A candidate that exists but cannot be executed, such as a symlink left dangling by an upgrade of the system's Python,
//! ends the search with an error: the next candidate would lack the application's packages. Version and implementation
//! (CPython, not free-threaded) are not checked here, because that requires running the interpreter.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use nix::unistd::AccessFlags;

use super::fs::{absolute, check_access};
use super::{Environment, Python, PythonSource, ValueError};

/// Resolves a configured name: a path, relative to the application's `directory`, or a bare name to search on PATH, as
/// in execvp(3).
pub(crate) fn configured(
    name: &OsStr,
    directory: &Path,
    environment: &Environment,
    cwd: &Path,
) -> Result<Python, ValueError> {
    let bytes = name.as_encoded_bytes();
    if bytes.is_empty() {
        return Err(ValueError::new("is empty")
            .with_hint("name an interpreter, e.g. \"/srv/mysite/.venv/bin/python\""));
    }
    if bytes.contains(&0) {
        return Err(ValueError::new("has a zero byte"));
    }
    let path = if bytes.contains(&b'/') {
        absolute(directory, Path::new(name))
    } else {
        find_on_path(name, environment, cwd).ok_or_else(|| {
            let error = ValueError::new("is not on PATH");
            if directory.join(name).exists() {
                error.with_hint(format!(
                    "write \"./{}\" for the one in {}",
                    name.display(),
                    directory.display()
                ))
            } else {
                error.with_hint(format!("name its full path; PATH is {}", display_path_variable(environment)))
            }
        })?
    };
    check_executable(&path)?;
    Ok(Python { path, source: PythonSource::Configured })
}

/// Searches for an interpreter if none is configured. Warns if `$VIRTUAL_ENV` has none.
pub(crate) fn search(
    directory: &Path,
    environment: &Environment,
    cwd: &Path,
    warnings: &mut Vec<String>,
) -> Result<Python, ValueError> {
    let virtual_env = environment.value("VIRTUAL_ENV").map(|prefix| absolute(cwd, Path::new(prefix)));
    let prefixes = [
        (virtual_env, PythonSource::VirtualEnv),
        (Some(directory.join(".venv")), PythonSource::DotVenv),
        (Some(directory.join("venv")), PythonSource::Venv),
    ];
    let mut passed_over = Vec::new();
    for (prefix, source) in prefixes {
        let Some(path) = prefix.map(|prefix| prefix.join("bin/python")) else { continue };
        if path.symlink_metadata().is_ok() {
            check_executable(&path).map_err(|error| unusable_candidate(&path, source, &error))?;
            return Ok(Python { path, source });
        }
        if source == PythonSource::VirtualEnv {
            warnings.push(format!(
                "$VIRTUAL_ENV is set, but there is no {}; continuing the search",
                path.display()
            ));
        }
        passed_over.push(path.display().to_string());
    }
    match find_on_path(OsStr::new("python3"), environment, cwd) {
        Some(path) => Ok(Python { path, source: PythonSource::Path }),
        None => Err(ValueError::new(format!(
            "no interpreter found: there is no {}, and no python3 on PATH ({})",
            passed_over.join(", no "),
            display_path_variable(environment)
        ))
        .with_hint("name one with app.python (--python), or create one: python3 -m venv .venv")),
    }
}

fn check_executable(path: &Path) -> Result<(), ValueError> {
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(error) if path.is_symlink() => {
            let target = path.read_link().unwrap_or_default();
            return Err(ValueError::new(format!(
                "is a symlink to {}, which cannot be used: {error}",
                target.display()
            ))
            .with_hint("recreate the virtual environment"));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(ValueError::new(format!("there is no file {}", path.display()))
                .with_hint("name an interpreter, e.g. \"/srv/mysite/.venv/bin/python\""));
        }
        Err(error) => return Err(ValueError::new(format!("{}: {error}", path.display()))),
    };
    if metadata.is_dir() {
        let inside = ["bin/python", "python3", "python"].into_iter().map(|name| path.join(name));
        let error = ValueError::new("is a directory; an interpreter is expected");
        return Err(match inside.into_iter().find(|inside| inside.is_file()) {
            Some(inside) => error.with_hint(format!("write \"{}\"", inside.display())),
            None => error,
        });
    }
    if !metadata.is_file() {
        return Err(ValueError::new(format!("{} is not a file", path.display())));
    }
    check_access(path, AccessFlags::X_OK).map_err(|errno| {
        ValueError::new(format!("{} cannot be executed: {}", path.display(), errno.desc()))
            .with_hint(format!("as the user rgun runs as: test -x {}", path.display()))
    })
}

fn unusable_candidate(path: &Path, source: PythonSource, error: &ValueError) -> ValueError {
    ValueError {
        reason: format!("{} ({source}): {}", path.display(), error.reason),
        hint: Some(
            "recreate the virtual environment, or name another interpreter with app.python (--python)"
                .to_owned(),
        ),
    }
}

fn find_on_path(name: &OsStr, environment: &Environment, cwd: &Path) -> Option<PathBuf> {
    std::env::split_paths(environment.value("PATH")?)
        .filter(|directory| !directory.as_os_str().is_empty())
        .map(|directory| absolute(cwd, &directory.join(name)))
        .find(|path| path.is_file() && check_access(path, AccessFlags::X_OK).is_ok())
}

fn display_path_variable(environment: &Environment) -> String {
    environment.value("PATH").map_or_else(|| "not set".to_owned(), |path| path.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::{TestDir, as_nobody};

    fn find(place: &TestDir, variables: &[(&str, String)]) -> (Result<Python, ValueError>, Vec<String>) {
        let mut warnings = Vec::new();
        let environment = variables.iter().map(|(name, value)| (*name, value.clone())).collect();
        (search(&place.join("app"), &environment, place.path(), &mut warnings), warnings)
    }

    #[test]
    fn search_takes_the_first_existing_interpreter() {
        let place = TestDir::new();
        let text = |path: &str| place.join(path).display().to_string();
        let variables =
            [("VIRTUAL_ENV", text("active")), ("PATH", format!("{}:{}", text("nothing"), text("usr/bin")))];
        for (path, source) in [
            ("usr/bin/python3", PythonSource::Path),
            ("app/venv/bin/python", PythonSource::Venv),
            ("app/.venv/bin/python", PythonSource::DotVenv),
            ("active/bin/python", PythonSource::VirtualEnv),
        ] {
            let path = place.python(path);
            let (found, warnings) = find(&place, &variables);
            assert_eq!(found.unwrap(), Python { path, source });
            let nowhere = source != PythonSource::VirtualEnv;
            assert_eq!(warnings.len(), usize::from(nowhere), "{warnings:?}");
        }
    }

    #[test]
    fn symlink_to_the_interpreter_is_not_resolved() {
        let place = TestDir::new();
        let real = place.python("usr/bin/python3.11");
        std::fs::create_dir_all(place.join("app/.venv/bin")).unwrap();
        let link = place.join("app/.venv/bin/python");
        std::os::unix::fs::symlink(real, &link).unwrap();
        assert_eq!(find(&place, &[]).0.unwrap().path, link);
        let named = configured(
            OsStr::new(".venv/bin/python"),
            &place.join("app"),
            &Environment::default(),
            Path::new("/"),
        );
        assert_eq!(named.unwrap(), Python { path: link, source: PythonSource::Configured });
    }

    #[test]
    fn a_broken_virtual_environment_ends_the_search() {
        let place = TestDir::new();
        place.python("usr/bin/python3");
        std::fs::create_dir_all(place.join("app/.venv/bin")).unwrap();
        std::os::unix::fs::symlink("/nonexistent/python3.9", place.join("app/.venv/bin/python")).unwrap();
        let (found, _) = find(&place, &[("PATH", place.join("usr/bin").display().to_string())]);
        let error = found.unwrap_err();
        assert!(error.reason.contains("symlink to /nonexistent/python3.9"), "{error}");
        assert!(error.hint.unwrap().contains("recreate"));
    }

    #[test]
    fn failed_search_lists_the_searched_places() {
        let place = TestDir::new();
        place.file("usr/bin/python3", b"", 0o644);
        for path in [None, Some(place.join("usr/bin").display().to_string())] {
            let variables: Vec<_> = path.iter().map(|path| ("PATH", path.clone())).collect();
            let error = as_is(&place, &variables);
            assert!(error.reason.contains("app/.venv/bin/python, no "), "{error}");
            assert!(error.reason.contains(path.as_deref().unwrap_or("PATH (not set)")), "{error}");
            assert!(error.hint.unwrap().contains("--python"));
        }
    }

    fn as_is(place: &TestDir, variables: &[(&str, String)]) -> ValueError {
        find(place, variables).0.unwrap_err()
    }

    #[test]
    fn configured_interpreter_must_be_an_executable_file() {
        let place = TestDir::new();
        place.python("app/env/bin/python");
        place.file("app/plain", b"", 0o644);
        place.file("app/bare", b"", 0o644);
        std::os::unix::fs::symlink("gone", place.join("app/dangling")).unwrap();
        let app = place.join("app").display().to_string();
        for (text, reason, hint) in [
            ("", "is empty", "name an interpreter"),
            ("./missing", "there is no file ", "name an interpreter"),
            ("/no/such/python", "there is no file /no/such/python", "name an interpreter"),
            ("./env", "is a directory", "env/bin/python"),
            ("./plain", "plain cannot be executed", "test -x"),
            ("./dangling", "is a symlink to gone", "recreate"),
            ("python9.9", "is not on PATH", "PATH is not set"),
            ("bare", "is not on PATH", "write \"./bare\""),
        ] {
            let error = configured(OsStr::new(text), Path::new(&app), &Environment::default(), place.path())
                .unwrap_err();
            assert!(error.reason.contains(reason), "{text}: {error}");
            assert!(error.hint.as_ref().unwrap().contains(hint), "{text}: {error}");
        }
    }

    #[test]
    fn bare_name_is_searched_on_path() {
        let place = TestDir::new();
        let python = place.python("opt/python3.13");
        let environment = [("PATH", place.join("opt"))].into_iter().collect();
        let found =
            configured(OsStr::new("python3.13"), Path::new("/"), &environment, Path::new("/")).unwrap();
        assert_eq!(found, Python { path: python, source: PythonSource::Configured });
    }

    #[test]
    fn interpreter_without_execute_permission_is_refused() {
        let place = TestDir::new();
        let python = place.file("python", b"", 0o700);
        let text = python.display().to_string();
        let check =
            move || configured(OsStr::new(&text), Path::new("/"), &Environment::default(), Path::new("/"));
        if nix::unistd::geteuid().is_root() {
            let error = as_nobody(check).unwrap_err();
            assert!(error.reason.contains("cannot be executed"), "{error}");
        } else {
            eprintln!("SKIPPED: needs root to become another user");
        }
    }
}
