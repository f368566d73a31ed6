//! One worker's life, and the start of the daemon.

use super::*;

#[test]
fn the_start_boots_one_worker_and_the_rest_when_it_is_ready() {
    let mut table = Table::new(3);
    let started = table.tell(Event::Started);
    assert_eq!(
        started,
        [
            spawn(0, 1),
            Action::ExtendTimeout(30 * SECOND),
            Action::Status("starting: booting mysite.wsgi".to_owned())
        ]
    );
    assert_eq!(table.spawned(worker(0, 1)), []);
    let ready = table.after(200 * MS).tell(Event::Ready { worker: worker(0, 1) });
    assert_eq!(
        ready,
        [
            Action::Admit { worker: worker(0, 1) },
            Action::Report(Report::WorkerReady { worker: worker(0, 1), took: 200 * MS }),
            Action::NotifyReady,
            spawn(1, 2),
            spawn(2, 3),
            Action::Status("1/3 workers ready, 2 booting".to_owned()),
        ]
    );
    let second = table.boots(worker(1, 2));
    assert!(!second.contains(&Action::NotifyReady), "READY=1 is told once: {second:?}");
    assert_eq!(status(&second), Some("2/3 workers ready, 1 booting"));
    assert_eq!(status(&table.boots(worker(2, 3))), Some("3/3 workers ready"));
    assert_eq!(table.wakeup(), None, "a healthy daemon sleeps");
}

#[test]
fn every_way_not_to_boot_is_a_boot_failure_of_its_kind() {
    type Way = fn(&mut Table, WorkerId) -> Vec<Action>;
    let ways: [(Way, BootFailureKind, &str); 5] = [
        (
            |table, worker| {
                table.spawned(worker);
                let exit = Exit::Signal { signal: 11, core_dumped: true };
                table.tell(Event::Exited { worker, exit })
            },
            BootFailureKind::Died,
            "the worker was killed by SIGSEGV (core dumped) while booting",
        ),
        (
            |table, worker| {
                table.spawned(worker);
                assert_eq!(table.after(59 * SECOND).tick().len(), 1, "only more time is asked for");
                assert!(table.after(SECOND).tick().contains(&Action::DumpStacks { worker }));
                table.after(1500 * MS).tick()
            },
            BootFailureKind::Timeout,
            "not ready after timeouts.boot = 60 s; the import hangs or needs a longer limit",
        ),
        (
            |table, worker| {
                table.spawned(worker);
                table.tell(Event::Misbehaved { worker, reason: "speaks protocol 7".to_owned() })
            },
            BootFailureKind::Misbehaved,
            "speaks protocol 7",
        ),
        (
            |table, worker| {
                let reason = "execve: /no/python: No such file or directory".to_owned();
                table.tell(Event::SpawnFailed { worker, fault: SpawnFault::Config, reason })
            },
            BootFailureKind::Spawn,
            "execve: /no/python: No such file or directory",
        ),
        (Table::fails, BootFailureKind::App, "ImportError: No module named 'x'"),
    ];
    for (way, kind, summary) in ways {
        let mut table = Table::new(2);
        table.tell(Event::Started);
        let actions = way(&mut table, worker(0, 1));
        let failure = actions.iter().find_map(|action| match action {
            Action::Report(Report::WorkerBootFailed { failure, retry_in: None, .. }) => Some(failure),
            _ => None,
        });
        let failure = failure.unwrap_or_else(|| panic!("{kind:?} is not reported: {actions:?}"));
        assert_eq!((failure.kind, failure.summary.as_str()), (kind, summary));
        assert!(actions.contains(&Action::NotifyStopping), "{kind:?} does not end the start: {actions:?}");
        let is_killed = actions.contains(&kill(worker(0, 1)));
        let needs_killing = matches!(kind, BootFailureKind::Timeout | BootFailureKind::Misbehaved);
        assert_eq!(is_killed, needs_killing, "{kind:?}: {actions:?}");
    }
}

#[test]
fn a_system_short_of_processes_does_not_end_the_start() {
    let mut table = Table::new(2);
    table.tell(Event::Started);
    let reason = "fork: Resource temporarily unavailable".to_owned();
    let fault = SpawnFault::System;
    let actions = table.tell(Event::SpawnFailed { worker: worker(0, 1), fault, reason: reason.clone() });
    assert!(actions.contains(&Action::Unavailable(Some(reason))));
    assert_eq!(
        status(&actions),
        Some("0/2 workers ready: fork: Resource temporarily unavailable (retry in 100 ms)")
    );
    assert_eq!(table.wakeup(), Some(100 * MS));
    assert_eq!(spawns(&table.after(100 * MS).tick()), [worker(0, 2)]);
    let ready = table.boots(worker(0, 2));
    assert!(ready.contains(&Action::NotifyReady) && ready.contains(&Action::Unavailable(None)));
}

