//! What `rgun init` finds in a project's directory without running its code.

use std::fs;
use std::path::{Path, PathBuf};

use super::database::sqlite_directory;

/// Maximum number of directory entries to look at for data.
const MAX_ENTRIES: usize = 20_000;

/// Maximum size of a source file to read.
const MAX_SOURCE_BYTES: u64 = 1 << 20;

/// Maximum depth of directories with data below the project's directory.
const MAX_DATA_DEPTH: usize = 3;

/// Files that often define an application, best first.
const MODULES: [&str; 8] =
    ["wsgi.py", "asgi.py", "main.py", "app.py", "application.py", "server.py", "api.py", "__init__.py"];

/// Names of applications, best first.
const ATTRIBUTES: [&str; 3] = ["application", "app", "api"];

/// Calls that make an application of a widely used framework.
const CONSTRUCTORS: [&str; 13] = [
    "Flask(",
    "FastAPI(",
    "Starlette(",
    "Litestar(",
    "Quart(",
    "Bottle(",
    "default_app(",
    "falcon.App(",
    "Application(",
    "get_wsgi_application(",
    "get_asgi_application(",
    "create_app(",
    "make_app(",
];

/// Functions that return an application.
const FACTORIES: [&str; 2] = ["create_app", "make_app"];

/// Database and cache services of this machine, and the packages of their clients.
const SERVICES: [(&str, &[&str]); 6] = [
    ("postgresql.service", &["psycopg", "asyncpg", "pg8000"]),
    ("mariadb.service", &["mysqlclient", "pymysql", "aiomysql", "mysql-connector"]),
    ("mysql.service", &["mysqlclient", "pymysql", "aiomysql", "mysql-connector"]),
    ("redis-server.service", &["redis", "celery[redis]"]),
    ("redis.service", &["redis", "celery[redis]"]),
    ("memcached.service", &["pymemcache", "pylibmc"]),
];

/// An application in the project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Application {
    /// `module`, `module:attribute` or `module:factory()`.
    pub(super) target: String,
    /// The directory that contains the module.
    pub(super) directory: PathBuf,
}

/// Returns the applications that the project defines, the most likely one first.
pub(super) fn find_applications(project: &Path) -> Vec<Application> {
    let children = subdirectories(project);
    let django = std::iter::once(project).chain(children.iter().map(PathBuf::as_path));
    let mut found: Vec<_> = django.filter_map(find_django).collect();
    let mut add = |application: Application| {
        if !found.contains(&application) {
            found.push(application);
        }
    };
    for root in [project.to_owned(), project.join("src")] {
        find_in(&root, &root, "").into_iter().for_each(&mut add);
        for package in subdirectories(&root).iter().filter(|package| package.join("__init__.py").is_file()) {
            let name = package.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            find_in(&root, package, name).into_iter().for_each(&mut add);
        }
    }
    found
}

/// Returns the application of a Django project: the module beside its settings.
fn find_django(directory: &Path) -> Option<Application> {
    let manage = read_source(&directory.join("manage.py"))?;
    let line = manage.lines().find(|line| line.contains("DJANGO_SETTINGS_MODULE"))?;
    let settings = line.split(['"', '\'']).filter(|word| !word.is_empty()).find(|word| {
        *word != "DJANGO_SETTINGS_MODULE"
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._".contains(&byte))
    })?;
    let parts: Vec<&str> = settings.split('.').collect();
    (1..=parts.len()).find_map(|length| {
        let package = directory.join(parts[..length].join("/"));
        let module = |file: &str| read_source(&package.join(file));
        let (wsgi, asgi) = (module("wsgi.py"), module("asgi.py"));
        // With channels, WebSockets need ASGI.
        let needs_asgi =
            wsgi.is_none() || asgi.as_deref().is_some_and(|text| text.contains("ProtocolTypeRouter"));
        let name = match (wsgi, asgi) {
            (_, Some(_)) if needs_asgi => "asgi",
            (Some(_), _) => "wsgi",
            _ => return None,
        };
        let target = format!("{}.{name}", parts[..length].join("."));
        Some(Application { target, directory: directory.to_owned() })
    })
}

