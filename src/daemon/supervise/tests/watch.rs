//! The watch over a new generation: it goes on, or the one before takes over again.

use super::*;

/// Two workers of generation 1 (lives 1 and 2) are at hand, two of generation 2 (3 and 4) serve and are watched.
fn watching() -> Table {
    let mut table = Table::ready(2);
    table.after(20 * SECOND);
    table.tell(Event::Reload { policy: SupervisorPolicy { watch: Some(30 * SECOND), ..policy(2) } });
    table.boots(worker(0, 3));
    let changed = table.boots(worker(1, 4));
    assert_eq!(verdicts(&changed), [(2, None)]);
    assert!(changed.contains(&Action::NotifyReady), "a watch is not a part of the reload: {changed:?}");
    assert_eq!(retires(&changed), [worker(0, 1), worker(1, 2)]);
    assert!(
        !changed.contains(&Action::ForgetGeneration { generation: Generation(1) }),
        "it may come back: {changed:?}"
    );
    assert_eq!(
        status(&changed),
        Some("2/2 workers ready; watching generation 2 for 30 s, can roll back to 1")
    );
    table
}

fn load(old: (u64, u64), new: (u64, u64)) -> Event {
    let tally = |(failed, answered)| ResponseStats { answered, failed };
    let responses = vec![(Generation(1), tally(old)), (Generation(2), tally(new))];
    Event::Load(LoadSample { responses, ..LoadSample::default() })
}

#[test]
fn a_generation_that_answers_as_well_as_the_old_one_keeps_its_place() {
    let mut table = watching();
    assert_eq!(table.tell(Event::Drained { worker: worker(0, 1) }), [], "it is kept");
    for second in 1..30 {
        assert_eq!(table.after(SECOND).tell(load((10, 1000), (second / 5, second * 10))), []);
    }
    assert_eq!(table.wakeup(), Some(SECOND));
    let over = table.after(SECOND).tick();
    assert_eq!(terminations(&over), [worker(0, 1)], "the other is not drained yet");
    assert!(over.contains(&Action::ForgetGeneration { generation: Generation(1) }));
    assert_eq!(status(&over), Some("2/2 workers ready, 1 retiring"));
    table.exits(worker(0, 1));
    table.leaves(worker(1, 2));
    assert_eq!(table.wakeup(), None);
}

#[test]
fn a_generation_that_answers_clearly_worse_gives_way_to_the_old_one() {
    let mut table = watching();
    table.tell(Event::Drained { worker: worker(0, 1) });
    assert_eq!(table.after(5 * SECOND).tell(load((3, 1000), (19, 19))), [], "too early to tell");
    let back = table.tell(load((3, 1000), (50, 400)));
    let why = "12.5 % of 400 responses failed, 0.3 % of 1000 before".to_owned();
    let line = format!("2/2 workers ready, 2 retiring; rolled back from generation 2 to 1: {why}");
    assert_eq!(
        back,
        [
            Action::GoLive { generation: Generation(1) },
            Action::Admit { worker: worker(0, 1) },
            Action::Admit { worker: worker(1, 2) },
            Action::Retire { worker: worker(0, 3) },
            Action::Retire { worker: worker(1, 4) },
            Action::ForgetGeneration { generation: Generation(2) },
            Action::Report(Report::RolledBack { from: Generation(2), to: Generation(1), reason: why }),
            Action::Status(line),
        ]
    );
    table.leaves(worker(0, 3));
    table.leaves(worker(1, 4));
    assert_eq!(table.tell(load((3, 1000), (50, 400))), [], "once");
    assert_eq!(table.wakeup(), None);
    let again = table.tell(Event::Reload { policy: policy(2) });
    assert!(again.contains(&spawn_of(3, 0, 5)), "a number is never used again: {again:?}");
}

#[test]
fn a_generation_whose_workers_all_die_gives_way_without_any_figures() {
    let mut table = watching();
    let again = spawns(&table.exits(worker(0, 3)));
    let dead = table.exits(worker(1, 4));
    assert_eq!(admits(&dead), [], "a death may be the worker's own fault: {dead:?}");
    let failed = table.fails(again[0]);
    assert_eq!(admits(&failed), [worker(0, 1), worker(1, 2)]);
    let why = import_error().summary;
    let back = Report::RolledBack { from: Generation(2), to: Generation(1), reason: why };
    assert!(failed.contains(&Action::Report(back)), "{failed:?}");
    assert!(!failed.iter().any(|action| matches!(action, Action::Unavailable(_))), "{failed:?}");
}

#[test]
fn a_kept_worker_that_is_stuck_or_dies_does_not_take_over_again() {
    let mut table = watching();
    assert_eq!(kills(&table.tell(Event::DeadlineExceeded { worker: worker(0, 1) })), []);
    assert_eq!(kills(&table.tell(Event::Drained { worker: worker(0, 1) })), [worker(0, 1)]);
    let back = table.tell(load((3, 1000), (50, 400)));
    assert_eq!(admits(&back), [worker(1, 2)]);
    assert!(back.contains(&spawn_of(1, 0, 5)), "its seat is filled: {back:?}");

    let mut table = watching();
    assert_eq!(spawns(&table.exits(worker(0, 1))), [], "it is not replaced while it is not needed");
    table.exits(worker(1, 2));
    assert_eq!(table.tell(load((3, 1000), (50, 400))), [], "nobody is left to go back to");
}

#[test]
fn a_reload_ends_the_watch() {
    let mut table = watching();
    table.tell(Event::Drained { worker: worker(0, 1) });
    let actions = table.tell(Event::Reload { policy: policy(2) });
    assert_eq!(terminations(&actions), [worker(0, 1)]);
    assert!(actions.contains(&Action::ForgetGeneration { generation: Generation(1) }));
    assert_eq!(table.tell(load((3, 1000), (50, 400))), [], "what is watched is about to be replaced");
}

#[test]
fn a_stop_ends_the_watch() {
    let mut table = watching();
    let actions = table.tell(Event::Stop);
    assert!(actions.contains(&Action::ForgetGeneration { generation: Generation(1) }), "{actions:?}");
    let drained = table.tell(Event::EdgeDrained);
    assert_eq!(terminations(&drained).len(), 4, "{drained:?}");
}

#[test]
fn a_daemon_that_watches_does_not_fall_asleep() {
    let mut table = Table::ready(1);
    let policy = SupervisorPolicy { watch: Some(30 * SECOND), idle_exit: Some(10 * SECOND), ..policy(1) };
    table.tell(Event::Reload { policy });
    table.boots(worker(0, 2));
    let idle = || Event::Load(LoadSample { idle_for: 60 * SECOND, ..LoadSample::default() });
    assert_eq!(table.tell(idle()), []);
    table.tell(Event::Drained { worker: worker(0, 1) });
    table.after(30 * SECOND).tick();
    assert_eq!(retires(&table.tell(idle())), [worker(0, 2)]);
}

#[test]
fn the_generation_that_takes_over_again_is_not_blamed_for_what_was_before() {
    let mut table = Table::ready(2);
    let again = spawns(&table.exits(worker(1, 2)));
    table.fails(again[0]);
    table.exits(again[0]);
    table.tell(Event::Reload { policy: SupervisorPolicy { watch: Some(30 * SECOND), ..policy(2) } });
    table.boots(worker(0, 4));
    table.boots(worker(1, 5));
    let back = table.tell(load((3, 1000), (50, 400)));
    assert_eq!(spawns(&back), [worker(1, 6)], "its vacancy is filled at once: {back:?}");
    assert!(!table.status().contains("ImportError"), "{}", table.status());
}