#[test]
fn an_application_that_never_booted_is_retried_by_one_seat_when_the_policy_says_so() {
    let mut table = Table::with(SupervisorPolicy { exit_on_first_boot_failure: false, ..policy(9) });
    table.tell(Event::Started);
    let mut expected = 100 * MS;
    for life in 1..=10 {
        let id = worker(0, life);
        let actions = table.fails(id);
        table.exits(id);
        assert_eq!(table.wakeup(), Some(expected), "attempt {life}");
        let already_reported = life > 1;
        let report = Report::WorkerBootFailed {
            worker: id,
            failure: import_error(),
            retry_in: Some(expected),
            already_reported,
        };
        assert!(actions.contains(&Action::Report(report)), "{actions:?}");
        assert_eq!(actions.iter().any(|action| matches!(action, Action::Unavailable(_))), !already_reported);
        assert_eq!(spawns(&table.after(expected).tick()), [worker(0, life + 1)]);
        expected = (expected * 2).min(30 * SECOND);
    }
    let healed = table.boots(worker(0, 11));
    assert!(healed.contains(&Action::Unavailable(None)));
    assert_eq!(spawns(&healed).len(), 8, "the rest boots at once: {healed:?}");
}

#[test]
fn a_worker_that_dies_is_replaced_at_once_and_after_a_second_short_life_with_backoff() {
    let mut table = Table::ready(3);
    let exit = Exit::Signal { signal: 9, core_dumped: false };
    // The life, the seconds it served, and the milliseconds until the next.
    for (life, seconds, wait) in [(2, 10, 0), (4, 9, 0), (5, 9, 100), (6, 9, 200), (7, 10, 0)] {
        let (lived, wait) = (seconds * SECOND, wait * MS);
        let id = worker(1, life);
        let actions = table.after(lived).tell(Event::Exited { worker: id, exit });
        let retry_in = Some(wait);
        let report = Report::WorkerExited { worker: id, exit, state: WorkerState::Ready, retry_in };
        assert!(actions.contains(&Action::Report(report)), "{actions:?}");
        let again = if wait.is_zero() { actions } else { table.after(wait).tick() };
        let next = worker(1, life.max(3) + 1);
        assert_eq!(spawns(&again), [next], "after a life of {lived:?}");
        assert!(again.iter().all(|action| !matches!(action, Action::Kill { .. } | Action::Retire { .. })));
        table.boots(next);
    }
}

#[test]
fn a_long_life_forgets_the_failures_before_it() {
    let mut table = Table::ready(1);
    table.exits(worker(0, 1));
    table.boots(worker(0, 2));
    table.exits(worker(0, 2));
    assert_eq!(table.wakeup(), Some(100 * MS));
    table.after(100 * MS).tick();
    table.boots(worker(0, 3));
    assert_eq!(spawns(&table.after(10 * SECOND).exits(worker(0, 3))), [worker(0, 4)]);
    table.boots(worker(0, 4));
    assert_eq!(spawns(&table.exits(worker(0, 4))), [worker(0, 5)], "the first short life again");
}

#[test]
fn a_crash_loop_is_told_with_its_reason_and_its_wait() {
    let mut table = Table::ready(1);
    table.exits(worker(0, 1));
    table.boots(worker(0, 2));
    let mut life = 2;
    let mut outage = None;
    for _ in 0..5 {
        let actions = table.exits(worker(0, life));
        outage = outage.or_else(|| {
            let is_outage = actions.iter().any(|action| matches!(action, Action::Unavailable(Some(_))));
            is_outage.then(|| table.wakeup())
        });
        if table.wakeup() == Some(1600 * MS) {
            let line = "0/1 workers ready: the worker exited with status 1 (retry in 1.6 s)";
            assert_eq!(status(&actions), Some(line));
        }
        let wait = table.wakeup().expect("it is tried again");
        table.after(wait).tick();
        life += 1;
        table.boots(worker(0, life));
    }
    assert_eq!(outage, Some(Some(1600 * MS)), "short waits are the queue's, long ones are told to clients");
}

