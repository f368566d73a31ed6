//! Stores a request's body that is too large for a frame: in a memfd first, in a file once the body
//! exceeds [`MAX_IN_MEMORY`] or memory is short.
//!
//! A body counts against [`SpoolBudgets`] from its first byte until the worker is done with the
//! request. If there is no room, the request is answered 507, and the body's reservations are
//! released at once.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::budget::{Budget, Reservation};
use crate::dispatch::SpooledBody;
use crate::spool::unnamed_file;

/// Maximum size in bytes of a body that is kept in memory.
const MAX_IN_MEMORY: u64 = 16 * 1024 * 1024;

/// Bytes collected before they are written to a file on a blocking thread.
const FILE_BLOCK: usize = 1024 * 1024;

/// The value of [`FILE_BLOCK`] while memory is short.
const SMALL_FILE_BLOCK: usize = 64 * 1024;

/// Bytes collected before they are written to the memfd, because a system call for each small piece
/// would be slow.
const MEMORY_BLOCK: usize = 64 * 1024;

/// The budgets of all spooled bodies.
#[derive(Debug, Default)]
pub(in crate::http) struct SpoolBudgets {
    /// `limits.spool_memory`.
    pub(in crate::http) memory: Budget,
    /// `limits.spool_disk`.
    pub(in crate::http) disk: Budget,
}

