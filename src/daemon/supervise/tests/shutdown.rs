//! Stopping the daemon.

use super::*;

#[test]
fn failed_first_boot_drains_and_exits_with_78() {
    let mut harness = Harness::new(4);
    harness.send(Event::Started);
    let failed = harness.fail_boot(worker(0, 1));
    let headline = import_error().headline;
    let deadline = harness.now + 3 * SECOND;
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
            Action::Presence(Presence::Leaving),
            Action::Status(format!("failed to start: {headline}")),
        ]
    );
    assert_eq!(harness.send(Event::EdgeDrained), []);
    let exited = harness.exit(worker(0, 1));
    assert_eq!(exited.last(), Some(&Action::Exit { status: 78, reason: Some(headline) }));
    assert_eq!(harness.send(Event::Stop), [], "nothing happens after Exit");
    assert_eq!(harness.wakeup(), None);
}

#[test]
fn stop_drains_the_edge_terminates_workers_and_exits() {
    let mut harness = Harness::ready(2);
    let actions = harness.send(Event::Stop);
    let deadline = harness.now + 30 * SECOND;
    assert_eq!(
        actions,
        [
            Action::NotifyStopping,
            Action::DrainEdge { deadline },
            Action::ExtendTimeout(30 * SECOND),
            Action::Presence(Presence::Leaving),
            Action::Status("stopping: 2 workers draining".to_owned()),
        ]
    );
    assert_eq!(harness.send(Event::Stop), [], "the second request is ignored");
    let drained = harness.advance(SECOND).send(Event::EdgeDrained);
    let terminations = [worker(0, 1), worker(1, 2)].map(|worker| Action::Terminate { worker });
    assert_eq!(drained[..2], terminations);
    assert_eq!(status(&drained), Some("stopping: 2 workers exiting"));
    harness.send(Event::Exited { worker: worker(0, 1), exit: Exit::Code(0) });
    let last = harness.send(Event::Exited { worker: worker(1, 2), exit: Exit::Code(0) });
    assert_eq!(last.last(), Some(&Action::Exit { status: 0, reason: None }));
}

fn unused() -> Event {
    Event::Unused { idle_for: 600 * SECOND }
}

#[test]
fn unused_daemon_drains_and_exits_with_79() {
    let mut harness = Harness::with(SupervisorPolicy {
        drain_delay: 20 * SECOND,
        idle_exit: Some(60 * SECOND),
        ..policy(1)
    });
    harness.send(Event::Started);
    assert_eq!(harness.send(unused()), [], "no worker was ready yet");
    harness.boot(worker(0, 1));
    let actions = harness.send(unused());
    let deadline = harness.now + 30 * SECOND;
    assert_eq!(
        actions[..3],
        [
            Action::Report(Report::Unused { idle_for: 600 * SECOND }),
            Action::NotifyStopping,
            Action::DrainEdge { deadline },
        ],
        "without the delay for load balancers"
    );
    // systemctl status shows the last line of a service that sleeps, too.
    let line = "asleep: no request came for daemon.idle_exit; the next connection to the socket starts rgun";
    assert_eq!(status(&actions), Some(line));
    assert_eq!(harness.send(unused()), []);
    let drained = harness.send(Event::EdgeDrained);
    assert!(drained.contains(&Action::Terminate { worker: worker(0, 1) }), "{drained:?}");
    assert_eq!(status(&drained), None, "the line stays");
    assert_eq!(harness.exit(worker(0, 1)).last(), Some(&Action::Exit { status: 79, reason: None }));
}

#[test]
fn daemon_whose_workers_sleep_exits_when_unused() {
    let mut harness = Harness::with(SupervisorPolicy { idle_exit: Some(60 * SECOND), ..policy(1) });
    harness.send(Event::Started);
    harness.boot(worker(0, 1));
    harness.send(Event::Load(LoadSample { idle_for: 60 * SECOND, ..LoadSample::default() }));
    harness.drain_and_exit(worker(0, 1));
    harness.send(unused());
    assert_eq!(harness.send(Event::EdgeDrained).last(), Some(&Action::Exit { status: 79, reason: None }));
}

#[test]
fn reloading_daemon_does_not_exit_when_unused() {
    let mut harness = Harness::with(SupervisorPolicy { watch: Some(60 * SECOND), ..policy(1) });
    harness.send(Event::Started);
    harness.boot(worker(0, 1));
    harness.send(Event::Reload { policy: SupervisorPolicy { watch: Some(60 * SECOND), ..policy(1) } });
    assert_eq!(harness.send(unused()), [], "the reload is pending");
    harness.boot(worker(0, 2));
    assert_eq!(harness.send(unused()), [], "a rollback is possible");
    harness.advance(61 * SECOND).send(Event::Tick);
    assert!(harness.send(unused()).contains(&Action::NotifyStopping));
}

