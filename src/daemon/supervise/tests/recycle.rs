//! Replacement of healthy workers: one at a time, each after its successor is ready.

use super::*;

const MAX_REQUESTS: RecycleReason = RecycleReason::Requests { served: 1000 };

#[test]
fn recycled_worker_serves_until_its_successor_is_ready() {
    let mut harness = Harness::ready(2);
    let old = worker(1, 2);
    let actions = harness.send(Event::RecycleDue { worker: old, reason: MAX_REQUESTS });
    assert_eq!(
        actions,
        [
            Action::Report(Report::Recycling { worker: old, reason: MAX_REQUESTS }),
            spawn(1, 3),
            Action::Status("2/2 workers ready, 1 booting".to_owned()),
        ]
    );
    assert_eq!(
        harness.send(Event::RecycleDue { worker: old, reason: MAX_REQUESTS }),
        [],
        "the second request is ignored"
    );
    harness.spawned(worker(1, 3));
    let ready = harness.advance(SECOND).send(Event::Ready { worker: worker(1, 3) });
    assert_eq!(
        ready,
        [
            Action::Admit { worker: worker(1, 3) },
            Action::Report(Report::WorkerReady { worker: worker(1, 3), took: SECOND }),
            Action::Report(Report::Replaced { worker: old, by: worker(1, 3) }),
            Action::Retire { worker: old },
            Action::Status("2/2 workers ready, 1 retiring".to_owned()),
        ]
    );
    harness.drain_and_exit(old);
    assert_eq!(harness.status(), "2/2 workers ready");
}

#[test]
fn recycled_workers_are_replaced_one_at_a_time() {
    let mut harness = Harness::ready(3);
    let limit = 1 << 20;
    let reasons = [MAX_REQUESTS, RecycleReason::Memory { bytes: limit + 1, limit }, MAX_REQUESTS];
    let mut all = Vec::new();
    for (number, reason) in (0..).zip(reasons) {
        let worker = worker(number, u64::from(number) + 1);
        all.extend(harness.advance(MS).send(Event::RecycleDue { worker, reason }));
    }
    assert_eq!(spawns(&all), [worker(0, 4)]);
    assert_eq!(spawns(&harness.boot(worker(0, 4))), [worker(1, 5)]);
    assert_eq!(spawns(&harness.boot(worker(1, 5))), [worker(2, 6)]);
    assert_eq!(spawns(&harness.boot(worker(2, 6))), []);
}

#[test]
fn successor_boot_failure_is_retried_after_backoff() {
    let mut harness = Harness::ready(1);
    harness.send(Event::RecycleDue { worker: worker(0, 1), reason: MAX_REQUESTS });
    let failed = harness.fail_boot(worker(0, 2));
    assert_eq!((kills(&failed), retires(&failed)), (vec![], vec![]));
    assert!(!failed.iter().any(|action| matches!(action, Action::Unavailable(_))), "{failed:?}");
    let line = "1/1 workers ready: ImportError (x.py, line 1) (retry in 100 ms)";
    assert_eq!(status(&failed), Some(line));
    harness.exit(worker(0, 2));
    assert_eq!(harness.wakeup(), Some(100 * MS));
    assert_eq!(spawns(&harness.advance(100 * MS).tick()), [worker(0, 3)]);
    assert_eq!(retires(&harness.boot(worker(0, 3))), [worker(0, 1)]);
    assert_eq!(harness.status(), "1/1 workers ready, 1 retiring");
}

#[test]
fn successor_takes_the_seat_if_its_worker_dies() {
    let mut harness = Harness::ready(1);
    harness.advance(20 * SECOND).send(Event::RecycleDue { worker: worker(0, 1), reason: MAX_REQUESTS });
    harness.spawned(worker(0, 2));
    assert_eq!(spawns(&harness.exit(worker(0, 1))), [], "its successor boots already");
    let ready = harness.send(Event::Ready { worker: worker(0, 2) });
    assert_eq!((admits(&ready), retires(&ready)), (vec![worker(0, 2)], vec![]));
}

#[test]
fn stuck_recycled_worker_is_replaced_by_its_successor() {
    let mut harness = Harness::ready(1);
    harness.send(Event::RecycleDue { worker: worker(0, 1), reason: MAX_REQUESTS });
    let stuck = harness.send(Event::DeadlineExceeded { worker: worker(0, 1) });
    assert_eq!((retires(&stuck), spawns(&stuck)), (vec![worker(0, 1)], vec![]));
    let ready = harness.boot(worker(0, 2));
    let replaced = Report::Replaced { worker: worker(0, 1), by: worker(0, 2) };
    assert!(ready.contains(&Action::Report(replaced)), "{ready:?}");
}

