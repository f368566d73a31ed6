//! The events of one worker, and the start of the daemon.

use super::*;

#[test]
fn start_boots_a_canary_then_the_other_workers() {
    let mut harness = Harness::new(3);
    let started = harness.send(Event::Started);
    assert_eq!(
        started,
        [
            spawn(0, 1),
            Action::ExtendTimeout(30 * SECOND),
            Action::Status("starting: booting mysite.wsgi".to_owned())
        ]
    );
    assert_eq!(harness.spawned(worker(0, 1)), []);
    let ready = harness.advance(200 * MS).send(Event::Ready { worker: worker(0, 1) });
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
    let second = harness.boot(worker(1, 2));
    assert!(!second.contains(&Action::NotifyReady), "READY=1 is sent once: {second:?}");
    assert_eq!(status(&second), Some("2/3 workers ready, 1 booting"));
    assert_eq!(status(&harness.boot(worker(2, 3))), Some("3/3 workers ready"));
    assert_eq!(harness.wakeup(), None, "no deadline is left");
}

#[test]
fn each_boot_failure_is_reported_with_its_kind() {
    type Failure = fn(&mut Harness, WorkerId) -> Vec<Action>;
    let failures: [(Failure, BootFailureKind, &str); 5] = [
        (
            |harness, worker| {
                harness.spawned(worker);
                let exit = Exit::Signal { signal: 11, core_dumped: true };
                harness.send(Event::Exited { worker, exit })
            },
            BootFailureKind::Died,
            "the worker was killed by SIGSEGV (core dumped) while booting",
        ),
        (
            |harness, worker| {
                harness.spawned(worker);
                assert_eq!(
                    harness.advance(59 * SECOND).tick().len(),
                    1,
                    "only the start timeout is extended"
                );
                assert!(harness.advance(SECOND).tick().contains(&Action::DumpStacks { worker }));
                harness.advance(1500 * MS).tick()
            },
            BootFailureKind::Timeout,
            "not ready after timeouts.boot = 60 s; the import or the startup hangs, or needs a longer limit",
        ),
        (
            |harness, worker| {
                harness.spawned(worker);
                harness.send(Event::Misbehaved { worker, reason: "speaks protocol 7".to_owned() })
            },
            BootFailureKind::Misbehaved,
            "speaks protocol 7",
        ),
        (
            |harness, worker| {
                let reason = "execve: /no/python: No such file or directory".to_owned();
                harness.send(Event::SpawnFailed { worker, fault: SpawnFault::Config, reason })
            },
            BootFailureKind::Spawn,
            "execve: /no/python: No such file or directory",
        ),
        (Harness::fail_boot, BootFailureKind::App, "ImportError: No module named 'x'"),
    ];
    for (fail, kind, summary) in failures {
        let mut harness = Harness::new(2);
        harness.send(Event::Started);
        let actions = fail(&mut harness, worker(0, 1));
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
fn spawn_failure_of_the_system_is_retried_at_start() {
    let mut harness = Harness::new(2);
    harness.send(Event::Started);
    let reason = "fork: Resource temporarily unavailable".to_owned();
    let fault = SpawnFault::System;
    let actions = harness.send(Event::SpawnFailed { worker: worker(0, 1), fault, reason: reason.clone() });
    assert!(actions.contains(&Action::Unavailable(Some(reason))));
    assert_eq!(
        status(&actions),
        Some("0/2 workers ready: fork: Resource temporarily unavailable (retry in 100 ms)")
    );
    assert_eq!(harness.wakeup(), Some(100 * MS));
    assert_eq!(spawns(&harness.advance(100 * MS).tick()), [worker(0, 2)]);
    let ready = harness.boot(worker(0, 2));
    assert!(ready.contains(&Action::NotifyReady) && ready.contains(&Action::Unavailable(None)));
}

#[test]
fn failed_first_boot_is_retried_in_one_seat_if_configured() {
    let mut harness = Harness::with(SupervisorPolicy { exit_on_first_boot_failure: false, ..policy(9) });
    harness.send(Event::Started);
    let mut expected = 100 * MS;
    for incarnation in 1..=10 {
        let id = worker(0, incarnation);
        let actions = harness.fail_boot(id);
        harness.exit(id);
        assert_eq!(harness.wakeup(), Some(expected), "attempt {incarnation}");
        let already_reported = incarnation > 1;
        let report = Report::WorkerBootFailed {
            worker: id,
            failure: import_error(),
            retry_in: Some(expected),
            already_reported,
        };
        assert!(actions.contains(&Action::Report(report)), "{actions:?}");
        assert_eq!(actions.iter().any(|action| matches!(action, Action::Unavailable(_))), !already_reported);
        assert_eq!(spawns(&harness.advance(expected).tick()), [worker(0, incarnation + 1)]);
        expected = (expected * 2).min(30 * SECOND);
    }
    let recovered = harness.boot(worker(0, 11));
    assert!(recovered.contains(&Action::Unavailable(None)));
    assert_eq!(spawns(&recovered).len(), 8, "the other seats boot at once: {recovered:?}");
}

#[test]
fn dead_worker_is_replaced_after_backoff_if_short_lived() {
    let mut harness = Harness::ready(3);
    let exit = Exit::Signal { signal: 9, core_dumped: false };
    // (incarnation, seconds it served, milliseconds until its replacement)
    for (incarnation, seconds, wait) in [(2, 10, 0), (4, 9, 0), (5, 9, 100), (6, 9, 200), (7, 10, 0)] {
        let (lived, wait) = (seconds * SECOND, wait * MS);
        let id = worker(1, incarnation);
        let actions = harness.advance(lived).send(Event::Exited { worker: id, exit });
        let retry_in = Some(wait);
        let report = Report::WorkerExited { worker: id, exit, state: WorkerState::Ready, retry_in };
        assert!(actions.contains(&Action::Report(report)), "{actions:?}");
        let again = if wait.is_zero() { actions } else { harness.advance(wait).tick() };
        let next = worker(1, incarnation.max(3) + 1);
        assert_eq!(spawns(&again), [next], "after serving {lived:?}");
        assert!(again.iter().all(|action| !matches!(action, Action::Kill { .. } | Action::Retire { .. })));
        harness.boot(next);
    }
}

#[test]
fn stable_process_resets_the_backoff() {
    let mut harness = Harness::ready(1);
    harness.exit(worker(0, 1));
    harness.boot(worker(0, 2));
    harness.exit(worker(0, 2));
    assert_eq!(harness.wakeup(), Some(100 * MS));
    harness.advance(100 * MS).tick();
    harness.boot(worker(0, 3));
    assert_eq!(spawns(&harness.advance(10 * SECOND).exit(worker(0, 3))), [worker(0, 4)]);
    harness.boot(worker(0, 4));
    assert_eq!(spawns(&harness.exit(worker(0, 4))), [worker(0, 5)], "the first early death again");
}

#[test]
fn crash_loop_shows_its_reason_and_backoff_in_status() {
    let mut harness = Harness::ready(1);
    harness.exit(worker(0, 1));
    harness.boot(worker(0, 2));
    let mut incarnation = 2;
    let mut outage = None;
    for _ in 0..5 {
        let actions = harness.exit(worker(0, incarnation));
        outage = outage.or_else(|| {
            let is_outage = actions.iter().any(|action| matches!(action, Action::Unavailable(Some(_))));
            is_outage.then(|| harness.wakeup())
        });
        if harness.wakeup() == Some(1600 * MS) {
            let line = "0/1 workers ready: the worker exited with status 1 (retry in 1.6 s)";
            assert_eq!(status(&actions), Some(line));
        }
        let wait = harness.wakeup().expect("a retry is scheduled");
        harness.advance(wait).tick();
        incarnation += 1;
        harness.boot(worker(0, incarnation));
    }
    assert_eq!(
        outage,
        Some(Some(1600 * MS)),
        "requests are queued during short waits and refused during long ones"
    );
}

#[test]
fn failing_replacements_fall_back_to_serial_boots() {
    let mut harness = Harness::ready(4);
    harness.advance(20 * SECOND);
    let incarnations: Vec<_> =
        (0..4).flat_map(|n| spawns(&harness.exit(worker(n, u64::from(n) + 1)))).collect();
    assert_eq!(incarnations.len(), 4, "all are replaced at once");
    let n_reported: usize = incarnations
        .iter()
        .map(|id| {
            let actions = harness.fail_boot(*id);
            harness.exit(*id);
            let is_new = |action: &&Action| {
                matches!(action, Action::Report(Report::WorkerBootFailed { already_reported: false, .. }))
            };
            actions.iter().filter(is_new).count()
        })
        .sum();
    assert_eq!(n_reported, 1, "the traceback is reported once");
    let wait = harness.wakeup().expect("a retry is scheduled");
    let again = harness.advance(wait).tick();
    assert_eq!(spawns(&again).len(), 1, "only the canary: {again:?}");
    let recovered = harness.boot(spawns(&again)[0]);
    assert_eq!(spawns(&recovered).len(), 3);
}

#[test]
fn boot_failure_in_one_seat_causes_no_outage() {
    let mut harness = Harness::ready(2);
    harness.advance(20 * SECOND).exit(worker(1, 2));
    let failed = harness.fail_boot(worker(1, 3));
    assert!(!failed.iter().any(|action| matches!(action, Action::Unavailable(_))), "{failed:?}");
    assert_eq!(status(&failed), Some("1/2 workers ready: ImportError (x.py, line 1) (retry in 100 ms)"));
    assert_eq!(
        spawns(&harness.advance(100 * MS).tick()),
        [worker(1, 4)],
        "while incarnation 3 is still exiting"
    );
    let late = harness.advance(900 * MS).tick();
    assert!(late.contains(&kill(worker(1, 3))), "it did not exit by itself: {late:?}");
}

#[test]
fn stuck_worker_is_replaced_then_killed_when_drained() {
    let mut harness = Harness::ready(2);
    let stuck = worker(0, 1);
    let actions = harness.send(Event::DeadlineExceeded { worker: stuck });
    assert_eq!(
        actions,
        [
            Action::Report(Report::Replacing { worker: stuck }),
            Action::Retire { worker: stuck },
            spawn(0, 3),
            Action::Status("1/2 workers ready, 1 booting, 1 retiring".to_owned()),
        ]
    );
    assert_eq!(
        harness.send(Event::DeadlineExceeded { worker: stuck }),
        [],
        "a second stuck thread changes nothing"
    );
    let replaced = Action::Report(Report::Replaced { worker: stuck, by: worker(0, 3) });
    assert!(harness.boot(worker(0, 3)).contains(&replaced));
    assert_eq!(harness.send(Event::Drained { worker: stuck })[0], kill(stuck));
    let exited = harness.exit(stuck);
    assert_eq!(spawns(&exited), [], "its seat is filled already: {exited:?}");
}

#[test]
fn stuck_worker_is_killed_at_the_drain_timeout() {
    let mut harness = Harness::ready(1);
    harness.send(Event::DeadlineExceeded { worker: worker(0, 1) });
    harness.boot(worker(0, 2));
    assert_eq!(harness.wakeup(), Some(30 * SECOND));
    let actions = harness.advance(30 * SECOND).tick();
    let overdue = Report::Overdue { worker: worker(0, 1), state: WorkerState::Retiring, waited: 30 * SECOND };
    assert_eq!(actions[..2], [Action::Report(overdue), abort(worker(0, 1), AbortReason::DrainTimeout)]);
}

#[test]
fn exit_of_a_retiring_worker_causes_no_replacement() {
    let mut harness = Harness::ready(1);
    let replaced = harness.send(Event::DeadlineExceeded { worker: worker(0, 1) });
    assert_eq!(spawns(&replaced), [worker(0, 2)]);
    assert_eq!(spawns(&harness.exit(worker(0, 1))), []);
    assert_eq!(harness.supervisor.snapshot().workers.len(), 1);
}

#[test]
fn stuck_replacement_aborts_the_oldest_retirement() {
    let mut harness = Harness::ready(1);
    harness.send(Event::DeadlineExceeded { worker: worker(0, 1) });
    harness.boot(worker(0, 2));
    let actions = harness.advance(SECOND).send(Event::DeadlineExceeded { worker: worker(0, 2) });
    assert!(actions.contains(&Action::Report(Report::RetirementAborted { worker: worker(0, 1) })));
    assert!(actions.contains(&abort(worker(0, 1), AbortReason::ProcessLimit)));
    assert_eq!(spawns(&actions), [], "one seat may have two processes");
    assert_eq!(spawns(&harness.exit(worker(0, 1))), [worker(0, 3)]);
}

#[test]
fn healthy_retirement_is_kept_while_a_worker_is_ready() {
    let mut harness = Harness::with(SupervisorPolicy { idle_exit: Some(60 * SECOND), ..policy(2) });
    harness.send(Event::Started);
    harness.boot(worker(0, 1));
    harness.boot(worker(1, 2));
    harness
        .send(Event::RecycleDue { worker: worker(0, 1), reason: RecycleReason::Requests { served: 1000 } });
    harness.boot(worker(0, 3));
    harness.send(Event::Load(LoadSample { idle_for: 60 * SECOND, ..LoadSample::default() }));
    assert_eq!(spawns(&harness.send(Event::WorkerRequested)), [worker(0, 4)]);
    let full = harness.boot(worker(0, 4));
    assert_eq!((spawns(&full), kills(&full)), (vec![], vec![]), "three healthy workers are still retiring");
    assert_eq!(terminations(&harness.send(Event::Drained { worker: worker(0, 1) })), [worker(0, 1)]);
    assert_eq!(spawns(&harness.exit(worker(0, 1))), [worker(1, 5)]);
}

#[test]
fn stuck_retirement_is_aborted_before_a_healthy_one() {
    let mut harness = Harness::ready(2);
    for (number, incarnation) in [(0, 1), (1, 2)] {
        let worker = worker(number, incarnation);
        harness
            .advance(SECOND)
            .send(Event::RecycleDue { worker, reason: RecycleReason::Requests { served: 1000 } });
        harness.boot(WorkerId { incarnation: Incarnation(incarnation + 2), ..worker });
    }
    assert_eq!(spawns(&harness.advance(20 * SECOND).exit(worker(0, 3))), [worker(0, 5)]);
    let full = harness.send(Event::DeadlineExceeded { worker: worker(1, 4) });
    assert_eq!(kills(&full), [worker(1, 4)], "no worker is ready, and two seats may have four processes");
}

#[test]
fn misbehaving_worker_is_killed_and_replaced() {
    let mut harness = Harness::ready(2);
    let why = "a completion for an exchange it does not have".to_owned();
    let bad = worker(1, 2);
    let actions = harness.advance(15 * SECOND).send(Event::Misbehaved { worker: bad, reason: why.clone() });
    let retry_in = Some(Duration::ZERO);
    let report = Action::Report(Report::WorkerMisbehaved { worker: bad, reason: why, retry_in });
    assert_eq!(actions[..3], [kill(bad), report, spawn(1, 3)]);
    assert_eq!(spawns(&harness.exit(bad)), []);
}

#[test]
fn events_of_unknown_workers_are_ignored() {
    let mut harness = Harness::ready(1);
    harness.advance(20 * SECOND).exit(worker(0, 1));
    let before = harness.supervisor.snapshot();
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
            assert_eq!(harness.send(event.clone()), [], "{event:?}");
        }
    }
    assert_eq!(harness.supervisor.snapshot(), before);
}

