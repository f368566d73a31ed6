//! Shared memory: a sealed memfd, mapped by daemon and worker.
//!
//! The only module that turns offsets into pointers. Offsets are checked here (`assert!`), so that the
//! callers' arithmetic can be wrong without becoming undefined behaviour.
//!
//! # Why `unsafe`
//! There is no safe API for memory that another process writes. Words are only ever accessed as
//! atomics; bulk bytes are only copied (`ptr::copy_nonoverlapping`), never borrowed as `&[u8]`, except
//! slab chunks that are lent to the HTTP stack (see [`crate::slab`] for that argument).
#![expect(unsafe_code, reason = "memory shared with another process has no safe API")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// A mapping of a sealed memfd; unmapped when dropped.
#[derive(Debug)]
pub struct Map {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is process-wide memory that outlives every reference (it is unmapped by Drop of
// the one owner) and is only accessed through atomics or copied under the rings' ownership rules.
unsafe impl Send for Map {}
// SAFETY: as above; all methods take &self and are atomic, or are `unsafe`-free copies whose exclusive
// use is the callers' protocol (at worst torn bytes, which readers must distrust anyway).
unsafe impl Sync for Map {}

impl Map {
    /// Creates a memfd of `len` bytes, maps it for reading and writing, and seals its size.
    ///
    /// # Errors
    /// What `memfd_create(2)`, `ftruncate(2)`, `mmap(2)` or `fcntl(F_ADD_SEALS)` say.
    pub fn create(name: &str, len: usize) -> io::Result<(Self, OwnedFd)> {
        let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, len as u64)?;
        let map = Self::map_fd(fd.as_fd(), len, ProtFlags::READ | ProtFlags::WRITE)?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok((map, fd))
    }

    /// Like [`Map::create`], but nobody else can ever map it for writing (`F_SEAL_FUTURE_WRITE`,
    /// Linux 5.1).
    ///
    /// # Errors
    /// As [`Map::create`].
    pub fn create_for_readers(name: &str, len: usize) -> io::Result<(Self, OwnedFd)> {
        let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, len as u64)?;
        let map = Self::map_fd(fd.as_fd(), len, ProtFlags::READ | ProtFlags::WRITE)?;
        fcntl_add_seals(
            &fd,
            SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL,
        )?;
        Ok((map, fd))
    }

    /// Maps what the other side created. Refuses a descriptor of another size, or one that could still
    /// shrink under the mapping (an access beyond the end would be a SIGBUS).
    ///
    /// # Errors
    /// `InvalidInput` with a sentence, or what the system calls say.
    pub fn attach(fd: BorrowedFd<'_>, len: usize, writable: bool) -> io::Result<Self> {
        let size = fstat(fd)?.st_size;
        if u64::try_from(size).ok() != Some(len as u64) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("shared map has {size} bytes, expected {len}"),
            ));
        }
        if !fcntl_get_seals(fd)?.contains(SealFlags::SHRINK | SealFlags::GROW) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "shared map is not sealed"));
        }
        let prot = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        Self::map_fd(fd, len, prot)
    }

    fn map_fd(fd: BorrowedFd<'_>, len: usize, prot: ProtFlags) -> io::Result<Self> {
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing of ours.
        let base = unsafe { mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, fd, 0) }?;
        let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { base, len })
    }

    /// Bytes mapped.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Never: a map of no bytes cannot be made.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn pointer(&self, offset: usize, len: usize, align: usize) -> *mut u8 {
        assert!(
            offset.is_multiple_of(align) && offset.checked_add(len).is_some_and(|end| end <= self.len),
            "offset {offset} + {len} is outside the map or misaligned"
        );
        // SAFETY: offset + len is inside the mapping, checked above.
        unsafe { self.base.as_ptr().add(offset) }
    }

    /// The 32-bit word at `offset`.
    ///
    /// # Panics
    /// If the offset is outside the map or misaligned: an offset of ours, never one read from the map.
    pub fn u32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: in bounds and aligned (checked by `at`), valid for the lifetime of self, and only ever
        // accessed atomically by every process that maps it.
        unsafe { AtomicU32::from_ptr(self.pointer(offset, 4, 4).cast()) }
    }

    /// The 64-bit word at `offset`.
    ///
    /// # Panics
    /// As [`Map::u32`].
    pub fn u64(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: as in `u32`, with alignment 8.
        unsafe { AtomicU64::from_ptr(self.pointer(offset, 8, 8).cast()) }
    }

    /// Copies bytes into the map.
    ///
    /// # Panics
    /// As [`Map::u32`].
    pub fn copy_in(&self, offset: usize, bytes: &[u8]) {
        let to = self.pointer(offset, bytes.len(), 1);
        // SAFETY: in bounds; `bytes` is ours and cannot overlap the mapping, of which no `&mut [u8]` exists.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
    }

    /// Appends `len` bytes of the map to `out`: the one copy that makes them trustworthy to decode.
    ///
    /// # Panics
    /// As [`Map::u32`].
    pub fn copy_out(&self, offset: usize, len: usize, out: &mut Vec<u8>) {
        let from = self.pointer(offset, len, 1);
        out.reserve(len);
        // SAFETY: the source is in bounds; the spare capacity is ours and at least `len` bytes long.
        unsafe { std::ptr::copy_nonoverlapping(from, out.as_mut_ptr().add(out.len()), len) };
        // SAFETY: the `len` bytes after the old length have just been written.
        unsafe { out.set_len(out.len() + len) };
    }

    /// Bytes of the map, for lending a slab chunk to a writer without another copy.
    ///
    /// # Safety
    /// The other side must not be writing to this range in the ordinary course of the protocol. (If it
    /// breaks the protocol, the bytes that its own client receives are garbage: nothing but the kernel
    /// reads them, by `writev(2)`.)
    ///
    /// # Panics
    /// As [`Map::u32`].
    pub unsafe fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        let from = self.pointer(offset, len, 1);
        // SAFETY: in bounds, valid while self lives, u8 has no invalid values; see the contract above.
        unsafe { std::slice::from_raw_parts(from, len) }
    }
}

