//! Finds the interpreter that the workers run: the configured one, or else the first of:
//!
//! 1. `bin/python`, or else `bin/python3`, of the virtual environment that contains the started `rgun`;
//! 2. that of the environment in `$VIRTUAL_ENV`, `$UV_PROJECT_ENVIRONMENT` or `$CONDA_PREFIX`;
//! 3. that of `.venv`, `venv`, `env` or `.env` in the application's directory, in the two above it
//!    (unless every user may write to them, as to `/tmp`), or in the current directory;
//! 4. that of the only virtual environment in the application's directory, whatever its name;
//! 5. `python3` on PATH.
//!
//! Symlinks are not resolved: Python looks for `pyvenv.cfg` beside the path it was started with.
//!
//! A candidate that exists but cannot be executed, such as a symlink left dangling by an upgrade of
//! the system's Python, ends the search with an error: the next one would lack the packages.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::unistd::AccessFlags;

use super::fs::{absolute, check_access};
use super::{Environment, Python, PythonSource, SearchedDirectory, ValueError};

/// Resolves a configured name: a path, relative to `directory`, or a name on PATH (execvp(3)).
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

/// The folders in which people create a virtual environment.
const FOLDERS: [&str; 4] = [".venv", "venv", "env", ".env"];

/// Variables that name an environment, by precedence: activation, `poetry run`, `pipenv run` and
/// `uv run` set the first; the project's owner sets the second for uv; conda sets the third.
const VARIABLES: [&str; 3] = ["VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "CONDA_PREFIX"];

/// A search for an interpreter, used if none is configured.
pub(crate) struct Search<'a> {
    /// The path that `rgun` was started by.
    pub(crate) program: Option<&'a Path>,
    /// The application's directory.
    pub(crate) directory: &'a Path,
    pub(crate) environment: &'a Environment,
    pub(crate) cwd: &'a Path,
}

impl Search<'_> {
    /// Returns the first interpreter. Warns about a variable whose environment has no interpreter.
    pub(crate) fn run(&self, warnings: &mut Vec<String>) -> Result<Python, ValueError> {
        let mut searched = Vec::new();
        for (prefix, source) in self.prefixes() {
            let names = ["bin/python", "bin/python3"].map(|name| prefix.join(name));
            if let Some(path) = names.into_iter().find(|path| path.symlink_metadata().is_ok()) {
                check_executable(&path).map_err(|error| unusable_candidate(&path, source, &error))?;
                return Ok(Python { path, source });
            }
            if let PythonSource::Variable(variable) = source {
                warnings.push(format!(
                    "${variable} is set, but there is no {}; continuing the search",
                    prefix.join("bin/python").display()
                ));
            }
            searched.push(prefix.display().to_string());
        }
        match find_on_path(OsStr::new("python3"), self.environment, self.cwd) {
            Some(path) => Ok(Python { path, source: PythonSource::Path }),
            None => Err(ValueError::new(format!(
                "no interpreter found: there is no bin/python in {}, and no python3 on PATH ({})",
                searched.join(", "),
                display_path_variable(self.environment)
            ))
            .with_hint("name one with app.python (--python), or create one: python3 -m venv .venv")),
        }
    }

    /// Returns the environments to search, in this order; any of them may be missing.
    fn prefixes(&self) -> Vec<(PathBuf, PythonSource)> {
        let Self { directory, environment, cwd, .. } = *self;
        let mut prefixes = Vec::new();
        prefixes.extend(self.own_environment().map(|prefix| (prefix, PythonSource::SameEnvironment)));
        for variable in VARIABLES {
            // conda's base environment is often active although the project does not use it.
            if variable == "CONDA_PREFIX"
                && environment.value("CONDA_DEFAULT_ENV").is_some_and(|name| name == "base")
            {
                continue;
            }
            // uv takes a relative path from the project, which is the application's directory.
            let base = if variable == "UV_PROJECT_ENVIRONMENT" { directory } else { cwd };
            let prefix = environment.value(variable).map(|prefix| absolute(base, Path::new(prefix)));
            prefixes.extend(prefix.map(|prefix| (prefix, PythonSource::Variable(variable))));
        }
        let mut directories = vec![(directory, SearchedDirectory::Application)];
        let above = directory.ancestors().skip(1);
        let above = above.zip([SearchedDirectory::Parent, SearchedDirectory::Grandparent]);
        // Any user could put an interpreter into a directory that all may write to.
        directories.extend(above.filter(|(above, _)| !is_writable_by_all(above)));
        directories.push((cwd, SearchedDirectory::Current));
        for (idx, &(place, searched)) in directories.iter().enumerate() {
            if directories[..idx].iter().any(|(earlier, _)| *earlier == place) {
                continue;
            }
            let folders =
                FOLDERS.iter().map(|&folder| (place.join(folder), PythonSource::Folder(folder, searched)));
            prefixes.extend(folders);
        }
        let only =
            only_environment(directory).filter(|only| !prefixes.iter().any(|(prefix, _)| prefix == only));
        prefixes.extend(only.map(|prefix| (prefix, PythonSource::OnlyFolder)));
        prefixes
    }

    /// Returns the environment of venv or conda that contains the started `rgun`. A link from
    /// elsewhere is not followed: the environments of pipx and `uv tool` contain rgun alone.
    fn own_environment(&self) -> Option<PathBuf> {
        let prefix = self.program?.parent()?.parent()?;
        let is_environment = prefix.join("pyvenv.cfg").is_file() || prefix.join("conda-meta").is_dir();
        is_environment.then(|| prefix.to_owned())
    }
}

