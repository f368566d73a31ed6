//! The title in the process list: `rgun: worker 3 [mysite.wsgi:application]` instead of the
//! bootstrap's source text.
//!
//! # Why `unsafe`
//! The kernel shows the memory of the arguments (proc_pid_cmdline(5)). Without `CAP_SYS_RESOURCE`,
//! writing to it is the only way to change the title. The interpreter has its own copies of `argv`.
#![expect(unsafe_code, reason = "Rust does not know the argument area")]

use std::fs;

/// Sets the title, cut to the size of the argument area. Does nothing if the area is unknown: the
/// title is cosmetic.
pub(crate) fn set(title: &str) {
    let Some((start, end)) = argument_area() else { return };
    let room = end - start;
    // The last byte stays NUL: otherwise the kernel would also show the environment.
    let shown = &title.as_bytes()[..title.len().min(room.saturating_sub(1))];
    let area = start as *mut u8;
    // SAFETY: [start, end) is the argument area that the kernel reports for this process: mapped,
    // writable (it is on the initial stack) and at least `room` bytes long; its readers
    // expect nothing but characters.
    unsafe { area.write_bytes(0, room) };
    // SAFETY: as above; `shown` is shorter than the area and does not overlap it.
    unsafe { std::ptr::copy_nonoverlapping(shown.as_ptr(), area, shown.len()) };
}

/// Returns `arg_start` and `arg_end`, fields 48 and 49 of proc_pid_stat(5).
fn argument_area() -> Option<(usize, usize)> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field, the name, may contain spaces and parentheses: count after its last
    // parenthesis.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(45);
    let start = fields.next()?.parse().ok()?;
    let end = fields.next()?.parse().ok()?;
    (start != 0 && start < end).then_some((start, end))
}
