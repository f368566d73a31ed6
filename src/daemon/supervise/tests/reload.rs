//! Reloads: the new generation boots alongside the old one and takes over completely or not at all.

use super::*;

/// Starts `count` workers of generation 1 (incarnations 1 to `count`) and a reload to `policy`.
fn reloading(count: u16, policy: SupervisorPolicy) -> (Harness, Vec<Action>) {
    let mut harness = Harness::ready(count);
    harness.advance(20 * SECOND);
    let actions = harness.send(Event::Reload { policy });
    (harness, actions)
}

#[test]
fn reload_boots_canary_then_rest_and_switches_at_once() {
    let (mut harness, began) = reloading(3, policy(3));
    assert_eq!(
        began,
        [
            Action::Report(Report::ReloadStarted { generation: Generation(2), old_ready: true }),
            Action::NotifyReloading,
            spawn_of(2, 0, 4),
            Action::ExtendTimeout(30 * SECOND),
            Action::Status("3/3 workers ready; reloading: 0/3 of generation 2 ready".to_owned()),
        ]
    );
    assert_eq!(harness.spawned(worker(0, 4)), []);
    let canary = harness.advance(SECOND).send(Event::Ready { worker: worker(0, 4) });
    assert_eq!(
        canary,
        [
            Action::Report(Report::WorkerReady { worker: worker(0, 4), took: SECOND }),
            spawn_of(2, 1, 5),
            spawn_of(2, 2, 6),
            Action::Status("3/3 workers ready; reloading: 1/3 of generation 2 ready".to_owned()),
        ]
    );
    let second = harness.boot(worker(1, 5));
    assert_eq!(admits(&second), [], "no worker is admitted before all are ready");
    harness.spawned(worker(2, 6));
    let changed = harness.advance(SECOND).send(Event::Ready { worker: worker(2, 6) });
    let old = [worker(0, 1), worker(1, 2), worker(2, 3)];
    assert_eq!(
        changed,
        [
            Action::Report(Report::WorkerReady { worker: worker(2, 6), took: SECOND }),
            Action::GoLive { generation: Generation(2) },
            Action::Admit { worker: worker(0, 4) },
            Action::Admit { worker: worker(1, 5) },
            Action::Admit { worker: worker(2, 6) },
            Action::Retire { worker: old[0] },
            Action::Retire { worker: old[1] },
            Action::Retire { worker: old[2] },
            Action::ForgetGeneration { generation: Generation(1) },
            Action::AnswerReload { generation: Generation(2), outcome: Ok(()) },
            Action::Report(Report::ReloadCompleted { generation: Generation(2), took: 2 * SECOND }),
            Action::NotifyReady,
            Action::Status("3/3 workers ready, 3 retiring".to_owned()),
        ]
    );
    for id in old {
        harness.drain_and_exit(id);
    }
    assert_eq!(harness.status(), "3/3 workers ready");
    assert_eq!(harness.supervisor.snapshot().generation, Generation(2));
    assert_eq!(harness.wakeup(), None, "no deadline is left");
}

#[test]
fn canary_boot_failure_leaves_the_old_generation_live() {
    let (mut harness, _) = reloading(2, policy(2));
    let failed = harness.fail_boot(worker(0, 3));
    assert_eq!(
        failed,
        [
            Action::Report(Report::WorkerBootFailed {
                worker: worker(0, 3),
                failure: import_error(),
                retry_in: None,
                already_reported: false,
            }),
            Action::ForgetGeneration { generation: Generation(2) },
            Action::AnswerReload { generation: Generation(2), outcome: Err(import_error()) },
            Action::NotifyReady,
            Action::Report(Report::ReloadFailed {
                generation: Generation(2),
                old_ready: true,
                failure: import_error()
            }),
            Action::Status(
                "2/2 workers ready; reload failed: ImportError (x.py, line 1) (generation 1 keeps serving)"
                    .to_owned()
            ),
        ]
    );
    harness.exit(worker(0, 3));
    assert_eq!(harness.supervisor.snapshot().workers.len(), 2);
    assert_eq!(harness.wakeup(), None, "a failed reload is not retried");
    let again = harness.send(Event::Reload { policy: policy(2) });
    assert!(
        !status(&again).expect("a change").contains("failed"),
        "the note is cleared by the next reload: {again:?}"
    );
}

