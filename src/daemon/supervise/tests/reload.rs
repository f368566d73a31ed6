//! Generations: the new one comes up beside the old one, and takes over whole or not at all.

use super::*;

/// `count` workers of generation 1 serve, lives 1 to `count`; a reload to `policy` has begun.
fn reloading(count: u16, policy: SupervisorPolicy) -> (Table, Vec<Action>) {
    let mut table = Table::ready(count);
    table.after(20 * SECOND);
    let actions = table.tell(Event::Reload { policy });
    (table, actions)
}

#[test]
fn a_good_reload_boots_a_canary_then_the_rest_and_changes_over_in_one_step() {
    let (mut table, began) = reloading(3, policy(3));
    assert_eq!(
        began,
        [
            Action::Report(Report::ReloadStarted { generation: Generation(2) }),
            Action::NotifyReloading,
            spawn_of(2, 0, 4),
            Action::ExtendTimeout(30 * SECOND),
            Action::Status("3/3 workers ready; reloading: 0/3 of generation 2 ready".to_owned()),
        ]
    );
    assert_eq!(table.spawned(worker(0, 4)), []);
    let canary = table.after(SECOND).tell(Event::Ready { worker: worker(0, 4) });
    assert_eq!(
        canary,
        [
            Action::Report(Report::WorkerReady { worker: worker(0, 4), took: SECOND }),
            spawn_of(2, 1, 5),
            spawn_of(2, 2, 6),
            Action::Status("3/3 workers ready; reloading: 1/3 of generation 2 ready".to_owned()),
        ]
    );
    let second = table.boots(worker(1, 5));
    assert_eq!(admits(&second), [], "nothing moves before all are ready");
    table.spawned(worker(2, 6));
    let changed = table.after(SECOND).tell(Event::Ready { worker: worker(2, 6) });
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
        table.leaves(id);
    }
    assert_eq!(table.status(), "3/3 workers ready");
    assert_eq!(table.supervisor.snapshot().generation, Generation(2));
    assert_eq!(table.wakeup(), None, "a healthy daemon sleeps");
}

#[test]
fn a_canary_that_cannot_boot_leaves_the_old_generation_untouched() {
    let (mut table, _) = reloading(2, policy(2));
    let failed = table.fails(worker(0, 3));
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
            Action::Report(Report::ReloadFailed { generation: Generation(2), failure: import_error() }),
            Action::Status(
                "2/2 workers ready; reload failed: ImportError (x.py, line 1) (generation 1 serves on)"
                    .to_owned()
            ),
        ]
    );
    table.exits(worker(0, 3));
    assert_eq!(table.supervisor.snapshot().workers.len(), 2);
    assert_eq!(table.wakeup(), None, "a failed reload is not tried again by itself");
    let again = table.tell(Event::Reload { policy: policy(2) });
    assert!(!status(&again).expect("a change").contains("failed"), "until the next reload: {again:?}");
}

#[test]
fn any_failure_before_the_change_over_undoes_the_reload_only() {
    type Way = fn(&mut Table) -> Vec<Action>;
    let ways: [(Way, BootFailureKind); 6] = [
        (|table| table.fails(worker(1, 5)), BootFailureKind::App),
        (|table| table.exits(worker(0, 4)), BootFailureKind::Died),
        (
            |table| table.tell(Event::Misbehaved { worker: worker(0, 4), reason: "garbage".to_owned() }),
            BootFailureKind::Misbehaved,
        ),
        (
            |table| {
                let reason = "fork: Resource temporarily unavailable".to_owned();
                table.tell(Event::SpawnFailed { worker: worker(1, 5), fault: SpawnFault::System, reason })
            },
            BootFailureKind::System,
        ),
        (
            |table| {
                table.spawned(worker(1, 5));
                table.spawned(worker(2, 6));
                table.after(60 * SECOND).tick();
                let stacks = Some("Thread 0x1 (most recent call first):".to_owned());
                table.tell(Event::StacksDumped { worker: worker(1, 5), stacks })
            },
            BootFailureKind::Timeout,
        ),
        (|table| table.tell(Event::Stop), BootFailureKind::Stopped),
    ];
    for (way, kind) in ways {
        let (mut table, _) = reloading(3, policy(3));
        table.boots(worker(0, 4));
        let actions = way(&mut table);
        assert_eq!(verdicts(&actions), [(2, Some(kind))], "{actions:?}");
        assert_eq!((admits(&actions), retires(&actions)), (vec![], vec![]), "{actions:?}");
        let is_stop = kind == BootFailureKind::Stopped;
        assert_eq!(actions.contains(&Action::NotifyReady), !is_stop, "{actions:?}");
        let is_old = |id: &&WorkerId| id.life.0 <= 3;
        assert_eq!(kills(&actions).iter().chain(&terminations(&actions)).find(is_old), None);
        let snapshot = table.supervisor.snapshot();
        assert_eq!((snapshot.ready, snapshot.pending), (3, None), "{kind:?}");
    }
}

