//! Waits for notifications of memory pressure.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::edge::register_for;
use crate::systemd::cgroup::Delegation;
use crate::systemd::memory_pressure::{PressureFile, explain_unwatched};

/// The file that reports memory pressure, registered with the main reactor.
#[derive(Debug)]
pub(super) struct PressureWatch {
    file: PressureFile,
    readiness: AsyncFd<Arc<OwnedFd>>,
}

impl PressureWatch {
    /// Opens the file: systemd's, else that of the delegated cgroup. Returns `None` if there is no file,
    /// as in many containers, or the file cannot be opened; logs the reason, at the level info for a
    /// service, else debug.
    pub(super) fn open(delegation: Option<&Delegation>, is_supervised: bool) -> Option<Self> {
        let service = delegation.map(Delegation::service_cgroup);
        let opened = PressureFile::open(service).and_then(|file| {
            let Some(file) = file else { return Ok(None) };
            let readiness = register_for(Arc::clone(file.fd()), interest(&file))?;
            Ok(Some(Self { file, readiness }))
        });
        let error = match opened {
            Ok(Some(watch)) => return Some(watch),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        let reason = explain_unwatched(error.as_ref());
        if is_supervised {
            tracing::info!(
                "memory pressure is not watched, so idle workers stay when memory is short: {reason}"
            );
        } else {
            tracing::debug!("memory pressure is not watched: {reason}");
        }
        None
    }

    /// Resolves when the file reports memory pressure, or has failed.
    pub(super) async fn pressed(&self) -> io::Result<()> {
        loop {
            let mut ready = self.readiness.ready(interest(&self.file)).await?;
            if ready.ready().is_error() {
                return Err(io::Error::other("the file has failed, or its cgroup is gone"));
            }
            ready.clear_ready();
            if self.file.drain()? {
                return Ok(());
            }
        }
    }
}

fn interest(file: &PressureFile) -> Interest {
    let events = if file.is_stream() { Interest::READABLE } else { Interest::PRIORITY };
    events | Interest::ERROR
}
