//! `workers.preload` (workers are forked from a zygote) and `workers.refork` (a worker becomes the
//! zygote).

use super::*;

const MAX_REQUESTS: RecycleReason = RecycleReason::Requests { served: 1000 };

fn preloading(count: u16) -> SupervisorPolicy {
    SupervisorPolicy { preload: true, ..policy(count) }
}

fn zygote(incarnation: u64) -> WorkerId {
    WorkerId { number: WorkerNr::ZYGOTE, incarnation: Incarnation(incarnation) }
}

fn exec_zygote(generation: u64, incarnation: u64) -> Action {
    let generation = Generation(generation);
    Action::Spawn { worker: zygote(incarnation), generation, method: SpawnMethod::ExecZygote }
}

fn fork(generation: u64, number: u16, incarnation: u64, from: WorkerId) -> Action {
    let generation = Generation(generation);
    Action::Spawn { worker: worker(number, incarnation), generation, method: SpawnMethod::Fork(from) }
}

/// Starts a zygote (incarnation 1) and `count` workers (incarnations 2 to `count` + 1).
fn preloaded(count: u16) -> Harness {
    let mut harness = Harness::with(preloading(count));
    harness.send(Event::Started);
    harness.boot(zygote(1));
    for number in 0..count {
        harness.boot(worker(number, u64::from(number) + 2));
    }
    assert_eq!(harness.status(), format!("{count}/{count} workers ready"));
    harness
}

#[test]
fn zygote_boots_first_and_forks_the_workers() {
    let mut harness = Harness::with(preloading(3));
    let started = harness.send(Event::Started);
    assert_eq!(started[0], exec_zygote(1, 1));
    assert_eq!(spawns(&started), [zygote(1)]);
    harness.spawned(zygote(1));
    let ready = harness.advance(SECOND).send(Event::Ready { worker: zygote(1) });
    assert_eq!(
        ready,
        [Action::Report(Report::ZygoteReady { worker: zygote(1), took: SECOND }), fork(1, 0, 2, zygote(1)),]
    );
    let canary = harness.boot(worker(0, 2));
    assert!(canary.contains(&Action::NotifyReady), "{canary:?}");
    assert_eq!(spawns(&canary), [worker(1, 3), worker(2, 4)]);
}

#[test]
fn zygote_boot_failure_fails_the_start_or_is_retried() {
    let mut harness = Harness::with(preloading(2));
    harness.send(Event::Started);
    let failed = harness.fail_boot(zygote(1));
    assert!(failed.contains(&Action::NotifyStopping), "{failed:?}");
    assert_eq!(harness.send(Event::EdgeDrained), []);
    let exited = harness.exit(zygote(1));
    assert!(matches!(exited.last(), Some(Action::Exit { status: 78, .. })), "{exited:?}");

    let mut harness = Harness::with(SupervisorPolicy { exit_on_first_boot_failure: false, ..preloading(2) });
    harness.send(Event::Started);
    let failed = harness.fail_boot(zygote(1));
    assert!(failed.iter().any(|action| matches!(action, Action::Unavailable(Some(_)))));
    assert_eq!(
        status(&failed),
        Some("0/2 workers ready, no zygote: ImportError (x.py, line 1) (retry in 100 ms)")
    );
    assert_eq!(spawns(&harness.advance(100 * MS).tick()), [zygote(2)]);
    assert_eq!(spawns(&harness.boot(zygote(2))), [worker(0, 3)], "at once");
    assert!(harness.boot(worker(0, 3)).contains(&Action::Unavailable(None)));
}

#[test]
fn zygote_death_keeps_workers_and_boots_another() {
    let mut harness = preloaded(2);
    let actions = harness.advance(20 * SECOND).exit(zygote(1));
    assert_eq!((kills(&actions), retires(&actions)), (vec![], vec![]));
    assert_eq!(spawns(&actions), [zygote(4)]);
    assert_eq!(status(&actions), Some("2/2 workers ready, no zygote"));
    let dead = harness.exit(worker(0, 2));
    assert_eq!(spawns(&dead), [], "its seat waits for the zygote");
    let ready = harness.boot(zygote(4));
    assert!(ready.contains(&fork(1, 0, 5, zygote(4))), "{ready:?}");
}

