//! The end of the daemon.

use super::*;

#[test]
fn a_first_boot_that_fails_exits_78_after_answering_who_waits() {
    let mut table = Table::new(4);
    table.tell(Event::Started);
    let failed = table.fails(worker(0, 1));
    let headline = import_error().headline;
    let deadline = table.now + 3 * SECOND;
    assert_eq!(
        failed,
        [
            Action::Report(Report::WorkerBootFailed {
                worker: worker(0, 1),
                failure: import_error(),
                retry_in: None,
                already_reported: false,
            }),
            Action::NotifyStopping,
            Action::Unavailable(Some(import_error().summary)),
            Action::DrainEdge { deadline },
            Action::Status(format!("failed to start: {headline}")),
        ]
    );
    assert_eq!(table.tell(Event::EdgeDrained), []);
    let gone = table.exits(worker(0, 1));
    assert_eq!(gone.last(), Some(&Action::Exit { status: 78, reason: Some(headline) }));
    assert_eq!(table.tell(Event::Stop), [], "nothing happens after Exit");
    assert_eq!(table.wakeup(), None);
}

#[test]
fn stop_drains_the_edge_then_asks_the_workers_then_exits() {
    let mut table = Table::ready(2);
    let actions = table.tell(Event::Stop);
    let deadline = table.now + 30 * SECOND;
    assert_eq!(
        actions,
        [
            Action::NotifyStopping,
            Action::DrainEdge { deadline },
            Action::ExtendTimeout(30 * SECOND),
            Action::Status("stopping: 2 workers draining".to_owned()),
        ]
    );
    assert_eq!(table.tell(Event::Stop), [], "once is enough");
    let drained = table.after(SECOND).tell(Event::EdgeDrained);
    let terminations = [worker(0, 1), worker(1, 2)].map(|worker| Action::Terminate { worker });
    assert_eq!(drained[..2], terminations);
    assert_eq!(status(&drained), Some("stopping: 2 workers exiting"));
    table.tell(Event::Exited { worker: worker(0, 1), exit: Exit::Code(0) });
    let last = table.tell(Event::Exited { worker: worker(1, 2), exit: Exit::Code(0) });
    assert_eq!(last.last(), Some(&Action::Exit { status: 0, reason: None }));
}

#[test]
fn a_drain_that_runs_out_is_reported_and_the_stop_is_still_a_success() {
    let mut table = Table::ready(1);
    table.tell(Event::Stop);
    let ran_out = table.after(30 * SECOND).tick();
    assert_eq!(
        ran_out[..2],
        [
            Action::Report(Report::DrainTimedOut { waited: 30 * SECOND }),
            Action::Terminate { worker: worker(0, 1) }
        ]
    );
    let killed = table.after(5 * SECOND).tick();
    assert!(killed.contains(&kill(worker(0, 1))), "after the grace: {killed:?}");
    let exit = Exit::Signal { signal: 9, core_dumped: false };
    let last = table.tell(Event::Exited { worker: worker(0, 1), exit });
    assert_eq!(last.last(), Some(&Action::Exit { status: 0, reason: None }));
}

#[test]
fn workers_have_their_grace_when_the_edge_takes_the_whole_drain() {
    for (drained_after, nearly_the_grace) in [(SECOND, 28_999 * MS), (29 * SECOND, 4_999 * MS)] {
        let mut table = Table::ready(1);
        table.tell(Event::Stop);
        table.after(drained_after).tell(Event::EdgeDrained);
        let early = table.after(nearly_the_grace).tick();
        assert!(!early.contains(&kill(worker(0, 1))), "{early:?}");
        let late = table.after(MS).tick();
        assert!(late.contains(&kill(worker(0, 1))), "{late:?}");
    }
}

#[test]
fn a_stuck_or_booting_worker_is_not_asked_to_leave() {
    let mut table = Table::ready(2);
    table.tell(Event::DeadlineExceeded { worker: worker(0, 1) });
    table.spawned(worker(0, 3));
    table.tell(Event::Stop);
    let drained = table.tell(Event::EdgeDrained);
    assert_eq!(
        drained[..3],
        [
            cut(worker(0, 1), AbortReason::Shutdown),
            Action::Terminate { worker: worker(1, 2) },
            cut(worker(0, 3), AbortReason::Shutdown),
        ]
    );
}

