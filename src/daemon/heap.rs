//! The daemon's allocator, jemalloc, and the return of its freed memory to the kernel.
//!
//! Most of what the daemon allocates is small and lives as long as a request or a connection. jemalloc keeps
//! objects of one size together and reuses the lowest free place, so few pages stay in use for one object. With
//! glibc's allocator an idle connection costs more than twice as much, and no memory below the highest block in use
//! returns to the kernel: after a hundred slow downloads, or a thousand clients at once, the daemon would keep it.
//!
//! jemalloc returns free pages as time passes, but looks at the time only when memory is allocated or freed. So
//! the daemon calls [`decay`] while little of that happens, and [`purge`] when nothing more will. The options of
//! jemalloc are in `.cargo/config.toml`.
//!
//! C code (TLS, zstd) allocates with glibc's allocator, which only [`purge`] trims.

use std::ffi::CStr;
use std::ptr;
use std::time::Duration;

use nix::libc;
use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Time after which [`decay`] returns a free page: `dirty_decay_ms` of `.cargo/config.toml`. Freed memory is often
/// needed again soon.
pub const DECAY_TIME: Duration = Duration::from_secs(1);

/// Returns pages to the kernel that have been free for some time, and all that an earlier call has found free
/// [`DECAY_TIME`] ago. Takes about 0.1 ms for each megabyte that it returns, and a microsecond if there is none.
pub fn decay() {
    control(c"arena.4096.decay");
}

/// Returns all free pages to the kernel, those of C code too. Takes about 0.1 ms for each megabyte that it returns.
pub fn purge() {
    control(c"arena.4096.purge");
    #[expect(unsafe_code, reason = "malloc_trim of libc")]
    // SAFETY: malloc_trim may be called from any thread at any time (malloc_trim(3), "MT-Safe"), and frees no
    // memory that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Uses a control of jemalloc that takes and returns nothing. In its name, 4096 stands for all arenas
/// (`MALLCTL_ARENAS_ALL`).
fn control(name: &'static CStr) {
    #[expect(unsafe_code, reason = "mallctl of jemalloc")]
    // SAFETY: the other arguments are null, as these controls demand (jemalloc(3)). Any thread may call them at
    // any time; they free no memory in use.
    let status = unsafe {
        tikv_jemalloc_sys::mallctl(name.as_ptr(), ptr::null_mut(), ptr::null_mut(), ptr::null_mut(), 0)
    };
    debug_assert_eq!(status, 0, "{name:?} is a control of jemalloc");
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Reads a control of jemalloc.
    #[expect(unsafe_code, reason = "mallctl of jemalloc")]
    fn read<T: Default>(name: &CStr) -> T {
        let (mut value, mut len) = (T::default(), size_of::<T>());
        // SAFETY: `value` has the length in `len`, and jemalloc refuses another one.
        let status = unsafe {
            let old = ptr::from_mut(&mut value).cast();
            tikv_jemalloc_sys::mallctl(name.as_ptr(), old, &raw mut len, ptr::null_mut(), 0)
        };
        assert_eq!(status, 0, "{name:?}");
        value
    }

    #[test]
    fn options_of_the_cargo_configuration_are_used() {
        assert_eq!(read::<u32>(c"opt.narenas"), 1);
        assert_eq!(read::<isize>(c"opt.dirty_decay_ms").cast_unsigned(), DECAY_TIME.as_millis() as usize);
        assert_eq!(read::<isize>(c"opt.muzzy_decay_ms"), 0);
    }

    /// Frees 64 MiB and calls `give_back` until most of it has returned to the kernel.
    fn assert_freed_memory_returns(give_back: fn()) {
        const LEN: usize = 64 * 1024 * 1024;
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let kib = status.split("VmRSS:").nth(1).unwrap().split_whitespace().next().unwrap();
            1024 * kib.parse::<usize>().unwrap()
        };
        let used: Vec<_> = (0..1024).map(|_| vec![1_u8; LEN / 1024]).collect();
        let peak = resident();
        drop(used);
        let deadline = Instant::now() + 60 * DECAY_TIME;
        // Other tests of this process allocate meanwhile.
        while resident() + LEN / 2 > peak {
            assert!(Instant::now() < deadline, "{peak} bytes before, now {}", resident());
            give_back();
            std::thread::sleep(DECAY_TIME / 10);
        }
    }

    #[test]
    fn freed_memory_is_returned_after_the_decay_time() {
        assert_freed_memory_returns(decay);
    }

    #[test]
    fn freed_memory_is_returned_by_a_purge() {
        assert_freed_memory_returns(purge);
    }
}
