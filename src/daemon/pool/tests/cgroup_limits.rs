//! Tests of `pids.max` and `cpu.weight`, with imitated cgroup files.

use std::num::{NonZeroU16, NonZeroU32};

use super::*;
use crate::config::MaxTasks;

fn limited(fixture: &mut PoolFixture, max_tasks: MaxTasks) -> (String, String) {
    let cgroup = fixture.create_cgroup_files("g1-w0-1");
    let cpu_weight = NonZeroU16::new(50);
    let spec = SpawnSpec { max_tasks, cpu_weight, ..fixture.spec(worker(0, 1)) };
    fixture.pool.spawn(&spec, &fixture.reactor).unwrap();
    let file = |name: &str| fs::read_to_string(cgroup.join(name)).unwrap();
    (file("pids.max"), file("cpu.weight"))
}

#[test]
fn worker_cgroup_gets_its_task_limit_and_weight() {
    in_own_process(module_path!(), "worker_cgroup_gets_its_task_limit_and_weight", || {
        let mut fixture = PoolFixture::new("exec sleep 1000", Some(&[Controller::Pids, Controller::Cpu]));
        let fixed = MaxTasks::Fixed(NonZeroU32::new(64).unwrap());
        assert_eq!(limited(&mut fixture, fixed), ("64".into(), "50".into()));
    });
}

#[test]
fn limits_without_controllers_are_not_written() {
    in_own_process(module_path!(), "limits_without_controllers_are_not_written", || {
        let mut fixture = PoolFixture::new("exec sleep 1000", Some(&[Controller::Memory]));
        let fixed = MaxTasks::Fixed(NonZeroU32::new(64).unwrap());
        assert_eq!(limited(&mut fixture, fixed), (String::new(), String::new()));
    });
}

#[test]
fn auto_task_limit_is_half_of_the_services() {
    let service = scratch_dir("tasks");
    let workers = service.join("workers");
    fs::create_dir(&workers).unwrap();
    let delegation = Delegation::fake(workers, &[Controller::Pids]);
    assert_eq!(delegation.auto_max_tasks(), None, "no pids controller");
    for (limit, auto) in [("max\n", None), ("4915\n", Some(2457))] {
        fs::write(service.join("pids.max"), limit).unwrap();
        assert_eq!(delegation.auto_max_tasks(), auto);
    }
    fs::remove_dir_all(service).unwrap();
}