#[test]
fn late_ready_is_accepted_before_the_tick() {
    let mut harness = Harness::new(1);
    harness.send(Event::Started);
    harness.spawned(worker(0, 1));
    let ready = harness.advance(3600 * SECOND).send(Event::Ready { worker: worker(0, 1) });
    assert!(ready.contains(&Action::NotifyReady));
    assert!(!harness.tick().iter().any(|action| matches!(action, Action::Kill { .. })));
}

#[test]
fn earlier_instant_does_not_turn_the_clock_back() {
    let mut harness = Harness::ready(1);
    harness.advance(20 * SECOND).tick();
    harness.now = harness.start;
    let actions = harness.exit(worker(0, 1));
    assert_eq!(spawns(&actions), [worker(0, 2)], "it was ready for 20 s: {actions:?}");
}

#[test]
fn boot_without_timeout_extends_the_start_timeout() {
    let mut harness = Harness::with(SupervisorPolicy { boot: None, ..policy(1) });
    harness.send(Event::Started);
    harness.spawned(worker(0, 1));
    for _ in 0..100 {
        assert_eq!(harness.wakeup(), Some(15 * SECOND));
        assert_eq!(harness.advance(15 * SECOND).tick(), [Action::ExtendTimeout(30 * SECOND)]);
    }
    harness.send(Event::Ready { worker: worker(0, 1) });
    assert_eq!(harness.wakeup(), None);
}

