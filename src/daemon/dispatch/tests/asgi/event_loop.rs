//! Deadlines of ASGI tasks, and event loops that stall.

use super::*;

#[test]
fn overdue_task_that_ignores_cancellation_is_reported() {
    let mut rig = WorkerRig::asgi(2);
    let tickets = [rig.submit(b"/yields"), rig.submit(b"/uncancelled")];
    let ids: Vec<_> = (0..2)
        .map(|_| match rig.next_frame() {
            Some(WorkerFrame::Request(id, _)) => id,
            other => panic!("{other:?}"),
        })
        .collect();
    let over = Instant::now() + Duration::from_secs(11);
    rig.dispatcher.tick(over);
    for ticket in tickets {
        assert!(matches!(poll(ticket), Poll::Ready(Err(Fault::Deadline(WORKER)))));
    }
    for id in &ids {
        assert_eq!(rig.next_frame(), Some(WorkerFrame::Cancel(*id)));
        assert!(
            matches!(rig.notices.try_recv(), Ok(Notice::TaskDeadlineExceeded(WORKER, info)) if info.exchange == *id)
        );
    }
    rig.dispatcher.tick(over + Duration::from_millis(900));
    rig.end(ids[0]);
    rig.dispatcher.tick(over + Duration::from_millis(1100));
    rig.dispatcher.tick(over + Duration::from_millis(2200));
    let notices: Vec<_> = rig.notices.try_iter().collect();
    let [Notice::CancelIgnored(WORKER, info)] = &notices[..] else { panic!("{notices:?}") };
    assert_eq!(info.exchange, ids[1]);
    assert_eq!(rig.next_frame(), None, "reported once");
}

#[test]
fn deadline_pauses_while_application_waits_for_client() {
    let mut rig = WorkerRig::asgi(1);
    let (ticket, id) = rig.claim_streaming();
    let upload = ticket.upload();
    let begun = Instant::now();
    rig.update_window(id, 5);
    rig.dispatcher.tick(begun + Duration::from_secs(11));
    assert_eq!(send(&upload, &Arc::default(), b"abcde", false), Poll::Ready(true));
    rig.dispatcher.tick(begun + Duration::from_secs(20));
    assert!(rig.notices.try_recv().is_err());
    rig.dispatcher.tick(begun + Duration::from_secs(22));
    assert!(matches!(rig.notices.try_recv(), Ok(Notice::TaskDeadlineExceeded(..))));
}

#[test]
fn loop_with_unclaimed_record_is_stalled_then_stuck() {
    let mut rig = WorkerRig::asgi(2);
    rig.set_policy(|policy| {
        policy.stall = Some(Duration::from_secs(4));
        policy.request_timeout = None;
    });
    let _ticket = rig.submit(b"/");
    let begun = Instant::now();
    let notices = |rig: &WorkerRig, seconds| {
        rig.dispatcher.tick(begun + Duration::from_secs(seconds));
        rig.notices.try_iter().collect::<Vec<_>>()
    };
    assert!(notices(&rig, 0).is_empty());
    assert!(notices(&rig, 3).is_empty());
    assert!(matches!(notices(&rig, 5)[..], [Notice::LoopStalled(WORKER, _)]));
    assert!(notices(&rig, 7).is_empty(), "reported once");
    assert!(matches!(notices(&rig, 9)[..], [Notice::LoopStuck(WORKER, _)]));
    assert!(rig.next_frame().is_some());
    assert!(notices(&rig, 10).is_empty());
}

#[test]
fn event_loop_with_empty_ring_is_pinged() {
    let mut rig = WorkerRig::asgi(2);
    rig.set_policy(|policy| {
        policy.stall = Some(Duration::from_secs(4));
        policy.request_timeout = None;
    });
    let (_ticket, _) = rig.claim_streaming();
    let begun = Instant::now();
    for seconds in 0..40 {
        rig.dispatcher.tick(begun + Duration::from_secs(seconds));
        if let Some(frame) = rig.next_frame() {
            assert_eq!(frame, WorkerFrame::Disconnect(ExchangeId(0)), "a ping: no exchange has this id");
        }
    }
    assert!(rig.notices.try_recv().is_err(), "the loop answers pings");
    for seconds in 40..50 {
        rig.dispatcher.tick(begun + Duration::from_secs(seconds));
    }
    assert!(matches!(rig.notices.try_recv(), Ok(Notice::LoopStalled(WORKER, _))));
}

