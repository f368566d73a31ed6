//! WebSockets: accepted, denied, messages both ways, closed from either side, and told to go; driven by hand.

use rgun_channel::control::Interface;
use rgun_channel::frame::{MESSAGE_COST, StreamFrame, Submission};
use rgun_channel::layout::RESPONSE_WINDOW;

use super::one_worker::*;

/// What the worker hears of a WebSocket.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Asked(ExchangeId),
    Part(Vec<u8>, bool, bool),
    Gone(u16, Vec<u8>),
}

/// A frame that the worker says.
struct Says<'b> {
    kind: CompletionKind,
    status: u16,
    body: &'b [u8],
    text: bool,
    more: bool,
    end: bool,
    done: bool,
}

const ACCEPT: Says<'_> = Says {
    kind: CompletionKind::Respond,
    status: 101,
    body: b"",
    text: false,
    more: false,
    end: false,
    done: false,
};
const MESSAGE: Says<'_> = Says { kind: CompletionKind::Body, status: 0, ..ACCEPT };
const CLOSE: Says<'_> = Says { kind: CompletionKind::Close, status: 1000, end: true, ..ACCEPT };
const DONE: Says<'_> = Says { end: true, done: true, ..MESSAGE };

impl Rig {
    /// With an ASGI worker that takes one request at a time and so many WebSockets.
    fn sockets(websockets: u32) -> Self {
        let rig = Self::with_slots(Slots { threads: 1, concurrency: 1, websockets });
        let report = Report::Ready { interface: Interface::Asgi };
        control::send(&rig.control, &report.encode(), &[]).unwrap();
        assert!(rig.dispatcher.pump_control(WORKER));
        let _told = rig.notices.try_iter().count();
        rig.dispatcher.admit(WORKER);
        rig
    }

    fn handshake(&self) -> Ticket {
        let request = Request { path: b"/ws", websocket: true, ..Request::new(ExchangeId(0)) };
        self.dispatcher.submit(&request, iter::empty(), None, Instant::now()).unwrap()
    }

    fn heard(&mut self) -> Option<Heard> {
        let mut frame = Vec::new();
        self.submissions.claim(&mut frame).unwrap().then(|| match Submission::decode(&frame).unwrap() {
            Submission::Request(request) => Heard::Asked(request.exchange),
            Submission::Stream(StreamFrame::Part { bytes, text, more, .. }) => {
                Heard::Part(bytes.to_vec(), text, more)
            }
            Submission::Stream(StreamFrame::Disconnect { code, reason, .. }) => {
                Heard::Gone(code, reason.to_vec())
            }
            Submission::Stream(StreamFrame::HalfClose { .. }) => panic!("no WebSocket is half closed"),
        })
    }

    fn says(&mut self, exchange: ExchangeId, slot: u16, says: &Says<'_>) {
        let &Says { kind, status, body, text, more, end, done } = says;
        let head = Completion { exchange, kind, end, done, text, more, status, service: 1000, slot };
        let (mut frame, body) = (Vec::new(), Body::Inline(body));
        head.encode(0, &body, &mut frame);
        body.encode(&mut frame);
        assert!(self.completions.push(&frame).unwrap());
        self.dispatcher.before_park();
    }

    /// A WebSocket that was accepted in this slot.
    fn accepted(&mut self, slot: u16) -> (WebSocketHandle, ExchangeId) {
        let ticket = self.handshake();
        let Some(Heard::Asked(id)) = self.heard() else { panic!("it was not given") };
        self.says(id, slot, &ACCEPT);
        let Poll::Ready(Ok(answer)) = poll(ticket) else { panic!("it was not accepted") };
        assert_eq!(answer.head.status, 101);
        (answer.stream.unwrap().into_websocket(), id)
    }

    fn takes(&mut self, exchange: ExchangeId, taken: u64) {
        self.says(
            exchange,
            0,
            &Says { kind: CompletionKind::WindowUpdate, body: &taken.to_le_bytes(), status: 0, ..ACCEPT },
        );
    }
}

fn next(socket: &mut WebSocketHandle) -> Poll<Result<Outgoing, Fault>> {
    socket.poll_outgoing(&mut Context::from_waker(Waker::noop()))
}

fn room(socket: &WebSocketHandle) -> Poll<bool> {
    socket.poll_room(&mut Context::from_waker(Waker::noop()))
}