#[test]
fn any_failure_before_the_switch_fails_only_the_reload() {
    type Failure = fn(&mut Harness) -> Vec<Action>;
    let failures: [(Failure, BootFailureKind); 6] = [
        (|harness| harness.fail_boot(worker(1, 5)), BootFailureKind::App),
        (|harness| harness.exit(worker(0, 4)), BootFailureKind::Died),
        (
            |harness| harness.send(Event::Misbehaved { worker: worker(0, 4), reason: "garbage".to_owned() }),
            BootFailureKind::Misbehaved,
        ),
        (
            |harness| {
                let reason = "fork: Resource temporarily unavailable".to_owned();
                harness.send(Event::SpawnFailed { worker: worker(1, 5), fault: SpawnFault::System, reason })
            },
            BootFailureKind::System,
        ),
        (
            |harness| {
                harness.spawned(worker(1, 5));
                harness.spawned(worker(2, 6));
                harness.advance(60 * SECOND).tick();
                let stacks = Some("Thread 0x1 (most recent call first):".to_owned());
                harness.send(Event::StacksDumped { worker: worker(1, 5), stacks })
            },
            BootFailureKind::Timeout,
        ),
        (|harness| harness.send(Event::Stop), BootFailureKind::Stopped),
    ];
    for (fail, kind) in failures {
        let (mut harness, _) = reloading(3, policy(3));
        harness.boot(worker(0, 4));
        let actions = fail(&mut harness);
        assert_eq!(reload_outcomes(&actions), [(2, Some(kind))], "{actions:?}");
        assert_eq!((admits(&actions), retires(&actions)), (vec![], vec![]), "{actions:?}");
        let is_stop = kind == BootFailureKind::Stopped;
        assert_eq!(actions.contains(&Action::NotifyReady), !is_stop, "{actions:?}");
        let is_old = |id: &&WorkerId| id.incarnation.0 <= 3;
        assert_eq!(kills(&actions).iter().chain(&terminations(&actions)).find(is_old), None);
        let snapshot = harness.supervisor.snapshot();
        assert_eq!((snapshot.ready, snapshot.pending), (3, None), "{kind:?}");
    }
}

#[test]
fn failed_reload_ends_standby_and_booting_workers() {
    let (mut harness, _) = reloading(3, policy(3));
    harness.boot(worker(0, 4));
    harness.spawned(worker(1, 5));
    let actions = harness.fail_boot(worker(2, 6));
    assert_eq!(terminations(&actions), [worker(0, 4)]);
    assert_eq!(kills(&actions), [worker(1, 5)]);
    for id in [worker(0, 4), worker(1, 5), worker(2, 6)] {
        harness.exit(id);
    }
    assert_eq!(harness.supervisor.snapshot().workers.len(), 3);
}