impl Map {
    /// Lets go of the shared memory: from now on the words and bytes are private ones, all zero. For whoever is done
    /// with a map that others in the process may still hold; the memory is the system's again when the other side has
    /// let go, too.
    ///
    /// # Errors
    /// What `mmap(2)` says; the memory is shared still.
    pub fn release(&self) -> io::Result<()> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        // SAFETY: exactly the range of our own mapping is replaced, at once, by memory that is at least as accessible;
        // all access is atomic or by copying, so that no reference sees its value change under it.
        unsafe { mmap_anonymous(self.base.as_ptr().cast(), self.len, prot, flags) }?;
        Ok(())
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `of` with this base and length; no reference outlives self.
        // A failure could only mean a wrong range, and leaving it mapped is then the safe outcome.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn both_sides_see_the_same_words_and_bytes() {
        let (ours, fd) = Map::create("test", 8192).unwrap();
        let theirs = Map::attach(fd.as_fd(), 8192, true).unwrap();
        ours.u64(4096).store(7, Ordering::Release);
        assert_eq!(theirs.u64(4096).load(Ordering::Acquire), 7);
        theirs.copy_in(100, b"hello");
        let mut out = Vec::new();
        ours.copy_out(100, 5, &mut out);
        assert_eq!(out, b"hello");
    }

    #[test]
    fn a_released_map_is_private_and_empty() {
        let (ours, fd) = Map::create("test", 8192).unwrap();
        let theirs = Map::attach(fd.as_fd(), 8192, true).unwrap();
        ours.u64(4096).store(7, Ordering::Release);
        theirs.release().unwrap();
        assert_eq!(theirs.u64(4096).load(Ordering::Acquire), 0);
        theirs.u64(4096).store(8, Ordering::Release);
        assert_eq!(ours.u64(4096).load(Ordering::Acquire), 7);
    }

    #[test]
    fn a_map_of_another_size_or_unsealed_is_refused() {
        let (_ours, fd) = Map::create("test", 8192).unwrap();
        assert!(Map::attach(fd.as_fd(), 4096, true).is_err());
        let open = memfd_create("open", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&open, 4096).unwrap();
        assert!(Map::attach(open.as_fd(), 4096, true).is_err());
    }

    #[test]
    fn a_map_for_readers_cannot_be_mapped_for_writing() {
        let (ours, fd) = Map::create_for_readers("test", 4096).unwrap();
        assert!(Map::attach(fd.as_fd(), 4096, true).is_err());
        let theirs = Map::attach(fd.as_fd(), 4096, false).unwrap();
        ours.u32(0).store(3, Ordering::Release);
        assert_eq!(theirs.u32(0).load(Ordering::Acquire), 3);
        assert!(rustix::io::write(&fd, b"x").is_err());
    }

    #[test]
    fn a_sealed_map_cannot_shrink() {
        let (_ours, fd) = Map::create("test", 8192).unwrap();
        assert!(ftruncate(&fd, 0).is_err());
    }
}
