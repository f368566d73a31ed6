//! Reads the files to migrate, and recognizes their kinds.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::env_file::{self, EnvFile};
use super::hypercorn;
use super::server::ReplacedServer;
use super::unit;
use crate::exit_status::{EX_CONFIG, EX_USAGE};

/// The kinds of files, in the order in which they are migrated: a file may depend on
/// files of the kinds before its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    EnvFile,
    Configuration,
    Hypercorn,
    Unit,
    Containerfile,
    Compose,
    Kubernetes,
    Quadlet,
    Supervisord,
    Procfile,
    Uwsgi,
    NginxUnit,
    Script,
}

/// A file to migrate.
pub(super) struct InputFile {
    /// The file's name in notes.
    pub(super) label: String,
    /// The full path.
    pub(super) path: PathBuf,
    pub(super) text: String,
    pub(super) kind: Kind,
}

/// Reads the files; `-` is stdin.
///
/// # Errors
/// The reasons, one line for each file that cannot be read or has no known kind, and the exit
/// status.
pub(super) fn read(files: &[PathBuf], cwd: &Path) -> Result<Vec<InputFile>, (String, u8)> {
    let (mut inputs, mut reasons, mut status): (Vec<InputFile>, Vec<String>, u8) =
        (Vec::new(), Vec::new(), EX_USAGE);
    for file in files {
        let path = cwd.join(file);
        if inputs.iter().any(|input| input.path == path) {
            continue;
        }
        match read_text(file, &path) {
            Ok(text) => match kind(file, &text) {
                Some(kind) => inputs.push(InputFile { label: label(file, &text), path, text, kind }),
                None => reasons.push(unknown_kind(file, &text)),
            },
            Err(reason) => {
                status = EX_CONFIG;
                reasons.push(format!("{}: {reason}", file.display()));
            }
        }
    }
    add_socket_units(&mut inputs);
    // A unit that starts nothing, such as a socket or a drop-in, comes before the unit that it
    // belongs to.
    inputs.sort_by_key(|input| (input.kind, input.kind == Kind::Unit && input.text.contains("ExecStart=")));
    if reasons.is_empty() { Ok(inputs) } else { Err((reasons.join("\nerror: "), status)) }
}

/// Adds the socket units of the services that are in the same directory: without them, the addresses
/// of these services are unknown.
fn add_socket_units(inputs: &mut Vec<InputFile>) {
    let of_unit = |unit: &InputFile| {
        let sockets = unit::sockets_of(&unit.text, &unit.label);
        sockets.into_iter().map(|socket| unit.path.with_file_name(socket)).collect::<Vec<_>>()
    };
    let units = inputs.iter().filter(|input| input.kind == Kind::Unit);
    for path in units.flat_map(of_unit).collect::<Vec<_>>() {
        let label = label(&path, "");
        // A note names a unit that cannot be read.
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        if inputs.iter().all(|input| input.label != label) && kind(&path, &text) == Some(Kind::Unit) {
            inputs.push(InputFile { label, path, text, kind: Kind::Unit });
        }
    }
}

fn read_text(file: &Path, path: &Path) -> Result<String, String> {
    let bytes = if is_stdin(file) {
        let mut bytes = Vec::new();
        std::io::stdin()
            .lock()
            .read_to_end(&mut bytes)
            .map_err(|error| format!("cannot read stdin: {error}"))?;
        bytes
    } else if path.is_dir() {
        return Err(format!("is a directory; name the files in it, such as {}", example_in(file, path)));
    } else {
        std::fs::read(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
            _ => format!("cannot be read: {error}"),
        })?
    };
    String::from_utf8(bytes).map_err(|_| "is not a text in UTF-8".to_owned())
}

/// Returns a file in the directory that can be migrated, else a usual name.
fn example_in(file: &Path, path: &Path) -> String {
    let mut names: Vec<_> =
        std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    let is_known = |name: &&std::ffi::OsString| {
        let text = std::fs::read_to_string(path.join(name)).unwrap_or_default();
        kind(Path::new(name), &text).is_some_and(|kind| kind > Kind::EnvFile)
    };
    let found = names.iter().find(is_known).cloned().unwrap_or_else(|| "Procfile".into());
    file.join(found).display().to_string()
}