#[test]
fn canary_must_answer_the_probe() {
    let probed = SupervisorPolicy { probe: true, ..policy(2) };
    let (mut harness, _) = reloading(2, probed.clone());
    let ready = harness.boot(worker(0, 3));
    assert!(ready.contains(&Action::Probe { worker: worker(0, 3) }), "{ready:?}");
    assert_eq!(spawns(&ready), [], "no other worker boots before the answer");
    assert_eq!(
        spawns(&harness.send(Event::Probed { worker: worker(0, 3), outcome: Ok(()) })),
        [worker(1, 4)]
    );
    assert_eq!(reload_outcomes(&harness.boot(worker(1, 4))), [(2, None)]);

    let (mut harness, _) = reloading(2, probed.clone());
    harness.boot(worker(0, 3));
    let why = "reload.probe: /healthz was answered with status 500".to_owned();
    let failed = harness.send(Event::Probed { worker: worker(0, 3), outcome: Err(why.clone()) });
    assert_eq!(reload_outcomes(&failed), [(2, Some(BootFailureKind::Probe))]);
    assert_eq!(terminations(&failed), [worker(0, 3)]);
    assert_eq!(
        status(&failed),
        Some(format!("2/2 workers ready; reload failed: {why} (generation 1 keeps serving)").as_str())
    );
    assert_eq!(harness.send(Event::Probed { worker: worker(0, 3), outcome: Ok(()) }), [], "too late");

    let (mut harness, _) = reloading(2, probed);
    harness.boot(worker(0, 3));
    let late = harness.advance(60 * SECOND).tick();
    assert_eq!(
        reload_outcomes(&late),
        [(2, Some(BootFailureKind::Probe))],
        "a missing answer is a failure: {late:?}"
    );
}

#[test]
fn boots_at_once_limits_the_boots_of_a_reload() {
    let two = NonZeroU16::new(2).expect("two");
    let (mut harness, _) = reloading(5, SupervisorPolicy { boots_at_once: two, ..policy(5) });
    assert_eq!(spawns(&harness.boot(worker(0, 6))), [worker(1, 7), worker(2, 8)]);
    assert_eq!(spawns(&harness.boot(worker(1, 7))), [worker(3, 9)]);
    assert_eq!(spawns(&harness.boot(worker(3, 9))), [worker(4, 10)]);
    assert_eq!(reload_outcomes(&harness.boot(worker(2, 8))), []);
    assert_eq!(reload_outcomes(&harness.boot(worker(4, 10))), [(2, None)]);
}

#[test]
fn later_reload_supersedes_the_one_in_progress() {
    let (mut harness, _) = reloading(2, policy(2));
    harness.boot(worker(0, 3));
    harness.spawned(worker(1, 4));
    let actions = harness.send(Event::Reload { policy: policy(2) });
    assert_eq!(reload_outcomes(&actions), [(2, Some(BootFailureKind::Superseded))]);
    assert_eq!((terminations(&actions), kills(&actions)), (vec![worker(0, 3)], vec![worker(1, 4)]));
    assert_eq!(spawns(&actions), [worker(0, 5)]);
    assert!(actions.contains(&Action::NotifyReloading) && !actions.contains(&Action::NotifyReady));
    assert!(!harness.status().contains("failed"), "{}", harness.status());
    harness.boot(worker(0, 5));
    let done = harness.boot(worker(1, 6));
    assert_eq!(reload_outcomes(&done), [(3, None)]);
    assert_eq!(done.iter().filter(|action| **action == Action::NotifyReady).count(), 1);
    assert_eq!(harness.supervisor.next_generation(), Generation(4));
}

#[test]
fn repeated_reloads_stay_within_the_process_limit() {
    let mut harness = Harness::ready(2);
    for _ in 0..20 {
        // The workers of earlier reloads have not exited yet.
        let actions = harness.send(Event::Reload { policy: policy(2) });
        for id in spawns(&actions) {
            harness.boot(id);
        }
        assert!(harness.supervisor.snapshot().workers.len() <= 6, "three times two");
    }
    assert_eq!(harness.supervisor.snapshot().pending, Some(Generation(21)));
    let mut done = Vec::new();
    for _ in 0..10 {
        let workers = harness.supervisor.snapshot().workers;
        let leaving = workers.iter().filter(|worker| worker.state != WorkerState::Ready);
        let mut booting: Vec<WorkerId> =
            leaving.flat_map(|worker| spawns(&harness.exit(worker.worker))).collect();
        while let Some(id) = booting.pop() {
            let actions = harness.boot(id);
            booting.extend(spawns(&actions));
            done.extend(reload_outcomes(&actions));
        }
    }
    assert_eq!(done, [(21, None)], "the last reload completes once there is room");
}