#[test]
fn timeouts_of_any_length_do_not_overflow() {
    let count = NonZeroU16::MIN;
    let mut harness =
        Harness::with(SupervisorPolicy::new("a".to_owned(), count, Some(Duration::MAX), Duration::MAX));
    harness.send(Event::Started);
    harness.boot(worker(0, 1));
    harness.send(Event::DeadlineExceeded { worker: worker(0, 1) });
    harness.send(Event::Stop);
    harness.send(Event::EdgeDrained);
    assert!(harness.supervisor.next_wakeup().is_some());
}

#[test]
fn status_is_one_line_of_bounded_length() {
    let mut harness = Harness::ready(1);
    harness.advance(20 * SECOND).exit(worker(0, 1));
    harness.spawned(worker(0, 2));
    let headline = format!("ValueError (a\nREADY=1\nMAINPID=1 {}", "x".repeat(5000));
    let failure = BootFailure { headline, ..import_error() };
    let actions = harness.send(Event::BootFailed { worker: worker(0, 2), failure });
    let line = status(&actions).expect("the status has changed");
    assert!(!line.contains('\n') && line.chars().count() <= 300, "{line}");
}

#[test]
fn snapshot_counts_spawns_failures_and_crashes() {
    let mut harness = Harness::ready(2);
    harness.advance(20 * SECOND).exit(worker(1, 2));
    harness.fail_boot(worker(1, 3));
    let snapshot = harness.supervisor.snapshot();
    assert_eq!((snapshot.ready, snapshot.desired), (1, 2));
    assert_eq!((snapshot.spawned, snapshot.boot_failures, snapshot.crashes), (3, 1, 1));
    assert_eq!(snapshot.seats[1].worker, None);
    assert_eq!(snapshot.seats[1].retry_at, Some(harness.now + 100 * MS));
    assert_eq!(snapshot.seats[1].failure.as_deref(), Some("ImportError (x.py, line 1)"));
    let states: Vec<_> = snapshot.workers.iter().map(|worker| worker.state.as_str()).collect();
    assert_eq!(states, ["ready", "failed"]);
}

