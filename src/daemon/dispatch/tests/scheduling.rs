//! The choice among several workers: quick requests stay with the workers that are awake.

use super::*;

/// Creates a rig with two workers that have reported this service time for long.
fn rig_with_service(nanos: u64) -> Rig {
    let mut rig = Rig::with(base_policy(), 2);
    for index in 0..2 {
        rig.workers[index].service = nanos;
    }
    for _ in 0..100 {
        let tickets = [rig.submit(b"/"), rig.submit(b"/")];
        while let Some(index) = rig.workers.iter().position(FakeWorker::has_unclaimed) {
            rig.answer_by(index, 200);
        }
        assert!(tickets.into_iter().all(|ticket| poll(ticket).is_ready()));
    }
    rig
}

/// Submits requests until one is assigned to the second worker. Returns the number of those before
/// it.
fn n_until_second_worker(rig: &Rig) -> usize {
    let mut tickets = Vec::new();
    while !rig.workers[1].has_unclaimed() {
        assert!(tickets.len() < 100, "the second worker gets nothing");
        tickets.push(rig.submit(b"/"));
    }
    tickets.len() - 1
}

#[test]
fn second_worker_is_woken_only_if_the_first_takes_long() {
    // The wait that is worth a wake-up is 50 µs.
    assert_eq!(n_until_second_worker(&rig_with_service(20_000)), 3);
    assert_eq!(n_until_second_worker(&rig_with_service(60_000)), 1);
    assert_eq!(n_until_second_worker(&rig_with_service(SLOW_SERVICE_NANOS)), 1);
}

#[test]
fn quick_worker_gets_no_second_request_without_prefetching() {
    let rig = rig_with_service(FAST_SERVICE_NANOS);
    rig.dispatcher.set_prefetching(false);
    assert_eq!(n_until_second_worker(&rig), 1);
}

#[test]
fn long_waits_defer_wakeups_and_prefetch_more() {
    let mut rig = Rig::with(base_policy(), 1);
    // Usually too long for prefetching.
    rig.workers[0].service = 1_500_000;
    let wakeup_delay = |rig: &Rig| rig.dispatcher.reactor().wakeup_delay();
    let n_assigned = |rig: &Rig| rig.dispatcher.load().assigned;
    let waited = ago(Duration::from_millis(200));
    let tickets: Vec<_> = (0..9).map(|_| rig.submit_at("GET", b"/", waited).unwrap()).collect();
    assert_eq!((n_assigned(&rig), wakeup_delay(&rig)), (1, Duration::ZERO));
    rig.answer();
    rig.dispatcher.lock().tick_rate = TickRate::Slow;
    rig.answer();
    assert_eq!(wakeup_delay(&rig), Duration::from_millis(4));
    assert_eq!(rig.dispatcher.lock().tick_rate, TickRate::Fast, "wake-ups may be deferred");
    rig.answer();
    // One runs, and four of 1.5 ms are prefetched for the time of 6 ms.
    assert_eq!(n_assigned(&rig), 5);
    while rig.workers[0].has_unclaimed() {
        rig.answer();
    }
    assert!(tickets.into_iter().all(|ticket| status(ticket) == 200));
    let next = rig.submit(b"/");
    rig.answer();
    assert_eq!((status(next), wakeup_delay(&rig)), (200, Duration::from_micros(500)));
}

#[test]
fn served_files_keep_wakeups_from_being_deferred() {
    let mut rig = Rig::with(base_policy(), 1);
    let waited = ago(Duration::from_millis(200));
    let tickets: Vec<_> = (0..4).map(|_| rig.submit_at("GET", b"/", waited).unwrap()).collect();
    rig.answer();
    rig.answer();
    assert_eq!(rig.dispatcher.reactor().wakeup_delay(), Duration::from_millis(4));
    rig.dispatcher.note_served_file();
    rig.answer();
    rig.answer();
    assert_eq!(rig.dispatcher.reactor().wakeup_delay(), Duration::from_micros(500));
    assert!(tickets.into_iter().all(|ticket| status(ticket) == 200));
}

#[test]
fn request_behind_a_slow_one_moves_to_the_idle_worker() {
    let mut rig = rig_with_service(FAST_SERVICE_NANOS);
    let (slow, quick) = (rig.submit(b"/slow"), rig.submit(b"/quick"));
    assert_eq!(rig.claim().unwrap().1, b"/slow");
    assert!(!rig.workers[1].has_unclaimed());
    let now = Instant::now();
    rig.dispatcher.tick(now);
    rig.dispatcher.tick(now + Duration::from_millis(5));
    assert_eq!(rig.answer_by(1, 200), b"/quick");
    assert_eq!(status(quick), 200);
    drop(slow);
}

#[test]
fn request_that_moves_keeps_the_body_apart_from_its_frame() {
    let mut rig = rig_with_service(FAST_SERVICE_NANOS);
    let slow = rig.submit(b"/slow");
    let body = bytes::Bytes::from(vec![7; 20_000]);
    let request = Request { method: b"POST", body_len: 20_000, ..Request::new(ExchangeId(0)) };
    let now = Instant::now();
    let separate = Some(RequestBody::Inline(body.clone()));
    let upload = rig.dispatcher.submit(&request, iter::empty(), separate, now).unwrap();
    assert_eq!(rig.claim().unwrap().1, b"/slow");
    rig.dispatcher.tick(now);
    rig.dispatcher.tick(now + Duration::from_millis(5));
    let mut frame = Vec::new();
    assert!(rig.workers[1].submissions.claim(&mut frame).unwrap());
    let claimed = Request::decode(&frame).unwrap();
    assert_eq!((claimed.method, claimed.body), (&b"POST"[..], &body[..]));
    rig.finish(1, claimed.exchange, 200);
    assert_eq!(status(upload), 200);
    drop(slow);
}

#[test]
fn reactor_spins_for_serial_quick_requests() {
    let mut rig = Rig::fast();
    for number in 0..150 {
        let ticket = rig.submit(b"/");
        rig.dispatcher.before_park();
        assert!(number > 0 || !rig.dispatcher.lock().spinner.is_active());
        rig.answer();
        assert!(poll(ticket).is_ready());
    }
    assert!(rig.dispatcher.lock().spinner.is_active());
    assert!(rig.dispatcher.reactor().is_spinning(), "workers may spin, too");
    let _tickets = [rig.submit(b"/1"), rig.submit(b"/2")];
    rig.dispatcher.before_park();
    assert!(!rig.dispatcher.lock().spinner.is_active());
    assert!(!rig.dispatcher.reactor().is_spinning(), "workers must stop spinning");
}
