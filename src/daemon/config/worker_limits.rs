//! `workers.max_tasks` and `workers.cpu_weight`: the kernel's limits of a worker's cgroup.

use std::num::{NonZeroU16, NonZeroU32};

use super::read::{is_auto, non_zero_u16, whole};
use super::value::{Setting, Value};
use super::{MaxTasks, ValueError};

/// Minimum of `workers.max_tasks`: an ASGI worker with its interpreter uses about five threads, and
/// its default executor starts up to 32 more.
const MIN_TASKS: u32 = 16;

/// Maximum number of processes and threads of a 64-bit kernel (`PID_MAX_LIMIT`).
const MAX_TASKS: u32 = 1 << 22;

/// Maximum of `cpu.weight` (the kernel's cgroup-v2.rst).
const MAX_CPU_WEIGHT: u32 = 10_000;

/// Reads a number of processes and threads, `"auto"` or `"off"`.
pub(super) fn max_tasks(setting: &Setting) -> Result<MaxTasks, ValueError> {
    if is_auto(setting) {
        return Ok(MaxTasks::Auto);
    }
    if is_off(setting) {
        return Ok(MaxTasks::Off);
    }
    let tasks = whole(setting, MIN_TASKS, MAX_TASKS).map_err(|error| {
        error.with_hint(format!("write a number from {MIN_TASKS} to {MAX_TASKS}, \"auto\" or \"off\""))
    })?;
    Ok(MaxTasks::Fixed(NonZeroU32::new(tasks).unwrap_or(NonZeroU32::MIN)))
}

/// Reads a weight; `None` is `"off"`.
pub(super) fn cpu_weight(setting: &Setting) -> Result<Option<NonZeroU16>, ValueError> {
    if is_off(setting) {
        return Ok(None);
    }
    let weight = whole(setting, 1, MAX_CPU_WEIGHT).map_err(|error| {
        error.with_hint(format!("write a number from 1 to {MAX_CPU_WEIGHT}, or \"off\" for the kernel's 100"))
    })?;
    Ok(Some(non_zero_u16(weight)))
}

fn is_off(setting: &Setting) -> bool {
    matches!(&setting.value, Value::Text(text) if text == "off")
}
