//! The number of workers: it follows the load and the operator's signals, and is 0 after
//! `workers.idle_exit`.

use super::*;

fn between(min: u16, max: u16) -> SupervisorPolicy {
    SupervisorPolicy { min: NonZeroU16::new(min).expect("at least one worker"), ..policy(max) }
}

fn resized(actions: &[Action]) -> Option<(u16, u16, ResizeReason)> {
    actions.iter().find_map(|action| match action {
        Action::Report(Report::Resized { from, to, reason }) => Some((*from, *to, *reason)),
        _ => None,
    })
}

fn wait(ms: u32) -> Event {
    let longest_wait = ms * MS;
    Event::Load(LoadSample { queued: 1, longest_wait, running: 2, max_running: 2, ..LoadSample::default() })
}

fn calm(max_running: usize) -> Event {
    Event::Load(LoadSample { running: max_running, max_running, ..LoadSample::default() })
}

fn idle(seconds: u32) -> Event {
    Event::Load(LoadSample { idle_for: seconds * SECOND, ..LoadSample::default() })
}

#[test]
fn number_of_workers_follows_the_queue_wait() {
    let mut harness = Harness::with(between(1, 3));
    harness.send(Event::Started);
    assert_eq!(spawns(&harness.boot(worker(0, 1))), [], "it starts with the minimum");
    assert_eq!(harness.status(), "1/1 workers ready");
    harness.send(calm(1));
    let grown = harness.advance(SECOND).send(wait(150));
    assert_eq!(resized(&grown), Some((1, 2, ResizeReason::QueueWait(150 * MS))));
    assert_eq!(spawns(&grown), [worker(1, 2)]);
    assert_eq!(harness.advance(SECOND).send(wait(1150)), [], "a worker is booting");
    harness.boot(worker(1, 2));
    harness.advance(SECOND).send(wait(1500));
    let grown = harness.advance(SECOND).send(wait(150));
    assert_eq!(resized(&grown).map(|(_, to, _)| to), Some(3));
    harness.boot(worker(2, 3));
    for _ in 0..5 {
        assert_eq!(harness.advance(SECOND).send(wait(150)), [], "the maximum is reached");
    }
    let mut shrunk = Vec::new();
    for _ in 0..61 {
        shrunk.extend(harness.advance(SECOND).send(calm(0)));
    }
    assert_eq!(resized(&shrunk), Some((3, 2, ResizeReason::LowLoad)));
    assert_eq!(retires(&shrunk), [worker(2, 3)]);
    harness.drain_and_exit(worker(2, 3));
    for _ in 0..300 {
        let actions = harness.advance(SECOND).send(calm(0));
        for id in retires(&actions) {
            harness.drain_and_exit(id);
        }
    }
    assert_eq!(harness.status(), "1/1 workers ready");
}

#[test]
fn idle_workers_above_minimum_exit_under_memory_pressure() {
    let mut harness = Harness::with(between(1, 4));
    harness.send(Event::Started);
    harness.boot(worker(0, 1));
    harness.send(calm(1));
    harness.advance(SECOND).send(wait(150));
    harness.boot(worker(1, 2));
    harness.send(calm(2));
    harness.advance(SECOND).send(wait(150));
    harness.boot(worker(2, 3));
    let shed = harness.send(Event::MemoryPressure { n_requests: 2 });
    assert_eq!(resized(&shed), Some((3, 2, ResizeReason::MemoryPressure)));
    assert_eq!(retires(&shed), [worker(2, 3)]);
    assert_eq!(harness.send(Event::MemoryPressure { n_requests: 2 }), [], "both workers are needed");
    let shed = harness.send(Event::MemoryPressure { n_requests: 0 });
    assert_eq!(resized(&shed), Some((2, 1, ResizeReason::MemoryPressure)), "the minimum stays");
    assert_eq!(harness.send(Event::MemoryPressure { n_requests: 0 }), []);
}

#[test]
fn reload_keeps_the_scaled_number_of_workers() {
    let mut harness = Harness::with(between(1, 8));
    harness.send(Event::Started);
    harness.boot(worker(0, 1));
    harness.send(calm(1));
    harness.send(wait(150));
    harness.boot(worker(1, 2));
    harness.send(Event::Reload { policy: between(1, 8) });
    harness.boot(worker(0, 3));
    assert_eq!(reload_outcomes(&harness.boot(worker(1, 4))), [(2, None)]);
    assert_eq!(harness.supervisor.snapshot().desired, 2);
}

