//! The interpreter of a project: the one that a start would find, or an environment that poetry,
//! pipenv or conda keep outside the project.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::{self, ConfigErrors, Environment, Layer, Setting, Value, name};

/// The interpreter, and a note for the operator.
#[derive(Debug)]
pub(super) struct Interpreter {
    pub(super) path: PathBuf,
    /// A sentence for the operator about an interpreter that probably lacks the project's packages,
    /// or that the service's user cannot run.
    pub(super) note: Option<String>,
}

/// Finds the interpreter. `application` is the directory with the application's module, `home` the
/// home directory of the project's owner.
///
/// # Errors
/// When there is no interpreter, or that of the environment is broken.
pub(super) fn find(
    project: &Path,
    application: &Path,
    home: Option<&Path>,
    environment: &Environment,
) -> Result<Interpreter, ConfigErrors> {
    let mut flags = Layer::new();
    let directory = application.to_string_lossy();
    flags.insert(name::DIRECTORY, Setting::flag("--directory", Value::text(directory)));
    let path = config::find_interpreter(&flags, environment, project, None, Some(project))?;
    if is_environment(&path) {
        let note = note_about_root(&path);
        return Ok(Interpreter { path, note });
    }
    let outside = home.and_then(|home| find_outside(project, home));
    let note = if outside.is_none() { note_about_packages(project) } else { None };
    Ok(Interpreter { path: outside.unwrap_or(path), note })
}

/// Returns whether this is the interpreter of a virtual environment or of a conda environment.
fn is_environment(python: &Path) -> bool {
    let prefix = python.parent().and_then(Path::parent);
    prefix.is_some_and(|prefix| prefix.join("pyvenv.cfg").exists() || prefix.join("conda-meta").exists())
}

/// Returns a note if the interpreter is a symbolic link to one in root's home directory, which no
/// service's user can enter: uv, started by root, puts interpreters there.
fn note_about_root(python: &Path) -> Option<String> {
    let real = fs::canonicalize(python).ok().filter(|real| real.starts_with("/root"))?;
    Some(format!(
        "{} leads to {}, which only root can run: recreate the environment with an interpreter that all users can run, for \
         example UV_PYTHON_INSTALL_DIR=/opt/python uv sync --reinstall, or python3 -m venv with /usr/bin/python3",
        python.display(),
        real.display()
    ))
}

/// Returns a note about a project with dependencies but without an environment.
fn note_about_packages(project: &Path) -> Option<String> {
    let has = |name: &str| project.join(name).exists();
    let command = if has("uv.lock") {
        "uv sync"
    } else if has("poetry.lock") {
        "POETRY_VIRTUALENVS_IN_PROJECT=true poetry install"
    } else if has("Pipfile") {
        "PIPENV_VENV_IN_PROJECT=1 pipenv install"
    } else if has("requirements.txt") {
        "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt"
    } else if has("pyproject.toml") {
        "python3 -m venv .venv && .venv/bin/pip install ."
    } else {
        return None;
    };
    Some(format!(
        "{} has no virtual environment, so the system's interpreter serves it; to create one, run in this directory as its \
         owner: {command}",
        project.display()
    ))
}

/// Returns the interpreter of an environment that pipenv, poetry or conda keep below `home`.
fn find_outside(project: &Path, home: &Path) -> Option<PathBuf> {
    let prefix = pipenv(project, home).or_else(|| poetry(project, home)).or_else(|| conda(project, home))?;
    let python = prefix.join("bin/python");
    python.exists().then_some(python)
}

/// Returns pipenv's environment: its file `.project` names the project.
fn pipenv(project: &Path, home: &Path) -> Option<PathBuf> {
    children(&home.join(".local/share/virtualenvs")).find(|prefix| {
        let named = fs::read_to_string(prefix.join(".project")).unwrap_or_default();
        Path::new(named.trim()) == project
    })
}

