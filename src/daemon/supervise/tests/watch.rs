//! `reload.watch`: the new generation stays live, or the previous one takes over again.

use super::*;

/// Returns a supervisor in a watch: two workers of generation 2 (incarnations 3 and 4) serve, and
/// two of generation 1 (incarnations 1 and 2) are kept for a rollback.
fn watching() -> Harness {
    let mut harness = Harness::ready(2);
    harness.advance(20 * SECOND);
    harness.send(Event::Reload { policy: SupervisorPolicy { watch: Some(30 * SECOND), ..policy(2) } });
    harness.boot(worker(0, 3));
    let changed = harness.boot(worker(1, 4));
    assert_eq!(reload_outcomes(&changed), [(2, None)]);
    assert!(changed.contains(&Action::NotifyReady), "the reload ends before the watch: {changed:?}");
    assert_eq!(retires(&changed), [worker(0, 1), worker(1, 2)]);
    assert!(
        !changed.contains(&Action::ForgetGeneration { generation: Generation(1) }),
        "a rollback needs it: {changed:?}"
    );
    assert_eq!(
        status(&changed),
        Some("2/2 workers ready; watching generation 2 for 30 s, can roll back to 1")
    );
    harness
}

fn load(old: (u64, u64), new: (u64, u64)) -> Event {
    let stats = |(failed, answered)| ResponseStats { answered, failed };
    let responses = vec![(Generation(1), stats(old)), (Generation(2), stats(new))];
    Event::Load(LoadSample { responses, ..LoadSample::default() })
}

#[test]
fn equally_good_generation_stays_live() {
    let mut harness = watching();
    assert_eq!(harness.send(Event::Drained { worker: worker(0, 1) }), [], "it stays in standby");
    for second in 1..30 {
        assert_eq!(harness.advance(SECOND).send(load((10, 1000), (second / 5, second * 10))), []);
    }
    assert_eq!(harness.wakeup(), Some(SECOND));
    let over = harness.advance(SECOND).tick();
    assert_eq!(terminations(&over), [worker(0, 1)], "the other worker has not drained yet");
    assert!(over.contains(&Action::ForgetGeneration { generation: Generation(1) }));
    assert_eq!(status(&over), Some("2/2 workers ready, 1 retiring"));
    harness.exit(worker(0, 1));
    harness.drain_and_exit(worker(1, 2));
    assert_eq!(harness.wakeup(), None);
}

#[test]
fn clearly_worse_generation_is_rolled_back() {
    let mut harness = watching();
    harness.send(Event::Drained { worker: worker(0, 1) });
    assert_eq!(harness.advance(5 * SECOND).send(load((3, 1000), (19, 19))), [], "too few responses");
    let back = harness.send(load((3, 1000), (50, 400)));
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
    harness.drain_and_exit(worker(0, 3));
    harness.drain_and_exit(worker(1, 4));
    assert_eq!(harness.send(load((3, 1000), (50, 400))), [], "only once");
    assert_eq!(harness.wakeup(), None);
    let again = harness.send(Event::Reload { policy: policy(2) });
    assert!(again.contains(&spawn_of(3, 0, 5)), "generation numbers are not reused: {again:?}");
}

#[test]
fn generation_without_ready_workers_is_rolled_back() {
    let mut harness = watching();
    let again = spawns(&harness.exit(worker(0, 3)));
    let dead = harness.exit(worker(1, 4));
    assert_eq!(admits(&dead), [], "a single early death does not roll back: {dead:?}");
    let failed = harness.fail_boot(again[0]);
    assert_eq!(admits(&failed), [worker(0, 1), worker(1, 2)]);
    let why = import_error().summary;
    let back = Report::RolledBack { from: Generation(2), to: Generation(1), reason: why };
    assert!(failed.contains(&Action::Report(back)), "{failed:?}");
    assert!(!failed.iter().any(|action| matches!(action, Action::Unavailable(_))), "{failed:?}");
}

#[test]
fn stuck_or_dead_standby_worker_is_not_readmitted() {
    let mut harness = watching();
    assert_eq!(kills(&harness.send(Event::DeadlineExceeded { worker: worker(0, 1) })), []);
    assert_eq!(kills(&harness.send(Event::Drained { worker: worker(0, 1) })), [worker(0, 1)]);
    let back = harness.send(load((3, 1000), (50, 400)));
    assert_eq!(admits(&back), [worker(1, 2)]);
    assert!(back.contains(&spawn_of(1, 0, 5)), "its seat is filled: {back:?}");

    let mut harness = watching();
    assert_eq!(spawns(&harness.exit(worker(0, 1))), [], "a standby worker is not replaced");
    harness.exit(worker(1, 2));
    assert_eq!(harness.send(load((3, 1000), (50, 400))), [], "no worker is left to roll back to");
}

#[test]
fn reload_ends_the_watch() {
    let mut harness = watching();
    harness.send(Event::Drained { worker: worker(0, 1) });
    let actions = harness.send(Event::Reload { policy: policy(2) });
    assert_eq!(terminations(&actions), [worker(0, 1)]);
    assert!(actions.contains(&Action::ForgetGeneration { generation: Generation(1) }));
    assert_eq!(harness.send(load((3, 1000), (50, 400))), [], "the watch has ended");
}

#[test]
fn stop_ends_the_watch() {
    let mut harness = watching();
    let actions = harness.send(Event::Stop);
    assert!(actions.contains(&Action::ForgetGeneration { generation: Generation(1) }), "{actions:?}");
    let drained = harness.send(Event::EdgeDrained);
    assert_eq!(terminations(&drained).len(), 4, "{drained:?}");
}

#[test]
fn daemon_does_not_fall_asleep_during_a_watch() {
    let mut harness = Harness::ready(1);
    let policy = SupervisorPolicy { watch: Some(30 * SECOND), idle_exit: Some(10 * SECOND), ..policy(1) };
    harness.send(Event::Reload { policy });
    harness.boot(worker(0, 2));
    let idle = || Event::Load(LoadSample { idle_for: 60 * SECOND, ..LoadSample::default() });
    assert_eq!(harness.send(idle()), []);
    harness.send(Event::Drained { worker: worker(0, 1) });
    harness.advance(30 * SECOND).tick();
    assert_eq!(retires(&harness.send(idle())), [worker(0, 2)]);
}

#[test]
fn rollback_forgets_earlier_failures_of_the_seats() {
    let mut harness = Harness::ready(2);
    let again = spawns(&harness.exit(worker(1, 2)));
    harness.fail_boot(again[0]);
    harness.exit(again[0]);
    harness.send(Event::Reload { policy: SupervisorPolicy { watch: Some(30 * SECOND), ..policy(2) } });
    harness.boot(worker(0, 4));
    harness.boot(worker(1, 5));
    let back = harness.send(load((3, 1000), (50, 400)));
    assert_eq!(spawns(&back), [worker(1, 6)], "its vacancy is filled at once: {back:?}");
    assert!(!harness.status().contains("ImportError"), "{}", harness.status());
}
