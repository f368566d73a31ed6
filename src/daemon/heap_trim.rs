//! Returns freed memory to the kernel.
//!
//! glibc returns no freed memory below the highest block in use, however much it is: after a
//! hundred slow downloads, or a thousand clients at once, the daemon would keep their memory.
//! [`HeapTrim`] decides when to return the memory, from the bytes in use by one kind of object: buffered
//! responses (`limits.response_memory`), or connections that are not parked.

use std::time::{Duration, Instant};

use nix::libc;

/// A trim follows when no more than the peak divided by this is still in use.
const TRIM_DIVISOR: u64 = 8;

/// Time for which the memory must stay free before a trim. Freed memory is often needed again soon.
const QUIET_TIME: Duration = Duration::from_secs(2);

/// Decides when to trim the heap.
#[derive(Debug)]
pub struct HeapTrim {
    /// The heap is trimmed only after at least this many bytes were in use.
    min: u64,
    /// The most bytes in use since the last trim.
    peak: u64,
    /// Time since which most of the peak has been free; `None` if it is not.
    free_since: Option<Instant>,
}

impl HeapTrim {
    /// Creates a value for one kind of object. The heap is trimmed only after at least `min` bytes were
    /// in use.
    pub fn new(min: u64) -> Self {
        Self { min, peak: 0, free_since: None }
    }

    /// Records the bytes in use. Returns true if the heap is to be trimmed now.
    pub fn update(&mut self, used: u64, now: Instant) -> bool {
        self.peak = self.peak.max(used);
        if !self.is_pending() || used > self.peak / TRIM_DIVISOR {
            self.free_since = None;
            return false;
        }
        let since = *self.free_since.get_or_insert(now);
        let is_due = now.saturating_duration_since(since) >= QUIET_TIME;
        if is_due {
            *self = Self { peak: used, ..Self::new(self.min) };
        }
        is_due
    }

    /// Returns whether a trim will follow, so [`HeapTrim::update`] must be called again.
    pub fn is_pending(&self) -> bool {
        self.peak >= self.min
    }
}

/// Returns free memory to the kernel. Takes about 0.1 ms for each megabyte, during which other
/// threads wait if they allocate from the part of the heap that is being trimmed.
pub fn trim() {
    #[expect(unsafe_code, reason = "malloc_trim of libc")]
    // SAFETY: malloc_trim may be called from any thread at any time (malloc_trim(3), "MT-Safe"),
    // and frees no memory that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN_TRIM_BYTES: u64 = 32 * 1024 * 1024;
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn heap_is_trimmed_once_after_much_memory_was_freed() {
        let (mut heap, now) = (HeapTrim::new(MIN_TRIM_BYTES), Instant::now());
        assert!(!heap.update(0, now) && !heap.is_pending());
        assert!(!heap.update(2 * MIN_TRIM_BYTES, now) && heap.is_pending());
        // Still in use, then free for less than the quiet time.
        assert!(!heap.update(MIN_TRIM_BYTES, now + 10 * SECOND));
        assert!(!heap.update(100, now + 11 * SECOND));
        assert!(!heap.update(100, now + 12 * SECOND));
        assert!(heap.update(100, now + 13 * SECOND));
        assert!(!heap.is_pending() && !heap.update(100, now + 20 * SECOND));
    }

    #[test]
    fn reused_memory_postpones_the_trim() {
        let (mut heap, now) = (HeapTrim::new(MIN_TRIM_BYTES), Instant::now());
        heap.update(MIN_TRIM_BYTES, now);
        assert!(!heap.update(0, now + SECOND));
        assert!(!heap.update(MIN_TRIM_BYTES, now + 2 * SECOND));
        assert!(!heap.update(0, now + 4 * SECOND));
        assert!(!heap.update(0, now + 5 * SECOND));
        assert!(heap.update(0, now + 6 * SECOND));
    }

    #[test]
    fn little_memory_causes_no_trim() {
        let (mut heap, now) = (HeapTrim::new(MIN_TRIM_BYTES), Instant::now());
        assert!(!heap.update(MIN_TRIM_BYTES - 1, now));
        assert!(!heap.update(0, now + SECOND) && !heap.update(0, now + 10 * SECOND));
    }
}
