//! Finds the programs that tests run: rgun, the fake worker, interpreters.
//!
//! The fake worker does not load the extension whose path the daemon passes, so an empty file
//! stands for it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs};

fn built_binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_rgun"))
}

fn build_directory() -> &'static Path {
    built_binary().parent().expect("a file is in a directory")
}

/// Returns the profile as cargo's `--profile` names it.
fn profile() -> &'static str {
    match build_directory().file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    }
}

pub(crate) fn fake_worker() -> PathBuf {
    let path = build_directory().join("examples/fake_worker");
    let built = fs::metadata(&path).and_then(|file| file.modified());
    let sources = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/it/fake_worker"));
    let written = sources.expect("the fake worker's sources").flatten();
    let written = written.filter_map(|file| file.metadata().and_then(|file| file.modified()).ok()).max();
    assert!(
        built.is_ok_and(|built| written.is_some_and(|written| written <= built)),
        "{} is missing or older than its source: `cargo build --profile {} -p rgun-channel --examples` builds it",
        path.display(),
        profile()
    );
    path
}

/// Returns the path of the binary where it was built, in the directory of the extension.
pub(crate) fn binary_with_extension() -> PathBuf {
    let extension = build_directory().join("rgun_worker.abi3.so");
    assert!(
        extension.is_file(),
        "there is no {}: `make build PROFILE={}` builds it",
        extension.display(),
        profile()
    );
    built_binary().to_owned()
}

/// Returns the path of a binary next to an empty file with the extension's name, for tests with the
/// fake worker. The binary is a hard link, because the daemon looks for the extension beside its
/// executable with symbolic links resolved.
pub(crate) fn binary_without_extension() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    let link = || -> std::io::Result<PathBuf> {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("it-{}", profile()));
        fs::create_dir_all(&directory)?;
        let binary = directory.join("rgun");
        let is_current = |path: &Path| -> std::io::Result<bool> {
            let (link, file) = (fs::metadata(path)?, fs::metadata(built_binary())?);
            Ok((link.dev(), link.ino()) == (file.dev(), file.ino()))
        };
        if !is_current(&binary).unwrap_or(false) {
            let new = directory.join(format!(".rgun.{}", std::process::id()));
            fs::hard_link(built_binary(), &new).or_else(|_| fs::copy(built_binary(), &new).map(drop))?;
            fs::rename(&new, &binary)?;
        }
        fs::write(directory.join("rgun_worker.abi3.so"), "")?;
        fs::write(directory.join("rgun_main.py"), "")?;
        Ok(binary)
    };
    let link_or_panic =
        || link().unwrap_or_else(|error| panic!("cannot put the binary next to an empty extension: {error}"));
    BINARY.get_or_init(link_or_panic).clone()
}

/// Returns the interpreter for tests of the real worker: `RGUN_TEST_PYTHON`, or the system's.
pub(crate) fn python() -> &'static str {
    static PYTHON: OnceLock<String> = OnceLock::new();
    PYTHON.get_or_init(|| env::var("RGUN_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned()))
}

/// Finds a Python that is too old for rgun, on PATH or among pyenv's versions. None if this machine
/// has none.
pub(crate) fn old_python() -> Option<PathBuf> {
    let home = env::var_os("PYENV_ROOT").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".pyenv")))?;
    let versions = fs::read_dir(home.join("versions")).into_iter().flatten().flatten();
    let mut candidates: Vec<PathBuf> = versions
        .filter(|version| {
            let name = version.file_name().to_string_lossy().into_owned();
            ["2.7", "3.6", "3.7", "3.8"].iter().any(|old| name.starts_with(old))
        })
        .map(|version| version.path().join("bin/python"))
        .collect();
    let path = env::var_os("PATH").unwrap_or_default();
    for directory in env::split_paths(&path) {
        candidates
            .extend(["python2.7", "python3.6", "python3.7", "python3.8"].map(|name| directory.join(name)));
    }
    candidates.sort();
    candidates.into_iter().find(|python| {
        let output = Command::new(python).args(["-c", "pass"]).output();
        output.is_ok_and(|output| output.status.success())
    })
}
