//! Shared memory: a sealed memfd, mapped by daemon and worker, and not part of core dumps.
//!
//! Turns offsets into pointers. Each offset is checked (`assert!`), so a caller's wrong arithmetic
//! is a panic, not undefined behaviour.
//!
//! # Why `unsafe`
//! There is no safe API for memory that another process writes. Words are accessed as atomics;
//! other bytes are copied (`ptr::copy_nonoverlapping`), not borrowed as `&[u8]`, except for slab
//! chunks that the HTTP stack sends (see [`crate::slab`]).
#![expect(unsafe_code, reason = "memory shared with another process has no safe API")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

/// A mapping of a sealed memfd; unmapped when dropped.
#[derive(Debug)]
pub struct Map {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is process-wide memory that outlives every reference (it is unmapped by Drop
// of the one owner) and is only accessed through atomics or copied under the rings' ownership
// rules.
unsafe impl Send for Map {}
// SAFETY: as above. All methods take &self. They access atomics, or bytes that belong to the caller
// under the rings' ownership rules; a violation yields at worst torn bytes, which readers distrust
// anyway.
unsafe impl Sync for Map {}

impl Map {
    /// Creates a memfd of `len` bytes, maps it for reading and writing, and seals its size.
    ///
    /// # Errors
    /// Errors of `memfd_create(2)`, `ftruncate(2)`, `mmap(2)` and `fcntl(F_ADD_SEALS)`.
    pub fn create(name: &str, len: usize) -> io::Result<(Self, OwnedFd)> {
        let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, len as u64)?;
        let map = Self::map_fd(fd.as_fd(), len, ProtFlags::READ | ProtFlags::WRITE)?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok((map, fd))
    }

    /// Creates a map like [`Map::create`], but later mappings of its memfd can only be read-only
    /// (`F_SEAL_FUTURE_WRITE`, Linux 5.1).
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

    /// Maps a memfd that the peer created. Rejects a memfd of another size. Rejects an unsealed
    /// memfd, which could shrink: an access beyond its end raises SIGBUS.
    ///
    /// # Errors
    /// `InvalidInput` for a rejected descriptor; errors of the system calls.
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
        // SAFETY: a new mapping at an address chosen by the kernel aliases no other memory.
        let base = unsafe { mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, fd, 0) }?;
        let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::InvalidData)?;
        let map = Self { base, len };
        // A core dump must not contain the requests of other clients.
        // SAFETY: exactly the range of this mapping; the advice changes no byte and no access right.
        unsafe { madvise(map.base.as_ptr().cast(), len, Advice::LinuxDontDump) }?;
        Ok(map)
    }

    /// Bytes mapped.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Always false: an empty map cannot be created.
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
    /// The offset is outside the map or misaligned. Offsets are computed by the caller, never read
    /// from the map.
    pub fn u32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: in bounds and aligned (checked by `pointer`), valid for the lifetime of self, and
        // only ever accessed atomically by every process that maps it.
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
        // SAFETY: in bounds; `bytes` cannot overlap the mapping, of which no `&mut [u8]` exists.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
    }

    /// Appends `len` bytes of the map to `out`, so that the peer cannot change them while they are
    /// decoded.
    ///
    /// # Panics
    /// As [`Map::u32`].
    pub fn copy_out(&self, offset: usize, len: usize, out: &mut Vec<u8>) {
        out.reserve(len);
        self.copy_to(offset, &mut out.spare_capacity_mut()[..len]);
        // SAFETY: the `len` bytes after the old length have just been written.
        unsafe { out.set_len(out.len() + len) };
    }

    /// Fills `out` with bytes of the map.
    ///
    /// # Panics
    /// As [`Map::u32`].
    pub fn copy_to(&self, offset: usize, out: &mut [MaybeUninit<u8>]) {
        let from = self.pointer(offset, out.len(), 1);
        // SAFETY: the source is in bounds; `out` cannot overlap the mapping, of which no `&mut [u8]`
        // exists.
        unsafe { std::ptr::copy_nonoverlapping(from, out.as_mut_ptr().cast(), out.len()) };
    }

    /// Borrows bytes of the map, to send a slab chunk without a copy.
    ///
    /// # Safety
    /// By protocol, the peer does not write to this range while it is borrowed. (If it does, its
    /// own client receives garbage: the daemon does not interpret the bytes.)
    ///
    /// # Panics
    /// As [`Map::u32`].
    pub unsafe fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        let from = self.pointer(offset, len, 1);
        // SAFETY: in bounds, valid while self lives, u8 has no invalid values; see the contract
        // above.
        unsafe { std::slice::from_raw_parts(from, len) }
    }
}

impl Map {
    /// Releases the shared memory: the mapping becomes private memory, all zero. For a map that
    /// other threads still reference. The kernel frees the memory when the peer unmaps it too.
    ///
    /// # Errors
    /// Errors of `mmap(2)`; the memory is then still shared.
    pub fn release(&self) -> io::Result<()> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        // SAFETY: exactly the range of this mapping is replaced, in one step, by memory that is at
        // least as accessible; all access is atomic or by copying, so no reference sees its value
        // change.
        unsafe { mmap_anonymous(self.base.as_ptr().cast(), self.len, prot, flags) }?;
        Ok(())
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map_fd` with this base and length; no reference outlives
        // self. A failure could only mean a wrong range, and leaving it mapped is then the safe
        // outcome.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn both_mappings_share_words_and_bytes() {
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
    fn released_map_is_private_and_zero() {
        let (ours, fd) = Map::create("test", 8192).unwrap();
        let theirs = Map::attach(fd.as_fd(), 8192, true).unwrap();
        ours.u64(4096).store(7, Ordering::Release);
        theirs.release().unwrap();
        assert_eq!(theirs.u64(4096).load(Ordering::Acquire), 0);
        theirs.u64(4096).store(8, Ordering::Release);
        assert_eq!(ours.u64(4096).load(Ordering::Acquire), 7);
    }

    #[test]
    fn mappings_are_not_part_of_core_dumps() {
        let (ours, fd) = Map::create("test", 8192).unwrap();
        let theirs = Map::attach(fd.as_fd(), 8192, true).unwrap();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        for map in [&ours, &theirs] {
            let start = format!("{:x}-", map.base.as_ptr().addr());
            let from = maps.find(&format!("\n{start}")).expect("smaps has the mapping");
            let flags = maps[from..].lines().find(|line| line.starts_with("VmFlags:")).unwrap();
            assert!(flags.split(' ').any(|flag| flag == "dd"), "{flags}");
        }
    }

    #[test]
    fn map_of_another_size_or_unsealed_is_rejected() {
        let (_ours, fd) = Map::create("test", 8192).unwrap();
        assert!(Map::attach(fd.as_fd(), 4096, true).is_err());
        let open = memfd_create("open", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&open, 4096).unwrap();
        assert!(Map::attach(open.as_fd(), 4096, true).is_err());
    }

    #[test]
    fn map_for_readers_cannot_be_mapped_for_writing() {
        let (ours, fd) = Map::create_for_readers("test", 4096).unwrap();
        assert!(Map::attach(fd.as_fd(), 4096, true).is_err());
        let theirs = Map::attach(fd.as_fd(), 4096, false).unwrap();
        ours.u32(0).store(3, Ordering::Release);
        assert_eq!(theirs.u32(0).load(Ordering::Acquire), 3);
        assert!(rustix::io::write(&fd, b"x").is_err());
    }

    #[test]
    fn sealed_map_cannot_shrink() {
        let (_ours, fd) = Map::create("test", 8192).unwrap();
        assert!(ftruncate(&fd, 0).is_err());
    }
}