#[test]
fn unresponsive_zygote_is_replaced_and_forks_resume() {
    let mut harness = preloaded(1);
    assert_eq!(spawns(&harness.advance(20 * SECOND).exit(worker(0, 2))), [worker(0, 3)]);
    let why = "did not answer when it was asked to fork a worker".to_owned();
    let hangs = harness.advance(10 * SECOND).send(Event::Misbehaved { worker: zygote(1), reason: why });
    assert_eq!(hangs[0], kill(zygote(1)));
    assert_eq!(spawns(&hangs), [zygote(4)], "at once, while the old one is being killed");
    let reason = "it did not answer".to_owned();
    let failed = harness.send(Event::SpawnFailed { worker: worker(0, 3), fault: SpawnFault::System, reason });
    assert_eq!(spawns(&failed), [], "no zygote is ready");
    harness.exit(zygote(1));
    assert!(harness.boot(zygote(4)).contains(&fork(1, 0, 5, zygote(4))));
}

#[test]
fn fork_in_progress_fails_when_the_zygote_dies() {
    let mut harness = preloaded(2);
    harness.advance(20 * SECOND).exit(worker(1, 3));
    let died = harness.exit(zygote(1));
    let failed = died.iter().find_map(|action| match action {
        Action::Report(Report::WorkerBootFailed { worker, failure, .. }) => Some((*worker, failure.kind)),
        _ => None,
    });
    assert_eq!(failed, Some((worker(1, 4), BootFailureKind::System)));
    assert_eq!(spawns(&died), [zygote(5)]);
    assert_eq!(harness.spawned(worker(1, 4)), [], "the fork is unknown now");

    let mut harness = preloaded(1);
    harness.advance(20 * SECOND).exit(worker(0, 2));
    harness.send(Event::StopNow);
    let exited = harness.exit(zygote(1));
    assert_eq!(
        exited.last(),
        Some(&Action::Exit { status: 0, reason: None }),
        "the fork does not delay the exit"
    );
}

#[test]
fn repeated_zygote_deaths_cause_backoff() {
    let mut harness = preloaded(1);
    let mut id = spawns(&harness.exit(zygote(1)))[0];
    harness.boot(id);
    for wait in [100, 200, 400] {
        harness.exit(id);
        assert_eq!(harness.wakeup(), Some(wait * MS));
        id = spawns(&harness.advance(wait * MS).tick())[0];
        harness.boot(id);
    }
    assert_eq!(harness.supervisor.snapshot().ready, 1);
}

#[test]
fn reload_boots_a_new_zygote_and_terminates_the_old_one() {
    let mut harness = preloaded(2);
    let begun = harness.send(Event::Reload { policy: preloading(2) });
    assert!(begun.contains(&exec_zygote(2, 4)), "{begun:?}");
    assert_eq!(spawns(&begun), [zygote(4)]);
    assert_eq!(harness.boot(zygote(4))[1], fork(2, 0, 5, zygote(4)));
    assert_eq!(spawns(&harness.boot(worker(0, 5))), [worker(1, 6)]);
    let done = harness.boot(worker(1, 6));
    assert_eq!(reload_outcomes(&done), [(2, None)]);
    assert_eq!(retires(&done), [worker(0, 2), worker(1, 3)]);
    assert_eq!(terminations(&done), [zygote(1)]);
}

#[test]
fn failure_of_the_new_zygote_fails_the_reload() {
    let mut harness = preloaded(1);
    harness.send(Event::Reload { policy: preloading(1) });
    let failed = harness.fail_boot(zygote(3));
    assert_eq!(reload_outcomes(&failed), [(2, Some(BootFailureKind::App))]);
    assert_eq!(harness.exit(zygote(3)).len(), 1);

    harness.send(Event::Reload { policy: preloading(1) });
    harness.boot(zygote(4));
    let died = harness.exit(zygote(4));
    assert_eq!(reload_outcomes(&died), [(3, Some(BootFailureKind::Died))]);
    assert_eq!(harness.supervisor.snapshot().workers.len(), 2, "the fork in progress is forgotten");
}

#[test]
fn reload_can_enable_and_disable_preload() {
    let mut harness = preloaded(1);
    harness.send(Event::Reload { policy: policy(1) });
    let done = harness.boot(worker(0, 3));
    assert_eq!((reload_outcomes(&done), terminations(&done)), (vec![(2, None)], vec![zygote(1)]));
    harness.exit(zygote(1));
    harness.drain_and_exit(worker(0, 2));
    harness.send(Event::Reload { policy: preloading(1) });
    harness.boot(zygote(4));
    assert_eq!(reload_outcomes(&harness.boot(worker(0, 5))), [(3, None)]);
}

#[test]
fn old_zygote_is_kept_until_the_watch_ends() {
    let mut harness = preloaded(1);
    harness.send(Event::Reload { policy: SupervisorPolicy { watch: Some(30 * SECOND), ..preloading(1) } });
    harness.boot(zygote(3));
    assert_eq!(terminations(&harness.boot(worker(0, 4))), []);
    let over = harness.advance(30 * SECOND).tick();
    assert_eq!(terminations(&over), [zygote(1)]);
}