/// Returns poetry's environment, whose name begins with the project's, if there is only one.
fn poetry(project: &Path, home: &Path) -> Option<PathBuf> {
    if !project.join("poetry.lock").exists() {
        return None;
    }
    let text = fs::read_to_string(project.join("pyproject.toml")).ok()?;
    let table: toml::Table = text.parse().ok()?;
    let of_poetry = table.get("tool").and_then(|tool| tool.get("poetry"));
    let name = [table.get("project"), of_poetry]
        .into_iter()
        .flatten()
        .find_map(|part| part.get("name")?.as_str())?;
    // NAME-HASH-py3.13: the hash has 8 characters.
    let prefix = format!("{}-", name.to_lowercase());
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.strip_prefix(&prefix).and_then(|rest| rest.get(8..)).is_some_and(|rest| rest.starts_with("-py"))
    };
    let mut found = children(&home.join(".cache/pypoetry/virtualenvs")).filter(is_ours);
    let only = found.next()?;
    found.next().is_none().then_some(only)
}

/// Returns the conda environment that `environment.yml` names.
fn conda(project: &Path, home: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(project.join("environment.yml")).ok()?;
    let name = text.lines().find_map(|line| line.strip_prefix("name:"))?.trim().trim_matches(['"', '\'']);
    let installations = ["miniforge3", "miniconda3", "anaconda3", "mambaforge"].map(|name| home.join(name));
    let all = installations.into_iter().chain([home.join(".conda"), PathBuf::from("/opt/conda")]);
    all.map(|conda| conda.join("envs").join(name)).find(|prefix| prefix.join("conda-meta").exists())
}

fn children(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::TestDir;

    /// A project with these files; its owner's home directory is `home` beside it.
    fn project(files: &[(&str, &str)]) -> TestDir {
        let place = TestDir::new();
        for (name, text) in files {
            fs::create_dir_all(place.join(name).parent().unwrap()).unwrap();
            fs::write(place.join(name), text).unwrap();
        }
        place
    }

    fn outside(place: &TestDir) -> Option<PathBuf> {
        find_outside(&place.join("p"), &place.join("home"))
    }

    #[test]
    fn pipenv_environment_is_the_one_that_names_the_project() {
        let (other, ours) = ("home/.local/share/virtualenvs/a-1", "home/.local/share/virtualenvs/p-2");
        let place = project(&[
            ("p/Pipfile", ""),
            (&format!("{other}/.project"), "/srv/other"),
            (&format!("{ours}/bin/python"), ""),
        ]);
        fs::write(place.join(ours).join(".project"), place.join("p").display().to_string()).unwrap();
        assert_eq!(outside(&place), Some(place.join(ours).join("bin/python")));
    }

    #[test]
    fn poetry_environment_is_found_if_only_one_matches() {
        let python = "home/.cache/pypoetry/virtualenvs/my-shop-AbCdEf1_-py3.13/bin/python";
        let place = project(&[
            ("p/poetry.lock", ""),
            ("p/pyproject.toml", "[tool.poetry]\nname = \"My-Shop\"\n"),
            (python, ""),
            ("home/.cache/pypoetry/virtualenvs/my-shop-api-AbCdEf1_-py3.13/bin/python", ""),
        ]);
        assert_eq!(outside(&place), Some(place.join(python)));
        fs::create_dir_all(place.join("home/.cache/pypoetry/virtualenvs/my-shop-ZbCdEf1_-py3.12")).unwrap();
        assert_eq!(outside(&place), None);
    }

    #[test]
    fn conda_environment_is_the_one_of_environment_yml() {
        let place = project(&[
            ("p/environment.yml", "name: shop\ndependencies: []\n"),
            ("home/miniforge3/envs/shop/conda-meta/history", ""),
            ("home/miniforge3/envs/shop/bin/python", ""),
        ]);
        assert_eq!(outside(&place), Some(place.join("home/miniforge3/envs/shop/bin/python")));
    }

    #[test]
    fn note_has_the_command_that_creates_an_environment() {
        for (file, command) in [
            ("uv.lock", "uv sync"),
            ("poetry.lock", "poetry install"),
            ("Pipfile", "pipenv install"),
            ("requirements.txt", "pip install -r requirements.txt"),
        ] {
            let place = project(&[(file, "")]);
            let note = note_about_packages(place.path()).unwrap();
            assert!(note.ends_with(command), "{note}");
        }
        assert_eq!(note_about_packages(TestDir::new().path()), None);
    }
}