#[test]
fn workers_that_die_together_come_back_together_and_fail_one_at_a_time() {
    let mut table = Table::ready(4);
    table.after(20 * SECOND);
    let lives: Vec<_> = (0..4).flat_map(|n| spawns(&table.exits(worker(n, u64::from(n) + 1)))).collect();
    assert_eq!(lives.len(), 4, "each at once");
    let n_told: usize = lives
        .iter()
        .map(|id| {
            let actions = table.fails(*id);
            table.exits(*id);
            let is_new = |action: &&Action| {
                matches!(action, Action::Report(Report::WorkerBootFailed { already_reported: false, .. }))
            };
            actions.iter().filter(is_new).count()
        })
        .sum();
    assert_eq!(n_told, 1, "the traceback is told once");
    let wait = table.wakeup().expect("it is tried again");
    let again = table.after(wait).tick();
    assert_eq!(spawns(&again).len(), 1, "the canary alone: {again:?}");
    let healed = table.boots(spawns(&again)[0]);
    assert_eq!(spawns(&healed).len(), 3);
}

#[test]
fn a_seat_that_cannot_boot_leaves_the_healthy_ones_alone() {
    let mut table = Table::ready(2);
    table.after(20 * SECOND).exits(worker(1, 2));
    let failed = table.fails(worker(1, 3));
    assert!(!failed.iter().any(|action| matches!(action, Action::Unavailable(_))), "{failed:?}");
    assert_eq!(status(&failed), Some("1/2 workers ready: ImportError (x.py, line 1) (retry in 100 ms)"));
    assert_eq!(spawns(&table.after(100 * MS).tick()), [worker(1, 4)], "while life 3 is still exiting");
    let late = table.after(900 * MS).tick();
    assert!(late.contains(&kill(worker(1, 3))), "it did not exit by itself: {late:?}");
}

#[test]
fn a_stuck_worker_is_replaced_first_and_killed_when_it_is_drained() {
    let mut table = Table::ready(2);
    let stuck = worker(0, 1);
    let actions = table.tell(Event::DeadlineExceeded { worker: stuck });
    assert_eq!(
        actions,
        [
            Action::Report(Report::Replacing { worker: stuck }),
            Action::Retire { worker: stuck },
            spawn(0, 3),
            Action::Status("1/2 workers ready, 1 booting, 1 retiring".to_owned()),
        ]
    );
    assert_eq!(table.tell(Event::DeadlineExceeded { worker: stuck }), [], "its other threads hang as well");
    let replaced = Action::Report(Report::Replaced { worker: stuck, by: worker(0, 3) });
    assert!(table.boots(worker(0, 3)).contains(&replaced));
    assert_eq!(table.tell(Event::Drained { worker: stuck })[0], kill(stuck));
    let gone = table.exits(stuck);
    assert_eq!(spawns(&gone), [], "its seat has its replacement already: {gone:?}");
}

#[test]
fn a_stuck_worker_that_does_not_drain_is_killed_at_the_drain_timeout() {
    let mut table = Table::ready(1);
    table.tell(Event::DeadlineExceeded { worker: worker(0, 1) });
    table.boots(worker(0, 2));
    assert_eq!(table.wakeup(), Some(30 * SECOND));
    let actions = table.after(30 * SECOND).tick();
    let overdue = Report::Overdue { worker: worker(0, 1), state: WorkerState::Retiring, waited: 30 * SECOND };
    assert_eq!(actions[..2], [Action::Report(overdue), cut(worker(0, 1), AbortReason::DrainTimeout)]);
}

#[test]
fn a_retiring_worker_that_exits_is_not_replaced_twice() {
    let mut table = Table::ready(1);
    let replaced = table.tell(Event::DeadlineExceeded { worker: worker(0, 1) });
    assert_eq!(spawns(&replaced), [worker(0, 2)]);
    assert_eq!(spawns(&table.exits(worker(0, 1))), []);
    assert_eq!(table.supervisor.snapshot().workers.len(), 1);
}

#[test]
fn a_replacement_that_is_stuck_too_cuts_the_longest_retirement_short() {
    let mut table = Table::ready(1);
    table.tell(Event::DeadlineExceeded { worker: worker(0, 1) });
    table.boots(worker(0, 2));
    let actions = table.after(SECOND).tell(Event::DeadlineExceeded { worker: worker(0, 2) });
    assert!(actions.contains(&Action::Report(Report::RetirementAborted { worker: worker(0, 1) })));
    assert!(actions.contains(&cut(worker(0, 1), AbortReason::ProcessLimit)));
    assert_eq!(spawns(&actions), [], "two processes are as many as one seat may have");
    assert_eq!(spawns(&table.exits(worker(0, 1))), [worker(0, 3)]);
}