#[test]
fn idle_workers_exit_and_the_next_request_wakes_them() {
    let mut harness = Harness::with(SupervisorPolicy { idle_exit: Some(60 * SECOND), ..policy(3) });
    harness.send(Event::Started);
    for number in 0..3 {
        harness.boot(worker(number, u64::from(number) + 1));
    }
    assert_eq!(harness.send(idle(59)), []);
    let asleep = harness.advance(SECOND).send(idle(60));
    let all = [worker(0, 1), worker(1, 2), worker(2, 3)];
    assert_eq!(retires(&asleep), all);
    assert_eq!(resized(&asleep), Some((3, 0, ResizeReason::IdleExit)));
    assert_eq!(status(&asleep), Some("asleep: the next request starts a worker"));
    for id in all {
        harness.drain_and_exit(id);
    }
    assert_eq!(harness.wakeup(), None);
    assert_eq!(harness.supervisor.snapshot().unavailable, None, "requests are queued, not refused");
    let woken = harness.advance(3600 * SECOND).send(Event::WorkerRequested);
    assert_eq!(resized(&woken), Some((0, 3, ResizeReason::Request)));
    assert_eq!(spawns(&woken), [worker(0, 4)], "one worker boots alone");
    assert_eq!(harness.send(Event::WorkerRequested), []);
    let ready = harness.boot(worker(0, 4));
    assert!(!ready.contains(&Action::NotifyReady), "READY=1 was sent at the start: {ready:?}");
    assert_eq!(spawns(&ready).len(), 2);
}

#[test]
fn queued_request_in_a_load_sample_ends_the_sleep() {
    let mut harness = Harness::with(SupervisorPolicy { idle_exit: Some(60 * SECOND), ..policy(1) });
    harness.send(Event::Started);
    harness.boot(worker(0, 1));
    harness.send(idle(60));
    assert_eq!(spawns(&harness.send(wait(10))), [worker(0, 2)], "while the old worker is still retiring");
}

#[test]
fn busy_or_reloading_daemon_does_not_fall_asleep() {
    let mut harness = Harness::with(SupervisorPolicy { idle_exit: Some(60 * SECOND), ..policy(1) });
    harness.send(Event::Started);
    assert_eq!(harness.send(idle(3600)), [], "no worker is ready yet");
    harness.boot(worker(0, 1));
    assert_eq!(
        harness.send(Event::Load(LoadSample { running: 1, idle_for: 60 * SECOND, ..LoadSample::default() })),
        []
    );
    harness.send(Event::Reload { policy: policy(1) });
    assert_eq!(harness.send(idle(60)), []);
    harness.boot(worker(0, 2));
    assert_eq!(harness.send(idle(3600)), [], "the new policy has no idle_exit");
}

#[test]
fn reload_while_asleep_boots_the_new_generation() {
    let mut harness = Harness::with(SupervisorPolicy { idle_exit: Some(60 * SECOND), ..policy(1) });
    harness.send(Event::Started);
    harness.boot(worker(0, 1));
    harness.send(idle(60));
    harness.drain_and_exit(worker(0, 1));
    let begun = harness.send(Event::Reload { policy: policy(2) });
    assert_eq!(spawns(&begun), [worker(0, 2)]);
    assert_eq!(
        status(&begun),
        Some("asleep: the next request starts a worker; reloading: 0/2 of generation 2 ready")
    );
    assert_eq!(reload_outcomes(&harness.boot(worker(0, 2))), []);
    assert_eq!(reload_outcomes(&harness.boot(worker(1, 3))), [(2, None)]);
    assert_eq!(harness.status(), "2/2 workers ready");
}

