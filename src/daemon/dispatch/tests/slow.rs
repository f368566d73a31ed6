//! Responses of slow clients: taken over from their worker, kept in memory and files, and read in
//! order.

use std::os::unix::fs::FileExt as _;

use super::*;
use bytes::Buf as _;
use rgun_channel::layout::SLOT_CREDIT_WAIT;
use rgun_channel::wake::WaitFlag;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
/// Bytes of one part, which fits into the ring.
const PART: usize = 64 * KIB;
/// Bytes that a worker sends without more credit.
const WINDOW: usize = MIB;

/// A worker that answers `/` with part after part, and a client that has the head and does not read
/// on.
struct Streaming {
    rig: Rig,
    exchange: ExchangeId,
    stream: Option<BodyStream>,
    n_sent: u8,
    now: Instant,
}

impl Streaming {
    fn new(memory: usize, disk: usize) -> Self {
        let policy = Policy {
            response_memory: memory as u64,
            response_disk: disk as u64,
            spool: std::env::temp_dir(),
            ..base_policy()
        };
        Self::from_rig(Rig::with(policy, 1))
    }

    fn from_rig(mut rig: Rig) -> Self {
        let mut ticket = rig.submit(b"/");
        let (exchange, _) = rig.claim().unwrap();
        rig.complete(exchange, CompletionKind::Respond, b"", false, false);
        rig.dispatcher.before_park();
        let Poll::Ready(Ok(answer)) = peek(&mut ticket) else { panic!("no head") };
        Self { rig, exchange, stream: answer.body.into_stream(), n_sent: 0, now: Instant::now() }
    }

    /// Sends the next part, which repeats its number.
    fn send(&mut self, end: bool, done: bool) {
        let part = vec![self.n_sent; PART];
        self.n_sent += 1;
        self.rig.complete(self.exchange, CompletionKind::Body, &part, end, done);
        self.rig.dispatcher.before_park();
    }

    /// Sends as much as the window allows. Returns the number of parts.
    fn fill_window(&mut self) -> usize {
        let before = self.n_sent;
        for _ in 0..WINDOW / PART {
            if self.sent() - self.acked() <= WINDOW - PART {
                self.send(false, false);
            }
        }
        usize::from(self.n_sent - before)
    }

    fn acked(&self) -> usize {
        usize::try_from(self.rig.acked()).unwrap()
    }

    fn sent(&self) -> usize {
        usize::from(self.n_sent) * PART
    }

    /// Runs the timers after `pause`, and the writes they start. Returns the number of blocks
    /// written.
    fn tick_after(&mut self, pause: Duration) -> usize {
        self.now += pause;
        self.rig.dispatcher.tick(self.now);
        self.rig.dispatcher.run_writes()
    }

    /// Lets the client become slow. Returns the number of blocks written.
    fn mark_slow(&mut self) -> usize {
        // The parts were received by the real clock.
        self.now = self.now.max(Instant::now());
        self.tick_after(Duration::ZERO) + self.tick_after(Duration::from_millis(10))
    }

    fn next(&mut self) -> Poll<Option<Result<BodyPiece, Fault>>> {
        self.stream.as_mut().unwrap().poll_piece(&mut Context::from_waker(Waker::noop()))
    }

    /// Reads all pieces that are available. Returns the bytes, and how many of them came from
    /// files.
    fn read(&mut self) -> (Vec<u8>, usize) {
        let (mut bytes, mut n_spilled) = (Vec::new(), 0);
        loop {
            match self.next() {
                Poll::Ready(Some(Ok(BodyPiece::Bytes(data)))) => bytes.extend_from_slice(data.chunk()),
                Poll::Ready(Some(Ok(BodyPiece::Spilled(part)))) => {
                    let mut block = vec![0; usize::try_from(part.len.unwrap()).unwrap()];
                    let file = File::from(part.fd.try_clone().unwrap());
                    file.read_exact_at(&mut block, part.offset).unwrap();
                    bytes.extend(block);
                    n_spilled += usize::try_from(part.len.unwrap()).unwrap();
                }
                Poll::Ready(None) | Poll::Pending => return (bytes, n_spilled),
                other @ Poll::Ready(_) => panic!("{other:?}"),
            }
        }
    }