#[test]
fn recycling_waits_for_the_end_of_a_reload() {
    let mut harness = Harness::ready(2);
    harness.send(Event::Reload { policy: SupervisorPolicy { probe: true, ..policy(2) } });
    harness.boot(worker(0, 3));
    assert_eq!(spawns(&harness.send(Event::RecycleDue { worker: worker(0, 1), reason: MAX_REQUESTS })), []);
    let outcome = Err("reload.probe was answered with status 500".to_owned());
    let failed = harness.send(Event::Probed { worker: worker(0, 3), outcome });
    assert_eq!(spawns(&failed), [], "a successor would import the rejected code");
    let other = harness.send(Event::RecycleDue { worker: worker(1, 2), reason: MAX_REQUESTS });
    let postponed = Report::RecyclingPostponed { worker: worker(1, 2), reason: MAX_REQUESTS };
    assert_eq!(other, [Action::Report(postponed)]);
    let memory = RecycleReason::Memory { bytes: 2, limit: 1 };
    let due = harness.send(Event::RecycleDue { worker: worker(1, 2), reason: memory });
    assert_eq!(spawns(&due), [worker(1, 4)], "more memory would be harmful");
}

#[test]
fn worker_with_rejected_code_is_reported() {
    let mut harness = Harness::ready(2);
    harness.send(Event::Reload { policy: SupervisorPolicy { probe: true, ..policy(2) } });
    harness.boot(worker(0, 3));
    let outcome = Err("reload.probe was answered with status 500".to_owned());
    harness.send(Event::Probed { worker: worker(0, 3), outcome });
    let due = RecycleReason::Memory { bytes: 2, limit: 1 };
    assert_eq!(
        spawns(&harness.send(Event::RecycleDue { worker: worker(0, 1), reason: due })),
        [worker(0, 4)]
    );
    let rejected = Report::RejectedCode { worker: worker(0, 4) };
    assert!(harness.boot(worker(0, 4)).contains(&Action::Report(rejected)));
}

#[test]
fn lifetimes_of_workers_spawned_together_are_spread() {
    let lifetime = 1000 * SECOND;
    let mut harness = Harness::with(SupervisorPolicy { max_lifetime: Some(lifetime), ..policy(4) });
    let start = harness.now;
    harness.send(Event::Started);
    for number in 0..4 {
        harness.boot(worker(number, u64::from(number) + 1));
    }
    let mut ages = Vec::new();
    while ages.len() < 4 {
        let wait = harness.wakeup().expect("a lifetime ends");
        let actions = harness.advance(wait).tick();
        let has_expired = |action: &&Action| {
            matches!(action, Action::Report(Report::Recycling { reason: RecycleReason::Lifetime, .. }))
        };
        ages.extend(actions.iter().filter(has_expired).map(|_| harness.now.duration_since(start)));
        for id in spawns(&actions) {
            harness.boot(id);
        }
    }
    assert!(ages.iter().all(|age| (900 * SECOND..=lifetime).contains(age)), "{ages:?}");
    assert!(ages.windows(2).all(|pair| pair[1].saturating_sub(pair[0]) >= 5 * SECOND), "{ages:?}");
}

#[test]
fn worker_that_does_not_serve_is_not_recycled() {
    let mut harness = Harness::ready(1);
    harness.send(Event::DeadlineExceeded { worker: worker(0, 1) });
    for id in [worker(0, 1), worker(0, 2), worker(9, 9)] {
        assert_eq!(harness.send(Event::RecycleDue { worker: id, reason: MAX_REQUESTS }), []);
    }
    harness.boot(worker(0, 2));
    harness.send(Event::Stop);
    assert_eq!(harness.send(Event::RecycleDue { worker: worker(0, 2), reason: MAX_REQUESTS }), []);
}

#[test]
fn recycled_worker_retires_without_a_deadline() {
    let mut harness = Harness::ready(2);
    let old = worker(0, 1);
    harness.send(Event::RecycleDue { worker: old, reason: MAX_REQUESTS });
    assert_eq!(retires(&harness.boot(worker(0, 3))), [old]);
    assert_eq!(harness.wakeup(), None, "no deadline");
    assert_eq!(harness.advance(3600 * SECOND).tick(), []);
    let drained = harness.send(Event::Drained { worker: old });
    assert_eq!(drained[0], Action::Terminate { worker: old });
}

#[test]
fn surplus_worker_retires_without_a_deadline() {
    let mut harness = Harness::ready(2);
    assert_eq!(retires(&harness.send(Event::Adjust { by: -1 })), [worker(1, 2)]);
    assert_eq!(harness.advance(3600 * SECOND).tick(), []);
    harness.drain_and_exit(worker(1, 2));
}

#[test]
fn stuck_request_bounds_the_retirement_of_its_worker() {
    let mut harness = Harness::ready(1);
    let old = worker(0, 1);
    harness.send(Event::RecycleDue { worker: old, reason: MAX_REQUESTS });
    harness.boot(worker(0, 2));
    harness.advance(3600 * SECOND).send(Event::DeadlineExceeded { worker: old });
    assert_eq!(harness.wakeup(), Some(30 * SECOND));
    assert!(harness.advance(30 * SECOND).tick().contains(&abort(old, AbortReason::DrainTimeout)));
}