fn send(socket: &WebSocketHandle, bytes: &[u8], text: bool, more: bool) -> Poll<bool> {
    socket.poll_send(&mut Context::from_waker(Waker::noop()), bytes, text, more)
}

fn message(bytes: &'static [u8], text: bool, more: bool) -> Outgoing {
    Outgoing::Message { bytes: bytes.into(), text, more }
}

#[test]
fn messages_are_sent_only_as_credit_allows() {
    let mut rig = Rig::sockets(1);
    let (socket, id) = rig.accepted(0);
    assert_eq!(room(&socket), Poll::Pending);
    rig.takes(id, 70);
    assert_eq!(room(&socket), Poll::Ready(true));
    assert_eq!(send(&socket, b"", true, false), Poll::Ready(true));
    assert_eq!(room(&socket), Poll::Ready(true), "an empty one costs {MESSAGE_COST}");
    assert_eq!(send(&socket, b"hi", false, true), Poll::Ready(true));
    assert_eq!(room(&socket), Poll::Pending);
    assert_eq!(rig.heard(), Some(Heard::Part(vec![], true, false)));
    assert_eq!(rig.heard(), Some(Heard::Part(b"hi".to_vec(), false, true)));
}

#[test]
fn oversized_part_ends_the_websocket_and_not_the_daemon() {
    let mut rig = Rig::sockets(1);
    let (mut socket, id) = rig.accepted(0);
    rig.takes(id, 1 << 30);
    assert_eq!(send(&socket, &vec![0; MAX_PART], false, true), Poll::Ready(true));
    assert_eq!(send(&socket, &vec![0; 2 * MAX_PART], false, false), Poll::Ready(false));
    assert_eq!(room(&socket), Poll::Ready(false));
    assert!(matches!(next(&mut socket), Poll::Ready(Err(Fault::TooLong(_)))));
    assert!(matches!(rig.heard(), Some(Heard::Part(..))));
    assert_eq!(rig.heard(), Some(Heard::Gone(1006, vec![])));
    rig.says(id, 0, &DONE);
    assert_eq!(rig.dispatcher.tick(Instant::now()), TickRate::Idle);
}

#[test]
fn websocket_accepted_after_its_deadline_is_closed() {
    let mut rig = Rig::sockets(1);
    let ticket = rig.handshake();
    let Some(Heard::Asked(id)) = rig.heard() else { panic!("it was not given") };
    let late = Instant::now() + Duration::from_secs(11);
    rig.dispatcher.tick(late);
    assert!(matches!(poll(ticket), Poll::Ready(Err(Fault::Deadline(WORKER)))));
    // It was cancelled, and goes on all the same.
    rig.says(id, 0, &ACCEPT);
    rig.dispatcher.tick(late + Duration::from_secs(2));
    let told: Vec<_> = rig.notices.try_iter().collect();
    assert!(told.iter().any(|notice| matches!(notice, Notice::CancelIgnored(WORKER, _))), "{told:?}");
    rig.dispatcher.retire(WORKER);
    assert!(matches!(rig.notices.try_recv(), Ok(Notice::Drained(WORKER))));
}

#[test]
fn message_queue_memory_is_freed() {
    let mut rig = Rig::sockets(1);
    let (mut socket, id) = rig.accepted(0);
    for _ in 0..1000 {
        rig.says(id, 0, &MESSAGE);
    }
    for _ in 0..1000 {
        assert!(next(&mut socket).is_ready());
    }
    assert!(next(&mut socket).is_pending());
    let room = rig.dispatcher.lock().exchanges.get(id).unwrap().message_capacity();
    assert!(room < 100, "{room}");
}

#[test]
fn messages_arrive_in_order_and_are_acked_when_taken() {
    let mut rig = Rig::sockets(1);
    let (mut socket, id) = rig.accepted(0);
    rig.says(id, 0, &Says { body: b"one", text: true, more: true, ..MESSAGE });
    rig.says(id, 0, &Says { body: b"", text: true, ..MESSAGE });
    assert_eq!(next(&mut socket), Poll::Ready(Ok(message(b"one", true, true))));
    assert_eq!(rig.acked(), 3 + MESSAGE_COST);
    assert_eq!(next(&mut socket), Poll::Ready(Ok(message(b"", true, false))));
    assert_eq!(rig.acked(), 3 + 2 * MESSAGE_COST);
    assert!(next(&mut socket).is_pending());
}