    /// Reads and checks all parts. Returns how many bytes came from files.
    fn check_content(&mut self) -> usize {
        let (bytes, n_spilled) = self.read();
        assert_eq!(bytes.len(), self.sent());
        assert!(bytes.chunks(PART).zip(0..).all(|(part, n)| part.iter().all(|byte| *byte == n)));
        n_spilled
    }

    fn memory(&self) -> usize {
        usize::try_from(self.rig.dispatcher.response_memory().used()).unwrap()
    }

    fn disk(&self) -> usize {
        usize::try_from(self.rig.dispatcher.buffers.disk.used()).unwrap()
    }
}

#[test]
fn bytes_for_a_fast_client_are_acked_only_when_read() {
    let mut streaming = Streaming::new(64 * MIB, 0);
    for _ in 0..10 {
        streaming.fill_window();
        assert!(streaming.acked() <= streaming.sent() - WINDOW + 2 * PART);
        // The client reads between two ticks.
        streaming.tick_after(Duration::from_millis(1));
        assert!(matches!(streaming.next(), Poll::Ready(Some(Ok(BodyPiece::Bytes(_))))));
    }
    assert!(streaming.acked() < streaming.sent());
}

#[test]
fn waiting_worker_is_woken_when_half_of_the_window_is_free() {
    let mut streaming = Streaming::new(64 * MIB, 0);
    streaming.fill_window();
    let map = Arc::clone(&streaming.rig.workers[0].map);
    let flag = WaitFlag(map.u32(Geometry::slot(0, SLOT_CREDIT_WAIT)));
    flag.announce_wait();
    let is_waiting = || flag.0.load(Ordering::Relaxed) & 1 == 1;
    while streaming.sent() - streaming.acked() > WINDOW / 2 {
        assert!(is_waiting(), "{} acknowledged", streaming.acked());
        assert!(matches!(streaming.next(), Poll::Ready(Some(Ok(BodyPiece::Bytes(_))))));
    }
    assert!(!is_waiting());
}

#[test]
fn worker_waiting_for_room_is_woken_before_sleep() {
    let mut rig = Rig::with(base_policy(), 1);
    // No task waits for the response, so none is woken, and the reactor goes to sleep.
    let _ticket = rig.submit(b"/");
    let (exchange, _) = rig.claim().unwrap();
    let map = Arc::clone(&rig.workers[0].map);
    let flag = WaitFlag(map.u32(Geometry::word(Word::SpaceWait)));
    flag.announce_wait();
    rig.complete(exchange, CompletionKind::Respond, b"", false, false);
    rig.dispatcher.before_park();
    assert_eq!(flag.0.load(Ordering::Relaxed) & 1, 0, "the worker still waits");
}

#[test]
fn response_leaves_worker_when_client_does_not_read() {
    let mut streaming = Streaming::new(64 * MIB, 0);
    streaming.fill_window();
    assert_eq!(streaming.acked(), 0);
    streaming.mark_slow();
    assert_eq!(streaming.acked(), streaming.sent());
    // A slow client's bytes are acknowledged at once.
    streaming.send(false, false);
    assert_eq!(streaming.acked(), streaming.sent());
    for _ in 0..5 {
        streaming.fill_window();
        streaming.tick_after(Duration::from_millis(1));
    }
    streaming.send(true, true);
    assert_eq!(streaming.acked(), streaming.sent());
    assert!(streaming.rig.dispatcher.load().assigned == 0, "the slot is free");
    assert!(streaming.memory() >= streaming.sent());
    assert_eq!(streaming.check_content(), 0);
    assert_eq!(streaming.memory(), 0);
}

