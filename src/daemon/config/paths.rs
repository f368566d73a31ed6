//! Readers of paths: the application's directory, its interpreter's name, the directories to import
//! from.
//!
//! A path on the command line or in a variable need not be UTF-8 ([`Value::Bytes`]); in the file it
//! is text.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::unistd::AccessFlags;

use super::read::{strings, text};
use super::value::{Setting, Source};
use super::{Value, ValueError, fs};

/// A path, which need not be UTF-8.
pub(super) fn path(setting: &Setting) -> Result<&OsStr, ValueError> {
    match &setting.value {
        Value::Bytes(bytes) => Ok(bytes),
        _ => text(setting).map(OsStr::new),
    }
}

/// A list of paths, separated by commas on the command line and in a variable.
fn paths(setting: &Setting) -> Result<Vec<&OsStr>, ValueError> {
    match &setting.value {
        Value::Bytes(bytes) => {
            let parts = bytes.as_bytes().split(|byte| *byte == b',');
            Ok(parts.map(|part| OsStr::from_bytes(part.trim_ascii())).collect())
        }
        Value::List(items) if items.iter().any(|item| matches!(item, Value::Bytes(_))) => items
            .iter()
            .map(|item| match item {
                Value::Text(text) => Ok(OsStr::new(text)),
                Value::Bytes(bytes) => Ok(bytes.as_os_str()),
                other => {
                    Err(ValueError::new(format!("must be a list of paths, but has {} in it", other.kind())))
                }
            })
            .collect(),
        _ => Ok(strings(setting)?.into_iter().map(OsStr::new).collect()),
    }
}

pub(super) fn directory(setting: &Setting, cwd: &Path) -> Result<PathBuf, ValueError> {
    let path = Path::new(path(setting)?);
    if path.as_os_str().is_empty() {
        return Err(ValueError::new("is empty").with_hint("write the full path, e.g. \"/srv/mysite\""));
    }
    if path.is_relative() && setting.source != Source::CommandLine {
        return Err(ValueError::new("is relative, which only the command line allows")
            .with_hint("write the full path, e.g. \"/srv/mysite\""));
    }
    readable_directory(fs::absolute(cwd, path)).map_err(|error| match error.hint {
        None if path.is_relative() => {
            error.with_hint(format!("looked at {}", fs::absolute(cwd, path).display()))
        }
        _ => error,
    })
}

/// A file, or "off".
pub(super) fn file_or_off(setting: &Setting, cwd: &Path) -> Result<Option<PathBuf>, ValueError> {
    if setting.value == Value::text("off") { Ok(None) } else { file(setting, cwd).map(Some) }
}

/// Returns a file that can be read. Hypercorn's prefix with the file's format (`json:logging.conf`)
/// is dropped.
fn file(setting: &Setting, cwd: &Path) -> Result<PathBuf, ValueError> {
    let bytes = path(setting)?.as_bytes();
    let bytes = [&b"json:"[..], b"toml:"].iter().find_map(|kind| bytes.strip_prefix(*kind)).unwrap_or(bytes);
    let path = Path::new(OsStr::from_bytes(bytes));
    let hint = "write the full path, e.g. \"/srv/mysite/logging.json\"";
    if bytes.is_empty() {
        return Err(ValueError::new("is empty").with_hint(hint));
    }
    if bytes.contains(&0) {
        return Err(ValueError::new("has a zero byte"));
    }
    if path.is_relative() && setting.source != Source::CommandLine {
        return Err(ValueError::new("is relative, which only the command line allows").with_hint(hint));
    }
    let path = fs::absolute(cwd, path);
    match path.metadata() {
        Ok(metadata) if !metadata.is_file() => Err(ValueError::new("is not a file")),
        Ok(_) => fs::check_access(&path, AccessFlags::R_OK).map(|()| path.clone()).map_err(|errno| {
            ValueError::new(format!("cannot be read: {}", errno.desc()))
                .with_hint(format!("as the user rgun runs as: test -r {}", path.display()))
        }),
        Err(error) => Err(ValueError::new(format!("cannot be read: {error}"))
            .with_hint(format!("looked at {}", path.display()))),
    }
}

pub(super) fn readable_directory(path: PathBuf) -> Result<PathBuf, ValueError> {
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(ValueError::new("has a zero byte"));
    }
    match path.metadata() {
        Ok(metadata) if !metadata.is_dir() => {
            Err(ValueError::new("is not a directory").with_hint("name the directory that the application's module is in"))
        }
        Ok(_) => match fs::check_access(&path, AccessFlags::R_OK | AccessFlags::X_OK) {
            Ok(()) => Ok(path),
            Err(errno) => Err(ValueError::new(format!("cannot be read: {}", errno.desc())).with_hint(format!(
                "the user rgun runs as needs r and x on it, and ProtectHome= of the unit must not hide it: ls -ld {}",
                path.display()
            ))),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let shown = if path.is_symlink() { "is a dangling symlink" } else { "does not exist" };
            Err(ValueError::new(shown))
        }
        Err(error) => Err(fs::unreachable(&path, &error)),
    }
}

/// Directories, which must exist. Relative ones are relative to `base`, the application's
/// directory.
pub(super) fn directories(setting: &Setting, base: &Path) -> Result<Vec<PathBuf>, ValueError> {
    paths(setting)?
        .into_iter()
        .map(|entry| {
            let path = fs::absolute(base, Path::new(entry));
            readable_directory(path).map_err(|error| ValueError {
                reason: format!("names {}, which {}", Value::os(entry), error.reason),
                ..error
            })
        })
        .collect()
}

/// The directories of `app.pythonpath`. Relative entries are relative to `base`, the application's
/// directory, as in gunicorn after its chdir.
pub(super) fn pythonpath(setting: &Setting, base: &Path) -> Result<Vec<PathBuf>, ValueError> {
    paths(setting)?
        .into_iter()
        .map(|entry| match entry.as_bytes() {
            b"" => Err(ValueError::new("has an empty entry")
                .with_hint("the application's directory is there already")),
            bytes if bytes.contains(&b':') || bytes.contains(&0) => {
                Err(ValueError::new(format!("has {} in it, which is not one path", Value::os(entry)))
                    .with_hint("write a list in the file, commas on the command line"))
            }
            _ => Ok(fs::absolute(base, Path::new(entry))),
        })
        .collect()
}
