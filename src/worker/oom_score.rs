//! The worker's score with the kernel's out-of-memory killer (proc_pid_oom_score_adj(5)).
//!
//! The worker sets the score, because the daemon cannot: the daemon is not dumpable, so the files
//! of a forked child in `/proc` belong to root until the child has called execve(2).

use std::fs;
use std::io;

const ADJUSTMENT: &str = "/proc/self/oom_score_adj";
/// The difference between a worker's adjustment and the daemon's; 100 counts like a tenth of
/// the machine's memory.
const WORKER_DIFFERENCE: i32 = 100;
/// Maximum of the adjustment.
const MAX_ADJUSTMENT: i32 = 1000;

/// Raises the score above the daemon's, which the process has inherited, so that the kernel kills a
/// worker before the daemon when the machine has no memory left.
///
/// # Errors
/// There is no `/proc`, or a security module denies the change.
pub(crate) fn raise() -> io::Result<()> {
    let inherited: i32 = fs::read_to_string(ADJUSTMENT)?.trim().parse().map_err(io::Error::other)?;
    fs::write(ADJUSTMENT, (inherited + WORKER_DIFFERENCE).min(MAX_ADJUSTMENT).to_string())
}
