//! The file into which a worker's `faulthandler` writes its Python stacks: a memfd that the daemon
//! creates, truncates and reads (`rgun_channel::control`). The worker socket reports when they are
//! written.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};

/// Maximum number of bytes that are read and logged: some 600 frames.
const MAX_STACKS_BYTES: u64 = 64 * 1024;

/// The stacks file of one worker.
#[derive(Debug)]
pub(super) struct StacksFile(File);

impl StacksFile {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(memfd_create(c"rgun-stacks", MFdFlags::MFD_CLOEXEC)?.into()))
    }

    /// Truncates the file and rewinds it. The worker shares the open file description, so it writes
    /// from the start.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.0.set_len(0)?;
        self.0.seek(SeekFrom::Start(0)).map(drop)
    }

    /// Reads the stacks without moving the file position, because the worker may still be writing.
    /// `None` if the file is empty.
    pub(super) fn read(&self) -> io::Result<Option<String>> {
        let mut bytes = Vec::new();
        PositionedReader { file: &self.0, offset: 0 }.take(MAX_STACKS_BYTES).read_to_end(&mut bytes)?;
        // The hole of a file that was extended without a write reads as zeros.
        let text = String::from_utf8_lossy(&bytes).replace('\0', "");
        let text = text.trim();
        Ok((!text.is_empty()).then(|| text.to_owned()))
    }
}

impl AsFd for StacksFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A reader by `pread(2)`, which does not move the file position.
struct PositionedReader<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for PositionedReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn stacks_are_read_as_utf8_up_to_the_limit() {
        let mut stacks = StacksFile::new().unwrap();
        assert_eq!(stacks.read().unwrap(), None);
        // The worker's descriptor refers to the same open file description.
        let mut worker_file = stacks.0.try_clone().unwrap();
        worker_file
            .write_all(b"\nThread 0x1 (most recent call first):\n  File \"a\xff.py\", line 1\n\n")
            .unwrap();
        let text = "Thread 0x1 (most recent call first):\n  File \"a\u{fffd}.py\", line 1";
        assert_eq!(stacks.read().unwrap().as_deref(), Some(text));
        assert_eq!(stacks.read().unwrap().as_deref(), Some(text), "reading consumes nothing");
        worker_file.write_all(b"Thread 0x2").unwrap();
        assert_eq!(stacks.read().unwrap().unwrap(), format!("{text}\n\nThread 0x2"));

        stacks.clear().unwrap();
        assert_eq!(stacks.read().unwrap(), None);
        worker_file.write_all(b"again").unwrap();
        assert_eq!(stacks.read().unwrap().as_deref(), Some("again"), "written from the start");

        worker_file.write_all(&vec![b'x'; 100_000]).unwrap();
        assert_eq!(stacks.read().unwrap().unwrap().len(), 65_536);
        stacks.clear().unwrap();
        worker_file.set_len(1 << 40).unwrap();
        assert_eq!(stacks.read().unwrap(), None, "zeros");
    }
}
