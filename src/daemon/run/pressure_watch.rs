//! Waits for notifications of memory pressure.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::edge::register_for;
use crate::systemd::memory_pressure::PressureFile;

/// The file that reports memory pressure, registered with the main reactor.
#[derive(Debug)]
pub(super) struct PressureWatch {
    file: PressureFile,
    readiness: AsyncFd<Arc<OwnedFd>>,
}

impl PressureWatch {
    /// Opens the file; `service` is the cgroup that systemd has delegated to the daemon. Returns
    /// `None` if there is no file or it cannot be opened, as in many containers.
    pub(super) fn open(service: Option<&Path>) -> Option<Self> {
        let opened = PressureFile::open(service).and_then(|file| {
            let Some(file) = file else { return Ok(None) };
            let readiness = register_for(Arc::clone(file.fd()), interest(&file))?;
            Ok(Some(Self { file, readiness }))
        });
        opened.unwrap_or_else(|error| {
            tracing::debug!(%error, "memory pressure is not watched");
            None
        })
    }

    /// Resolves when the file reports memory pressure, or has failed.
    pub(super) async fn pressed(&self) -> io::Result<()> {
        let mut ready = self.readiness.ready(interest(&self.file)).await?;
        if ready.ready().is_error() {
            return Err(io::Error::other("the file has failed, or its cgroup is gone"));
        }
        ready.clear_ready();
        self.file.drain()
    }
}

fn interest(file: &PressureFile) -> Interest {
    let events = if file.is_stream() { Interest::READABLE } else { Interest::PRIORITY };
    events | Interest::ERROR
}