#[test]
fn zygote_stays_while_the_workers_are_asleep() {
    let mut harness = Harness::with(SupervisorPolicy { idle_exit: Some(60 * SECOND), ..preloading(1) });
    harness.send(Event::Started);
    harness.boot(zygote(1));
    harness.boot(worker(0, 2));
    let asleep = harness.send(Event::Load(LoadSample { idle_for: 60 * SECOND, ..LoadSample::default() }));
    assert_eq!((retires(&asleep), terminations(&asleep)), (vec![worker(0, 2)], vec![]));
    harness.drain_and_exit(worker(0, 2));
    assert!(harness.send(Event::WorkerRequested).contains(&fork(1, 0, 3, zygote(1))));
}

#[test]
fn refork_promotes_a_drained_worker_to_zygote() {
    let mut harness = preloaded(2);
    harness.advance(20 * SECOND);
    let candidate = worker(0, 2);
    let actions = harness.send(Event::RecycleDue { worker: candidate, reason: RecycleReason::Refork });
    assert_eq!(spawns(&actions), [worker(0, 4)]);
    assert_eq!(
        harness.send(Event::RecycleDue { worker: worker(1, 3), reason: RecycleReason::Refork }),
        [],
        "one candidate is enough"
    );
    assert_eq!(retires(&harness.boot(worker(0, 4))), [candidate]);
    assert_eq!(harness.send(Event::Drained { worker: candidate })[0], Action::Promote { worker: candidate });
    let promoted = harness.advance(20 * MS).send(Event::Ready { worker: candidate });
    assert_eq!(promoted[0], Action::Report(Report::ZygoteReady { worker: candidate, took: 20 * MS }));
    assert_eq!(terminations(&promoted), [zygote(1)]);
    assert!(
        promoted.contains(&fork(1, 0, 5, candidate)),
        "the other workers are replaced next: {promoted:?}"
    );
    harness.exit(zygote(1));
    assert!(harness.boot(worker(0, 5)).contains(&fork(1, 1, 6, candidate)));
    harness.drain_and_exit(worker(0, 4));
    assert_eq!(spawns(&harness.boot(worker(1, 6))), []);
    harness.drain_and_exit(worker(1, 3));
    assert_eq!(
        harness.send(Event::RecycleDue { worker: worker(0, 5), reason: RecycleReason::Refork }),
        [],
        "once"
    );
    assert_eq!(harness.status(), "2/2 workers ready");
    let dead = harness.advance(20 * SECOND).exit(worker(1, 6));
    assert!(dead.contains(&fork(1, 1, 7, candidate)), "{dead:?}");
}

#[test]
fn failed_promotion_keeps_the_old_zygote() {
    type Failure = fn(&mut Harness, WorkerId) -> Vec<Action>;
    let failures: [Failure; 4] = [
        |harness, worker| harness.exit(worker),
        |harness, _| harness.advance(10 * SECOND).tick(),
        |harness, worker| harness.send(Event::BootFailed { worker, failure: import_error() }),
        |harness, worker| harness.send(Event::Misbehaved { worker, reason: "garbage".to_owned() }),
    ];
    for fail in failures {
        let mut harness = preloaded(1);
        let candidate = worker(0, 2);
        harness.send(Event::RecycleDue { worker: candidate, reason: RecycleReason::Refork });
        harness.boot(worker(0, 3));
        harness.send(Event::Drained { worker: candidate });
        fail(&mut harness, candidate);
        harness.exit(candidate);
        assert_eq!(
            harness.send(Event::RecycleDue { worker: worker(0, 3), reason: RecycleReason::Refork }),
            []
        );
        let actions = harness.send(Event::RecycleDue { worker: worker(0, 3), reason: MAX_REQUESTS });
        assert!(actions.contains(&fork(1, 0, 4, zygote(1))), "{actions:?}");
    }
}

#[test]
fn lost_candidate_is_replaced_by_another() {
    for stuck in [false, true] {
        let mut harness = preloaded(1);
        let candidate = worker(0, 2);
        harness
            .advance(20 * SECOND)
            .send(Event::RecycleDue { worker: candidate, reason: RecycleReason::Refork });
        if stuck {
            harness.send(Event::DeadlineExceeded { worker: candidate });
            assert_eq!(kills(&harness.send(Event::Drained { worker: candidate })), [candidate]);
        }
        harness.exit(candidate);
        harness.boot(worker(0, 3));
        let next = harness.send(Event::RecycleDue { worker: worker(0, 3), reason: RecycleReason::Refork });
        assert_eq!(
            next[0],
            Action::Report(Report::Recycling { worker: worker(0, 3), reason: RecycleReason::Refork })
        );
    }
}

