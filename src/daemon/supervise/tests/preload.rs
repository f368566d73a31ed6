//! Workers that are forked from a zygote, and the worker that becomes one.

use super::*;

const MANY: RecycleReason = RecycleReason::Requests { served: 1000 };

fn preloading(count: u16) -> SupervisorPolicy {
    SupervisorPolicy { preload: true, ..policy(count) }
}

fn zygote(life: u64) -> WorkerId {
    WorkerId { number: WorkerNr::ZYGOTE, life: Life(life) }
}

fn exec_zygote(generation: u64, life: u64) -> Action {
    let generation = Generation(generation);
    Action::Spawn { worker: zygote(life), generation, method: SpawnMethod::ExecZygote }
}

fn fork(generation: u64, number: u16, life: u64, from: WorkerId) -> Action {
    let generation = Generation(generation);
    Action::Spawn { worker: worker(number, life), generation, method: SpawnMethod::Fork(from) }
}

/// Life 1 is the zygote, lives 2 to `count` + 1 serve.
fn preloaded(count: u16) -> Table {
    let mut table = Table::with(preloading(count));
    table.tell(Event::Started);
    table.boots(zygote(1));
    for number in 0..count {
        table.boots(worker(number, u64::from(number) + 2));
    }
    assert_eq!(table.status(), format!("{count}/{count} workers ready"));
    table
}

#[test]
fn the_zygote_boots_first_and_the_workers_are_forked_from_it() {
    let mut table = Table::with(preloading(3));
    let started = table.tell(Event::Started);
    assert_eq!(started[0], exec_zygote(1, 1));
    assert_eq!(spawns(&started), [zygote(1)]);
    table.spawned(zygote(1));
    let ready = table.after(SECOND).tell(Event::Ready { worker: zygote(1) });
    assert_eq!(
        ready,
        [Action::Report(Report::ZygoteReady { worker: zygote(1), took: SECOND }), fork(1, 0, 2, zygote(1)),]
    );
    let canary = table.boots(worker(0, 2));
    assert!(canary.contains(&Action::NotifyReady), "{canary:?}");
    assert_eq!(spawns(&canary), [worker(1, 3), worker(2, 4)]);
}

#[test]
fn a_zygote_that_cannot_boot_is_a_boot_failure_of_the_application() {
    let mut table = Table::with(preloading(2));
    table.tell(Event::Started);
    let failed = table.fails(zygote(1));
    assert!(failed.contains(&Action::NotifyStopping), "{failed:?}");
    assert_eq!(table.tell(Event::EdgeDrained), []);
    let gone = table.exits(zygote(1));
    assert!(matches!(gone.last(), Some(Action::Exit { status: 78, .. })), "{gone:?}");

    let mut table = Table::with(SupervisorPolicy { exit_on_first_boot_failure: false, ..preloading(2) });
    table.tell(Event::Started);
    let failed = table.fails(zygote(1));
    assert!(failed.iter().any(|action| matches!(action, Action::Unavailable(Some(_)))));
    assert_eq!(
        status(&failed),
        Some("0/2 workers ready, no zygote: ImportError (x.py, line 1) (retry in 100 ms)")
    );
    assert_eq!(spawns(&table.after(100 * MS).tick()), [zygote(2)]);
    assert_eq!(spawns(&table.boots(zygote(2))), [worker(0, 3)], "at once");
    assert!(table.boots(worker(0, 3)).contains(&Action::Unavailable(None)));
}

#[test]
fn workers_live_on_when_the_zygote_dies_and_another_one_boots() {
    let mut table = preloaded(2);
    let actions = table.after(20 * SECOND).exits(zygote(1));
    assert_eq!((kills(&actions), retires(&actions)), (vec![], vec![]));
    assert_eq!(spawns(&actions), [zygote(4)]);
    assert_eq!(status(&actions), Some("2/2 workers ready, no zygote"));
    let dead = table.exits(worker(0, 2));
    assert_eq!(spawns(&dead), [], "its seat waits for the zygote");
    let ready = table.boots(zygote(4));
    assert!(ready.contains(&fork(1, 0, 5, zygote(4))), "{ready:?}");
}