/// Returns the applications in the modules of one directory. `package` is the directory's name as
/// a package below `root`; empty if the directory is `root`.
fn find_in(root: &Path, directory: &Path, package: &str) -> Vec<Application> {
    let mut found = Vec::new();
    for file in MODULES {
        let Some(text) = read_source(&directory.join(file)) else { continue };
        let module = match (package, file.trim_end_matches(".py")) {
            ("", "__init__") => continue,
            (package, "__init__") => package.to_owned(),
            ("", module) => module.to_owned(),
            (package, module) => format!("{package}.{module}"),
        };
        if let Some(attribute) = attribute_of(&text, matches!(file, "wsgi.py" | "asgi.py")) {
            let target = if attribute == "application" { module } else { format!("{module}:{attribute}") };
            found.push(Application { target, directory: root.to_owned() });
        }
    }
    found
}

/// Returns the name of the application that a module defines; `create_app()` for a factory.
/// `is_entry`: the module's name says that its attribute is an application.
fn attribute_of(text: &str, is_entry: bool) -> Option<String> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with([' ', '\t', '#'])).collect();
    let defines = |line: &str, name: &str| {
        let Some(rest) = line.strip_prefix(name).map(str::trim_start) else { return false };
        // `app = Flask(…)` or `app: Flask = Flask(…)`.
        let value = match rest.strip_prefix('=') {
            Some(value) if !value.starts_with('=') => value,
            _ if rest.starts_with(':') => rest.split_once('=').map_or("", |(_, value)| value),
            _ => return false,
        };
        is_entry || CONSTRUCTORS.iter().any(|call| value.contains(call))
    };
    let is_function = |line: &str, name: &str| {
        let rest = line.strip_prefix("async ").unwrap_or(line).strip_prefix("def ");
        rest.and_then(|rest| rest.strip_prefix(name)).is_some_and(|rest| rest.starts_with('('))
    };
    let has = |name: &&&str| lines.iter().any(|line| defines(line, name) || is_function(line, name));
    if let Some(name) = ATTRIBUTES.iter().find(has) {
        return Some((*name).to_owned());
    }
    let factory = FACTORIES.iter().find(|name| lines.iter().any(|line| is_function(line, name)));
    factory.map(|name| format!("{name}()"))
}

/// Returns the directories that the application probably writes to: those with SQLite databases,
/// that of the database that Django's settings name, and those for uploads.
pub(super) fn data_directories(project: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![(project.to_owned(), 0)];
    let mut budget = MAX_ENTRIES;
    while let Some((directory, depth)) = pending.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            budget = budget.saturating_sub(1);
            if budget == 0 {
                break;
            }
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            let Ok(kind) = entry.file_type() else { continue };
            if has_control_characters(&path) {
                continue;
            }
            let extension = path.extension().and_then(|extension| extension.to_str());
            if kind.is_file() && matches!(extension, Some("sqlite3" | "sqlite" | "db")) {
                found.push(directory.clone());
            } else if kind.is_file() && extension == Some("py") && is_of_settings(&path) {
                let database = read_source(&path).and_then(|text| sqlite_directory(&text));
                // Without the slash that joining an empty path adds.
                let absolute =
                    database.map(|relative| project.components().chain(relative.components()).collect());
                found.extend(absolute.filter(|path: &PathBuf| path.is_dir()));
            } else if kind.is_dir() && matches!(&*name, "media" | "uploads") {
                found.push(path);
            } else if kind.is_dir() && depth < MAX_DATA_DEPTH && is_source(&path, &name) {
                pending.push((path, depth + 1));
            }
        }
    }
    found.sort();
    found.dedup();
    let above = found.clone();
    found.retain(|path| !above.iter().any(|other| path != other && path.starts_with(other)));
    found
}