#[test]
fn requests_unclaimed_by_a_stalled_loop_count_as_queued() {
    let mut rig = WorkerRig::asgi(10);
    let now = Instant::now();
    let _ticket = rig.submit(b"/");
    rig.dispatcher.tick(now);
    rig.dispatcher.tick(now + Duration::from_millis(300));
    assert!(rig.dispatcher.measure_at(now).longest_wait >= Duration::from_millis(300));
    assert!(rig.next_frame().is_some());
    rig.dispatcher.tick(now + Duration::from_millis(600));
    assert!(rig.dispatcher.measure_at(now).longest_wait < Duration::from_millis(100));
}

#[test]
fn each_request_keeps_its_own_deadline() {
    let mut rig = WorkerRig::asgi(3);
    let begun = Instant::now();
    let at = |seconds| begun + Duration::from_secs(seconds);
    let policy = |slow| Policy {
        queue: 10,
        request_timeout: Some(Duration::from_secs(10)),
        slow,
        ..Policy::default()
    };
    rig.dispatcher.set_policy(policy(Some(Duration::from_secs(3))));
    let mut tickets = Vec::new();
    let mut ids = Vec::new();
    for (path, now) in [(&b"/a"[..], at(0)), (b"/b", at(5)), (b"/c", at(6))] {
        let request = Request { path, ..Request::new(ExchangeId(0)) };
        tickets.push(rig.dispatcher.submit(&request, iter::empty(), None, now).unwrap());
        ids.push(rig.claim().unwrap().0);
    }
    let notices_at = |rig: &mut WorkerRig, seconds| {
        rig.dispatcher.tick(at(seconds));
        let mut notices: Vec<_> = rig
            .notices
            .try_iter()
            .filter_map(|notice| match notice {
                Notice::TaskDeadlineExceeded(_, info) => Some(format!("overdue {}", info.path)),
                Notice::CancelIgnored(_, info) => Some(format!("uncancelled {}", info.path)),
                Notice::SlowRequest(_, info) => Some(format!("slow {}", info.path)),
                _ => None,
            })
            .collect();
        notices.sort();
        notices.join(", ")
    };
    for (seconds, expected) in [
        (2, ""),
        (4, "slow /a"),
        (5, ""),
        (9, "slow /b"),
        (10, "slow /c"),
        (11, "overdue /a"),
        (13, "uncancelled /a"),
        (14, ""),
        (16, "overdue /b"),
    ] {
        assert_eq!(notices_at(&mut rig, seconds), expected, "after {seconds} s");
    }
    // A part of the response restarts the deadline.
    rig.complete(ids[2], CompletionKind::Respond, b"part", false, false);
    rig.complete(ids[2], CompletionKind::Body, b"part", false, false);
    rig.dispatcher.before_park();
    assert_eq!(notices_at(&mut rig, 9), "");
    assert_eq!(notices_at(&mut rig, 25), "overdue /c, uncancelled /b");
}

/// Submits as many requests as make a backlog to an event loop that is awake.
fn submit_backlog(rig: &WorkerRig) -> Vec<Ticket> {
    (0..32).map(|_| rig.submit(b"/")).collect()
}

/// Ends the reactor's turn. Returns how often the reactor slept in it.
fn count_sleeps(rig: &WorkerRig) -> u32 {
    let before = rig.dispatcher.reactor().epoch().0.load(Ordering::SeqCst);
    rig.dispatcher.before_park();
    let after = rig.dispatcher.reactor().epoch().0.load(Ordering::SeqCst);
    assert!(!rig.dispatcher.reactor().backlog_wait().is_announced());
    rig.dispatcher.after_park();
    (after - before).div_ceil(2)
}

#[test]
fn reactor_waits_for_a_loop_with_a_backlog_first() {
    let mut rig = WorkerRig::asgi(40);
    let tickets = submit_backlog(&rig);
    assert_eq!(count_sleeps(&rig), 2, "it waits for the worker, then sleeps");
    assert!(rig.next_frame().is_some());
    assert_eq!(count_sleeps(&rig), 1, "31 requests are no backlog");
    drop(tickets);
}

#[test]
fn reactor_does_not_wait_for_a_loop_that_slept() {
    let rig = WorkerRig::asgi(40);
    rig.sleepers().announce_loop_sleep();
    let tickets = submit_backlog(&rig);
    assert_eq!(count_sleeps(&rig), 1);
    assert_eq!(rig.take_wakeups(), 1);
    assert_eq!(count_sleeps(&rig), 2, "the loop has not claimed the requests since");
    drop(tickets);
}
