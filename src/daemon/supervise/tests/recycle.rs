//! Worn-out workers: each serves until its successor is ready, and never are two being replaced.

use super::*;

const MANY: RecycleReason = RecycleReason::Requests { served: 1000 };

#[test]
fn a_worn_out_worker_serves_until_its_successor_is_ready() {
    let mut table = Table::ready(2);
    let old = worker(1, 2);
    let worn = table.tell(Event::RecycleDue { worker: old, reason: MANY });
    assert_eq!(
        worn,
        [
            Action::Report(Report::Recycling { worker: old, reason: MANY }),
            spawn(1, 3),
            Action::Status("2/2 workers ready, 1 booting".to_owned()),
        ]
    );
    assert_eq!(table.tell(Event::RecycleDue { worker: old, reason: MANY }), [], "once is enough");
    table.spawned(worker(1, 3));
    let ready = table.after(SECOND).tell(Event::Ready { worker: worker(1, 3) });
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
    table.leaves(old);
    assert_eq!(table.status(), "2/2 workers ready");
}

#[test]
fn worn_out_workers_are_replaced_one_at_a_time() {
    let mut table = Table::ready(3);
    let limit = 1 << 20;
    let wears = [MANY, RecycleReason::Memory { bytes: limit + 1, limit }, MANY];
    let mut all = Vec::new();
    for (number, reason) in (0..).zip(wears) {
        let worker = worker(number, u64::from(number) + 1);
        all.extend(table.after(MS).tell(Event::RecycleDue { worker, reason }));
    }
    assert_eq!(spawns(&all), [worker(0, 4)]);
    assert_eq!(spawns(&table.boots(worker(0, 4))), [worker(1, 5)]);
    assert_eq!(spawns(&table.boots(worker(1, 5))), [worker(2, 6)]);
    assert_eq!(spawns(&table.boots(worker(2, 6))), []);
}

#[test]
fn a_successor_that_cannot_boot_costs_nothing_but_time() {
    let mut table = Table::ready(1);
    table.tell(Event::RecycleDue { worker: worker(0, 1), reason: MANY });
    let failed = table.fails(worker(0, 2));
    assert_eq!((kills(&failed), retires(&failed)), (vec![], vec![]));
    assert!(!failed.iter().any(|action| matches!(action, Action::Unavailable(_))), "{failed:?}");
    let line = "1/1 workers ready: ImportError (x.py, line 1) (retry in 100 ms)";
    assert_eq!(status(&failed), Some(line));
    table.exits(worker(0, 2));
    assert_eq!(table.wakeup(), Some(100 * MS));
    assert_eq!(spawns(&table.after(100 * MS).tick()), [worker(0, 3)]);
    assert_eq!(retires(&table.boots(worker(0, 3))), [worker(0, 1)]);
    assert_eq!(table.status(), "1/1 workers ready, 1 retiring");
}

#[test]
fn the_successor_of_a_worker_that_dies_meanwhile_just_takes_its_seat() {
    let mut table = Table::ready(1);
    table.after(20 * SECOND).tell(Event::RecycleDue { worker: worker(0, 1), reason: MANY });
    table.spawned(worker(0, 2));
    assert_eq!(spawns(&table.exits(worker(0, 1))), [], "it is on its way");
    let ready = table.tell(Event::Ready { worker: worker(0, 2) });
    assert_eq!((admits(&ready), retires(&ready)), (vec![worker(0, 2)], vec![]));
}

#[test]
fn a_worn_out_worker_that_is_stuck_is_replaced_by_the_successor_that_boots() {
    let mut table = Table::ready(1);
    table.tell(Event::RecycleDue { worker: worker(0, 1), reason: MANY });
    let stuck = table.tell(Event::DeadlineExceeded { worker: worker(0, 1) });
    assert_eq!((retires(&stuck), spawns(&stuck)), (vec![worker(0, 1)], vec![]));
    let ready = table.boots(worker(0, 2));
    let replaced = Report::Replaced { worker: worker(0, 1), by: worker(0, 2) };
    assert!(ready.contains(&Action::Report(replaced)), "{ready:?}");
}

#[test]
fn nobody_is_replaced_for_wear_during_a_reload() {
    let mut table = Table::ready(2);
    table.tell(Event::Reload { policy: SupervisorPolicy { probe: true, ..policy(2) } });
    table.boots(worker(0, 3));
    assert_eq!(spawns(&table.tell(Event::RecycleDue { worker: worker(0, 1), reason: MANY })), []);
    let outcome = Err("reload.probe was answered with status 500".to_owned());
    let failed = table.tell(Event::Probed { worker: worker(0, 3), outcome });
    assert_eq!(spawns(&failed), [worker(0, 4)], "but when it has failed");
}