#[test]
fn boot_failure_after_a_sleep_causes_an_outage() {
    let mut harness = Harness::with(SupervisorPolicy { idle_exit: Some(60 * SECOND), ..policy(2) });
    harness.send(Event::Started);
    harness.boot(worker(0, 1));
    harness.boot(worker(1, 2));
    harness.send(idle(60));
    harness.drain_and_exit(worker(0, 1));
    harness.drain_and_exit(worker(1, 2));
    harness.send(Event::WorkerRequested);
    let failed = harness.fail_boot(worker(0, 3));
    assert!(failed.iter().any(|action| matches!(action, Action::Unavailable(Some(_)))), "{failed:?}");
    assert!(!failed.contains(&Action::NotifyStopping), "a worker was ready before: {failed:?}");
    harness.advance(100 * MS).tick();
    assert!(harness.boot(worker(0, 4)).contains(&Action::Unavailable(None)));
}

#[test]
fn adjusted_number_holds_until_the_next_reload() {
    let mut harness = Harness::ready(2);
    let more = harness.send(Event::Adjust { by: 1 });
    assert_eq!(resized(&more), Some((2, 3, ResizeReason::Operator)));
    assert_eq!(spawns(&more), [worker(2, 3)]);
    harness.boot(worker(2, 3));
    assert_eq!(harness.status(), "3/3 workers ready");
    let fewer = harness.send(Event::Adjust { by: -2 });
    assert_eq!(resized(&fewer), Some((3, 1, ResizeReason::Operator)));
    assert_eq!(retires(&fewer), [worker(1, 2), worker(2, 3)]);
    harness.drain_and_exit(worker(1, 2));
    harness.drain_and_exit(worker(2, 3));
    assert_eq!(harness.send(Event::Adjust { by: -1 }), [], "at least one worker stays");
    assert_eq!(harness.status(), "1/1 workers ready");
    harness.send(Event::Reload { policy: policy(2) });
    harness.boot(worker(0, 4));
    harness.boot(worker(1, 5));
    assert_eq!(harness.supervisor.snapshot().ready, 2);
}

#[test]
fn adjustment_shifts_the_whole_range() {
    let mut harness = Harness::with(between(2, 4));
    harness.send(Event::Started);
    harness.boot(worker(0, 1));
    harness.boot(worker(1, 2));
    assert_eq!(resized(&harness.send(Event::Adjust { by: 1 })), Some((2, 3, ResizeReason::Operator)));
    harness.boot(worker(2, 3));
    for _ in 0..200 {
        assert_eq!(harness.advance(SECOND).send(calm(0)), [], "three is the minimum now");
    }
}

#[test]
fn extreme_adjustments_are_clamped() {
    let mut harness = Harness::new(1);
    for (by, to) in
        [(i32::MIN, 1), (i32::MAX, WorkerNr::MAX_COUNT), (i32::MAX, WorkerNr::MAX_COUNT), (i32::MIN, 1)]
    {
        harness.send(Event::Adjust { by });
        assert_eq!(harness.supervisor.snapshot().desired, usize::from(to));
    }
}

#[test]
fn closed_seat_forgets_its_failures() {
    let mut harness = Harness::ready(2);
    let again = spawns(&harness.exit(worker(1, 2)));
    harness.fail_boot(again[0]);
    harness.exit(again[0]);
    assert_eq!(harness.wakeup(), Some(100 * MS));
    harness.send(Event::Adjust { by: -1 });
    assert_eq!((harness.status(), harness.wakeup()), ("1/1 workers ready".to_owned(), None));
    assert_eq!(spawns(&harness.send(Event::Adjust { by: 1 })), [worker(1, 4)], "at once");
}

#[test]
fn set_number_holds_until_the_next_reload() {
    let mut harness = Harness::with(between(1, 3));
    harness.send(Event::Started);
    harness.boot(worker(0, 1));
    let more = harness.send(Event::SetCount { to: 2 });
    assert_eq!(resized(&more), Some((1, 2, ResizeReason::Operator)));
    assert_eq!(spawns(&more), [worker(1, 2)]);
    harness.boot(worker(1, 2));
    for _ in 0..100 {
        assert_eq!(harness.advance(SECOND).send(calm(0)), [], "low load removes no worker");
        assert_eq!(harness.advance(SECOND).send(wait(150)), [], "a wait adds none");
    }
    assert_eq!(harness.send(Event::SetCount { to: 2 }), []);
    harness.send(Event::Reload { policy: policy(1) });
    harness.boot(worker(0, 3));
    assert_eq!(harness.supervisor.snapshot().desired, 1);
}
