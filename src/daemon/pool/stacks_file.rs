//! The file into which a worker's `faulthandler` writes its Python stacks: a memfd that the daemon makes, empties and
//! reads (`rgun_channel::control`). When they are written is told on the control socket, not here.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};

/// Most bytes that are read: some 600 frames. What a worker writes beyond is its own memory, and nobody's journal.
const MAX_STACKS_BYTES: u64 = 64 * 1024;

/// One worker's.
#[derive(Debug)]
pub(super) struct StacksFile(File);

impl StacksFile {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(memfd_create(c"rgun-stacks", MFdFlags::MFD_CLOEXEC)?.into()))
    }

    /// The position is the worker's too, as the description is shared: it writes from the beginning.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.0.set_len(0)?;
        self.0.seek(SeekFrom::Start(0)).map(drop)
    }

    /// Without moving the position, as the worker may still write.
    pub(super) fn read(&self) -> io::Result<Option<String>> {
        let mut bytes = Vec::new();
        PositionedReader { file: &self.0, offset: 0 }.take(MAX_STACKS_BYTES).read_to_end(&mut bytes)?;
        // A file that was made longer without being written reads as zeros.
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

/// Reads by `pread(2)`.
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
    fn stacks_are_text_whatever_a_worker_writes_and_no_longer_than_a_journal_entry_should_be() {
        let mut stacks = StacksFile::new().unwrap();
        assert_eq!(stacks.read().unwrap(), None);
        // What the worker has: another descriptor of the same description.
        let mut theirs = stacks.0.try_clone().unwrap();
        theirs.write_all(b"\nThread 0x1 (most recent call first):\n  File \"a\xff.py\", line 1\n\n").unwrap();
        let text = "Thread 0x1 (most recent call first):\n  File \"a\u{fffd}.py\", line 1";
        assert_eq!(stacks.read().unwrap().as_deref(), Some(text));
        assert_eq!(stacks.read().unwrap().as_deref(), Some(text), "reading takes nothing away");
        theirs.write_all(b"Thread 0x2").unwrap();
        assert_eq!(stacks.read().unwrap().unwrap(), format!("{text}\n\nThread 0x2"));

        stacks.clear().unwrap();
        assert_eq!(stacks.read().unwrap(), None);
        theirs.write_all(b"again").unwrap();
        assert_eq!(stacks.read().unwrap().as_deref(), Some("again"), "from the beginning");

        theirs.write_all(&vec![b'x'; 100_000]).unwrap();
        assert_eq!(stacks.read().unwrap().unwrap().len(), 65_536);
        stacks.clear().unwrap();
        theirs.set_len(1 << 40).unwrap();
        assert_eq!(stacks.read().unwrap(), None, "zeros");
    }
}