#[test]
fn reload_before_first_ready_replaces_the_failing_code() {
    let mut harness = Harness::with(SupervisorPolicy { exit_on_first_boot_failure: false, ..policy(3) });
    harness.send(Event::Started);
    harness.fail_boot(worker(0, 1));
    harness.advance(100 * MS).tick();
    harness.spawned(worker(0, 2));
    let actions = harness.send(Event::Reload { policy: policy(2) });
    assert!(actions.contains(&Action::GoLive { generation: Generation(2) }), "{actions:?}");
    assert!(!actions.contains(&Action::NotifyReloading), "READY=1 has not been sent yet: {actions:?}");
    assert_eq!(kills(&actions), [worker(0, 2)], "it boots the wrong code");
    assert_eq!(actions.iter().filter(|a| **a == spawn_of(2, 0, 3)).count(), 1, "{actions:?}");
    let recovered = harness.boot(worker(0, 3));
    assert_eq!(admits(&recovered), [worker(0, 3)]);
    assert_eq!(reload_outcomes(&recovered), [(2, None)]);
    assert!(recovered.contains(&Action::NotifyReady) && recovered.contains(&Action::Unavailable(None)));
    assert_eq!(spawns(&recovered).len(), 1, "the new number of workers is two: {recovered:?}");
}

#[test]
fn reload_that_fails_before_first_ready_is_answered_once() {
    let policy = SupervisorPolicy { exit_on_first_boot_failure: false, ..policy(2) };
    let mut harness = Harness::with(policy.clone());
    harness.send(Event::Started);
    harness.fail_boot(worker(0, 1));
    assert_eq!(spawns(&harness.send(Event::Reload { policy })), [worker(0, 2)], "at once");
    let failed = harness.fail_boot(worker(0, 2));
    assert_eq!(reload_outcomes(&failed), [(2, Some(BootFailureKind::App))]);
    let reported = |action: &Action| {
        matches!(action, Action::Report(Report::WorkerBootFailed { already_reported: false, .. }))
    };
    assert!(failed.iter().any(reported), "the traceback is reported for the new code: {failed:?}");
    harness.advance(100 * MS).tick();
    let recovered = harness.boot(worker(0, 3));
    assert_eq!(reload_outcomes(&recovered), [], "one answer for each reload");
    assert!(recovered.contains(&Action::NotifyReady));
}

#[test]
fn reload_during_start_keeps_booting_workers() {
    let mut harness = Harness::new(3);
    harness.send(Event::Started);
    harness.boot(worker(0, 1));
    harness.spawned(worker(1, 2));
    let actions = harness.send(Event::Reload { policy: policy(3) });
    assert!(actions.contains(&Action::NotifyReloading));
    assert_eq!(kills(&actions), [], "booting workers of the live generation are kept");
    harness.boot(worker(0, 4));
    assert_eq!(admits(&harness.send(Event::Ready { worker: worker(1, 2) })), [worker(1, 2)]);
    harness.boot(worker(1, 5));
    let done = harness.boot(worker(2, 6));
    assert_eq!(retires(&done), [worker(0, 1), worker(1, 2)]);
    assert_eq!(harness.spawned(worker(2, 3)), [kill(worker(2, 3))], "it was still being created");
}

#[test]
fn first_ready_worker_goes_live_if_no_old_one_is_ready() {
    let (mut harness, _) = reloading(3, policy(3));
    for number in 0..3 {
        harness.exit(worker(number, u64::from(number) + 1));
    }
    let ready = harness.boot(worker(0, 4));
    assert_eq!(admits(&ready), [worker(0, 4)]);
    assert_eq!(reload_outcomes(&ready), [(2, None)]);
    assert_eq!(spawns(&ready).len(), 2, "the other workers follow: {ready:?}");
}

