//! Notifications of memory pressure: systemd's `MEMORY_PRESSURE_WATCH` (254 and newer,
//! systemd.io/MEMORY_PRESSURE), else the kernel's pressure file of the service's cgroup or of the
//! workers' (Documentation/accounting/psi.rst).

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
/// The kernel replaces the last byte by NUL.
const TRIGGER: &[u8] = b"some 200000 2000000\0";

/// The file that reports memory pressure.
#[derive(Debug)]
pub struct PressureFile {
    fd: Arc<OwnedFd>,
    /// True for a FIFO or a socket, which becomes readable; false for a file with priority events.
    is_stream: bool,
}

impl PressureFile {
    /// Opens the file: systemd's, else that of the cgroup `service` or of the workers' cgroup in it.
    /// Returns `None` if systemd has turned the notifications off, and if there is neither a file of
    /// systemd's nor a cgroup: any other cgroup's file would report the pressure of foreign processes.
    ///
    /// # Errors
    /// There is no such file, the daemon may not write to it, or systemd's variables are invalid.
    pub fn open(service: Option<&Path>) -> io::Result<Option<Self>> {
        let Some(watch) = env::var_os("MEMORY_PRESSURE_WATCH").filter(|path| !path.is_empty()) else {
            return service.map(Self::open_cgroup).transpose();
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

    /// Opens the file of the cgroup `service`. If that fails, because only root may write to the file
    /// as with systemd 252, opens the file of the workers' cgroup, which the daemon has created.
    fn open_cgroup(service: &Path) -> io::Result<Self> {
        let open = |cgroup: &Path| Self::open_at(&cgroup.join("memory.pressure"), TRIGGER);
        open(service).or_else(|error| open(&service.join("workers")).map_err(|_| error))
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
        // From a FIFO the daemon would read its own trigger, as a notification.
        if !trigger.is_empty() && !kind.is_fifo() {
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

    /// Discards the input from a FIFO or socket. Returns whether there was any; true for any other
    /// file, whose event itself is the notification.
    ///
    /// # Errors
    /// The sender has closed the connection, or a read fails.
    pub fn drain(&self) -> io::Result<bool> {
        if !self.is_stream {
            return Ok(true);
        }
        let (mut buffer, mut has_data) = ([0; 4096], false);
        loop {
            match nix::unistd::read(&self.fd, &mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => has_data = true,
                Err(nix::errno::Errno::EAGAIN) => return Ok(has_data),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Returns the reason why memory pressure is not watched. `error`: the error of
/// [`PressureFile::open`]; `None` if it returned `None`.
pub fn explain_unwatched(error: Option<&io::Error>) -> String {
    if env::var_os("MEMORY_PRESSURE_WATCH").is_some_and(|path| path == OsStr::new("/dev/null")) {
        return "MemoryPressureWatch= of the unit turns it off".to_owned();
    }
    if !Path::new(KERNEL_FILE).exists() {
        return format!("this kernel has no {KERNEL_FILE}; its command line may need psi=1");
    }
    match error {
        Some(error) => error.to_string(),
        None => "systemd names no file, and the unit delegates no cgroup (Delegate=)".to_owned(),
    }
}

/// The pressure file of the whole machine, which exists if the kernel measures pressure at all.
const KERNEL_FILE: &str = "/proc/pressure/memory";

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
        let service = directory.join("service");
        std::fs::create_dir_all(service.join("workers")).unwrap();
        assert!(PressureFile::open_cgroup(&service).is_err());
        std::fs::write(service.join("workers/memory.pressure"), "").unwrap();
        assert!(PressureFile::open_cgroup(&service).is_ok(), "the workers' file");
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn kernel_accepts_the_trigger() {
        let path = Path::new(KERNEL_FILE);
        if !path.exists() {
            // Not captured by libtest.
            let message = format!("SKIPPED the trigger for memory pressure: no {KERNEL_FILE}\n");
            io::Write::write_all(&mut io::stderr(), message.as_bytes()).unwrap();
            return;
        }
        match PressureFile::open_at(path, TRIGGER) {
            Ok(file) => assert!(!file.is_stream()),
            // Kernels before 6.5 allow triggers only to privileged processes, and in a container the file
            // may be read-only. EINVAL: the trigger is wrong.
            Err(error) => assert_ne!(error.kind(), io::ErrorKind::InvalidInput, "{error}"),
        }
    }

    #[test]
    fn trigger_for_a_fifo_is_no_notification() {
        let directory = scratch_dir("pressure-fifo");
        let path = directory.join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let file = PressureFile::open_at(&path, TRIGGER).unwrap();
        assert!(!file.drain().expect("nothing was sent"));
        std::fs::write(&path, "x").unwrap();
        assert!(file.drain().expect("the byte is dropped"));
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn closed_socket_ends_the_watch() {
        let directory = scratch_dir("pressure-socket");
        let path = directory.join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let file = PressureFile::open_at(&path, b"x").unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        assert!(!file.drain().expect("nothing was sent"));
        peer.write_all(b"pressure").unwrap();
        assert!(file.drain().expect("the bytes are dropped"));
        drop(peer);
        // The peer has not read the trigger, so the kernel resets the connection.
        assert_eq!(file.drain().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        std::fs::remove_dir_all(directory).unwrap();
    }
}