#[test]
fn a_crew_that_was_born_together_does_not_age_together() {
    let lifetime = 1000 * SECOND;
    let mut table = Table::with(SupervisorPolicy { max_lifetime: Some(lifetime), ..policy(4) });
    let begin = table.now;
    table.tell(Event::Started);
    for number in 0..4 {
        table.boots(worker(number, u64::from(number) + 1));
    }
    let mut ages = Vec::new();
    while ages.len() < 4 {
        let wait = table.wakeup().expect("they age");
        let actions = table.after(wait).tick();
        let worn = |action: &&Action| {
            matches!(action, Action::Report(Report::Recycling { reason: RecycleReason::Lifetime, .. }))
        };
        ages.extend(actions.iter().filter(worn).map(|_| table.now.duration_since(begin)));
        for id in spawns(&actions) {
            table.boots(id);
        }
    }
    assert!(ages.iter().all(|age| (900 * SECOND..=lifetime).contains(age)), "{ages:?}");
    assert!(ages.windows(2).all(|pair| pair[1].saturating_sub(pair[0]) >= 5 * SECOND), "{ages:?}");
}

#[test]
fn a_worker_that_is_not_serving_does_not_wear_out() {
    let mut table = Table::ready(1);
    table.tell(Event::DeadlineExceeded { worker: worker(0, 1) });
    for id in [worker(0, 1), worker(0, 2), worker(9, 9)] {
        assert_eq!(table.tell(Event::RecycleDue { worker: id, reason: MANY }), []);
    }
    table.boots(worker(0, 2));
    table.tell(Event::Stop);
    assert_eq!(table.tell(Event::RecycleDue { worker: worker(0, 2), reason: MANY }), []);
}

#[test]
fn a_worn_out_workers_requests_have_their_own_limits_and_no_other() {
    let mut table = Table::ready(2);
    let old = worker(0, 1);
    table.tell(Event::RecycleDue { worker: old, reason: MANY });
    assert_eq!(retires(&table.boots(worker(0, 3))), [old]);
    assert_eq!(table.wakeup(), None, "nothing runs out");
    assert_eq!(table.after(3600 * SECOND).tick(), []);
    let drained = table.tell(Event::Drained { worker: old });
    assert_eq!(drained[0], Action::Terminate { worker: old });
}

#[test]
fn a_worker_that_is_one_too_many_finishes_what_it_has() {
    let mut table = Table::ready(2);
    assert_eq!(retires(&table.tell(Event::Adjust { by: -1 })), [worker(1, 2)]);
    assert_eq!(table.after(3600 * SECOND).tick(), []);
    table.leaves(worker(1, 2));
}

#[test]
fn a_worn_out_worker_whose_request_is_stuck_after_all_has_the_drain_timeout_from_then_on() {
    let mut table = Table::ready(1);
    let old = worker(0, 1);
    table.tell(Event::RecycleDue { worker: old, reason: MANY });
    table.boots(worker(0, 2));
    table.after(3600 * SECOND).tell(Event::DeadlineExceeded { worker: old });
    assert_eq!(table.wakeup(), Some(30 * SECOND));
    assert!(table.after(30 * SECOND).tick().contains(&cut(old, AbortReason::DrainTimeout)));
}

#[test]
fn a_reload_gives_worn_out_workers_the_drain_timeout_when_it_is_done() {
    let mut table = Table::ready(1);
    let old = worker(0, 1);
    table.tell(Event::RecycleDue { worker: old, reason: MANY });
    table.boots(worker(0, 2));
    table.after(3600 * SECOND).tell(Event::Reload { policy: policy(1) });
    assert_eq!(kills(&table.after(40 * SECOND).tick()), [], "it is not done yet");
    assert_eq!(verdicts(&table.boots(worker(0, 3))), [(2, None)]);
    assert_eq!(table.wakeup(), Some(30 * SECOND));
    let late = table.after(30 * SECOND).tick();
    assert!(
        late.contains(&cut(old, AbortReason::DrainTimeout))
            && late.contains(&cut(worker(0, 2), AbortReason::DrainTimeout)),
        "{late:?}"
    );
}