#[test]
fn close_follows_earlier_messages_and_done_ends_exchange() {
    let mut rig = Rig::sockets(1);
    let (mut socket, id) = rig.accepted(0);
    rig.says(id, 0, &Says { body: b"last", ..MESSAGE });
    rig.says(id, 0, &Says { status: 4000, body: b"enough", ..CLOSE });
    assert_eq!(room(&socket), Poll::Ready(false));
    assert_eq!(next(&mut socket), Poll::Ready(Ok(message(b"last", false, false))));
    let close = Outgoing::Close { code: 4000, reason: "enough".into() };
    assert_eq!(next(&mut socket), Poll::Ready(Ok(close)));
    socket.disconnect(4000, b"");
    assert_eq!(rig.heard(), None, "it has closed it itself");
    rig.says(id, 0, &DONE);
    assert_eq!(rig.dispatcher.tick(Instant::now()), TickRate::Idle);
}

#[test]
fn close_and_done_may_arrive_together() {
    let mut rig = Rig::sockets(1);
    let (mut socket, id) = rig.accepted(0);
    rig.says(id, 0, &Says { done: true, ..CLOSE });
    assert!(matches!(next(&mut socket), Poll::Ready(Ok(Outgoing::Close { code: 1000, .. }))));
    drop(socket);
    assert_eq!(rig.dispatcher.tick(Instant::now()), TickRate::Idle);
}

#[test]
fn disconnect_carries_the_clients_code_and_reason() {
    let mut rig = Rig::sockets(1);
    let (socket, id) = rig.accepted(0);
    socket.disconnect(4001, b"bye");
    assert_eq!(rig.heard(), Some(Heard::Gone(4001, b"bye".to_vec())));
    rig.says(id, 0, &Says { body: b"into the void", ..MESSAGE });
    rig.says(id, 0, &DONE);
    assert_eq!(rig.dispatcher.tick(Instant::now()), TickRate::Idle);
}

#[test]
fn dropped_websocket_disconnects_with_1006() {
    let mut rig = Rig::sockets(1);
    let (socket, id) = rig.accepted(0);
    drop(socket);
    assert_eq!(rig.heard(), Some(Heard::Gone(1006, vec![])));
    rig.says(id, 0, &DONE);
    let ticket = rig.handshake();
    assert!(matches!(rig.heard(), Some(Heard::Asked(_))));
    drop(ticket);
    assert_eq!(rig.heard(), Some(Heard::Gone(1006, vec![])));
}

#[test]
fn denied_handshake_is_an_ordinary_response() {
    let mut rig = Rig::sockets(1);
    let ticket = rig.handshake();
    let Some(Heard::Asked(id)) = rig.heard() else { panic!("it was not given") };
    rig.says(id, 0, &Says { status: 403, end: true, done: true, ..ACCEPT });
    let Poll::Ready(Ok(answer)) = poll(ticket) else { panic!("no answer") };
    assert_eq!(answer.head.status, 403);
    assert!(answer.stream.is_none());
}

#[test]
fn accepted_websocket_frees_its_slot_up_to_the_limit() {
    let mut rig = Rig::sockets(1);
    let (_first, _) = rig.accepted(0);
    let (_second, _) = rig.accepted(1);
    let _waits = rig.submit(b"/");
    assert_eq!(rig.heard(), None, "the second one has the slot");
}

#[test]
fn accepted_websocket_has_no_deadline() {
    let mut rig = Rig::sockets(0);
    let (mut socket, _) = rig.accepted(0);
    rig.dispatcher.tick(Instant::now() + Duration::from_hours(1));
    assert!(next(&mut socket).is_pending());
    assert!(
        !rig.notices
            .try_iter()
            .any(|notice| matches!(notice, Notice::TaskDeadlineExceeded(..) | Notice::SlowRequest(..)))
    );
}

#[test]
fn handshake_has_the_request_deadline() {
    let mut rig = Rig::sockets(1);
    let ticket = rig.handshake();
    assert!(rig.heard().is_some());
    rig.dispatcher.tick(Instant::now() + Duration::from_mins(1));
    assert!(matches!(poll(ticket), Poll::Ready(Err(Fault::Deadline(WORKER)))));
}