#[test]
fn who_stood_by_for_a_failed_reload_is_asked_to_leave_and_who_booted_is_killed() {
    let (mut table, _) = reloading(3, policy(3));
    table.boots(worker(0, 4));
    table.spawned(worker(1, 5));
    let actions = table.fails(worker(2, 6));
    assert_eq!(terminations(&actions), [worker(0, 4)]);
    assert_eq!(kills(&actions), [worker(1, 5)]);
    for life in [worker(0, 4), worker(1, 5), worker(2, 6)] {
        table.exits(life);
    }
    assert_eq!(table.supervisor.snapshot().workers.len(), 3);
}

#[test]
fn the_canary_is_probed_before_it_is_believed() {
    let probed = SupervisorPolicy { probe: true, ..policy(2) };
    let (mut table, _) = reloading(2, probed.clone());
    let ready = table.boots(worker(0, 3));
    assert!(ready.contains(&Action::Probe { worker: worker(0, 3) }), "{ready:?}");
    assert_eq!(spawns(&ready), [], "nothing else boots before the answer");
    assert_eq!(spawns(&table.tell(Event::Probed { worker: worker(0, 3), outcome: Ok(()) })), [worker(1, 4)]);
    assert_eq!(verdicts(&table.boots(worker(1, 4))), [(2, None)]);

    let (mut table, _) = reloading(2, probed.clone());
    table.boots(worker(0, 3));
    let why = "reload.probe: /healthz was answered with status 500".to_owned();
    let failed = table.tell(Event::Probed { worker: worker(0, 3), outcome: Err(why.clone()) });
    assert_eq!(verdicts(&failed), [(2, Some(BootFailureKind::Probe))]);
    assert_eq!(terminations(&failed), [worker(0, 3)]);
    assert_eq!(
        status(&failed),
        Some(format!("2/2 workers ready; reload failed: {why} (generation 1 serves on)").as_str())
    );
    assert_eq!(table.tell(Event::Probed { worker: worker(0, 3), outcome: Ok(()) }), [], "too late");

    let (mut table, _) = reloading(2, probed);
    table.boots(worker(0, 3));
    let late = table.after(60 * SECOND).tick();
    assert_eq!(verdicts(&late), [(2, Some(BootFailureKind::Probe))], "no answer is one too: {late:?}");
}

#[test]
fn the_rest_boots_as_many_at_a_time_as_the_policy_allows() {
    let two = NonZeroU16::new(2).expect("two");
    let (mut table, _) = reloading(5, SupervisorPolicy { boots_at_once: two, ..policy(5) });
    assert_eq!(spawns(&table.boots(worker(0, 6))), [worker(1, 7), worker(2, 8)]);
    assert_eq!(spawns(&table.boots(worker(1, 7))), [worker(3, 9)]);
    assert_eq!(spawns(&table.boots(worker(3, 9))), [worker(4, 10)]);
    assert_eq!(verdicts(&table.boots(worker(2, 8))), []);
    assert_eq!(verdicts(&table.boots(worker(4, 10))), [(2, None)]);
}

#[test]
fn a_later_reload_supersedes_the_one_under_way() {
    let (mut table, _) = reloading(2, policy(2));
    table.boots(worker(0, 3));
    table.spawned(worker(1, 4));
    let actions = table.tell(Event::Reload { policy: policy(2) });
    assert_eq!(verdicts(&actions), [(2, Some(BootFailureKind::Superseded))]);
    assert_eq!((terminations(&actions), kills(&actions)), (vec![worker(0, 3)], vec![worker(1, 4)]));
    assert_eq!(spawns(&actions), [worker(0, 5)]);
    assert!(actions.contains(&Action::NotifyReloading) && !actions.contains(&Action::NotifyReady));
    assert!(!table.status().contains("failed"), "{}", table.status());
    table.boots(worker(0, 5));
    let done = table.boots(worker(1, 6));
    assert_eq!(verdicts(&done), [(3, None)]);
    assert_eq!(done.iter().filter(|action| **action == Action::NotifyReady).count(), 1);
    assert_eq!(table.supervisor.next_generation(), Generation(4));
}