#[test]
fn window_sent_before_the_head_is_read_leaves_worker() {
    let rig = Rig::with(Policy { response_memory: 64 * MIB as u64, ..base_policy() }, 1);
    let mut ticket = rig.submit(b"/");
    let mut streaming =
        Streaming { rig, exchange: ExchangeId(0), stream: None, n_sent: 0, now: Instant::now() };
    (streaming.exchange, _) = streaming.rig.claim().unwrap();
    streaming.rig.complete(streaming.exchange, CompletionKind::Respond, b"", false, false);
    streaming.fill_window();
    let Poll::Ready(Ok(answer)) = peek(&mut ticket) else { panic!("no head") };
    streaming.stream = answer.body.into_stream();
    streaming.mark_slow();
    assert_eq!(streaming.acked(), streaming.sent());
    streaming.check_content();
}

#[test]
fn caught_up_client_is_no_longer_slow() {
    let mut streaming = Streaming::new(64 * MIB, 0);
    streaming.fill_window();
    streaming.mark_slow();
    streaming.check_content();
    let acked = streaming.acked();
    streaming.send(false, false);
    assert_eq!(streaming.acked(), acked);
}

#[test]
fn response_over_memory_limit_spills_to_file_in_order() {
    let mut streaming = Streaming::new(2 * MIB, 64 * MIB);
    let mut n_blocks = streaming.fill_window();
    streaming.mark_slow();
    for _ in 0..6 {
        streaming.fill_window();
        for _ in 0..3 {
            n_blocks += streaming.tick_after(Duration::from_millis(1));
        }
        assert_eq!(streaming.acked(), streaming.sent());
    }
    streaming.send(true, true);
    streaming.tick_after(Duration::from_millis(1));
    assert!(n_blocks > 3);
    // The response may use half of the memory.
    assert!(streaming.memory() <= MIB + 2 * PART, "{}", streaming.memory());
    let disk = streaming.disk();
    assert!(disk > 3 * MIB);
    assert_eq!(streaming.check_content(), disk);
    assert_eq!((streaming.memory(), streaming.disk()), (0, 0));
}

#[test]
fn one_huge_response_leaves_room_for_another() {
    let mut rig = Rig::with(Policy { response_memory: 4 * MIB as u64, ..base_policy() }, 1);
    rig.workers[0].service = SLOW_SERVICE_NANOS;
    let mut huge = Streaming::from_rig(rig);
    huge.fill_window();
    huge.mark_slow();
    for _ in 0..10 {
        huge.fill_window();
        huge.tick_after(Duration::from_millis(1));
    }
    assert!(huge.acked() < huge.sent(), "the worker waits");
    let free = huge.rig.dispatcher.response_memory().free();
    assert!(free >= MIB as u64 / 2, "{free}");
}

#[test]
fn worker_waits_while_memory_and_disk_are_full() {
    let mut streaming = Streaming::new(0, 0);
    streaming.fill_window();
    streaming.mark_slow();
    streaming.tick_after(SECOND);
    assert_eq!(streaming.acked(), 0);
    streaming.rig.dispatcher.set_policy(Policy { response_memory: 64 * MIB as u64, ..base_policy() });
    streaming.tick_after(Duration::from_millis(1));
    assert_eq!(streaming.acked(), streaming.sent());
}

#[test]
fn failed_file_write_loses_no_data() {
    let mut streaming = Streaming::new(0, 64 * MIB);
    let missing = std::env::temp_dir().join("rgun-no-such-directory");
    let policy = |spool| Policy { response_disk: 64 * MIB as u64, spool, ..base_policy() };
    streaming.rig.dispatcher.set_policy(policy(missing));
    streaming.fill_window();
    assert_eq!(streaming.mark_slow(), 1);
    assert_eq!((streaming.acked(), streaming.disk()), (0, 0));
    // There is no second attempt at once.
    assert_eq!(streaming.tick_after(Duration::from_millis(5)), 0);
    streaming.rig.dispatcher.set_policy(policy(std::env::temp_dir()));
    assert!(streaming.tick_after(2 * SECOND) > 0);
    assert!(streaming.acked() > 0);
    let spilled = streaming.disk();
    assert_eq!(streaming.check_content(), spilled);
}