#[test]
fn a_healthy_retirement_is_not_cut_short_while_somebody_serves() {
    let mut table = Table::with(SupervisorPolicy { idle_exit: Some(60 * SECOND), ..policy(2) });
    table.tell(Event::Started);
    table.boots(worker(0, 1));
    table.boots(worker(1, 2));
    table.tell(Event::RecycleDue { worker: worker(0, 1), reason: RecycleReason::Requests { served: 1000 } });
    table.boots(worker(0, 3));
    table.tell(Event::Load(LoadSample { idle_for: 60 * SECOND, ..LoadSample::default() }));
    assert_eq!(spawns(&table.tell(Event::WorkerRequested)), [worker(0, 4)]);
    let full = table.boots(worker(0, 4));
    assert_eq!((spawns(&full), kills(&full)), (vec![], vec![]), "three still finish what they have");
    assert_eq!(terminations(&table.tell(Event::Drained { worker: worker(0, 1) })), [worker(0, 1)]);
    assert_eq!(spawns(&table.exits(worker(0, 1))), [worker(1, 5)]);
}

#[test]
fn a_stuck_retirement_is_cut_before_a_healthy_one() {
    let mut table = Table::ready(2);
    for (number, life) in [(0, 1), (1, 2)] {
        let worker = worker(number, life);
        table
            .after(SECOND)
            .tell(Event::RecycleDue { worker, reason: RecycleReason::Requests { served: 1000 } });
        table.boots(WorkerId { life: Life(life + 2), ..worker });
    }
    assert_eq!(spawns(&table.after(20 * SECOND).exits(worker(0, 3))), [worker(0, 5)]);
    let full = table.tell(Event::DeadlineExceeded { worker: worker(1, 4) });
    assert_eq!(kills(&full), [worker(1, 4)], "nobody serves, and four are all there may be");
}

#[test]
fn a_worker_that_breaks_the_contract_is_killed_and_replaced() {
    let mut table = Table::ready(2);
    let why = "a completion for an exchange it does not have".to_owned();
    let bad = worker(1, 2);
    let actions = table.after(15 * SECOND).tell(Event::Misbehaved { worker: bad, reason: why.clone() });
    let retry_in = Some(Duration::ZERO);
    let report = Action::Report(Report::WorkerMisbehaved { worker: bad, reason: why, retry_in });
    assert_eq!(actions[..3], [kill(bad), report, spawn(1, 3)]);
    assert_eq!(spawns(&table.exits(bad)), []);
}

#[test]
fn what_is_said_of_a_life_that_is_over_changes_nothing() {
    let mut table = Table::ready(1);
    table.after(20 * SECOND).exits(worker(0, 1));
    let before = table.supervisor.snapshot();
    let old = worker(0, 1);
    let wrong_seat = worker(7, 2);
    for worker in [old, wrong_seat] {
        for event in [
            Event::Spawned { worker, pid: 1 },
            Event::SpawnFailed { worker, fault: SpawnFault::System, reason: String::new() },
            Event::Ready { worker },
            Event::BootFailed { worker, failure: import_error() },
            Event::Exited { worker, exit: Exit::Code(0) },
            Event::DeadlineExceeded { worker },
            Event::Misbehaved { worker, reason: String::new() },
            Event::Drained { worker },
        ] {
            assert_eq!(table.tell(event.clone()), [], "{event:?}");
        }
    }
    assert_eq!(table.supervisor.snapshot(), before);
}

#[test]
fn a_frozen_daemon_hears_its_workers_before_it_counts_the_time() {
    let mut table = Table::new(1);
    table.tell(Event::Started);
    table.spawned(worker(0, 1));
    let ready = table.after(3600 * SECOND).tell(Event::Ready { worker: worker(0, 1) });
    assert!(ready.contains(&Action::NotifyReady));
    assert!(!table.tick().iter().any(|action| matches!(action, Action::Kill { .. })));
}

#[test]
fn a_clock_that_goes_back_is_taken_to_stand_still() {
    let mut table = Table::ready(1);
    table.after(20 * SECOND).tick();
    table.now = table.begin;
    let actions = table.exits(worker(0, 1));
    assert_eq!(spawns(&actions), [worker(0, 2)], "it was ready for 20 s: {actions:?}");
}

#[test]
fn a_boot_without_a_limit_asks_systemd_for_time_as_long_as_it_takes() {
    let mut table = Table::with(SupervisorPolicy { boot: None, ..policy(1) });
    table.tell(Event::Started);
    table.spawned(worker(0, 1));
    for _ in 0..100 {
        assert_eq!(table.wakeup(), Some(15 * SECOND));
        assert_eq!(table.after(15 * SECOND).tick(), [Action::ExtendTimeout(30 * SECOND)]);
    }
    table.tell(Event::Ready { worker: worker(0, 1) });
    assert_eq!(table.wakeup(), None);
}