/// An error of storing a body.
#[derive(Debug, thiserror::Error)]
pub(in crate::http) enum SpoolError {
    #[error("all bodies together would be more than limits.spool_disk")]
    Full,
    #[error("cannot keep the body in a memfd")]
    Memory(#[source] io::Error),
    #[error("cannot create a file in {directory}")]
    Create {
        directory: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write to a file in {directory}")]
    Write {
        directory: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// A body being stored.
#[derive(Debug)]
pub(in crate::http) struct Spool {
    budgets: &'static SpoolBudgets,
    directory: PathBuf,
    file: File,
    /// Taken from the memory budget, or from the disk budget once the body is in a file.
    reservation: Reservation,
    in_memory: bool,
    /// Bytes not yet written to `file`.
    block: Vec<u8>,
    /// Bytes written to a file at a time.
    block_size: usize,
    /// Memory reserved for `block`; `None` while memory is short or no file is used.
    block_reservation: Option<Reservation>,
    len: u64,
}

impl Spool {
    pub(in crate::http) fn new(budgets: &'static SpoolBudgets, directory: &Path) -> Result<Self, SpoolError> {
        let memfd = memfd_create(c"rgun-body", MFdFlags::MFD_CLOEXEC);
        let memfd = memfd.map_err(|errno| SpoolError::Memory(errno.into()))?;
        Ok(Self {
            budgets,
            directory: directory.to_owned(),
            file: File::from(memfd),
            reservation: budgets.memory.charge(0),
            in_memory: true,
            block: Vec::new(),
            block_size: SMALL_FILE_BLOCK,
            block_reservation: None,
            len: 0,
        })
    }

    /// Returns the bytes received.
    pub(in crate::http) fn len(&self) -> u64 {
        self.len
    }

    /// Appends bytes.
    pub(in crate::http) async fn write(&mut self, bytes: Bytes) -> Result<(), SpoolError> {
        let len = bytes.len() as u64;
        if self.in_memory && (self.len + len > MAX_IN_MEMORY || !self.reservation.grow(len)) {
            self.move_to_file(len).await?;
        } else if !self.in_memory && !self.reservation.grow(len) {
            return Err(SpoolError::Full);
        }
        if self.in_memory {
            self.write_to_memory(&bytes).map_err(SpoolError::Memory)?;
        } else {
            self.block.extend_from_slice(&bytes);
            if self.block.len() >= self.block_size {
                self.write_block().await?;
            }
        }
        self.len += len;
        Ok(())
    }

    /// Writes to the memfd on the reactor: a copy in memory does not block.
    fn write_to_memory(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.block.len() + bytes.len() < MEMORY_BLOCK {
            self.block.extend_from_slice(bytes);
            return Ok(());
        }
        self.file.write_all(&self.block)?;
        self.block.clear();
        self.file.write_all(bytes)
    }

    /// Writes a block to the file on a blocking thread, because the disk may be slow. Meanwhile
    /// nothing is read from the client, which is the backpressure.
    async fn write_block(&mut self) -> Result<(), SpoolError> {
        let block = std::mem::take(&mut self.block);
        let directory = self.directory.clone();
        let failed = |source| SpoolError::Write { directory, source };
        let written = self.file.try_clone().map(|mut file| {
            tokio::task::spawn_blocking(move || {
                file.write_all(&block)?;
                let mut block = block;
                block.clear();
                Ok::<_, io::Error>(block)
            })
        });
        self.block = match written {
            Ok(written) => written.await.map_err(io::Error::other).flatten().map_err(failed)?,
            Err(error) => return Err(failed(error)),
        };
        Ok(())
    }

    /// Moves the body from memory to a file, and reserves disk space for the body and `more` bytes.
    async fn move_to_file(&mut self, more: u64) -> Result<(), SpoolError> {
        let reservation = self.budgets.disk.reserve(self.len + more).ok_or(SpoolError::Full)?;
        let directory = self.directory.clone();
        let created = tokio::task::spawn_blocking(move || unnamed_file(&directory)).await;
        let created = created.map_err(io::Error::other).flatten();
        let directory = || self.directory.clone();
        let file = created.map_err(|source| SpoolError::Create { directory: directory(), source })?;
        let failed = |source| SpoolError::Write { directory: directory(), source };
        self.file.write_all(&self.block).map_err(SpoolError::Memory)?;
        self.block.clear();
        let mut memory = self.file.try_clone().map_err(failed)?;
        let copied = tokio::task::spawn_blocking(move || {
            let mut file = file;
            memory.seek(SeekFrom::Start(0))?;
            io::copy(&mut memory, &mut file)?;
            Ok::<_, io::Error>(file)
        });
        self.file = copied.await.map_err(io::Error::other).flatten().map_err(failed)?;
        self.reservation = reservation;
        self.in_memory = false;
        self.block_reservation = self.budgets.memory.reserve(FILE_BLOCK as u64);
        if self.block_reservation.is_some() {
            self.block_size = FILE_BLOCK;
        }
        self.block.reserve(self.block_size);
        Ok(())
    }

    /// Returns the whole body, positioned at its beginning.
    pub(in crate::http) async fn finish(mut self) -> Result<SpooledBody, SpoolError> {
        if self.in_memory {
            self.file.write_all(&self.block).map_err(SpoolError::Memory)?;
        } else if !self.block.is_empty() {
            self.write_block().await?;
        }
        let Self { mut file, reservation, directory, .. } = self;
        file.seek(SeekFrom::Start(0)).map_err(|source| SpoolError::Write { directory, source })?;
        Ok(SpooledBody { fd: file.into(), reservation: Some(reservation) })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const MIB: usize = 1024 * 1024;

    fn budgets(memory: usize, disk: usize) -> &'static SpoolBudgets {
        Box::leak(Box::new(SpoolBudgets {
            memory: Budget::new(memory as u64),
            disk: Budget::new(disk as u64),
        }))
    }

    /// Stores `len` bytes in pieces of 100 KiB.
    async fn filled(budgets: &'static SpoolBudgets, len: usize) -> Result<Spool, SpoolError> {
        let mut spool = Spool::new(budgets, &std::env::temp_dir())?;
        for piece in vec![7; len].chunks(100 * 1024) {
            spool.write(Bytes::copy_from_slice(piece)).await?;
        }
        Ok(spool)
    }

    fn length(body: SpooledBody) -> usize {
        let mut bytes = Vec::new();
        File::from(body.fd).read_to_end(&mut bytes).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 7));
        bytes.len()
    }

    #[tokio::test]
    async fn a_body_counts_until_it_is_dropped() {
        let budgets = budgets(10 * MIB, 0);
        let body = filled(budgets, 3 * MIB).await.unwrap().finish().await.unwrap();
        assert_eq!(budgets.memory.used(), 3 * MIB as u64);
        assert_eq!(length(body), 3 * MIB);
        assert_eq!(budgets.memory.used(), 0);
    }

    #[tokio::test]
    async fn a_body_without_room_in_memory_goes_to_a_file() {
        let budgets = budgets(MIB, 10 * MIB);
        let body = filled(budgets, 3 * MIB).await.unwrap().finish().await.unwrap();
        assert_eq!((budgets.memory.used(), budgets.disk.used()), (0, 3 * MIB as u64));
        assert_eq!(length(body), 3 * MIB);
        assert_eq!(budgets.disk.used(), 0);
    }

    #[tokio::test]
    async fn a_body_without_room_is_refused_and_releases_its_budget() {
        for memory in [0, MIB, 20 * MIB] {
            let budgets = budgets(memory, 18 * MIB);
            assert!(matches!(filled(budgets, 19 * MIB).await, Err(SpoolError::Full)), "{memory}");
            assert_eq!((budgets.memory.used(), budgets.disk.used()), (0, 0));
        }
    }

    #[tokio::test]
    async fn a_full_disk_is_a_write_error() {
        let mut spool = filled(budgets(0, 10 * MIB), MIB).await.unwrap();
        spool.file = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let error = loop {
            if let Err(error) = spool.write(Bytes::from(vec![7; 100 * 1024])).await {
                break error;
            }
        };
        assert!(matches!(error, SpoolError::Write { .. }), "{error:?}");
    }
}