/// Returns whether a file of Python source probably has Django's settings: `settings.py`, or a file
/// in a package `settings`.
fn is_of_settings(path: &Path) -> bool {
    path.components().rev().take(2).any(|part| part.as_os_str().to_string_lossy().starts_with("settings"))
}

/// Returns the text of the files that declare the project's dependencies.
pub(super) fn requirements(project: &Path) -> String {
    let names = ["pyproject.toml", "requirements.txt", "Pipfile", "environment.yml", "setup.cfg", "setup.py"];
    let mut paths: Vec<PathBuf> = names.iter().map(|name| project.join(name)).collect();
    // requirements/production.txt and the like.
    let entries = fs::read_dir(project.join("requirements")).into_iter().flatten().flatten();
    paths.extend(
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|kind| kind == "txt")),
    );
    paths.iter().filter_map(|path| read_source(path)).collect::<Vec<_>>().join("\n").to_lowercase()
}

/// Returns the units that the project's database and cache clients talk to, if `has_unit` says that
/// the machine has them.
pub(super) fn services(requirements: &str, has_unit: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let is_used = |packages: &[&str]| packages.iter().any(|package| names_package(requirements, package));
    SERVICES
        .iter()
        .filter(|(unit, packages)| is_used(packages) && has_unit(unit))
        .map(|(unit, _)| *unit)
        .collect()
}

/// Returns whether a line or a list of requirements names a package that begins with `package`.
fn names_package(requirements: &str, package: &str) -> bool {
    requirements.match_indices(package).any(|(start, _)| {
        let before = requirements[..start].chars().next_back();
        before.is_none_or(|before| !before.is_alphanumeric() && !"-_.[/".contains(before))
    })
}

/// Returns the text of a regular file of at most [`MAX_SOURCE_BYTES`]. Root may read the project of
/// another user, and a device or a pipe in place of the file would never end.
fn read_source(path: &Path) -> Option<String> {
    let metadata = fs::metadata(path).ok()?;
    let is_source = metadata.is_file() && metadata.len() <= MAX_SOURCE_BYTES;
    is_source.then(|| fs::read_to_string(path).ok()).flatten()
}

/// Returns whether a name has control characters. A line break in a path would add a line to the
/// drop-in.
pub(super) fn has_control_characters(path: &Path) -> bool {
    path.to_string_lossy().chars().any(char::is_control)
}

