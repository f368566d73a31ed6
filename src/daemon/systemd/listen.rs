//! Socket activation: takes over the listening sockets that systemd passes, with their names
//! (sd_listen_fds(3)), and the descriptors from its store.

use std::env;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;

use super::fd_store::{self, StoredDescriptor};
use listenfd::ListenFd;
use nix::sys::socket::{
    AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt,
};

/// A listening socket that systemd has passed.
#[derive(Debug)]
pub struct InheritedListener {
    /// `FileDescriptorName=` of the socket unit; `unknown` if systemd passed none.
    pub name: String,
    /// The listening socket that systemd passed.
    pub socket: InheritedSocket,
}

/// A listening socket by address family.
#[derive(Debug)]
pub enum InheritedSocket {
    /// IPv4 or IPv6.
    Tcp(TcpListener),
    /// `AF_UNIX`, `SOCK_STREAM`.
    Unix(UnixListener),
}

/// The descriptors that systemd has passed.
#[derive(Debug, Default)]
pub struct InheritedDescriptors {
    /// The sockets of socket units.
    pub listeners: Vec<InheritedListener>,
    /// The descriptors from the store.
    pub stored: Vec<StoredDescriptor>,
}

impl InheritedDescriptors {
    /// Takes the listening sockets with this name.
    pub fn take_listeners(&mut self, name: &str) -> Vec<InheritedListener> {
        self.listeners.extract_if(.., |listener| listener.name == name).collect()
    }
}

/// An error in the sockets that systemd has passed.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// `LISTEN_FDS` is set for this process, but names no socket.
    #[error("LISTEN_FDS={0:?} names no socket; check that the socket unit has a ListenStream=")]
    NoSockets(String),
    /// A descriptor is not a listening stream socket.
    #[error(
        "socket {name:?} (descriptor {fd}) is {actual}, not a listening stream socket; \
         use ListenStream= with Accept=no in the socket unit"
    )]
    Unusable {
        /// `FileDescriptorName=` of the socket.
        name: String,
        /// The descriptor's number.
        fd: i32,
        /// The actual kind of descriptor.
        actual: &'static str,
    },
    /// A system call on a socket failed.
    #[error("cannot use socket {name:?} from systemd")]
    System {
        /// `FileDescriptorName=` of the socket.
        name: String,
        /// The error of the system call.
        #[source]
        source: io::Error,
    },
}

/// Takes the passed descriptors. Returns none if `LISTEN_PID` is absent or another process's.
/// Removes the variables, so it must be called before the process has other threads.
///
/// # Errors
/// If a descriptor is neither a listening stream socket nor from the store, or if `LISTEN_FDS` is
/// set but passes no descriptor.
pub fn take_descriptors() -> Result<InheritedDescriptors, ListenError> {
    let is_for_this_process = env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    // `ListenFd` also takes descriptors when LISTEN_PID is absent, which sd_listen_fds(3) does not.
    if !is_for_this_process {
        return Ok(InheritedDescriptors::default());
    }
    let count = env::var("LISTEN_FDS").ok();
    let names: Vec<String> = env::var("LISTEN_FDNAMES")
        .map(|names| names.split(':').map(str::to_owned).collect())
        .unwrap_or_default();
    let mut passed = ListenFd::from_env();
    if passed.len() == 0 {
        return count
            .map_or_else(|| Ok(InheritedDescriptors::default()), |count| Err(ListenError::NoSockets(count)));
    }
    let mut descriptors = InheritedDescriptors::default();
    for index in 0..passed.len() {
        let name = names.get(index).filter(|name| !name.is_empty()).cloned();
        let name = name.unwrap_or_else(|| "unknown".to_owned());
        let system = |source| ListenError::System { name: name.clone(), source };
        let Some(fd) = passed.take_raw_fd(index).map_err(system)? else { continue };
        #[expect(unsafe_code, reason = "adopting a descriptor that systemd passed")]
        // SAFETY: LISTEN_PID names this process and LISTEN_FDS covers this number, so the
        // descriptor is open and has no other owner; `take_raw_fd` returns each once.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        match fd_store::stored_name(&name) {
            // A socket unit may have the name of a stored descriptor.
            Some(name) if !getsockopt(&fd, sockopt::AcceptConn).unwrap_or(false) => {
                set_close_on_exec(&fd).map_err(system)?;
                descriptors.stored.push(StoredDescriptor { name, fd });
            }
            _ => {
                let socket = into_listener(fd, &name)?;
                descriptors.listeners.push(InheritedListener { name, socket });
            }
        }
    }
    Ok(descriptors)
}

/// Checks that a descriptor is a listening stream socket; sets close-on-exec and non-blocking mode.
fn into_listener(fd: OwnedFd, name: &str) -> Result<InheritedSocket, ListenError> {
    let system = |source: io::Error| ListenError::System { name: name.to_owned(), source };
    let unusable = |actual| ListenError::Unusable { name: name.to_owned(), fd: fd.as_raw_fd(), actual };
    set_close_on_exec(&fd).map_err(system)?;
    let family = match family(fd.as_fd()) {
        Ok(family) => family,
        Err(nix::errno::Errno::ENOTSOCK) => return Err(unusable("not a socket")),
        Err(errno) => return Err(system(errno.into())),
    };
    let kind = getsockopt(&fd, sockopt::SockType).map_err(|errno| system(errno.into()))?;
    if kind != SockType::Stream {
        return Err(unusable("a datagram or other socket"));
    }
    if !getsockopt(&fd, sockopt::AcceptConn).map_err(|errno| system(errno.into()))? {
        return Err(unusable("a connection (Accept=yes)"));
    }
    let socket = match family {
        Some(AddressFamily::Inet | AddressFamily::Inet6) => {
            let listener = TcpListener::from(fd);
            listener.set_nonblocking(true).map_err(system)?;
            InheritedSocket::Tcp(listener)
        }
        Some(AddressFamily::Unix) => {
            let listener = UnixListener::from(fd);
            listener.set_nonblocking(true).map_err(system)?;
            InheritedSocket::Unix(listener)
        }
        _ => return Err(unusable("of an address family other than IPv4, IPv6 and unix")),
    };
    Ok(socket)
}

fn set_close_on_exec(fd: &OwnedFd) -> io::Result<()> {
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    Ok(())
}

fn family(fd: BorrowedFd<'_>) -> nix::Result<Option<AddressFamily>> {
    Ok(getsockname::<SockaddrStorage>(fd.as_raw_fd())?.family())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Set in the process whose environment has `LISTEN_FDS`.
    const CHILD_VARIABLE: &str = "RGUN_TEST_LISTEN_PID";

    #[test]
    fn descriptors_without_own_listen_pid_are_not_taken() {
        if env::var_os(CHILD_VARIABLE).is_some() {
            assert!(take_descriptors().expect("no error").listeners.is_empty());
            return;
        }
        for listen_pid in [None, Some("1")] {
            let mut command = std::process::Command::new(env::current_exe().unwrap());
            command
                .args(["--exact", "systemd::listen::tests::descriptors_without_own_listen_pid_are_not_taken"])
                .env(CHILD_VARIABLE, "1")
                .env("LISTEN_FDS", "1")
                .env_remove("LISTEN_PID")
                .envs(listen_pid.map(|pid| ("LISTEN_PID", pid)));
            let output = command.output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && text.contains("1 passed"), "{listen_pid:?}: {text}");
        }
    }
}
