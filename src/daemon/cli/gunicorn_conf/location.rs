//! The location of a configuration in Python: a file or a module.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::config::Value;

/// The file that gunicorn reads if no other is named.
pub(in crate::cli) const DEFAULT_NAME: &str = "gunicorn.conf.py";

/// A file of settings in Python.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) enum ConfLocation {
    /// An absolute path.
    File(PathBuf),
    /// `python:MODULE`.
    Module(String),
}

impl ConfLocation {
    /// Recognizes a value of `--config` that names a configuration in Python: `python:MODULE`,
    /// `file:PATH`, a path that ends with `.py` or `.pyc`, or a file whose name begins with
    /// `gunicorn`. `None` for other values, and for a path that ends with `.toml`: they name a TOML
    /// file.
    pub(in crate::cli) fn from_flag(value: &OsStr, cwd: &Path) -> Option<Self> {
        let bytes = value.as_bytes();
        if let Some(module) = bytes.strip_prefix(b"python:") {
            return Some(Self::Module(String::from_utf8_lossy(module).into_owned()));
        }
        let explicit = bytes.strip_prefix(b"file:");
        let path = Path::new(OsStr::from_bytes(explicit.unwrap_or(bytes)));
        let is_named_so = || path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"gunicorn"));
        let is_python = match path.extension().and_then(OsStr::to_str) {
            Some("toml") => false,
            Some("py" | "pyc") => true,
            _ => explicit.is_some() || is_named_so(),
        };
        is_python.then(|| Self::File(cwd.join(path)))
    }

    /// Returns `gunicorn.conf.py` in `cwd`, if there is one.
    pub(in crate::cli) fn default_in(cwd: &Path) -> Option<Self> {
        let path = cwd.join(DEFAULT_NAME);
        path.is_file().then_some(Self::File(path))
    }

    /// Returns the path of the file; `None` for a module.
    pub(in crate::cli) fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Module(_) => None,
        }
    }

    /// Returns the value of a key in `[hooks]` for a function of this configuration; an empty name
    /// only runs the configuration.
    pub(in crate::cli) fn function(&self, function: &str) -> Value {
        match self {
            Self::File(path) => {
                let mut name = path.clone().into_os_string().into_vec();
                name.extend([b":", function.as_bytes()].concat());
                Value::os(&OsString::from_vec(name))
            }
            Self::Module(module) => Value::text(format!("python:{module}:{function}")),
        }
    }
}

impl fmt::Display for ConfLocation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(formatter),
            Self::Module(module) => write!(formatter, "python:{module}"),
        }
    }
}