#[test]
fn a_reload_that_is_overtaken_many_times_keeps_to_the_number_of_processes() {
    let mut table = Table::ready(2);
    for _ in 0..20 {
        // Those of the reloads before are slow to go.
        let actions = table.tell(Event::Reload { policy: policy(2) });
        for id in spawns(&actions) {
            table.boots(id);
        }
        assert!(table.supervisor.snapshot().workers.len() <= 6, "three times two");
    }
    assert_eq!(table.supervisor.snapshot().pending, Some(Generation(21)));
    let mut done = Vec::new();
    for _ in 0..10 {
        let workers = table.supervisor.snapshot().workers;
        let leaving = workers.iter().filter(|worker| worker.state != WorkerState::Ready);
        let mut booting: Vec<WorkerId> =
            leaving.flat_map(|worker| spawns(&table.exits(worker.worker))).collect();
        while let Some(id) = booting.pop() {
            let actions = table.boots(id);
            booting.extend(spawns(&actions));
            done.extend(verdicts(&actions));
        }
    }
    assert_eq!(done, [(21, None)], "the last one takes over when there is room");
}

#[test]
fn a_reload_before_anybody_was_ever_ready_replaces_what_boots_and_heals() {
    let mut table = Table::with(SupervisorPolicy { exit_on_first_boot_failure: false, ..policy(3) });
    table.tell(Event::Started);
    table.fails(worker(0, 1));
    table.after(100 * MS).tick();
    table.spawned(worker(0, 2));
    let actions = table.tell(Event::Reload { policy: policy(2) });
    assert!(actions.contains(&Action::GoLive { generation: Generation(2) }), "{actions:?}");
    assert!(!actions.contains(&Action::NotifyReloading), "it is not ready yet: {actions:?}");
    assert_eq!(kills(&actions), [worker(0, 2)], "it boots the wrong code");
    assert_eq!(actions.iter().filter(|a| **a == spawn_of(2, 0, 3)).count(), 1, "{actions:?}");
    let healed = table.boots(worker(0, 3));
    assert_eq!(admits(&healed), [worker(0, 3)]);
    assert_eq!(verdicts(&healed), [(2, None)]);
    assert!(healed.contains(&Action::NotifyReady) && healed.contains(&Action::Unavailable(None)));
    assert_eq!(spawns(&healed).len(), 1, "the new number of workers is two: {healed:?}");
}

#[test]
fn a_reload_before_anybody_was_ever_ready_that_fails_too_says_so_and_is_tried_again() {
    let stubborn = SupervisorPolicy { exit_on_first_boot_failure: false, ..policy(2) };
    let mut table = Table::with(stubborn.clone());
    table.tell(Event::Started);
    table.fails(worker(0, 1));
    assert_eq!(spawns(&table.tell(Event::Reload { policy: stubborn })), [worker(0, 2)], "at once");
    let failed = table.fails(worker(0, 2));
    assert_eq!(verdicts(&failed), [(2, Some(BootFailureKind::App))]);
    let reported = |action: &Action| {
        matches!(action, Action::Report(Report::WorkerBootFailed { already_reported: false, .. }))
    };
    assert!(failed.iter().any(reported), "whoever reloads wants to see the traceback: {failed:?}");
    table.after(100 * MS).tick();
    let healed = table.boots(worker(0, 3));
    assert_eq!(verdicts(&healed), [], "one verdict for one reload");
    assert!(healed.contains(&Action::NotifyReady));
}

#[test]
fn a_reload_while_the_rest_boots_is_a_reload_beside_it() {
    let mut table = Table::new(3);
    table.tell(Event::Started);
    table.boots(worker(0, 1));
    table.spawned(worker(1, 2));
    let actions = table.tell(Event::Reload { policy: policy(3) });
    assert!(actions.contains(&Action::NotifyReloading));
    assert_eq!(kills(&actions), [], "it may yet be needed");
    table.boots(worker(0, 4));
    assert_eq!(admits(&table.tell(Event::Ready { worker: worker(1, 2) })), [worker(1, 2)]);
    table.boots(worker(1, 5));
    let done = table.boots(worker(2, 6));
    assert_eq!(retires(&done), [worker(0, 1), worker(1, 2)]);
    assert_eq!(table.spawned(worker(2, 3)), [kill(worker(2, 3))], "it was still being made");
}