#[test]
fn exit_is_displayed_with_the_signal_name() {
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
fn boot_timeout_is_reported_with_python_stacks() {
    let mut harness = Harness::ready(2);
    harness.advance(20 * SECOND).exit(worker(1, 2));
    let slow = worker(1, 3);
    harness.spawned(slow);
    assert_eq!(harness.advance(60 * SECOND).tick(), [Action::DumpStacks { worker: slow }]);
    let stacks =
        Some("Thread 0x7f (most recent call first):\n  File \"db.py\", line 3 in connect".to_owned());
    let failed = harness.advance(200 * MS).send(Event::StacksDumped { worker: slow, stacks: stacks.clone() });
    assert_eq!(failed[0], kill(slow));
    let failure = failed.iter().find_map(|action| match action {
        Action::Report(Report::WorkerBootFailed { failure, .. }) => Some(failure),
        _ => None,
    });
    let failure = failure.expect("a boot failure");
    assert_eq!((failure.kind, &failure.traceback), (BootFailureKind::Timeout, &stacks));
    assert_eq!(harness.send(Event::StacksDumped { worker: slow, stacks }), [], "only once");
}

#[test]
fn boot_timeout_kills_without_stacks_after_a_timeout() {
    let mut harness = Harness::ready(1);
    harness.advance(20 * SECOND).exit(worker(0, 1));
    harness.spawned(worker(0, 2));
    harness.advance(60 * SECOND).tick();
    assert_eq!(harness.wakeup(), Some(1500 * MS));
    assert_eq!(kills(&harness.advance(1500 * MS).tick()), [worker(0, 2)]);
}

#[test]
fn ready_during_a_stack_dump_is_accepted() {
    let mut harness = Harness::ready(1);
    harness.advance(20 * SECOND).exit(worker(0, 1));
    harness.spawned(worker(0, 2));
    harness.advance(60 * SECOND).tick();
    assert_eq!(admits(&harness.advance(SECOND).send(Event::Ready { worker: worker(0, 2) })), [worker(0, 2)]);
    assert_eq!(harness.send(Event::StacksDumped { worker: worker(0, 2), stacks: None }), []);
}