#[test]
fn a_zygote_that_does_not_answer_is_replaced_and_the_fork_comes_from_the_next() {
    let mut table = preloaded(1);
    assert_eq!(spawns(&table.after(20 * SECOND).exits(worker(0, 2))), [worker(0, 3)]);
    let why = "did not answer when it was asked to fork a worker".to_owned();
    let hangs = table.after(10 * SECOND).tell(Event::Misbehaved { worker: zygote(1), reason: why });
    assert_eq!(hangs[0], kill(zygote(1)));
    assert_eq!(spawns(&hangs), [zygote(4)], "at once, beside the one that is being killed");
    let reason = "it did not answer".to_owned();
    let failed = table.tell(Event::SpawnFailed { worker: worker(0, 3), fault: SpawnFault::System, reason });
    assert_eq!(spawns(&failed), [], "nobody can be asked");
    table.exits(zygote(1));
    assert!(table.boots(zygote(4)).contains(&fork(1, 0, 5, zygote(4))));
}

#[test]
fn a_fork_under_way_when_the_zygote_dies_has_failed() {
    let mut table = preloaded(2);
    table.after(20 * SECOND).exits(worker(1, 3));
    let died = table.exits(zygote(1));
    let failed = died.iter().find_map(|action| match action {
        Action::Report(Report::WorkerBootFailed { worker, failure, .. }) => Some((*worker, failure.kind)),
        _ => None,
    });
    assert_eq!(failed, Some((worker(1, 4), BootFailureKind::System)));
    assert_eq!(spawns(&died), [zygote(5)]);
    assert_eq!(table.spawned(worker(1, 4)), [], "nobody knows it any more");

    let mut table = preloaded(1);
    table.after(20 * SECOND).exits(worker(0, 2));
    table.tell(Event::StopNow);
    let gone = table.exits(zygote(1));
    assert_eq!(gone.last(), Some(&Action::Exit { status: 0, reason: None }), "nobody waits for the fork");
}

#[test]
fn a_zygote_that_dies_again_and_again_boots_with_backoff() {
    let mut table = preloaded(1);
    let mut id = spawns(&table.exits(zygote(1)))[0];
    table.boots(id);
    for wait in [100, 200, 400] {
        table.exits(id);
        assert_eq!(table.wakeup(), Some(wait * MS));
        id = spawns(&table.after(wait * MS).tick())[0];
        table.boots(id);
    }
    assert_eq!(table.supervisor.snapshot().ready, 1);
}

#[test]
fn a_reload_makes_a_new_zygote_and_ends_the_old_one() {
    let mut table = preloaded(2);
    let begun = table.tell(Event::Reload { policy: preloading(2) });
    assert!(begun.contains(&exec_zygote(2, 4)), "{begun:?}");
    assert_eq!(spawns(&begun), [zygote(4)]);
    assert_eq!(table.boots(zygote(4))[1], fork(2, 0, 5, zygote(4)));
    assert_eq!(spawns(&table.boots(worker(0, 5))), [worker(1, 6)]);
    let done = table.boots(worker(1, 6));
    assert_eq!(verdicts(&done), [(2, None)]);
    assert_eq!(retires(&done), [worker(0, 2), worker(1, 3)]);
    assert_eq!(terminations(&done), [zygote(1)]);
}

#[test]
fn a_new_zygote_that_fails_or_dies_fails_the_reload() {
    let mut table = preloaded(1);
    table.tell(Event::Reload { policy: preloading(1) });
    let failed = table.fails(zygote(3));
    assert_eq!(verdicts(&failed), [(2, Some(BootFailureKind::App))]);
    assert_eq!(table.exits(zygote(3)).len(), 1);

    table.tell(Event::Reload { policy: preloading(1) });
    table.boots(zygote(4));
    let died = table.exits(zygote(4));
    assert_eq!(verdicts(&died), [(3, Some(BootFailureKind::Died))]);
    assert_eq!(table.supervisor.snapshot().workers.len(), 2, "the fork under way is forgotten");
}

#[test]
fn preload_comes_and_goes_with_a_reload() {
    let mut table = preloaded(1);
    table.tell(Event::Reload { policy: policy(1) });
    let done = table.boots(worker(0, 3));
    assert_eq!((verdicts(&done), terminations(&done)), (vec![(2, None)], vec![zygote(1)]));
    table.exits(zygote(1));
    table.leaves(worker(0, 2));
    table.tell(Event::Reload { policy: preloading(1) });
    table.boots(zygote(4));
    assert_eq!(verdicts(&table.boots(worker(0, 5))), [(3, None)]);
}

#[test]
fn the_old_zygote_is_at_hand_while_the_new_generation_is_watched() {
    let mut table = preloaded(1);
    table.tell(Event::Reload { policy: SupervisorPolicy { watch: Some(30 * SECOND), ..preloading(1) } });
    table.boots(zygote(3));
    assert_eq!(terminations(&table.boots(worker(0, 4))), []);
    let over = table.after(30 * SECOND).tick();
    assert_eq!(terminations(&over), [zygote(1)]);
}