#[test]
fn disconnect_frees_memory_and_disk() {
    let mut streaming = Streaming::new(MIB, 64 * MIB);
    streaming.fill_window();
    streaming.mark_slow();
    assert!(streaming.memory() > 0 && streaming.disk() > 0);
    streaming.stream = None;
    assert_eq!((streaming.memory(), streaming.disk(), streaming.acked()), (0, 0, streaming.sent()));
}

#[test]
fn complete_response_in_several_parts_has_known_length() {
    let mut rig = Rig::new();
    let mut ticket = rig.submit(b"/");
    let (exchange, _) = rig.claim().unwrap();
    rig.complete(exchange, CompletionKind::Respond, b"one ", false, false);
    rig.complete(exchange, CompletionKind::Body, b"two", true, true);
    rig.dispatcher.before_park();
    let Poll::Ready(Ok(answer)) = peek(&mut ticket) else { panic!("no answer") };
    let mut stream = answer.body.into_stream().unwrap();
    assert_eq!(stream.body_len(), Some(7));
    let mut context = Context::from_waker(Waker::noop());
    for (text, is_last) in [(&b"one "[..], false), (b"two", true)] {
        let Poll::Ready(Some(Ok(BodyPiece::Bytes(data)))) = stream.poll_piece(&mut context) else {
            panic!("no piece")
        };
        assert_eq!((&*data, stream.is_settled()), (text, is_last));
    }
    assert!(rig.dispatcher.lock().exchanges.is_empty());
}

#[test]
fn wait_for_a_slow_client_does_not_use_up_the_deadline() {
    let mut streaming = Streaming::new(0, 0);
    streaming.fill_window();
    streaming.mark_slow();
    // The application's timeout is 10 s.
    for _ in 0..9 {
        streaming.tick_after(SECOND);
        assert!(streaming.rig.take_notices().is_empty());
    }
    assert_eq!(streaming.acked(), 0);
    // The client takes some pieces: the application has the rest of its timeout.
    for _ in 0..10 {
        assert!(matches!(streaming.next(), Poll::Ready(Some(Ok(_)))));
    }
    streaming.tick_after(5 * SECOND);
    assert!(streaming.rig.take_notices().is_empty());
    streaming.tick_after(6 * SECOND);
    let notices = streaming.rig.take_notices();
    assert!(matches!(notices.as_slice(), [Notice::DeadlineExceeded(WORKER, _)]), "{notices:?}");
}

#[test]
fn client_slower_than_the_request_timeout_is_aborted() {
    let mut streaming = Streaming::new(0, 0);
    streaming.fill_window();
    streaming.mark_slow();
    for _ in 0..15 {
        streaming.tick_after(SECOND);
    }
    assert_eq!(streaming.acked(), streaming.sent(), "the worker does not wait any more");
    let end = streaming.next();
    assert!(matches!(end, Poll::Ready(Some(Err(Fault::ClientTooSlow)))), "{end:?}");
    assert!(streaming.rig.take_notices().is_empty(), "it is not the application's fault");
}

#[test]
fn parts_after_an_abort_are_discarded() {
    let mut streaming = Streaming::new(0, 0);
    streaming.fill_window();
    streaming.mark_slow();
    for _ in 0..15 {
        streaming.tick_after(SECOND);
    }
    streaming.send(false, false);
    assert_eq!(streaming.acked(), streaming.sent());
    let end = streaming.next();
    assert!(matches!(end, Poll::Ready(Some(Err(Fault::ClientTooSlow)))), "{end:?}");
}

#[test]
fn unread_response_is_dropped_when_there_is_no_room() {
    let mut streaming = Streaming::new(0, 0);
    for _ in 0..10 {
        streaming.send(false, false);
    }
    streaming.send(true, true);
    assert!(streaming.memory() >= streaming.sent());
    streaming.tick_after(Duration::ZERO);
    streaming.tick_after(SECOND / 2);
    assert!(streaming.memory() >= streaming.sent());
    streaming.tick_after(SECOND);
    assert_eq!(streaming.memory(), 0);
    assert!(matches!(streaming.next(), Poll::Ready(Some(Err(Fault::ClientTooSlow)))));
}