#[test]
fn websockets_of_a_retiring_worker_close_one_by_one() {
    let mut rig = Rig::sockets(2);
    rig.dispatcher.set_policy(Policy {
        queue: 1,
        close_window: Duration::from_secs(10),
        ..Policy::default()
    });
    let mut sockets = [rig.accepted(0), rig.accepted(1)];
    rig.dispatcher.retire(WORKER);
    let mut after: Vec<_> = sockets
        .iter_mut()
        .map(|(socket, _)| match next(socket) {
            Poll::Ready(Ok(Outgoing::GoingAway { after })) => after,
            other => panic!("{other:?}"),
        })
        .collect();
    after.sort();
    assert!(after[0].is_zero() && !after[1].is_zero() && after[1] < Duration::from_secs(1), "{after:?}");
    assert!(sockets.iter_mut().all(|(socket, _)| next(socket).is_pending()), "told once");
    assert!(!rig.notices.try_iter().any(|notice| matches!(notice, Notice::Drained(_))));
    for (slot, (socket, id)) in (0..).zip(sockets) {
        socket.disconnect(1012, b"Service Restart");
        assert_eq!(rig.heard(), Some(Heard::Gone(1012, b"Service Restart".to_vec())));
        rig.says(id, slot, &DONE);
    }
    assert!(rig.notices.try_iter().any(|notice| matches!(notice, Notice::Drained(WORKER))));
}

#[test]
fn websocket_accepted_by_a_retiring_worker_closes_at_once() {
    let mut rig = Rig::sockets(1);
    let ticket = rig.handshake();
    let Some(Heard::Asked(id)) = rig.heard() else { panic!("it was not given") };
    rig.dispatcher.retire(WORKER);
    rig.says(id, 0, &ACCEPT);
    let Poll::Ready(Ok(answer)) = poll(ticket) else { panic!("it was not accepted") };
    let mut socket = answer.stream.unwrap().into_websocket();
    assert!(matches!(next(&mut socket), Poll::Ready(Ok(Outgoing::GoingAway { after: Duration::ZERO }))));
}

#[test]
fn application_exception_ends_the_websocket() {
    let mut rig = Rig::sockets(1);
    let (mut socket, id) = rig.accepted(0);
    let mut error = Vec::new();
    rgun_channel::frame::AppError { summary: "ValueError: no", traceback: "" }.encode(&mut error);
    rig.says(id, 0, &Says { kind: CompletionKind::AppRaised, body: &error, ..DONE });
    assert!(matches!(next(&mut socket), Poll::Ready(Err(Fault::Raised { .. }))));
    assert_eq!(rig.dispatcher.tick(Instant::now()), TickRate::Idle);
}

#[test]
fn worker_death_ends_the_websocket() {
    let mut rig = Rig::sockets(1);
    let (mut socket, _) = rig.accepted(0);
    rig.dispatcher.detach(WORKER);
    assert!(matches!(next(&mut socket), Poll::Ready(Err(Fault::WorkerDied(WORKER)))));
}

#[test]
fn worker_with_invalid_messages_is_failed() {
    let cases: [(&str, &[Says<'_>]); 5] = [
        ("a second accept", &[ACCEPT, ACCEPT]),
        ("an end of a body", &[ACCEPT, Says { body: b"x", end: true, ..MESSAGE }]),
        ("a message after the close", &[ACCEPT, CLOSE, Says { body: b"x", ..MESSAGE }]),
        ("a close without end", &[ACCEPT, Says { end: false, ..CLOSE }]),
        ("an accept that ends", &[Says { end: true, ..ACCEPT }]),
    ];
    for (what, frames) in cases {
        let mut rig = Rig::sockets(1);
        let _ticket = rig.handshake();
        let Some(Heard::Asked(id)) = rig.heard() else { panic!("it was not given") };
        for says in frames {
            rig.says(id, 0, says);
        }
        let told: Vec<_> = rig.notices.try_iter().collect();
        assert!(told.iter().any(|notice| matches!(notice, Notice::ContractBreached(..))), "{what}: {told:?}");
    }
    let mut rig = Rig::sockets(1);
    let _ticket = rig.submit(b"/");
    let Some(Heard::Asked(id)) = rig.heard() else { panic!("it was not given") };
    rig.says(id, 0, &ACCEPT);
    assert!(rig.misbehaved().contains("no WebSocket"));
}

#[test]
fn messages_beyond_the_window_are_a_breach() {
    let mut rig = Rig::sockets(1);
    let (_socket, id) = rig.accepted(0);
    for _ in 0..=RESPONSE_WINDOW / MESSAGE_COST + 1 {
        rig.says(id, 0, &MESSAGE);
    }
    assert!(rig.misbehaved().contains("beyond its window"));
}
