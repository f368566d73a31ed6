//! A temporary directory for tests, a way to run as another user, and a format of the access log.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Parses a valid format of the access log.
pub(crate) fn access_format(text: &str) -> super::AccessFormat {
    super::AccessFormat::parse(text).unwrap()
}

/// A new directory under the system's temporary one; removed on drop.
pub(crate) struct TestDir(PathBuf);

impl TestDir {
    pub(crate) fn new() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let name = format!("rgun-config-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        // Other users must be able to enter the directory, whatever the umask is.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file, with the directories it needs.
    pub(crate) fn file(&self, name: &str, content: &[u8], mode: u32) -> PathBuf {
        let path = self.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    /// Writes an executable file that passes the check for an interpreter; it must not be run.
    pub(crate) fn python(&self, name: &str) -> PathBuf {
        self.file(name, b"#!/bin/sh\n", 0o755)
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        let removed = std::fs::remove_dir_all(&self.0);
        // A panic during unwinding would abort and hide the test's own panic.
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

/// Runs `test` as the user nobody, so that permissions apply even if the tests run as root.
///
/// setfsuid(2) affects only the calling thread, so `test` runs in a new thread.
pub(crate) fn as_nobody<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::spawn(move || {
        if nix::unistd::geteuid().is_root() {
            let nobody = nix::unistd::Uid::from_raw(65_534);
            nix::unistd::setfsuid(nobody);
            assert_eq!(nix::unistd::setfsuid(nobody), nobody, "setfsuid had no effect");
        }
        test()
    })
    .join()
    .unwrap()
}