fn is_stdin(file: &Path) -> bool {
    file == Path::new("-")
}

/// Returns the name of a file in notes. `systemctl cat` prints the path of the unit first.
fn label(file: &Path, text: &str) -> String {
    let path = if is_stdin(file) {
        let first = text.lines().next().and_then(|line| line.strip_prefix("# /"));
        Path::new(first.unwrap_or("stdin"))
    } else {
        file
    };
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn unknown_kind(file: &Path, text: &str) -> String {
    let known = "gunicorn.conf.py, a unit, a Procfile, a script, uwsgi.ini, NGINX Unit's JSON, \
                 hypercorn.toml, supervisord.conf, a Containerfile, a Compose file, a manifest of Kubernetes, or a file with variables";
    let name = file.display();
    match (text.trim().is_empty(), is_stdin(file)) {
        (true, _) => format!("{name}: is empty"),
        (false, true) => format!("{name}: stdin is none of {known}; a file of Python needs its name"),
        (false, false) => format!("{name}: is none of {known}"),
    }
}

/// Recognizes the kind of a file.
fn kind(path: &Path, text: &str) -> Option<Kind> {
    let file = path.file_name()?.to_str()?;
    let is = |suffix: &str| file.ends_with(suffix);
    let has = |section: &str| text.lines().any(|line| line.trim() == section);
    let begins = |word: &str| text.lines().any(|line| line.starts_with(word));
    let lower = file.to_ascii_lowercase();
    let is_containerfile = |name: &&str| lower.starts_with(name) || lower.ends_with(name);
    if is(".py") {
        Some(Kind::Configuration)
    } else if has("[Container]") {
        Some(Kind::Quadlet)
    } else if begins("[program:") || begins("[fcgi-program:") {
        Some(Kind::Supervisord)
    } else if ["containerfile", "dockerfile"].iter().any(is_containerfile) {
        Some(Kind::Containerfile)
    } else if is(".yaml") || is(".yml") {
        let is_manifest = begins("apiVersion:") && begins("kind:");
        let other = is_manifest.then_some(Kind::Kubernetes);
        begins("services:").then_some(Kind::Compose).or(other)
    } else if is(".toml") {
        hypercorn::is_hypercorn(text).then_some(Kind::Hypercorn)
    } else if has("[Service]") || has("[Socket]") {
        Some(Kind::Unit)
    } else if file.starts_with("Procfile") || is(".procfile") {
        Some(Kind::Procfile)
    } else if has("[uwsgi]") {
        Some(Kind::Uwsgi)
    } else if text.trim_start().starts_with('{') {
        Some(Kind::NginxUnit)
    } else if !text.starts_with("#!") && env_file::is_env_file(text) {
        Some(Kind::EnvFile)
    } else {
        kind_by_content(path, text)
    }
}

/// Recognizes the kind of a file by its content, if the name says nothing.
fn kind_by_content(path: &Path, text: &str) -> Option<Kind> {
    let begins = |word: &str| text.lines().any(|line| line.starts_with(word));
    if is_stdin(path) && begins("services:") {
        Some(Kind::Compose)
    } else if is_stdin(path) && begins("apiVersion:") && begins("kind:") {
        Some(Kind::Kubernetes)
    } else if is_stdin(path) && begins("FROM ") {
        Some(Kind::Containerfile)
    } else if is_stdin(path) && begins("web:") {
        Some(Kind::Procfile)
    } else if is_stdin(path) && hypercorn::is_hypercorn(text) {
        Some(Kind::Hypercorn)
    } else {
        let is_word = |word: &str| ReplacedServer::of(word.trim_matches(['"', '\''])).is_some();
        let is_script = path.extension().is_some_and(|extension| extension == "sh")
            || text.starts_with("#!")
            || text.split_whitespace().any(is_word);
        is_script.then_some(Kind::Script)
    }
}

/// Returns the files with variables.
pub(super) fn env_files(inputs: &[InputFile]) -> Vec<EnvFile> {
    let files = inputs.iter().filter(|input| input.kind == Kind::EnvFile);
    files.map(|input| env_file::parse(&input.path.display().to_string(), &input.text)).collect()
}

/// Returns the paths of the files with variables that belong to the service although no other file
/// names them, such as the `.env` beside a Procfile. Compose does not pass `.env` to containers.
pub(super) fn own_env_files(inputs: &[InputFile]) -> Vec<String> {
    if inputs.iter().any(|input| input.kind == Kind::Compose) {
        return Vec::new();
    }
    let is_named = |file: &InputFile| {
        let others = inputs.iter().filter(|other| other.kind != Kind::EnvFile);
        others.into_iter().any(|other| other.text.contains(&file.label))
    };
    let files = inputs.iter().filter(|input| input.kind == Kind::EnvFile && !is_named(input));
    files.map(|input| input.path.display().to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::TestDir;

    #[test]
    fn kinds_are_recognized_by_name_or_content() {
        for (name, text, expected) in [
            ("a.service", "[Service]\n", Some(Kind::Unit)),
            ("-", "# /etc/systemd/system/a.service\n[Service]\n", Some(Kind::Unit)),
            ("-", "FROM python\nCMD gunicorn a\n", Some(Kind::Containerfile)),
            ("-", "services:\n  web:\n", Some(Kind::Compose)),
            ("-", "web: gunicorn a\n", Some(Kind::Procfile)),
            ("-", "{}", Some(Kind::NginxUnit)),
            ("prod.Dockerfile", "FROM x", Some(Kind::Containerfile)),
            ("deployment.yaml", "apiVersion: v1\nkind: Pod\n", Some(Kind::Kubernetes)),
            ("-", "---\nkind: Pod\napiVersion: v1\n", Some(Kind::Kubernetes)),
            ("values.yaml", "replicas: 3\n", None),
            (".env", "A=1\n", Some(Kind::EnvFile)),
            ("mysite", "GUNICORN_CMD_ARGS=\"-w 3\"\n", Some(Kind::EnvFile)),
            ("start", "exec gunicorn a\n", Some(Kind::Script)),
            ("notes", "gunicorn-like text about uvicorn.run\n", None),
        ] {
            assert_eq!(kind(Path::new(name), text), expected, "{name}");
        }
    }

    #[test]
    fn socket_unit_of_the_service_is_read_too() {
        let place = TestDir::new();
        let service =
            "[Unit]\nRequires=web.socket\n[Service]\nSockets=api.socket none.socket\nExecStart=gunicorn a\n";
        place.file("web.service", service.as_bytes(), 0o644);
        place.file("web.socket", b"[Socket]\nListenStream=/run/web.sock\n", 0o644);
        place.file("api.socket", b"[Socket]\nListenStream=/run/api.sock\n", 0o644);
        place.file("other.socket", b"[Socket]\nListenStream=/run/other.sock\n", 0o644);
        for files in [&["web.service"][..], &["web.service", "web.socket"]] {
            let files: Vec<_> = files.iter().map(PathBuf::from).collect();
            let inputs = read(&files, place.path()).unwrap_or_default();
            let mut labels: Vec<_> = inputs.iter().map(|input| input.label.as_str()).collect();
            assert_eq!(labels.pop(), Some("web.service"));
            labels.sort_unstable();
            assert_eq!(labels, ["api.socket", "web.socket"]);
        }
    }

    #[test]
    fn every_wrong_file_is_reported() {
        let place = TestDir::new();
        place.file("dir/Procfile", b"web: gunicorn a\n", 0o644);
        place.file("empty.service", b"", 0o644);
        place.file("latin", b"caf\xe9", 0o644);
        let files = ["none.service", "dir", "empty.service", "latin"].map(PathBuf::from);
        let (reasons, status) = read(&files, place.path()).err().unwrap();
        let expected = "none.service: there is no such file\n\
             error: dir: is a directory; name the files in it, such as dir/Procfile\n\
             error: empty.service: is empty\n\
             error: latin: is not a text in UTF-8";
        assert_eq!((reasons.as_str(), status), (expected, EX_CONFIG));
    }

    #[test]
    fn file_given_twice_is_read_once() {
        let place = TestDir::new();
        place.file("Procfile", b"web: gunicorn a\n", 0o644);
        let files = ["Procfile", "Procfile"].map(PathBuf::from);
        assert_eq!(read(&files, place.path()).unwrap_or_default().len(), 1);
    }
}