fn departing(delay: Duration) -> (Harness, Vec<Action>) {
    let mut harness = Harness::with(SupervisorPolicy { drain_delay: delay, ..policy(1) });
    harness.send(Event::Started);
    harness.boot(worker(0, 1));
    assert_eq!(harness.supervisor.stop_effect(), StopEffect::Depart(delay));
    let actions = harness.send(Event::Stop);
    (harness, actions)
}

#[test]
fn requests_are_served_during_the_drain_delay() {
    let (mut harness, actions) = departing(20 * SECOND);
    assert_eq!(
        actions,
        [
            Action::NotifyStopping,
            Action::ExtendTimeout(30 * SECOND),
            Action::Presence(Presence::Leaving),
            Action::Status("stopping: serving until load balancers have left; 1/1 workers ready".to_owned()),
        ]
    );
    let extended = harness.advance(15 * SECOND).tick();
    assert_eq!(extended, [Action::ExtendTimeout(30 * SECOND)]);
    let crashed = harness.exit(worker(0, 1));
    assert!(crashed.contains(&spawn(0, 2)), "workers are still replaced: {crashed:?}");
    let drained = harness.advance(5 * SECOND).tick();
    let deadline = harness.now + 30 * SECOND;
    assert_eq!(drained[..2], [Action::Report(Report::DepartureEnded), Action::DrainEdge { deadline }]);
}

#[test]
fn second_stop_ends_the_drain_delay() {
    let (mut harness, _) = departing(20 * SECOND);
    assert_eq!(harness.supervisor.stop_effect(), StopEffect::EndDeparture);
    let actions = harness.advance(SECOND).send(Event::Stop);
    let deadline = harness.now + 30 * SECOND;
    assert_eq!(actions[0], Action::DrainEdge { deadline });
    assert_eq!(harness.supervisor.stop_effect(), StopEffect::None);
}

#[test]
fn stop_now_during_the_drain_delay_kills_the_workers() {
    let (mut harness, _) = departing(20 * SECOND);
    let actions = harness.send(Event::StopNow);
    let now = harness.now;
    assert!(actions.contains(&Action::DrainEdge { deadline: now }), "{actions:?}");
    assert!(actions.iter().any(|action| matches!(action, Action::Kill { .. })), "{actions:?}");
}

#[test]
fn reload_during_the_drain_delay_is_refused() {
    let (mut harness, _) = departing(20 * SECOND);
    let actions = harness.send(Event::Reload { policy: policy(1) });
    assert!(matches!(actions[0], Action::AnswerReload { outcome: Err(_), .. }), "{actions:?}");
}

#[test]
fn stop_before_the_first_ready_worker_has_no_delay() {
    let mut harness = Harness::with(SupervisorPolicy { drain_delay: 20 * SECOND, ..policy(1) });
    harness.send(Event::Started);
    assert_eq!(harness.supervisor.stop_effect(), StopEffect::Drain);
    let actions = harness.send(Event::Stop);
    assert!(actions.iter().any(|action| matches!(action, Action::DrainEdge { .. })), "{actions:?}");
}

#[test]
fn drain_timeout_is_reported_and_exits_with_0() {
    let mut harness = Harness::ready(1);
    harness.send(Event::Stop);
    let ran_out = harness.advance(30 * SECOND).tick();
    assert_eq!(
        ran_out[..2],
        [
            Action::Report(Report::DrainTimedOut { waited: 30 * SECOND }),
            Action::Terminate { worker: worker(0, 1) }
        ]
    );
    let killed = harness.advance(5 * SECOND).tick();
    assert!(killed.contains(&kill(worker(0, 1))), "after terminate_grace: {killed:?}");
    let exit = Exit::Signal { signal: 9, core_dumped: false };
    let last = harness.send(Event::Exited { worker: worker(0, 1), exit });
    assert_eq!(last.last(), Some(&Action::Exit { status: 0, reason: None }));
}

#[test]
fn workers_get_terminate_grace_after_a_long_edge_drain() {
    for (drained_after, just_before) in [(SECOND, 28_999 * MS), (29 * SECOND, 4_999 * MS)] {
        let mut harness = Harness::ready(1);
        harness.send(Event::Stop);
        harness.advance(drained_after).send(Event::EdgeDrained);
        let early = harness.advance(just_before).tick();
        assert!(!early.contains(&kill(worker(0, 1))), "{early:?}");
        let late = harness.advance(MS).tick();
        assert!(late.contains(&kill(worker(0, 1))), "{late:?}");
    }
}

#[test]
fn stuck_or_booting_worker_is_killed_on_stop() {
    let mut harness = Harness::ready(2);
    harness.send(Event::DeadlineExceeded { worker: worker(0, 1) });
    harness.spawned(worker(0, 3));
    harness.send(Event::Stop);
    let drained = harness.send(Event::EdgeDrained);
    assert_eq!(
        drained[..3],
        [
            abort(worker(0, 1), AbortReason::Shutdown),
            Action::Terminate { worker: worker(1, 2) },
            abort(worker(0, 3), AbortReason::Shutdown),
        ]
    );
}