/// Returns the subdirectories that may hold source files, sorted by name.
fn subdirectories(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter(|entry| is_source(&entry.path(), &entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

/// Returns whether a directory can be part of the project's source: it is neither hidden, nor a
/// virtual environment, nor for tests or installed packages.
fn is_source(path: &Path, name: &str) -> bool {
    !name.starts_with('.')
        && !matches!(name, "node_modules" | "__pycache__" | "tests" | "test" | "docs" | "build" | "dist")
        && !path.join("pyvenv.cfg").exists()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::TestDir;

    fn targets(files: &[(&str, &str)]) -> Vec<String> {
        let place = TestDir::new();
        for (name, text) in files {
            fs::create_dir_all(place.join(name).parent().unwrap()).unwrap();
            fs::write(place.join(name), text).unwrap();
        }
        find_applications(place.path()).into_iter().map(|found| found.target).collect()
    }

    const MANAGE: &str = "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'config.settings.local')\n";

    #[test]
    fn django_project_is_found_by_its_settings() {
        let files = [("manage.py", MANAGE), ("config/wsgi.py", "x"), ("config/asgi.py", "x")];
        assert_eq!(targets(&files), ["config.wsgi"]);
        let below = [("web/manage.py", MANAGE), ("web/config/wsgi.py", "x")];
        assert_eq!(targets(&below), ["config.wsgi"]);
    }

    #[test]
    fn django_with_channels_is_served_by_asgi() {
        let asgi = "application = ProtocolTypeRouter({})";
        let files = [("manage.py", MANAGE), ("config/wsgi.py", "x"), ("config/asgi.py", asgi)];
        assert_eq!(targets(&files)[0], "config.asgi");
        assert_eq!(targets(&[("manage.py", MANAGE), ("config/asgi.py", "x")]), ["config.asgi"]);
    }

    #[test]
    fn application_is_found_by_its_definition() {
        for (file, text, target) in [
            ("main.py", "app = FastAPI()\n", "main:app"),
            ("main.py", "app: FastAPI = FastAPI(title='a')\n", "main:app"),
            ("app.py", "app=Flask(__name__)\n", "app:app"),
            ("wsgi.py", "from shop import app as application\napplication = app\n", "wsgi"),
            ("shop/__init__.py", "def create_app(config=None):\n    pass\n", "shop:create_app()"),
            ("src/main.py", "async def app(scope, receive, send):\n    pass\n", "main:app"),
        ] {
            let files = [
                (file, text),
                ("src/none.py", ""),
                ("shop/__init__.py", if file.starts_with("shop") { text } else { "" }),
            ];
            assert_eq!(targets(&files), [target], "{file}: {text}");
        }
    }

    #[test]
    fn other_definitions_are_not_applications() {
        for text in [
            "app = typer.Typer()",
            "    app = Flask(__name__)",
            "# app = Flask(x)",
            "app == Flask(x)",
            "apply = Flask(x)",
        ] {
            assert_eq!(targets(&[("main.py", text)]), [""; 0], "{text}");
        }
    }

    #[test]
    fn data_directories_have_databases_or_uploads() {
        let place = TestDir::new();
        for name in ["data/db.sqlite3", "media/a.png", "media/deep/x.db", ".venv/x.db", "shop/code.py"] {
            fs::create_dir_all(place.join(name).parent().unwrap()).unwrap();
            fs::write(place.join(name), "").unwrap();
        }
        assert_eq!(data_directories(place.path()), [place.join("data"), place.join("media")]);
        fs::write(place.join("db.sqlite3"), "").unwrap();
        assert_eq!(data_directories(place.path()), [place.path()]);
    }

    #[test]
    fn database_that_the_settings_name_need_not_exist() {
        let place = TestDir::new();
        fs::create_dir_all(place.join("mysite/settings")).unwrap();
        let settings = "'ENGINE': 'django.db.backends.sqlite3',\n'NAME': BASE_DIR / 'data' / 'db.sqlite3',\n";
        fs::write(place.join("mysite/settings/base.py"), settings).unwrap();
        assert_eq!(data_directories(place.path()), Vec::<PathBuf>::new(), "no such directory");
        fs::create_dir(place.join("data")).unwrap();
        assert_eq!(data_directories(place.path()), [place.join("data")]);
        fs::write(place.join("mysite/settings.py"), settings.replace("'data' / ", "")).unwrap();
        assert_eq!(data_directories(place.path()), [place.path()]);
    }

    #[test]
    fn directory_with_a_line_break_in_its_name_is_left_out() {
        let place = TestDir::new();
        fs::create_dir_all(place.join("a\nUser=root/media")).unwrap();
        fs::create_dir_all(place.join("b/media")).unwrap();
        assert_eq!(data_directories(place.path()), [place.join("b/media")]);
    }

    #[test]
    fn device_instead_of_a_source_file_is_not_read() {
        let place = TestDir::new();
        std::os::unix::fs::symlink("/dev/zero", place.join("main.py")).unwrap();
        assert_eq!(find_applications(place.path()), []);
    }

    #[test]
    fn services_are_those_of_the_clients_on_this_machine() {
        let has = |unit: &str| unit != "mysql.service";
        assert_eq!(services("django\npsycopg[binary]>=3\n", has), ["postgresql.service"]);
        assert_eq!(services("dependencies = [\"mysqlclient\"]", has), ["mariadb.service"]);
        assert_eq!(services("psycopg2", |_| false), [""; 0]);
        assert_eq!(services("django-redis-cache\n", has), [""; 0]);
    }
}