#[test]
fn limits_of_any_length_do_not_overflow() {
    let count = NonZeroU16::MIN;
    let mut table =
        Table::with(SupervisorPolicy::new("a".to_owned(), count, Some(Duration::MAX), Duration::MAX));
    table.tell(Event::Started);
    table.boots(worker(0, 1));
    table.tell(Event::DeadlineExceeded { worker: worker(0, 1) });
    table.tell(Event::Stop);
    table.tell(Event::EdgeDrained);
    assert!(table.supervisor.next_wakeup().is_some());
}

#[test]
fn a_summary_cannot_write_a_second_line_into_the_status() {
    let mut table = Table::ready(1);
    table.after(20 * SECOND).exits(worker(0, 1));
    table.spawned(worker(0, 2));
    let headline = format!("ValueError (a\nREADY=1\nMAINPID=1 {}", "x".repeat(5000));
    let failure = BootFailure { headline, ..import_error() };
    let actions = table.tell(Event::BootFailed { worker: worker(0, 2), failure });
    let line = status(&actions).expect("the status has changed");
    assert!(!line.contains('\n') && line.chars().count() <= 300, "{line}");
}

#[test]
fn the_snapshot_counts_what_happened() {
    let mut table = Table::ready(2);
    table.after(20 * SECOND).exits(worker(1, 2));
    table.fails(worker(1, 3));
    let snapshot = table.supervisor.snapshot();
    assert_eq!((snapshot.ready, snapshot.count), (1, 2));
    assert_eq!((snapshot.spawned, snapshot.boot_failures, snapshot.crashes), (3, 1, 1));
    assert_eq!(snapshot.seats[1].worker, None);
    assert_eq!(snapshot.seats[1].retry_at, Some(table.now + 100 * MS));
    assert_eq!(snapshot.seats[1].failure.as_deref(), Some("ImportError (x.py, line 1)"));
    let states: Vec<_> = snapshot.workers.iter().map(|worker| worker.state.as_str()).collect();
    assert_eq!(states, ["ready", "failed"]);
}

#[test]
fn signals_are_named_as_people_know_them() {
    for (exit, text) in [
        (Exit::Code(3), "exited with status 3"),
        (Exit::Signal { signal: 9, core_dumped: false }, "was killed by SIGKILL"),
        (Exit::Signal { signal: 6, core_dumped: true }, "was killed by SIGABRT (core dumped)"),
        (Exit::Signal { signal: 42, core_dumped: false }, "was killed by signal 42"),
    ] {
        assert_eq!(exit.to_string(), text);
    }
}

#[test]
fn a_boot_that_takes_too_long_is_told_with_the_stacks_of_its_import() {
    let mut table = Table::ready(2);
    table.after(20 * SECOND).exits(worker(1, 2));
    let slow = worker(1, 3);
    table.spawned(slow);
    assert_eq!(table.after(60 * SECOND).tick(), [Action::DumpStacks { worker: slow }]);
    let stacks =
        Some("Thread 0x7f (most recent call first):\n  File \"db.py\", line 3 in connect".to_owned());
    let failed = table.after(200 * MS).tell(Event::StacksDumped { worker: slow, stacks: stacks.clone() });
    assert_eq!(failed[0], kill(slow));
    let told = failed.iter().find_map(|action| match action {
        Action::Report(Report::WorkerBootFailed { failure, .. }) => Some(failure),
        _ => None,
    });
    let told = told.expect("a boot failure");
    assert_eq!((told.kind, &told.traceback), (BootFailureKind::Timeout, &stacks));
    assert_eq!(table.tell(Event::StacksDumped { worker: slow, stacks }), [], "once");
}

#[test]
fn stacks_that_do_not_come_are_not_waited_for() {
    let mut table = Table::ready(1);
    table.after(20 * SECOND).exits(worker(0, 1));
    table.spawned(worker(0, 2));
    table.after(60 * SECOND).tick();
    assert_eq!(table.wakeup(), Some(1500 * MS));
    assert_eq!(kills(&table.after(1500 * MS).tick()), [worker(0, 2)]);
}

#[test]
fn a_worker_that_becomes_ready_while_its_stacks_are_taken_is_welcome() {
    let mut table = Table::ready(1);
    table.after(20 * SECOND).exits(worker(0, 1));
    table.spawned(worker(0, 2));
    table.after(60 * SECOND).tick();
    assert_eq!(admits(&table.after(SECOND).tell(Event::Ready { worker: worker(0, 2) })), [worker(0, 2)]);
    assert_eq!(table.tell(Event::StacksDumped { worker: worker(0, 2), stacks: None }), []);
}