#[test]
fn a_new_generation_that_is_ready_takes_over_at_once_when_nobody_serves() {
    let (mut table, _) = reloading(3, policy(3));
    for number in 0..3 {
        table.exits(worker(number, u64::from(number) + 1));
    }
    let ready = table.boots(worker(0, 4));
    assert_eq!(admits(&ready), [worker(0, 4)]);
    assert_eq!(verdicts(&ready), [(2, None)]);
    assert_eq!(spawns(&ready).len(), 2, "the rest follows: {ready:?}");
}

#[test]
fn a_reload_changes_the_number_of_workers_both_ways() {
    for (from, to) in [(2, 4), (4, 2), (1, 5), (5, 1)] {
        let (mut table, mut actions) = reloading(from, policy(to));
        let mut all = Vec::new();
        while let Some(id) = spawns(&actions).first().copied() {
            let rest: Vec<WorkerId> = spawns(&actions).into_iter().skip(1).collect();
            actions = table.boots(id);
            all.extend(actions.clone());
            for id in rest {
                let more = table.boots(id);
                all.extend(more.clone());
                actions.extend(more);
            }
        }
        assert_eq!(verdicts(&all), [(2, None)], "{from} to {to}: {all:?}");
        assert_eq!((admits(&all).len(), retires(&all).len()), (usize::from(to), usize::from(from)));
        for id in retires(&all) {
            table.leaves(id);
        }
        let snapshot = table.supervisor.snapshot();
        assert_eq!((snapshot.ready, snapshot.workers.len()), (usize::from(to), usize::from(to)));
        assert_eq!(snapshot.status, format!("{to}/{to} workers ready"));
    }
}

#[test]
fn a_worker_that_dies_during_a_reload_is_replaced_by_its_own_generation() {
    let (mut table, _) = reloading(2, policy(2));
    let actions = table.exits(worker(1, 2));
    assert!(actions.contains(&spawn_of(1, 1, 4)), "{actions:?}");
}

#[test]
fn an_old_worker_that_is_stuck_or_does_not_drain_is_killed() {
    let (mut table, _) = reloading(1, policy(1));
    let stuck = worker(0, 1);
    assert_eq!(retires(&table.boots(worker(0, 2))), [stuck]);
    assert_eq!(table.tell(Event::DeadlineExceeded { worker: stuck }), []);
    assert_eq!(
        kills(&table.tell(Event::Drained { worker: stuck })),
        [stuck],
        "it would not hear the question"
    );

    let (mut table, _) = reloading(1, policy(1));
    table.boots(worker(0, 2));
    let late = table.after(30 * SECOND).tick();
    assert_eq!(kills(&late), [stuck]);
}

#[test]
fn a_reload_when_the_daemon_stops_is_refused() {
    let mut table = Table::ready(1);
    table.tell(Event::Stop);
    let actions = table.tell(Event::Reload { policy: policy(1) });
    assert_eq!(verdicts(&actions), [(2, Some(BootFailureKind::Stopped))]);
    assert_eq!(spawns(&actions), []);
}

#[test]
fn a_hasty_stop_during_a_reload_leaves_nobody() {
    let (mut table, _) = reloading(1, policy(1));
    table.spawned(worker(0, 2));
    let actions = table.tell(Event::StopNow);
    assert_eq!(verdicts(&actions), [(2, Some(BootFailureKind::Stopped))]);
    assert!(!actions.contains(&Action::NotifyReady), "{actions:?}");
    assert_eq!(kills(&actions).len(), 2);
    table.exits(worker(0, 2));
    assert_eq!(table.exits(worker(0, 1)).last(), Some(&Action::Exit { status: 0, reason: None }));
}

#[test]
fn systemd_is_asked_for_time_while_a_reload_takes_its_own() {
    let (mut table, _) = reloading(1, SupervisorPolicy { boot: None, ..policy(1) });
    table.spawned(worker(0, 2));
    for _ in 0..10 {
        assert_eq!(table.after(15 * SECOND).tick(), [Action::ExtendTimeout(30 * SECOND)]);
    }
    table.tell(Event::Ready { worker: worker(0, 2) });
    table.leaves(worker(0, 1));
    assert_eq!(table.wakeup(), None);
}