#[test]
fn reload_can_raise_and_lower_the_number_of_workers() {
    for (from, to) in [(2, 4), (4, 2), (1, 5), (5, 1)] {
        let (mut harness, mut actions) = reloading(from, policy(to));
        let mut all = Vec::new();
        while let Some(id) = spawns(&actions).first().copied() {
            let rest: Vec<WorkerId> = spawns(&actions).into_iter().skip(1).collect();
            actions = harness.boot(id);
            all.extend(actions.clone());
            for id in rest {
                let more = harness.boot(id);
                all.extend(more.clone());
                actions.extend(more);
            }
        }
        assert_eq!(reload_outcomes(&all), [(2, None)], "{from} to {to}: {all:?}");
        assert_eq!((admits(&all).len(), retires(&all).len()), (usize::from(to), usize::from(from)));
        for id in retires(&all) {
            harness.drain_and_exit(id);
        }
        let snapshot = harness.supervisor.snapshot();
        assert_eq!((snapshot.ready, snapshot.workers.len()), (usize::from(to), usize::from(to)));
        assert_eq!(snapshot.status, format!("{to}/{to} workers ready"));
    }
}

#[test]
fn worker_that_dies_during_a_reload_gets_old_code() {
    let (mut harness, _) = reloading(2, policy(2));
    let actions = harness.exit(worker(1, 2));
    assert!(actions.contains(&spawn_of(1, 1, 4)), "{actions:?}");
}

#[test]
fn stuck_worker_is_killed_and_overdue_one_may_clean_up() {
    let (mut harness, _) = reloading(1, policy(1));
    let stuck = worker(0, 1);
    assert_eq!(retires(&harness.boot(worker(0, 2))), [stuck]);
    assert_eq!(harness.send(Event::DeadlineExceeded { worker: stuck }), []);
    assert_eq!(
        kills(&harness.send(Event::Drained { worker: stuck })),
        [stuck],
        "a stuck worker is not asked to exit"
    );

    let (mut harness, _) = reloading(1, policy(1));
    harness.boot(worker(0, 2));
    let overdue = worker(0, 1);
    let late = harness.advance(30 * SECOND).tick();
    assert_eq!((terminations(&late), kills(&late)), (vec![overdue], vec![]));
    assert_eq!(kills(&harness.advance(5 * SECOND).tick()), [overdue]);
}

#[test]
fn reload_while_stopping_is_refused() {
    let mut harness = Harness::ready(1);
    harness.send(Event::Stop);
    let actions = harness.send(Event::Reload { policy: policy(1) });
    assert_eq!(reload_outcomes(&actions), [(2, Some(BootFailureKind::Stopped))]);
    assert_eq!(spawns(&actions), []);
}

#[test]
fn stop_now_during_a_reload_kills_both_generations() {
    let (mut harness, _) = reloading(1, policy(1));
    harness.spawned(worker(0, 2));
    let actions = harness.send(Event::StopNow);
    assert_eq!(reload_outcomes(&actions), [(2, Some(BootFailureKind::Stopped))]);
    assert!(!actions.contains(&Action::NotifyReady), "{actions:?}");
    assert_eq!(kills(&actions).len(), 2);
    harness.exit(worker(0, 2));
    assert_eq!(harness.exit(worker(0, 1)).last(), Some(&Action::Exit { status: 0, reason: None }));
}

#[test]
fn reload_extends_the_systemd_timeout() {
    let (mut harness, _) = reloading(1, SupervisorPolicy { boot: None, ..policy(1) });
    harness.spawned(worker(0, 2));
    for _ in 0..10 {
        assert_eq!(harness.advance(15 * SECOND).tick(), [Action::ExtendTimeout(30 * SECOND)]);
    }
    harness.send(Event::Ready { worker: worker(0, 2) });
    harness.drain_and_exit(worker(0, 1));
    assert_eq!(harness.wakeup(), None);
}