#[test]
fn completed_reload_bounds_unbounded_retirements() {
    let mut harness = Harness::ready(1);
    let old = worker(0, 1);
    harness.send(Event::RecycleDue { worker: old, reason: MAX_REQUESTS });
    harness.boot(worker(0, 2));
    harness.advance(3600 * SECOND).send(Event::Reload { policy: policy(1) });
    assert_eq!(kills(&harness.advance(40 * SECOND).tick()), [], "the reload is not completed");
    assert_eq!(reload_outcomes(&harness.boot(worker(0, 3))), [(2, None)]);
    assert_eq!(harness.wakeup(), Some(30 * SECOND));
    assert_eq!(terminations(&harness.advance(30 * SECOND).tick()), [old, worker(0, 2)]);
}

#[test]
fn stop_ends_unbounded_retirements() {
    for hasty in [false, true] {
        let mut harness = Harness::ready(1);
        let old = worker(0, 1);
        harness.send(Event::RecycleDue { worker: old, reason: MAX_REQUESTS });
        harness.boot(worker(0, 2));
        if hasty {
            assert!(harness.send(Event::StopNow).contains(&abort(old, AbortReason::Shutdown)));
        } else {
            harness.send(Event::Stop);
            assert_eq!(terminations(&harness.advance(30 * SECOND).tick()), [old, worker(0, 2)]);
        }
    }
}

#[test]
fn vacancy_at_the_limit_bounds_the_oldest_retirement() {
    let mut harness = Harness::with(SupervisorPolicy { idle_exit: Some(60 * SECOND), ..policy(2) });
    harness.send(Event::Started);
    harness.boot(worker(0, 1));
    harness.boot(worker(1, 2));
    harness.send(Event::RecycleDue { worker: worker(0, 1), reason: MAX_REQUESTS });
    harness.boot(worker(0, 3));
    harness.advance(SECOND).send(Event::Load(LoadSample { idle_for: 60 * SECOND, ..LoadSample::default() }));
    harness.advance(3600 * SECOND).send(Event::WorkerRequested);
    assert_eq!(harness.wakeup(), Some(60 * SECOND), "only the boot timeout");
    harness.boot(worker(0, 4));
    // Two seats may have four processes, and one seat is vacant.
    assert_eq!(harness.wakeup(), Some(30 * SECOND));
    let late = harness.advance(30 * SECOND).tick();
    assert_eq!((terminations(&late), kills(&late)), (vec![worker(0, 1)], vec![]));
    assert_eq!(spawns(&harness.exit(worker(0, 1))), [worker(1, 5)]);
    harness.boot(worker(1, 5));
    assert_eq!(harness.wakeup(), None, "the other retirements stay unbounded");
}

#[test]
fn recycled_worker_keeps_serving_at_the_process_limit() {
    let mut harness = Harness::ready(1);
    harness.send(Event::RecycleDue { worker: worker(0, 1), reason: MAX_REQUESTS });
    harness.boot(worker(0, 2));
    let actions = harness.send(Event::RecycleDue { worker: worker(0, 2), reason: MAX_REQUESTS });
    assert_eq!((spawns(&actions), retires(&actions), harness.wakeup()), (vec![], vec![], None));
    harness.send(Event::Drained { worker: worker(0, 1) });
    assert_eq!(spawns(&harness.exit(worker(0, 1))), [worker(0, 3)]);
}

#[test]
fn signalled_worker_serves_until_its_successor_is_ready() {
    let mut harness = Harness::ready(2);
    let signalled = worker(1, 2);
    let reason = RecycleReason::Signal { signal: 15 };
    let actions = harness.send(Event::StopRequested { worker: signalled, signal: 15 });
    assert_eq!(actions[0], Action::Report(Report::Recycling { worker: signalled, reason }));
    assert_eq!(spawns(&actions), [worker(1, 3)]);
    assert_eq!(
        harness.send(Event::StopRequested { worker: signalled, signal: 2 }),
        [],
        "the second request is ignored"
    );
    let ready = harness.boot(worker(1, 3));
    assert_eq!(retires(&ready), [signalled]);
    harness.drain_and_exit(signalled);
    assert_eq!(harness.status(), "2/2 workers ready");
}

#[test]
fn signal_while_booting_is_remembered() {
    let mut harness = Harness::ready(2);
    harness.exit(worker(0, 1));
    harness.spawned(worker(0, 3));
    harness.send(Event::StopRequested { worker: worker(0, 3), signal: 15 });
    let ready = harness.send(Event::Ready { worker: worker(0, 3) });
    assert_eq!(spawns(&ready), [worker(0, 4)]);
}

#[test]
fn signals_while_draining_are_ignored() {
    let mut harness = Harness::ready(2);
    harness.send(Event::Stop);
    for number in 0..2 {
        let worker = worker(number, u64::from(number) + 1);
        assert_eq!(harness.send(Event::StopRequested { worker, signal: 15 }), []);
    }
    let drained = harness.send(Event::EdgeDrained);
    for number in 0..2 {
        assert!(drained.contains(&Action::Terminate { worker: worker(number, u64::from(number) + 1) }));
    }
}