#[test]
fn a_sleeping_crew_keeps_its_zygote() {
    let mut table = Table::with(SupervisorPolicy { idle_exit: Some(60 * SECOND), ..preloading(1) });
    table.tell(Event::Started);
    table.boots(zygote(1));
    table.boots(worker(0, 2));
    let asleep = table.tell(Event::Load(LoadSample { idle_for: 60 * SECOND, ..LoadSample::default() }));
    assert_eq!((retires(&asleep), terminations(&asleep)), (vec![worker(0, 2)], vec![]));
    table.leaves(worker(0, 2));
    assert!(table.tell(Event::WorkerRequested).contains(&fork(1, 0, 3, zygote(1))));
}

#[test]
fn a_worker_that_has_served_enough_becomes_the_zygote() {
    let mut table = preloaded(2);
    table.after(20 * SECOND);
    let candidate = worker(0, 2);
    let worn = table.tell(Event::RecycleDue { worker: candidate, reason: RecycleReason::Refork });
    assert_eq!(spawns(&worn), [worker(0, 4)]);
    assert_eq!(
        table.tell(Event::RecycleDue { worker: worker(1, 3), reason: RecycleReason::Refork }),
        [],
        "one is enough"
    );
    assert_eq!(retires(&table.boots(worker(0, 4))), [candidate]);
    assert_eq!(table.tell(Event::Drained { worker: candidate })[0], Action::Promote { worker: candidate });
    let promoted = table.after(20 * MS).tell(Event::Ready { worker: candidate });
    assert_eq!(promoted[0], Action::Report(Report::ZygoteReady { worker: candidate, took: 20 * MS }));
    assert_eq!(terminations(&promoted), [zygote(1)]);
    assert!(promoted.contains(&fork(1, 0, 5, candidate)), "the others follow, one at a time: {promoted:?}");
    table.exits(zygote(1));
    assert!(table.boots(worker(0, 5)).contains(&fork(1, 1, 6, candidate)));
    table.leaves(worker(0, 4));
    assert_eq!(spawns(&table.boots(worker(1, 6))), []);
    table.leaves(worker(1, 3));
    assert_eq!(
        table.tell(Event::RecycleDue { worker: worker(0, 5), reason: RecycleReason::Refork }),
        [],
        "once"
    );
    assert_eq!(table.status(), "2/2 workers ready");
    let dead = table.after(20 * SECOND).exits(worker(1, 6));
    assert!(dead.contains(&fork(1, 1, 7, candidate)), "{dead:?}");
}

#[test]
fn a_worker_that_cannot_become_the_zygote_leaves_the_old_one_in_its_place() {
    type Way = fn(&mut Table, WorkerId) -> Vec<Action>;
    let ways: [Way; 4] = [
        |table, worker| table.exits(worker),
        |table, _| table.after(10 * SECOND).tick(),
        |table, worker| table.tell(Event::BootFailed { worker, failure: import_error() }),
        |table, worker| table.tell(Event::Misbehaved { worker, reason: "garbage".to_owned() }),
    ];
    for way in ways {
        let mut table = preloaded(1);
        let candidate = worker(0, 2);
        table.tell(Event::RecycleDue { worker: candidate, reason: RecycleReason::Refork });
        table.boots(worker(0, 3));
        table.tell(Event::Drained { worker: candidate });
        way(&mut table, candidate);
        table.exits(candidate);
        assert_eq!(table.tell(Event::RecycleDue { worker: worker(0, 3), reason: RecycleReason::Refork }), []);
        let worn = table.tell(Event::RecycleDue { worker: worker(0, 3), reason: MANY });
        assert!(worn.contains(&fork(1, 0, 4, zygote(1))), "{worn:?}");
    }
}

#[test]
fn a_candidate_that_is_lost_before_it_is_asked_leaves_the_place_to_another() {
    for stuck in [false, true] {
        let mut table = preloaded(1);
        let candidate = worker(0, 2);
        table.after(20 * SECOND).tell(Event::RecycleDue { worker: candidate, reason: RecycleReason::Refork });
        if stuck {
            table.tell(Event::DeadlineExceeded { worker: candidate });
            assert_eq!(kills(&table.tell(Event::Drained { worker: candidate })), [candidate]);
        }
        table.exits(candidate);
        table.boots(worker(0, 3));
        let next = table.tell(Event::RecycleDue { worker: worker(0, 3), reason: RecycleReason::Refork });
        assert_eq!(
            next[0],
            Action::Report(Report::Recycling { worker: worker(0, 3), reason: RecycleReason::Refork })
        );
    }
}

