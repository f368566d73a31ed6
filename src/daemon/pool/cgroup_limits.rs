//! Sets the limits of a worker's cgroup that need no watch: `pids.max` and `cpu.weight` (the
//! kernel's Documentation/admin-guide/cgroup-v2.rst). [`memory_limits`](super::memory_limits) sets
//! those of memory.

use crate::config::MaxTasks;
use crate::error_chain::Chain;
use crate::systemd::cgroup::{Controller, Delegation, WorkerCgroup};

use super::spawn_spec::SpawnSpec;

/// Sets the limits, and logs each warning about a missing controller once.
#[derive(Debug, Default)]
pub(super) struct CgroupLimits {
    /// The keys that have no effect because a controller is missing, and whose warning was logged.
    logged: Vec<&'static str>,
}

impl CgroupLimits {
    /// Sets the limits of a new worker's cgroup. A failure is logged, and the worker runs without
    /// the limit.
    pub(super) fn set(&mut self, spec: &SpawnSpec<'_>, delegation: &Delegation, cgroup: &WorkerCgroup) {
        let max_tasks = match spec.max_tasks {
            MaxTasks::Fixed(tasks) => Some(tasks.get()),
            MaxTasks::Auto => delegation.auto_max_tasks(),
            MaxTasks::Off => None,
        };
        if let Some(tasks) = max_tasks
            && self.has(delegation, Controller::Pids, "workers.max_tasks")
            && let Err(error) = cgroup.limit_tasks(tasks)
        {
            tracing::warn!(error = %Chain(&error), "cannot limit a worker's tasks, proceeding without");
        }
        if let Some(weight) = spec.cpu_weight
            && self.has(delegation, Controller::Cpu, "workers.cpu_weight")
            && let Err(error) = cgroup.set_cpu_weight(weight.get())
        {
            tracing::warn!(error = %Chain(&error), "cannot set a worker's CPU weight, proceeding without");
        }
    }

    /// Returns whether the workers' cgroups have a controller; logs once if they do not.
    fn has(&mut self, delegation: &Delegation, controller: Controller, key: &'static str) -> bool {
        let has = delegation.has(controller);
        if !has && !self.logged.contains(&key) {
            self.logged.push(key);
            tracing::warn!(
                "{key}: has no effect, because the cgroup controller is missing (it needs cgroup2 and, under systemd, Delegate=yes)"
            );
        }
        has
    }
}