#[test]
fn a_stop_ends_worn_out_workers_at_once_or_with_its_drain() {
    for hasty in [false, true] {
        let mut table = Table::ready(1);
        let old = worker(0, 1);
        table.tell(Event::RecycleDue { worker: old, reason: MANY });
        table.boots(worker(0, 2));
        if hasty {
            assert!(table.tell(Event::StopNow).contains(&cut(old, AbortReason::Shutdown)));
        } else {
            table.tell(Event::Stop);
            assert_eq!(terminations(&table.after(30 * SECOND).tick()), [old, worker(0, 2)]);
        }
    }
}

#[test]
fn the_oldest_retirement_in_the_way_of_a_vacancy_has_the_drain_timeout() {
    let mut table = Table::with(SupervisorPolicy { idle_exit: Some(60 * SECOND), ..policy(2) });
    table.tell(Event::Started);
    table.boots(worker(0, 1));
    table.boots(worker(1, 2));
    table.tell(Event::RecycleDue { worker: worker(0, 1), reason: MANY });
    table.boots(worker(0, 3));
    table.after(SECOND).tell(Event::Load(LoadSample { idle_for: 60 * SECOND, ..LoadSample::default() }));
    table.after(3600 * SECOND).tell(Event::WorkerRequested);
    assert_eq!(table.wakeup(), Some(60 * SECOND), "only the boot's");
    table.boots(worker(0, 4));
    // Four are as many as two seats may have, and one seat is empty.
    assert_eq!(table.wakeup(), Some(30 * SECOND));
    let late = table.after(30 * SECOND).tick();
    assert!(late.contains(&cut(worker(0, 1), AbortReason::DrainTimeout)), "{late:?}");
    assert_eq!(kills(&late).len(), 1);
    assert_eq!(spawns(&table.exits(worker(0, 1))), [worker(1, 5)]);
    table.boots(worker(1, 5));
    assert_eq!(table.wakeup(), None, "the others have as long as they need again");
}

#[test]
fn a_worn_out_worker_without_room_for_its_successor_serves_on() {
    let mut table = Table::ready(1);
    table.tell(Event::RecycleDue { worker: worker(0, 1), reason: MANY });
    table.boots(worker(0, 2));
    let worn = table.tell(Event::RecycleDue { worker: worker(0, 2), reason: MANY });
    assert_eq!((spawns(&worn), retires(&worn), table.wakeup()), (vec![], vec![], None));
    table.tell(Event::Drained { worker: worker(0, 1) });
    assert_eq!(spawns(&table.exits(worker(0, 1))), [worker(0, 3)]);
}

#[test]
fn a_worker_that_a_signal_asks_to_leave_serves_until_its_successor_is_ready() {
    let mut table = Table::ready(2);
    let asked = worker(1, 2);
    let reason = RecycleReason::Signal { signal: 15 };
    let told = table.tell(Event::StopRequested { worker: asked, signal: 15 });
    assert_eq!(told[0], Action::Report(Report::Recycling { worker: asked, reason }));
    assert_eq!(spawns(&told), [worker(1, 3)]);
    assert_eq!(table.tell(Event::StopRequested { worker: asked, signal: 2 }), [], "once is enough");
    let ready = table.boots(worker(1, 3));
    assert_eq!(retires(&ready), [asked]);
    table.leaves(asked);
    assert_eq!(table.status(), "2/2 workers ready");
}

#[test]
fn a_worker_that_is_asked_to_leave_as_it_becomes_ready_is_not_forgotten() {
    let mut table = Table::ready(2);
    table.exits(worker(0, 1));
    table.spawned(worker(0, 3));
    table.tell(Event::StopRequested { worker: worker(0, 3), signal: 15 });
    let ready = table.tell(Event::Ready { worker: worker(0, 3) });
    assert_eq!(spawns(&ready), [worker(0, 4)]);
}

#[test]
fn workers_that_are_asked_to_leave_while_the_daemon_drains_answer_what_waits() {
    let mut table = Table::ready(2);
    table.tell(Event::Stop);
    for number in 0..2 {
        let worker = worker(number, u64::from(number) + 1);
        assert_eq!(table.tell(Event::StopRequested { worker, signal: 15 }), []);
    }
    let drained = table.tell(Event::EdgeDrained);
    for number in 0..2 {
        assert!(drained.contains(&Action::Terminate { worker: worker(number, u64::from(number) + 1) }));
    }
}
