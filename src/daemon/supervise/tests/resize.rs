//! The number of workers: with the queue's wait, by the operator's signals, and none while nobody asks.

use super::*;

fn between(min: u16, max: u16) -> SupervisorPolicy {
    SupervisorPolicy { min: NonZeroU16::new(min).expect("tests have workers"), ..policy(max) }
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
fn the_number_of_workers_follows_the_wait_between_minimum_and_maximum() {
    let mut table = Table::with(between(1, 3));
    table.tell(Event::Started);
    assert_eq!(spawns(&table.boots(worker(0, 1))), [], "it begins with the fewest");
    assert_eq!(table.status(), "1/1 workers ready");
    table.tell(calm(1));
    let grown = table.after(SECOND).tell(wait(150));
    assert_eq!(resized(&grown), Some((1, 2, ResizeReason::QueueWait(150 * MS))));
    assert_eq!(spawns(&grown), [worker(1, 2)]);
    assert_eq!(table.after(SECOND).tell(wait(1150)), [], "it is booting");
    table.boots(worker(1, 2));
    table.after(SECOND).tell(wait(1500));
    let grown = table.after(SECOND).tell(wait(150));
    assert_eq!(resized(&grown).map(|(_, to, _)| to), Some(3));
    table.boots(worker(2, 3));
    for _ in 0..5 {
        assert_eq!(table.after(SECOND).tell(wait(150)), [], "that is all there may be");
    }
    let mut shrunk = Vec::new();
    for _ in 0..61 {
        shrunk.extend(table.after(SECOND).tell(calm(0)));
    }
    assert_eq!(resized(&shrunk), Some((3, 2, ResizeReason::LowLoad)));
    assert_eq!(retires(&shrunk), [worker(2, 3)]);
    table.leaves(worker(2, 3));
    for _ in 0..300 {
        let actions = table.after(SECOND).tell(calm(0));
        for id in retires(&actions) {
            table.leaves(id);
        }
    }
    assert_eq!(table.status(), "1/1 workers ready");
}

#[test]
fn a_reload_keeps_the_number_that_the_load_calls_for() {
    let mut table = Table::with(between(1, 8));
    table.tell(Event::Started);
    table.boots(worker(0, 1));
    table.tell(calm(1));
    table.tell(wait(150));
    table.boots(worker(1, 2));
    table.tell(Event::Reload { policy: between(1, 8) });
    table.boots(worker(0, 3));
    assert_eq!(verdicts(&table.boots(worker(1, 4))), [(2, None)]);
    assert_eq!(table.supervisor.snapshot().count, 2);
}

#[test]
fn idle_workers_leave_and_the_next_request_brings_them_back() {
    let mut table = Table::with(SupervisorPolicy { idle_exit: Some(60 * SECOND), ..policy(3) });
    table.tell(Event::Started);
    for number in 0..3 {
        table.boots(worker(number, u64::from(number) + 1));
    }
    assert_eq!(table.tell(idle(59)), []);
    let asleep = table.after(SECOND).tell(idle(60));
    let all = [worker(0, 1), worker(1, 2), worker(2, 3)];
    assert_eq!(retires(&asleep), all);
    assert_eq!(resized(&asleep), Some((3, 0, ResizeReason::IdleExit)));
    assert_eq!(status(&asleep), Some("asleep: the next request starts a worker"));
    for id in all {
        table.leaves(id);
    }
    assert_eq!(table.wakeup(), None);
    assert_eq!(table.supervisor.snapshot().unavailable, None, "requests are queued, not refused");
    let woken = table.after(3600 * SECOND).tell(Event::WorkerRequested);
    assert_eq!(resized(&woken), Some((0, 3, ResizeReason::Request)));
    assert_eq!(spawns(&woken), [worker(0, 4)], "the request waits for one, and that one boots alone");
    assert_eq!(table.tell(Event::WorkerRequested), []);
    let ready = table.boots(worker(0, 4));
    assert!(!ready.contains(&Action::NotifyReady), "it has been ready all the time: {ready:?}");
    assert_eq!(spawns(&ready).len(), 2);
}

#[test]
fn a_request_that_waits_ends_the_sleep_even_if_nobody_says_so() {
    let mut table = Table::with(SupervisorPolicy { idle_exit: Some(60 * SECOND), ..policy(1) });
    table.tell(Event::Started);
    table.boots(worker(0, 1));
    table.tell(idle(60));
    assert_eq!(spawns(&table.tell(wait(10))), [worker(0, 2)], "while the last one is still leaving");
}

#[test]
fn a_daemon_that_is_busy_or_reloads_does_not_fall_asleep() {
    let mut table = Table::with(SupervisorPolicy { idle_exit: Some(60 * SECOND), ..policy(1) });
    table.tell(Event::Started);
    assert_eq!(table.tell(idle(3600)), [], "nobody is ready yet");
    table.boots(worker(0, 1));
    assert_eq!(
        table.tell(Event::Load(LoadSample { running: 1, idle_for: 60 * SECOND, ..LoadSample::default() })),
        []
    );
    table.tell(Event::Reload { policy: policy(1) });
    assert_eq!(table.tell(idle(60)), []);
    table.boots(worker(0, 2));
    assert_eq!(table.tell(idle(3600)), [], "the new policy does not want it");
}

#[test]
fn a_reload_while_asleep_boots_the_new_generation() {
    let mut table = Table::with(SupervisorPolicy { idle_exit: Some(60 * SECOND), ..policy(1) });
    table.tell(Event::Started);
    table.boots(worker(0, 1));
    table.tell(idle(60));
    table.leaves(worker(0, 1));
    let begun = table.tell(Event::Reload { policy: policy(2) });
    assert_eq!(spawns(&begun), [worker(0, 2)]);
    assert_eq!(
        status(&begun),
        Some("asleep: the next request starts a worker; reloading: 0/2 of generation 2 ready")
    );
    assert_eq!(verdicts(&table.boots(worker(0, 2))), []);
    assert_eq!(verdicts(&table.boots(worker(1, 3))), [(2, None)]);
    assert_eq!(table.status(), "2/2 workers ready");
}

#[test]
fn a_boot_that_fails_after_a_sleep_is_told_to_clients_and_heals() {
    let mut table = Table::with(SupervisorPolicy { idle_exit: Some(60 * SECOND), ..policy(2) });
    table.tell(Event::Started);
    table.boots(worker(0, 1));
    table.boots(worker(1, 2));
    table.tell(idle(60));
    table.leaves(worker(0, 1));
    table.leaves(worker(1, 2));
    table.tell(Event::WorkerRequested);
    let failed = table.fails(worker(0, 3));
    assert!(failed.iter().any(|action| matches!(action, Action::Unavailable(Some(_)))), "{failed:?}");
    assert!(!failed.contains(&Action::NotifyStopping), "it did boot once: {failed:?}");
    table.after(100 * MS).tick();
    assert!(table.boots(worker(0, 4)).contains(&Action::Unavailable(None)));
}

#[test]
fn the_operator_changes_the_number_until_the_next_reload() {
    let mut table = Table::ready(2);
    let more = table.tell(Event::Adjust { by: 1 });
    assert_eq!(resized(&more), Some((2, 3, ResizeReason::Operator)));
    assert_eq!(spawns(&more), [worker(2, 3)]);
    table.boots(worker(2, 3));
    assert_eq!(table.status(), "3/3 workers ready");
    let fewer = table.tell(Event::Adjust { by: -2 });
    assert_eq!(resized(&fewer), Some((3, 1, ResizeReason::Operator)));
    assert_eq!(retires(&fewer), [worker(1, 2), worker(2, 3)]);
    table.leaves(worker(1, 2));
    table.leaves(worker(2, 3));
    assert_eq!(table.tell(Event::Adjust { by: -1 }), [], "somebody has to serve");
    assert_eq!(table.status(), "1/1 workers ready");
    table.tell(Event::Reload { policy: policy(2) });
    table.boots(worker(0, 4));
    table.boots(worker(1, 5));
    assert_eq!(table.supervisor.snapshot().ready, 2);
}

#[test]
fn the_operator_moves_the_whole_range() {
    let mut table = Table::with(between(2, 4));
    table.tell(Event::Started);
    table.boots(worker(0, 1));
    table.boots(worker(1, 2));
    assert_eq!(resized(&table.tell(Event::Adjust { by: 1 })), Some((2, 3, ResizeReason::Operator)));
    table.boots(worker(2, 3));
    for _ in 0..200 {
        assert_eq!(table.after(SECOND).tell(calm(0)), [], "three is the fewest now");
    }
}

#[test]
fn extreme_orders_are_limited_to_what_there_can_be() {
    let mut table = Table::new(1);
    for (by, to) in [(i32::MIN, 1), (i32::MAX, u16::MAX - 1), (i32::MAX, u16::MAX - 1), (i32::MIN, 1)] {
        table.tell(Event::Adjust { by });
        assert_eq!(table.supervisor.snapshot().count, usize::from(to));
    }
}

#[test]
fn a_seat_that_closes_forgets_its_failures() {
    let mut table = Table::ready(2);
    let again = spawns(&table.exits(worker(1, 2)));
    table.fails(again[0]);
    table.exits(again[0]);
    assert_eq!(table.wakeup(), Some(100 * MS));
    table.tell(Event::Adjust { by: -1 });
    assert_eq!((table.status(), table.wakeup()), ("1/1 workers ready".to_owned(), None));
    assert_eq!(spawns(&table.tell(Event::Adjust { by: 1 })), [worker(1, 4)], "at once");
}