#[test]
fn stop_while_booting_serves_the_queue_but_is_never_ready() {
    let mut harness = Harness::new(3);
    harness.send(Event::Started);
    harness.spawned(worker(0, 1));
    harness.send(Event::Stop);
    let ready = harness.send(Event::Ready { worker: worker(0, 1) });
    assert_eq!(ready[0], Action::Admit { worker: worker(0, 1) });
    assert!(!ready.contains(&Action::NotifyReady), "{ready:?}");
    assert_eq!(spawns(&ready), [], "one worker suffices to empty the queue");
    let drained = harness.send(Event::EdgeDrained);
    assert_eq!(drained[0], Action::Terminate { worker: worker(0, 1) });
}

#[test]
fn last_worker_lost_while_draining_is_replaced() {
    let mut harness = Harness::ready(2);
    harness.advance(20 * SECOND).send(Event::Stop);
    assert_eq!(spawns(&harness.exit(worker(0, 1))), [], "another worker is ready");
    assert_eq!(spawns(&harness.exit(worker(1, 2))).len(), 1, "no other worker is ready");
}

#[test]
fn stop_now_kills_all_workers_and_exits_when_reaped() {
    let mut harness = Harness::ready(2);
    harness.send(Event::DeadlineExceeded { worker: worker(0, 1) });
    let actions = harness.send(Event::StopNow);
    assert_eq!(actions[..2], [Action::NotifyStopping, Action::DrainEdge { deadline: harness.now }]);
    let kills: Vec<_> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Kill { worker, .. } => Some(worker.incarnation.0),
            _ => None,
        })
        .collect();
    assert_eq!(kills, [1, 2], "incarnation 3 has no process yet");
    assert_eq!(harness.spawned(worker(0, 3)), [kill(worker(0, 3))]);
    for id in [worker(0, 1), worker(1, 2)] {
        assert!(!harness.exit(id).iter().any(|action| matches!(action, Action::Exit { .. })));
    }
    assert_eq!(harness.exit(worker(0, 3)).last(), Some(&Action::Exit { status: 0, reason: None }));
}

#[test]
fn process_that_cannot_be_killed_does_not_block_exit() {
    let mut harness = Harness::ready(1);
    harness.send(Event::StopNow);
    let actions = harness.advance(5 * SECOND).tick();
    assert!(actions.iter().any(|action| {
        matches!(action, Action::Report(Report::Overdue { state: WorkerState::Killed, .. }))
    }));
    assert_eq!(actions.last(), Some(&Action::Exit { status: 0, reason: None }));
}

#[test]
fn exit_waits_for_a_spawn_in_progress() {
    let mut harness = Harness::new(1);
    harness.send(Event::Started);
    harness.send(Event::StopNow);
    let late = harness.advance(49 * SECOND).tick();
    assert!(!late.iter().any(|action| matches!(action, Action::Exit { .. })), "{late:?}");
    assert_eq!(harness.spawned(worker(0, 1)), [kill(worker(0, 1))]);
    let reaped = harness.exit(worker(0, 1));
    assert_eq!(reaped.last(), Some(&Action::Exit { status: 0, reason: None }));
}

#[test]
fn stop_before_the_started_event_exits() {
    let mut harness = Harness::new(2);
    let actions = harness.send(Event::Stop);
    assert_eq!(actions, [Action::NotifyStopping, Action::Exit { status: 0, reason: None }]);
}

#[test]
fn first_boot_ended_by_sigterm_does_not_fail_the_start() {
    for signal in [2, 15] {
        let mut harness = Harness::with(policy(1));
        harness.send(Event::Started);
        harness.spawned(worker(0, 1));
        let exit = Exit::Signal { signal, core_dumped: false };
        let ended = harness.send(Event::Exited { worker: worker(0, 1), exit });
        assert!(!ended.contains(&Action::NotifyStopping), "{ended:?}");
        harness.send(Event::Stop);
        let over = harness.send(Event::EdgeDrained);
        assert!(over.contains(&Action::Exit { status: 0, reason: None }), "{over:?}");
    }
}

#[test]
fn drained_daemon_serves_and_health_checks_report_drain() {
    let mut harness = Harness::ready(1);
    let drained = harness.send(Event::SetDraining { enable: true });
    assert!(drained.contains(&Action::Presence(Presence::Draining)), "{drained:?}");
    assert_eq!(harness.status(), "1/1 workers ready; drained by the operator");
    assert_eq!(harness.send(Event::SetDraining { enable: true }), []);
    harness.send(Event::Reload { policy: policy(1) });
    let live = harness.boot(worker(0, 2));
    assert!(!live.iter().any(|action| matches!(action, Action::Presence(_))), "{live:?}");
    let undone = harness.send(Event::SetDraining { enable: false });
    assert!(undone.contains(&Action::Presence(Presence::Present)), "{undone:?}");
    harness.send(Event::SetDraining { enable: true });
    let stopping = harness.send(Event::Stop);
    assert!(stopping.contains(&Action::Presence(Presence::Leaving)), "{stopping:?}");
}
