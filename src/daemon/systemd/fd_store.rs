//! The file descriptor store (`FileDescriptorStoreMax=`, systemd.service(5)): systemd keeps
//! descriptors while the service restarts, and passes them to the next process together with its
//! listening sockets.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use sd_notify::NotifyState;

use super::notify;

/// The name (`FDNAME=`) of stored connections whose clients have begun no request.
pub const CONNECTION_NAME: &str = "rgun-connection";

/// The name (`FDNAME=`) of stored connections whose clients have sent a request or a part of one,
/// which is in the state.
pub const REQUEST_NAME: &str = "rgun-request";

/// The name (`FDNAME=`) of the memfd that describes the stored connections.
pub const STATE_NAME: &str = "rgun-state";

/// Maximum number of descriptors in one message (`SCM_MAX_FD`, unix(7)).
const MAX_FDS_PER_MESSAGE: usize = 253;

/// Maximum length in bytes of a memfd that is read back.
const MAX_SEALED_BYTES: u64 = 256 << 20;

/// A descriptor that the store has passed to this process.
#[derive(Debug)]
pub struct StoredDescriptor {
    /// [`CONNECTION_NAME`], [`REQUEST_NAME`] or [`STATE_NAME`].
    pub name: &'static str,
    /// The descriptor.
    pub fd: OwnedFd,
}

/// The reason why a memfd from the store is unusable.
#[derive(Debug, thiserror::Error)]
pub enum SealedError {
    /// The descriptor is not a memfd, or its content may still change.
    #[error("it is not a sealed memfd")]
    NotSealed,
    /// The memfd is longer than [`MAX_SEALED_BYTES`].
    #[error("it has {0} bytes")]
    TooLong(u64),
    /// A system call failed.
    #[error("it cannot be read")]
    System(#[from] io::Error),
}

/// Returns the maximum number of descriptors in the store; 0 without a store. The environment
/// variable `fallback` is read if `FDSTORE` is unset, as it is before systemd 254.
pub fn capacity(fallback: &str) -> usize {
    if !notify::is_enabled() {
        return 0;
    }
    let max = std::env::var("FDSTORE").or_else(|_| std::env::var(fallback));
    max.ok().and_then(|max| max.parse().ok()).unwrap_or(0)
}

/// Returns the constant that equals `name`, if `name` is one of this module's.
pub(super) fn stored_name(name: &str) -> Option<&'static str> {
    [CONNECTION_NAME, REQUEST_NAME, STATE_NAME].into_iter().find(|constant| *constant == name)
}

/// Sends descriptors to the store (`FDSTORE=1`). systemd drops a descriptor on EPOLLHUP or EPOLLERR,
/// such as a connection that its client resets (`FDPOLL=1`, the default).
///
/// # Errors
/// The notifications cannot be sent, or systemd does not read them before the deadline.
pub fn store(name: &str, fds: &[BorrowedFd<'_>], deadline: Instant) -> io::Result<()> {
    let name = format!("FDNAME={name}");
    for fds in fds.chunks(MAX_FDS_PER_MESSAGE) {
        let states = [NotifyState::Custom("FDSTORE=1"), NotifyState::Custom(&name)];
        notify::send_descriptors(&states, fds, deadline)?;
    }
    Ok(())
}

/// Removes all descriptors of this name from the store (`FDSTOREREMOVE=1`). A connection that this
/// process closes would otherwise stay open in the store.
pub fn remove(name: &str) {
    notify::remove_descriptors(name);
}

/// Waits until systemd has processed all earlier notifications (`BARRIER=1`). systemd may discard
/// notifications that it has not processed when the process exits.
///
/// # Errors
/// The notification cannot be sent, or systemd has not processed it before the deadline.
pub fn synchronize(deadline: Instant) -> io::Result<()> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    notify::send_descriptors(&[NotifyState::Custom("BARRIER=1")], &[writer.as_fd()], deadline)?;
    drop(writer);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // systemd closes its copy of the writing end: POLLHUP.
        let mut fds = [PollFd::new(reader.as_fd(), PollFlags::empty())];
        match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Returns a memfd with this content, which can no longer be changed.
///
/// # Errors
/// The memfd cannot be created or written.
pub fn seal(content: &[u8]) -> io::Result<OwnedFd> {
    let memfd = memfd_create(STATE_NAME, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(memfd);
    file.write_all(content)?;
    fcntl_add_seals(&file, required_seals() | SealFlags::SEAL)?;
    Ok(file.into())
}

/// Returns the content of a sealed memfd.
///
/// # Errors
/// The descriptor is not a sealed memfd, is too long, or cannot be read.
pub fn read_sealed(fd: OwnedFd) -> Result<Vec<u8>, SealedError> {
    let seals = fcntl_get_seals(&fd).map_err(|_| SealedError::NotSealed)?;
    if !seals.contains(required_seals()) {
        return Err(SealedError::NotSealed);
    }
    let file = File::from(fd);
    let len = file.metadata()?.len();
    if len > MAX_SEALED_BYTES {
        return Err(SealedError::TooLong(len));
    }
    let mut content = vec![0; usize::try_from(len).unwrap_or_default()];
    file.read_exact_at(&mut content, 0)?;
    Ok(content)
}

fn required_seals() -> SealFlags {
    SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_content_is_read_back_and_cannot_change() {
        let memfd = seal(b"state").unwrap();
        let mut copy = File::from(memfd.try_clone().unwrap());
        assert!(copy.write_all(b"other").is_err());
        assert!(copy.set_len(0).is_err());
        assert_eq!(read_sealed(memfd).unwrap(), b"state");
    }

    #[test]
    fn descriptor_without_seals_is_refused() {
        let memfd = memfd_create("open", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        assert!(matches!(read_sealed(memfd), Err(SealedError::NotSealed)));
        let file = File::open("/proc/self/exe").unwrap();
        assert!(matches!(read_sealed(file.into()), Err(SealedError::NotSealed)));
    }
}