#[test]
fn refork_is_ignored_without_preload() {
    let mut harness = Harness::ready(1);
    assert_eq!(harness.send(Event::RecycleDue { worker: worker(0, 1), reason: RecycleReason::Refork }), []);
}

#[test]
fn zygote_is_displayed_without_a_number() {
    assert_eq!(zygote(7).to_string(), "zygote (incarnation 7)");
    assert_eq!(worker(3, 8).to_string(), "worker 3 (incarnation 8)");
}

#[test]
fn stop_terminates_the_zygote() {
    let mut harness = preloaded(1);
    harness.send(Event::Stop);
    assert_eq!(terminations(&harness.send(Event::EdgeDrained)), [zygote(1), worker(0, 2)]);
    // It has no requests, so it does not get the rest of the drain time.
    assert_eq!(kills(&harness.advance(5 * SECOND).tick()), [zygote(1)]);
    harness.exit(zygote(1));
    assert_eq!(harness.exit(worker(0, 2)).last(), Some(&Action::Exit { status: 0, reason: None }));
}

#[test]
fn candidate_lost_during_a_watch_is_replaced_by_another() {
    let mut harness = preloaded(1);
    harness.send(Event::RecycleDue { worker: worker(0, 2), reason: RecycleReason::Refork });
    harness.boot(worker(0, 3));
    harness.send(Event::Reload { policy: SupervisorPolicy { watch: Some(30 * SECOND), ..preloading(1) } });
    harness.boot(zygote(4));
    assert_eq!(reload_outcomes(&harness.boot(worker(0, 5))), [(2, None)]);
    harness.drain_and_exit(worker(0, 2));
    let responses = vec![
        (Generation(1), ResponseStats { answered: 1000, failed: 0 }),
        (Generation(2), ResponseStats { answered: 100, failed: 100 }),
    ];
    let back = harness.send(Event::Load(LoadSample { responses, ..LoadSample::default() }));
    assert_eq!(admits(&back), [worker(0, 3)]);
    assert_eq!(terminations(&back), [zygote(4)]);
    let actions = harness.send(Event::RecycleDue { worker: worker(0, 3), reason: RecycleReason::Refork });
    assert!(actions.contains(&fork(1, 0, 6, zygote(1))), "{actions:?}");
}

#[test]
fn is_promoting_holds_only_between_request_and_answer() {
    let mut harness = preloaded(2);
    let (candidate, other) = (worker(0, 2), worker(1, 3));
    let promoting = |harness: &Harness| {
        let all = [zygote(1), candidate, other, worker(0, 4), worker(9, 9)];
        all.into_iter().filter(|id| harness.supervisor.is_promoting(*id)).collect::<Vec<_>>()
    };
    harness.send(Event::RecycleDue { worker: candidate, reason: RecycleReason::Refork });
    harness.boot(worker(0, 4));
    assert_eq!(promoting(&harness), [], "it is retiring");
    harness.send(Event::Drained { worker: candidate });
    assert_eq!(promoting(&harness), [candidate]);
    harness.send(Event::Ready { worker: candidate });
    assert_eq!(promoting(&harness), [], "it is the zygote now");
}

#[test]
fn signalled_zygote_is_terminated_and_replaced_at_once() {
    let mut harness = preloaded(2);
    let actions = harness.send(Event::StopRequested { worker: zygote(1), signal: 15 });
    assert!(actions.contains(&Action::Terminate { worker: zygote(1) }), "{actions:?}");
    assert_eq!(spawns(&actions), [zygote(4)]);
    harness.send(Event::Exited { worker: zygote(1), exit: Exit::Code(0) });
    harness.boot(zygote(4));
    assert_eq!(harness.status(), "2/2 workers ready");
}

#[test]
fn signalled_candidate_is_not_promoted() {
    let mut harness = preloaded(2);
    let candidate = worker(0, 2);
    harness.send(Event::RecycleDue { worker: candidate, reason: RecycleReason::Refork });
    harness.send(Event::StopRequested { worker: candidate, signal: 15 });
    harness.boot(worker(0, 4));
    harness.drain_and_exit(candidate);
    let next = harness.send(Event::RecycleDue { worker: worker(1, 3), reason: RecycleReason::Refork });
    assert!(
        next.contains(&Action::Report(Report::Recycling {
            worker: worker(1, 3),
            reason: RecycleReason::Refork
        })),
        "{next:?}"
    );
}