/// Returns the only virtual environment (PEP 405) in `directory`, whatever its name: several
/// tutorials name it after the project. `None` if there are several.
fn only_environment(directory: &Path) -> Option<PathBuf> {
    let folders = std::fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path());
    let mut environments = folders.filter(|folder| folder.join("pyvenv.cfg").is_file());
    environments.next().filter(|_| environments.next().is_none())
}

/// Returns the absolute path by which a program with the `argv[0]` `name` was started. A name
/// without a slash is searched on PATH, as execvp(3) did.
pub(crate) fn find_program(name: &OsStr, environment: &Environment, cwd: &Path) -> Option<PathBuf> {
    if name.as_encoded_bytes().contains(&b'/') {
        return Some(absolute(cwd, Path::new(name)));
    }
    find_on_path(name, environment, cwd)
}

/// Returns whether every user may create files in the directory.
fn is_writable_by_all(directory: &Path) -> bool {
    directory.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o002 != 0)
}

fn check_executable(path: &Path) -> Result<(), ValueError> {
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err(super::fs::unreachable(path, &error));
        }
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
        Err(error) => return Err(super::fs::unreachable(path, &error)),
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
        let search = Search {
            program: Some(&place.join("own/bin/rgun")),
            directory: &place.join("sites/app"),
            environment: &environment,
            cwd: &place.join("cwd"),
        };
        (search.run(&mut warnings), warnings)
    }

    #[test]
    fn search_takes_the_first_existing_interpreter() {
        let place = TestDir::new();
        let text = |path: &str| place.join(path).display().to_string();
        let variables = [
            ("VIRTUAL_ENV", text("active")),
            ("UV_PROJECT_ENVIRONMENT", "of-uv".to_owned()),
            ("CONDA_PREFIX", text("conda")),
            ("PATH", format!("{}:{}", text("nothing"), text("usr/bin"))),
        ];
        for (path, source) in [
            ("usr/bin/python3", PythonSource::Path),
            ("cwd/.env/bin/python", PythonSource::Folder(".env", SearchedDirectory::Current)),
            ("cwd/.venv/bin/python", PythonSource::Folder(".venv", SearchedDirectory::Current)),
            (".venv/bin/python", PythonSource::Folder(".venv", SearchedDirectory::Grandparent)),
            ("sites/venv/bin/python", PythonSource::Folder("venv", SearchedDirectory::Parent)),
            ("sites/app/env/bin/python", PythonSource::Folder("env", SearchedDirectory::Application)),
            ("sites/app/venv/bin/python", PythonSource::Folder("venv", SearchedDirectory::Application)),
            ("sites/app/.venv/bin/python", PythonSource::Folder(".venv", SearchedDirectory::Application)),
            ("conda/bin/python", PythonSource::Variable("CONDA_PREFIX")),
            ("sites/app/of-uv/bin/python", PythonSource::Variable("UV_PROJECT_ENVIRONMENT")),
            ("active/bin/python", PythonSource::Variable("VIRTUAL_ENV")),
            ("own/bin/python", PythonSource::SameEnvironment),
        ] {
            let path = place.python(path);
            place.file("own/pyvenv.cfg", b"", 0o644);
            let (found, _) = find(&place, &variables);
            assert_eq!(found.unwrap(), Python { path, source });
        }
    }

    #[test]
    fn layouts_of_projects_have_their_interpreter() {
        for (name, files, variables, directory, cwd, expected) in [
            ("src layout", &["p/.venv/bin/python"][..], &[][..], "p/src", "p", "p/.venv/bin/python"),
            ("src layout, from inside", &["p/.venv/bin/python"], &[], "p/src", "p/src", "p/.venv/bin/python"),
            ("two levels up", &["p/venv/bin/python"], &[], "p/web/src", "p/web/src", "p/venv/bin/python"),
            ("--chdir elsewhere", &["home/venv/bin/python"], &[], "p/app", "home", "home/venv/bin/python"),
            (
                "uv run",
                &["p/.venv/bin/python"],
                &[("VIRTUAL_ENV", "p/.venv")],
                "p",
                "p",
                "p/.venv/bin/python",
            ),
            (
                "poetry run, cache outside of the project",
                &["cache/shop-py3.13/bin/python", "p/env/bin/python"],
                &[("VIRTUAL_ENV", "cache/shop-py3.13")],
                "p",
                "p",
                "cache/shop-py3.13/bin/python",
            ),
            ("conda", &["conda/bin/python"], &[("CONDA_PREFIX", "conda")], "p", "p", "conda/bin/python"),
            ("pyenv's shims", &["shims/python3"], &[("PATH", "shims")], "p", "p", "shims/python3"),
            ("env folder with python3 only", &["p/env/bin/python3"], &[], "p", "p", "p/env/bin/python3"),
        ] {
            let place = TestDir::new();
            for folder in [directory, cwd] {
                std::fs::create_dir_all(place.join(folder)).unwrap();
            }
            for file in files {
                place.python(file);
            }
            let full = |path: &str| place.join(path).display().to_string();
            let environment = variables.iter().map(|(name, path)| (*name, full(path))).collect();
            let search = Search {
                program: None,
                directory: &place.join(directory),
                environment: &environment,
                cwd: &place.join(cwd),
            };
            let found = search.run(&mut Vec::new()).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(found.path, place.join(expected), "{name}");
        }
    }

    #[test]
    fn parent_writable_by_all_users_is_not_searched() {
        let place = TestDir::new();
        let python = place.python("usr/bin/python3");
        place.python("sites/.venv/bin/python");
        std::fs::set_permissions(place.join("sites"), std::fs::Permissions::from_mode(0o1777)).unwrap();
        let (found, _) = find(&place, &[("PATH", place.join("usr/bin").display().to_string())]);
        assert_eq!(found.unwrap(), Python { path: python, source: PythonSource::Path });
    }

    #[test]
    fn variable_naming_no_environment_is_warned_about() {
        let place = TestDir::new();
        place.python("usr/bin/python3");
        let variables = [
            ("CONDA_PREFIX", "/no/such/conda".to_owned()),
            ("PATH", place.join("usr/bin").display().to_string()),
        ];
        let (found, warnings) = find(&place, &variables);
        assert_eq!(found.unwrap().source, PythonSource::Path);
        let warning =
            "$CONDA_PREFIX is set, but there is no /no/such/conda/bin/python; continuing the search";
        assert_eq!(warnings, [warning]);
    }

    #[test]
    fn interpreter_beside_rgun_needs_an_environment() {
        let place = TestDir::new();
        place.python("usr/bin/python3");
        place.python("own/bin/python");
        let variables = [("PATH", place.join("usr/bin").display().to_string())];
        // Without pyvenv.cfg it is a directory of programs, such as /usr/local/bin.
        assert_eq!(find(&place, &variables).0.unwrap().source, PythonSource::Path);
        std::fs::create_dir(place.join("own/conda-meta")).unwrap();
        assert_eq!(find(&place, &variables).0.unwrap().source, PythonSource::SameEnvironment);
    }

    #[test]
    fn environment_of_any_name_is_found_if_it_is_alone() {
        let place = TestDir::new();
        let system = place.python("usr/bin/python3");
        let own = place.python("sites/app/shopenv/bin/python");
        place.python("sites/app/tools/bin/python");
        let variables = [("PATH", place.join("usr/bin").display().to_string())];
        let path = || find(&place, &variables).0.unwrap().path;
        assert_eq!(path(), system, "without pyvenv.cfg it is not an environment");
        place.file("sites/app/shopenv/pyvenv.cfg", b"", 0o644);
        assert_eq!(
            find(&place, &variables).0.unwrap(),
            Python { path: own, source: PythonSource::OnlyFolder }
        );
        place.file("sites/app/tools/pyvenv.cfg", b"", 0o644);
        assert_eq!(path(), system, "one of two would be a guess");
    }

    #[test]
    fn file_named_dot_env_is_no_environment() {
        let place = TestDir::new();
        place.python("usr/bin/python3");
        place.file("sites/app/.env", b"SECRET=1\n", 0o600);
        let variables = [("PATH", place.join("usr/bin").display().to_string())];
        assert_eq!(find(&place, &variables).0.unwrap().source, PythonSource::Path);
    }

    #[test]
    fn program_is_found_by_its_path_or_on_path() {
        let place = TestDir::new();
        let rgun = place.python("bin/rgun");
        let environment = [("PATH", place.join("bin"))].into_iter().collect();
        let find = |name: &str| find_program(OsStr::new(name), &environment, place.path());
        assert_eq!(find("rgun"), Some(rgun.clone()));
        assert_eq!(find("bin/rgun"), Some(rgun));
        assert_eq!(find("/opt/bin/rgun"), Some(PathBuf::from("/opt/bin/rgun")));
        assert_eq!(find("nothing"), None);
    }

    #[test]
    fn symlink_to_the_interpreter_is_not_resolved() {
        let place = TestDir::new();
        let real = place.python("usr/bin/python3.11");
        std::fs::create_dir_all(place.join("sites/app/.venv/bin")).unwrap();
        let link = place.join("sites/app/.venv/bin/python");
        std::os::unix::fs::symlink(real, &link).unwrap();
        assert_eq!(find(&place, &[]).0.unwrap().path, link);
        let named = configured(
            OsStr::new(".venv/bin/python"),
            &place.join("sites/app"),
            &Environment::default(),
            Path::new("/"),
        );
        assert_eq!(named.unwrap(), Python { path: link, source: PythonSource::Configured });
    }

    #[test]
    fn broken_virtual_environment_ends_the_search() {
        let place = TestDir::new();
        place.python("usr/bin/python3");
        std::fs::create_dir_all(place.join("sites/app/.venv/bin")).unwrap();
        std::os::unix::fs::symlink("/nonexistent/python3.9", place.join("sites/app/.venv/bin/python"))
            .unwrap();
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
            assert!(error.reason.contains("sites/app/.venv, "), "{error}");
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
