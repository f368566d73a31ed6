//! Migrates `fastapi run` and `fastapi dev` (fastapi-cli 0.0.16), which find the application and call
//! uvicorn.

use std::path::{Path, PathBuf};

use super::flags::FlagSet;
use super::options;
use super::plan::Plan;
use crate::cli::compat::peers::Becomes::{Flag, Nothing};
use crate::cli::compat::peers::{ForeignOption, switch, value};
use crate::config::{Value, name};

/// The options of both commands, except those that name the application.
const OPTIONS: &[ForeignOption] = &[
    value(&["host"], Flag("host")),
    value(&["port"], Flag("port")),
    value(&["workers"], Flag("workers")),
    value(&["root-path"], Flag("root-path")),
    value(&["forwarded-allow-ips"], Flag("forwarded-allow-ips")),
    value(&["reload-dir"], Flag("reload-dir")),
    switch(&["reload"], Flag("reload")),
    switch(&["no-reload"], Nothing),
    switch(&["proxy-headers"], Flag("proxy-headers")),
    switch(&["no-proxy-headers"], Flag("no-proxy-headers")),
];

/// The files that fastapi looks for if the command names none.
const DEFAULT_FILES: [&str; 6] = ["main.py", "app.py", "api.py", "app/main.py", "app/app.py", "app/api.py"];

/// The words of a command that name the application.
#[derive(Debug, Default)]
struct Named {
    path: Option<String>,
    app: Option<String>,
    entrypoint: Option<String>,
}

/// The module of a file, and the directory in which Python finds the module. The directory is
/// `None` if this machine does not have the file.
struct Module {
    module: String,
    base: Option<PathBuf>,
}

/// Adds the settings of a command; `args` begins with `run` or `dev`. Returns what the flags set.
pub(super) fn add(args: &[String], origin: &str, plan: &mut Plan) -> FlagSet {
    let (mut named, mut others, mut is_dev) = (Named::default(), Vec::new(), None);
    let mut rest = args.iter();
    while let Some(word) = rest.next() {
        let (flag, inline) =
            word.split_once('=').map_or((word.as_str(), None), |(flag, text)| (flag, Some(text)));
        let mut text = || inline.map(str::to_owned).or_else(|| rest.next().cloned());
        match flag {
            "--app" => named.app = text(),
            "--entrypoint" | "-e" => named.entrypoint = text(),
            flag if flag.starts_with('-') => {
                others.push(word.clone());
                let has_value = OPTIONS
                    .iter()
                    .any(|row| row.has_value && row.names.contains(&flag.trim_start_matches('-')));
                if has_value && inline.is_none() {
                    others.extend(rest.next().cloned());
                }
            }
            command if is_dev.is_none() => is_dev = Some(command == "dev"),
            _ => named.path = Some(word.clone()),
        }
    }
    let is_dev = is_dev.unwrap_or_default();
    let has = |flag: &str| others.iter().any(|word| word == flag || word.starts_with(&format!("{flag}=")));
    let host = if is_dev { "127.0.0.1" } else { "0.0.0.0" };
    let mut defaults: Vec<String> = Vec::new();
    if !has("--host") {
        defaults.push(format!("--host={host}"));
    }
    if !has("--port") {
        defaults.push("--port=8000".to_owned());
    }
    if is_dev && !has("--no-reload") {
        defaults.push("--reload".to_owned());
    }
    others.extend(defaults);
    others.extend(target(named, origin, plan));
    options::add(OPTIONS, &others, origin, plan)
}

/// Returns the application. Notes what is assumed about it.
fn target(named: Named, origin: &str, plan: &mut Plan) -> Option<String> {
    let directory = plan.directory().map(PathBuf::from);
    let entrypoint = named.entrypoint.or_else(|| entrypoint_of_project(directory.as_deref()?));
    if let (None, Some(entrypoint)) = (&named.path, entrypoint) {
        return Some(entrypoint);
    }
    let in_directory = |path: &str| directory.as_ref().map(|directory| directory.join(path));
    let Some(path) = named.path.or_else(|| {
        let is_here = |path: &&str| in_directory(path).is_some_and(|full| full.is_file());
        DEFAULT_FILES.into_iter().find(is_here).map(str::to_owned)
    }) else {
        let text = "the application: fastapi takes the first of main.py, app.py, api.py, app/main.py, app/app.py and app/api.py; none of them is on this machine: write app.target, such as \"main:app\"";
        plan.left_out(origin, text);
        return None;
    };
    let file = if path.starts_with('/') { Some(PathBuf::from(&path)) } else { in_directory(&path) };
    let Module { module, base } = module_of(&path, file.as_deref());
    match base {
        Some(base) if directory.is_none() => {
            plan.set(name::DIRECTORY, Value::text(base.display().to_string()), origin);
        }
        Some(base) if directory.as_ref() != Some(&base) => {
            plan.set(name::PYTHONPATH, Value::text(base.display().to_string()), origin);
        }
        None if module.contains('.') => plan.changed.push(format!(
            "{origin}: {path} became the module {module}: fastapi names it so if each of its directories has an __init__.py"
        )),
        _ => {}
    }
    let text = file.and_then(|file| {
        std::fs::read_to_string(if file.is_dir() { file.join("__init__.py") } else { file }).ok()
    });
    let app = named.app.or_else(|| name_in(&text?)).unwrap_or_else(|| {
        plan.changed.push(format!(
            "{origin}: the application in {path} is called app here; fastapi also finds other names"
        ));
        "app".to_owned()
    });
    Some(format!("{module}:{app}"))
}

