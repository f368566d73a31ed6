//! Notifications of memory pressure: systemd's `MEMORY_PRESSURE_WATCH` (254 and newer,
//! systemd.io/MEMORY_PRESSURE), else the kernel's pressure file of the service's cgroup
//! (Documentation/accounting/psi.rst).

use std::env;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

/// The trigger for the cgroup's file, systemd's default: a notification once processes have waited
/// for memory for 200 ms within 2 s. A process without privileges may only use multiples of 2 s.
const TRIGGER: &[u8] = b"some 200000 2000000";

/// The file that reports memory pressure.
#[derive(Debug)]
pub struct PressureFile {
    fd: Arc<OwnedFd>,
    /// True for a FIFO or a socket, which becomes readable; false for a file with priority events.
    is_stream: bool,
}

impl PressureFile {
    /// Opens the file: systemd's, else that of the cgroup `service`. Returns `None` if systemd has
    /// turned the notifications off, and without either: another cgroup's file would report the
    /// pressure of foreign processes.
    ///
    /// # Errors
    /// There is no such file, the daemon may not write to it, or systemd's variables are invalid.
    pub fn open(service: Option<&Path>) -> io::Result<Option<Self>> {
        let Some(watch) = env::var_os("MEMORY_PRESSURE_WATCH").filter(|path| !path.is_empty()) else {
            let file = service.map(|cgroup| Self::open_at(&cgroup.join("memory.pressure"), TRIGGER));
            return file.transpose();
        };
        if watch == OsStr::new("/dev/null") {
            return Ok(None);
        }
        let encoded = env::var_os("MEMORY_PRESSURE_WRITE").unwrap_or_default();
        let trigger = BASE64_STANDARD
            .decode(encoded.as_bytes())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        Self::open_at(Path::new(&watch), &trigger).map(Some)
    }

    fn open_at(path: &Path, trigger: &[u8]) -> io::Result<Self> {
        let kind = path.metadata()?.file_type();
        let is_stream = kind.is_fifo() || kind.is_socket();
        let mut file = if kind.is_socket() {
            let socket = UnixStream::connect(path)?;
            socket.set_nonblocking(true)?;
            File::from(OwnedFd::from(socket))
        } else {
            let mut options = OpenOptions::new();
            // A FIFO that is open for writing does not end when its last writer closes it.
            options.read(true).write(kind.is_fifo() || !trigger.is_empty());
            options.custom_flags(nix::libc::O_NONBLOCK).open(path)?
        };
        if !trigger.is_empty() {
            file.write_all(trigger)?;
        }
        Ok(Self { fd: Arc::new(file.into()), is_stream })
    }

    /// Returns the descriptor, to be waited for.
    pub fn fd(&self) -> &Arc<OwnedFd> {
        &self.fd
    }

    /// True for a FIFO or a socket, which becomes readable; false for a file with priority events.
    pub fn is_stream(&self) -> bool {
        self.is_stream
    }

    /// Discards what a FIFO or socket has sent.
    ///
    /// # Errors
    /// The sender has closed the connection, or a read fails.
    pub fn drain(&self) -> io::Result<()> {
        if !self.is_stream {
            return Ok(());
        }
        let mut buffer = [0; 4096];
        loop {
            match nix::unistd::read(&self.fd, &mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(nix::errno::Errno::EAGAIN) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::systemd::scratch_dir;

    #[test]
    fn trigger_is_written_to_the_pressure_file() {
        let directory = scratch_dir("pressure");
        let path = directory.join("memory.pressure");
        std::fs::write(&path, "").unwrap();
        let file = PressureFile::open_at(&path, TRIGGER).unwrap();
        assert!(!file.is_stream());
        assert_eq!(std::fs::read(&path).unwrap(), TRIGGER);
        assert!(PressureFile::open_at(&directory.join("missing"), TRIGGER).is_err());
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn closed_socket_ends_the_watch() {
        let directory = scratch_dir("pressure-socket");
        let path = directory.join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let file = PressureFile::open_at(&path, b"x").unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        file.drain().expect("nothing was sent");
        peer.write_all(b"pressure").unwrap();
        file.drain().expect("the bytes are dropped");
        drop(peer);
        // The peer has not read the trigger, so the kernel resets the connection.
        assert_eq!(file.drain().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        std::fs::remove_dir_all(directory).unwrap();
    }
}