#[test]
fn refork_means_nothing_without_preload() {
    let mut table = Table::ready(1);
    assert_eq!(table.tell(Event::RecycleDue { worker: worker(0, 1), reason: RecycleReason::Refork }), []);
}

#[test]
fn a_zygote_is_called_one() {
    assert_eq!(zygote(7).to_string(), "zygote (life 7)");
    assert_eq!(worker(3, 8).to_string(), "worker 3 (life 8)");
}

#[test]
fn stop_ends_the_zygote_too() {
    let mut table = preloaded(1);
    table.tell(Event::Stop);
    assert_eq!(terminations(&table.tell(Event::EdgeDrained)), [zygote(1), worker(0, 2)]);
    table.exits(zygote(1));
    assert_eq!(table.exits(worker(0, 2)).last(), Some(&Action::Exit { status: 0, reason: None }));
}

#[test]
fn a_candidate_that_is_lost_in_a_watch_leaves_the_place_to_another() {
    let mut table = preloaded(1);
    table.tell(Event::RecycleDue { worker: worker(0, 2), reason: RecycleReason::Refork });
    table.boots(worker(0, 3));
    table.tell(Event::Reload { policy: SupervisorPolicy { watch: Some(30 * SECOND), ..preloading(1) } });
    table.boots(zygote(4));
    assert_eq!(verdicts(&table.boots(worker(0, 5))), [(2, None)]);
    table.leaves(worker(0, 2));
    let responses = vec![
        (Generation(1), ResponseStats { answered: 1000, failed: 0 }),
        (Generation(2), ResponseStats { answered: 100, failed: 100 }),
    ];
    let back = table.tell(Event::Load(LoadSample { responses, ..LoadSample::default() }));
    assert_eq!(admits(&back), [worker(0, 3)]);
    assert_eq!(terminations(&back), [zygote(4)]);
    let worn = table.tell(Event::RecycleDue { worker: worker(0, 3), reason: RecycleReason::Refork });
    assert!(worn.contains(&fork(1, 0, 6, zygote(1))), "{worn:?}");
}

#[test]
fn only_who_was_asked_to_become_the_zygote_may_say_that_it_has() {
    let mut table = preloaded(2);
    let (candidate, other) = (worker(0, 2), worker(1, 3));
    let asked = |table: &Table| {
        let everybody = [zygote(1), candidate, other, worker(0, 4), worker(9, 9)];
        everybody.into_iter().filter(|id| table.supervisor.is_promoting(*id)).collect::<Vec<_>>()
    };
    table.tell(Event::RecycleDue { worker: candidate, reason: RecycleReason::Refork });
    table.boots(worker(0, 4));
    assert_eq!(asked(&table), [], "it is retiring");
    table.tell(Event::Drained { worker: candidate });
    assert_eq!(asked(&table), [candidate]);
    table.tell(Event::Ready { worker: candidate });
    assert_eq!(asked(&table), [], "it has become one");
}

#[test]
fn a_zygote_that_a_signal_asks_to_leave_goes_at_once_and_another_one_boots() {
    let mut table = preloaded(2);
    let told = table.tell(Event::StopRequested { worker: zygote(1), signal: 15 });
    assert!(told.contains(&Action::Terminate { worker: zygote(1) }), "{told:?}");
    assert_eq!(spawns(&told), [zygote(4)]);
    table.tell(Event::Exited { worker: zygote(1), exit: Exit::Code(0) });
    table.boots(zygote(4));
    assert_eq!(table.status(), "2/2 workers ready");
}

#[test]
fn a_candidate_that_a_signal_asks_to_leave_does_not_become_the_zygote() {
    let mut table = preloaded(2);
    let candidate = worker(0, 2);
    table.tell(Event::RecycleDue { worker: candidate, reason: RecycleReason::Refork });
    table.tell(Event::StopRequested { worker: candidate, signal: 15 });
    table.boots(worker(0, 4));
    table.leaves(candidate);
    let next = table.tell(Event::RecycleDue { worker: worker(1, 3), reason: RecycleReason::Refork });
    assert!(
        next.contains(&Action::Report(Report::Recycling {
            worker: worker(1, 3),
            reason: RecycleReason::Refork
        })),
        "{next:?}"
    );
}