#[test]
fn stop_while_booting_answers_what_is_queued_and_never_says_ready() {
    let mut table = Table::new(3);
    table.tell(Event::Started);
    table.spawned(worker(0, 1));
    table.tell(Event::Stop);
    let ready = table.tell(Event::Ready { worker: worker(0, 1) });
    assert_eq!(ready[0], Action::Admit { worker: worker(0, 1) });
    assert!(!ready.contains(&Action::NotifyReady), "{ready:?}");
    assert_eq!(spawns(&ready), [], "one is enough to empty a queue");
    let drained = table.tell(Event::EdgeDrained);
    assert_eq!(drained[0], Action::Terminate { worker: worker(0, 1) });
}

#[test]
fn the_last_worker_lost_while_draining_is_replaced_for_the_queue() {
    let mut table = Table::ready(2);
    table.after(20 * SECOND).tell(Event::Stop);
    assert_eq!(spawns(&table.exits(worker(0, 1))), [], "somebody still serves");
    assert_eq!(spawns(&table.exits(worker(1, 2))).len(), 1, "nobody does");
}

#[test]
fn stop_now_kills_everybody_and_exits_when_they_are_reaped() {
    let mut table = Table::ready(2);
    table.tell(Event::DeadlineExceeded { worker: worker(0, 1) });
    let actions = table.tell(Event::StopNow);
    assert_eq!(actions[..2], [Action::NotifyStopping, Action::DrainEdge { deadline: table.now }]);
    let kills: Vec<_> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Kill { worker, .. } => Some(worker.life.0),
            _ => None,
        })
        .collect();
    assert_eq!(kills, [1, 2], "life 3 has no process yet");
    assert_eq!(table.spawned(worker(0, 3)), [kill(worker(0, 3))]);
    for id in [worker(0, 1), worker(1, 2)] {
        assert!(!table.exits(id).iter().any(|action| matches!(action, Action::Exit { .. })));
    }
    assert_eq!(table.exits(worker(0, 3)).last(), Some(&Action::Exit { status: 0, reason: None }));
}

#[test]
fn a_process_that_cannot_be_killed_does_not_keep_the_daemon() {
    let mut table = Table::ready(1);
    table.tell(Event::StopNow);
    let actions = table.after(5 * SECOND).tick();
    assert!(actions.iter().any(|action| {
        matches!(action, Action::Report(Report::Overdue { state: WorkerState::Killed, .. }))
    }));
    assert_eq!(actions.last(), Some(&Action::Exit { status: 0, reason: None }));
}

#[test]
fn the_daemon_does_not_leave_while_a_process_is_still_being_made() {
    let mut table = Table::new(1);
    table.tell(Event::Started);
    table.tell(Event::StopNow);
    let late = table.after(49 * SECOND).tick();
    assert!(!late.iter().any(|action| matches!(action, Action::Exit { .. })), "{late:?}");
    assert_eq!(table.spawned(worker(0, 1)), [kill(worker(0, 1))]);
    let reaped = table.exits(worker(0, 1));
    assert_eq!(reaped.last(), Some(&Action::Exit { status: 0, reason: None }));
}

#[test]
fn stop_before_the_start_just_exits() {
    let mut table = Table::new(2);
    let actions = table.tell(Event::Stop);
    assert_eq!(actions, [Action::NotifyStopping, Action::Exit { status: 0, reason: None }]);
}

#[test]
fn a_first_worker_that_somebody_ends_while_it_boots_is_no_fault_of_the_application() {
    for signal in [2, 15] {
        let mut table = Table::with(policy(1));
        table.tell(Event::Started);
        table.spawned(worker(0, 1));
        let exit = Exit::Signal { signal, core_dumped: false };
        let ended = table.tell(Event::Exited { worker: worker(0, 1), exit });
        assert!(!ended.contains(&Action::NotifyStopping), "{ended:?}");
        table.tell(Event::Stop);
        let over = table.tell(Event::EdgeDrained);
        assert!(over.contains(&Action::Exit { status: 0, reason: None }), "{over:?}");
    }
}