/// Returns `entrypoint` of `[tool.fastapi]` in the project's `pyproject.toml`.
fn entrypoint_of_project(directory: &Path) -> Option<String> {
    let text = std::fs::read_to_string(directory.join("pyproject.toml")).ok()?;
    let table: toml::Table = text.parse().ok()?;
    Some(table.get("tool")?.get("fastapi")?.get("entrypoint")?.as_str()?.to_owned())
}

/// Returns the module of a file. Directories with an `__init__.py` are packages.
fn module_of(path: &str, file: Option<&Path>) -> Module {
    let stem =
        |path: &str| path.trim_end_matches('/').trim_end_matches(".py").trim_start_matches("./").to_owned();
    let Some(file) = file.filter(|file| file.exists()) else {
        let relative = stem(path);
        let relative = relative.trim_start_matches('/');
        return Module { module: relative.trim_end_matches("/__init__").replace('/', "."), base: None };
    };
    let start = if file.ends_with("__init__.py") { file.parent().unwrap_or(file) } else { file };
    let mut names = vec![stem(&start.file_name().unwrap_or_default().to_string_lossy())];
    let mut base = start.parent().unwrap_or(start);
    while base.join("__init__.py").is_file() {
        names.insert(0, base.file_name().unwrap_or_default().to_string_lossy().into_owned());
        base = base.parent().unwrap_or(base);
    }
    Module { module: names.join("."), base: Some(base.to_owned()) }
}

/// Returns the name of the application in a module's text: `app`, `api`, or the first name to
/// which a `FastAPI(…)` is assigned.
fn name_in(text: &str) -> Option<String> {
    let assigned = |line: &str| {
        let (name, value) = line.split_once('=')?;
        let name = name.split(':').next().unwrap_or(name).trim();
        let is_app = value.trim_start().starts_with("FastAPI(") || value.contains(".FastAPI(");
        super::words::is_name(name).then(|| (name.to_owned(), is_app))
    };
    let names: Vec<_> = text.lines().filter_map(assigned).collect();
    let preferred = ["app", "api"].into_iter().find(|name| names.iter().any(|(its, _)| its == name));
    let first = || names.iter().find(|(_, is_app)| *is_app).map(|(name, _)| name.clone());
    preferred.map(str::to_owned).or_else(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::TestDir;

    fn migrated(words: &str, directory: Option<&str>) -> Plan {
        let mut plan = Plan::default();
        if let Some(directory) = directory {
            plan.set(name::DIRECTORY, Value::text(directory), "x");
        }
        add(&shlex::split(words).unwrap(), "run:1", &mut plan);
        plan
    }

    fn setting(plan: &Plan, key: &str) -> String {
        plan.settings.get(key).map(|setting| setting.value.to_string()).unwrap_or_default()
    }

    #[test]
    fn addresses_have_the_defaults_of_the_command() {
        for (words, bind, reload) in [
            ("run main.py", "0.0.0.0:8000", false),
            ("run main.py --port 80", "0.0.0.0:80", false),
            ("run main.py --host 127.0.0.1", "127.0.0.1:8000", false),
            ("dev main.py", "127.0.0.1:8000", true),
            ("dev main.py --no-reload", "127.0.0.1:8000", false),
        ] {
            let plan = migrated(words, Some("/no/such"));
            assert!(setting(&plan, name::BIND).contains(bind), "{words}: {}", setting(&plan, name::BIND));
            assert_eq!(!setting(&plan, name::ON_CHANGE).is_empty(), reload, "{words}");
        }
    }

    #[test]
    fn application_is_found_as_fastapi_finds_it() {
        let place = TestDir::new();
        place.file("app/__init__.py", b"", 0o644);
        place.file("app/main.py", b"from fastapi import FastAPI\nweb: FastAPI = FastAPI()\n", 0o644);
        place.file("other/site.py", b"api = make()\n", 0o644);
        let directory = place.path().display().to_string();
        for (words, target) in [
            ("run", "app.main:web"),
            ("run app/main.py --app x", "app.main:x"),
            ("run -e other.site:y", "other.site:y"),
            ("run other/site.py", "site:api"),
            ("run no/such.py", "no.such:app"),
        ] {
            let plan = migrated(words, Some(&directory));
            assert_eq!(plan.settings[name::TARGET].value, Value::text(target), "{words}");
        }
        let plan = migrated("run other/site.py", Some(&directory));
        assert!(setting(&plan, name::PYTHONPATH).contains("other"));
        place.file("pyproject.toml", b"[tool.fastapi]\nentrypoint = 'a.b:c'\n", 0o644);
        assert_eq!(migrated("run", Some(&directory)).settings[name::TARGET].value, Value::text("a.b:c"));
    }

    #[test]
    fn missing_application_is_named() {
        let plan = migrated("run", Some("/no/such"));
        assert!(plan.left_out[0].contains("write app.target, such as \"main:app\""), "{:?}", plan.left_out);
    }
}
