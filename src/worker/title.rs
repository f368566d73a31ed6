//! What the process list shows: `rgun: worker 3 [mysite.wsgi:application]` instead of the bootstrap's source text.
//!
//! # Why `unsafe`
//! The kernel shows the memory in which it laid out the arguments (proc_pid_cmdline(5)); writing there is the only
//! way for a process without `CAP_SYS_RESOURCE` to change it, and what every server with a title does. The
//! interpreter has made its own copies of `argv` long before.
#![expect(unsafe_code, reason = "the argument area belongs to nobody in Rust's view")]

use std::fs;

/// Sets the title, as far as the argument area has room for it. Cosmetic, so every doubt means doing nothing.
pub(crate) fn set(title: &str) {
    let Some((start, end)) = argument_area() else { return };
    let room = end - start;
    // The last byte stays NUL: anything else there makes the kernel read on into the environment.
    let shown = &title.as_bytes()[..title.len().min(room.saturating_sub(1))];
    let area = start as *mut u8;
    // SAFETY: [start, end) is the argument area that the kernel reports for this process: mapped, writable (it is
    // on the initial stack) and at least `room` bytes long; nobody reads it as anything but characters.
    unsafe { area.write_bytes(0, room) };
    // SAFETY: as above; `shown` is shorter than the area and does not overlap it.
    unsafe { std::ptr::copy_nonoverlapping(shown.as_ptr(), area, shown.len()) };
}

/// `arg_start` and `arg_end`, fields 48 and 49 of proc_pid_stat(5).
fn argument_area() -> Option<(usize, usize)> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field, the name, may hold spaces and parentheses: count from behind its last one.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(45);
    let start = fields.next()?.parse().ok()?;
    let end = fields.next()?.parse().ok()?;
    (start != 0 && start < end).then_some((start, end))
}
