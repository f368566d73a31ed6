//! WebSockets: handshakes, messages both ways, and closing.

use rgun_channel::control::Interface;
use rgun_channel::frame::{MESSAGE_COST, StreamFrame, Submission};
use rgun_channel::layout::RESPONSE_WINDOW;

use super::one_worker::*;
use crate::link::Slots;

/// A frame that the worker receives.
#[derive(Debug, PartialEq, Eq)]
enum SocketFrame {
    Request(ExchangeId),
    Part(Vec<u8>, bool, bool),
    Disconnect(u16, Vec<u8>),
}

/// A frame that the worker sends.
struct AppFrame<'b> {
    kind: CompletionKind,
    status: u16,
    body: &'b [u8],
    text: bool,
    more: bool,
    end: bool,
    done: bool,
}

const ACCEPT: AppFrame<'_> = AppFrame {
    kind: CompletionKind::Respond,
    status: 101,
    body: b"",
    text: false,
    more: false,
    end: false,
    done: false,
};
const MESSAGE: AppFrame<'_> = AppFrame { kind: CompletionKind::Body, status: 0, ..ACCEPT };
const CLOSE: AppFrame<'_> = AppFrame { kind: CompletionKind::Close, status: 1000, end: true, ..ACCEPT };
const DONE: AppFrame<'_> = AppFrame { end: true, done: true, ..MESSAGE };

impl WorkerRig {
    /// Creates a rig with an ASGI worker of one request slot and `websockets` WebSockets.
    fn with_websockets(websockets: u32) -> Self {
        let rig = Self::with_slots(Slots { threads: 1, concurrency: 1, websockets });
        let report = Report::Ready { interface: Interface::Asgi };
        control::send(&rig.control, &report.encode(), &[]).unwrap();
        assert!(rig.dispatcher.read_reports(WORKER));
        let _ready = rig.notices.try_iter().count();
        rig.dispatcher.admit(WORKER);
        rig
    }

    fn handshake(&self) -> Ticket {
        let request = Request { path: b"/ws", websocket: true, ..Request::new(ExchangeId(0)) };
        self.dispatcher.submit(&request, iter::empty(), None, Instant::now()).unwrap()
    }

    fn next_websocket_frame(&mut self) -> Option<SocketFrame> {
        let mut frame = Vec::new();
        self.submissions.claim(&mut frame).unwrap().then(|| match Submission::decode(&frame).unwrap() {
            Submission::Request(request) => SocketFrame::Request(request.exchange),
            Submission::Stream(StreamFrame::Part { bytes, text, more, .. }) => {
                SocketFrame::Part(bytes.to_vec(), text, more)
            }
            Submission::Stream(StreamFrame::Disconnect { code, reason, .. }) => {
                SocketFrame::Disconnect(code, reason.to_vec())
            }
            Submission::Stream(StreamFrame::HalfClose { .. }) => panic!("no WebSocket is half closed"),
        })
    }

    fn send_frame(&mut self, exchange: ExchangeId, slot: u16, app_frame: &AppFrame<'_>) {
        let &AppFrame { kind, status, body, text, more, end, done } = app_frame;
        let head = Completion {
            exchange,
            kind,
            end,
            done,
            text,
            more,
            ends_takeover: false,
            status,
            service: 1000,
            slot,
        };
        let (mut frame, body) = (Vec::new(), Body::Inline(body));
        head.encode(0, &body, &mut frame);
        body.encode(&mut frame);
        assert!(self.completions.push(&frame).unwrap());
        self.dispatcher.before_park();
    }

    /// Submits a handshake and has the worker accept it in this slot.
    fn accept_websocket(&mut self, slot: u16) -> (WebSocketHandle, ExchangeId) {
        let ticket = self.handshake();
        let Some(SocketFrame::Request(id)) = self.next_websocket_frame() else {
            panic!("no request arrived")
        };
        self.send_frame(id, slot, &ACCEPT);
        let Poll::Ready(Ok(answer)) = poll(ticket) else { panic!("the handshake was not accepted") };
        assert_eq!(answer.head.status, 101);
        (answer.body.into_stream().unwrap().into_websocket(), id)
    }

    /// Has the application grant credit for `granted` bytes from the beginning of the connection.
    fn grant_credit(&mut self, exchange: ExchangeId, granted: u64) {
        self.send_frame(
            exchange,
            0,
            &AppFrame {
                kind: CompletionKind::WindowUpdate,
                body: &granted.to_le_bytes(),
                status: 0,
                ..ACCEPT
            },
        );
    }
}

fn poll_next(socket: &mut WebSocketHandle) -> Poll<Result<Outgoing, Fault>> {
    socket.poll_outgoing(&mut Context::from_waker(Waker::noop()))
}

fn poll_room(socket: &WebSocketHandle) -> Poll<bool> {
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
    let mut rig = WorkerRig::with_websockets(1);
    let (socket, id) = rig.accept_websocket(0);
    assert_eq!(poll_room(&socket), Poll::Pending);
    rig.grant_credit(id, 70);
    assert_eq!(poll_room(&socket), Poll::Ready(true));
    assert_eq!(send(&socket, b"", true, false), Poll::Ready(true));
    assert_eq!(poll_room(&socket), Poll::Ready(true), "an empty message costs {MESSAGE_COST}");
    assert_eq!(send(&socket, b"hi", false, true), Poll::Ready(true));
    assert_eq!(poll_room(&socket), Poll::Pending);
    assert_eq!(rig.next_websocket_frame(), Some(SocketFrame::Part(vec![], true, false)));
    assert_eq!(rig.next_websocket_frame(), Some(SocketFrame::Part(b"hi".to_vec(), false, true)));
}

#[test]
fn oversized_part_ends_the_websocket_and_not_the_daemon() {
    let mut rig = WorkerRig::with_websockets(1);
    let (mut socket, id) = rig.accept_websocket(0);
    rig.grant_credit(id, 1 << 30);
    assert_eq!(send(&socket, &vec![0; MAX_PART], false, true), Poll::Ready(true));
    assert_eq!(send(&socket, &vec![0; 2 * MAX_PART], false, false), Poll::Ready(false));
    assert_eq!(poll_room(&socket), Poll::Ready(false));
    assert!(matches!(poll_next(&mut socket), Poll::Ready(Err(Fault::TooLong(_)))));
    assert!(matches!(rig.next_websocket_frame(), Some(SocketFrame::Part(..))));
    assert_eq!(rig.next_websocket_frame(), Some(SocketFrame::Disconnect(1006, vec![])));
    rig.send_frame(id, 0, &DONE);
    assert_eq!(rig.dispatcher.tick(Instant::now()), TickRate::Idle);
}

#[test]
fn websocket_accepted_after_deadline_does_not_delay_drain() {
    let mut rig = WorkerRig::with_websockets(1);
    let ticket = rig.handshake();
    let Some(SocketFrame::Request(id)) = rig.next_websocket_frame() else { panic!("no request arrived") };
    let late = Instant::now() + Duration::from_secs(11);
    rig.dispatcher.tick(late);
    assert!(matches!(poll(ticket), Poll::Ready(Err(Fault::Deadline(WORKER)))));
    // The application ignores the cancellation.
    rig.send_frame(id, 0, &ACCEPT);
    rig.dispatcher.tick(late + Duration::from_secs(2));
    let notices: Vec<_> = rig.notices.try_iter().collect();
    assert!(notices.iter().any(|notice| matches!(notice, Notice::CancelIgnored(WORKER, _))), "{notices:?}");
    rig.dispatcher.retire(WORKER);
    assert!(matches!(rig.notices.try_recv(), Ok(Notice::Drained(WORKER))));
}

#[test]
fn message_queue_memory_is_freed() {
    let mut rig = WorkerRig::with_websockets(1);
    let (mut socket, id) = rig.accept_websocket(0);
    for _ in 0..1000 {
        rig.send_frame(id, 0, &MESSAGE);
    }
    for _ in 0..1000 {
        assert!(poll_next(&mut socket).is_ready());
    }
    assert!(poll_next(&mut socket).is_pending());
    let capacity = rig.dispatcher.lock().exchanges.get(id).unwrap().message_capacity();
    assert!(capacity < 100, "{capacity}");
}

#[test]
fn messages_arrive_in_order_and_are_acked_when_taken() {
    let mut rig = WorkerRig::with_websockets(1);
    let (mut socket, id) = rig.accept_websocket(0);
    rig.send_frame(id, 0, &AppFrame { body: b"one", text: true, more: true, ..MESSAGE });
    rig.send_frame(id, 0, &AppFrame { body: b"", text: true, ..MESSAGE });
    assert_eq!(poll_next(&mut socket), Poll::Ready(Ok(message(b"one", true, true))));
    assert_eq!(rig.acked(), 3 + MESSAGE_COST);
    assert_eq!(poll_next(&mut socket), Poll::Ready(Ok(message(b"", true, false))));
    assert_eq!(rig.acked(), 3 + 2 * MESSAGE_COST);
    assert!(poll_next(&mut socket).is_pending());
}

#[test]
fn close_follows_earlier_messages_and_done_ends_exchange() {
    let mut rig = WorkerRig::with_websockets(1);
    let (mut socket, id) = rig.accept_websocket(0);
    rig.send_frame(id, 0, &AppFrame { body: b"last", ..MESSAGE });
    rig.send_frame(id, 0, &AppFrame { status: 4000, body: b"enough", ..CLOSE });
    assert_eq!(poll_room(&socket), Poll::Ready(false));
    assert_eq!(poll_next(&mut socket), Poll::Ready(Ok(message(b"last", false, false))));
    let close = Outgoing::Close { code: 4000, reason: "enough".into() };
    assert_eq!(poll_next(&mut socket), Poll::Ready(Ok(close)));
    socket.disconnect(4000, b"");
    assert_eq!(rig.next_websocket_frame(), None, "the application has closed already");
    rig.send_frame(id, 0, &DONE);
    assert_eq!(rig.dispatcher.tick(Instant::now()), TickRate::Idle);
}

#[test]
fn close_and_done_may_arrive_together() {
    let mut rig = WorkerRig::with_websockets(1);
    let (mut socket, id) = rig.accept_websocket(0);
    rig.send_frame(id, 0, &AppFrame { done: true, ..CLOSE });
    assert!(matches!(poll_next(&mut socket), Poll::Ready(Ok(Outgoing::Close { code: 1000, .. }))));
    drop(socket);
    assert_eq!(rig.dispatcher.tick(Instant::now()), TickRate::Idle);
}

#[test]
fn disconnect_carries_the_clients_code_and_reason() {
    let mut rig = WorkerRig::with_websockets(1);
    let (socket, id) = rig.accept_websocket(0);
    socket.disconnect(4001, b"bye");
    assert_eq!(rig.next_websocket_frame(), Some(SocketFrame::Disconnect(4001, b"bye".to_vec())));
    rig.send_frame(id, 0, &AppFrame { body: b"discarded", ..MESSAGE });
    rig.send_frame(id, 0, &DONE);
    assert_eq!(rig.dispatcher.tick(Instant::now()), TickRate::Idle);
}

#[test]
fn dropped_websocket_disconnects_with_1006() {
    let mut rig = WorkerRig::with_websockets(1);
    let (socket, id) = rig.accept_websocket(0);
    drop(socket);
    assert_eq!(rig.next_websocket_frame(), Some(SocketFrame::Disconnect(1006, vec![])));
    rig.send_frame(id, 0, &DONE);
    let ticket = rig.handshake();
    assert!(matches!(rig.next_websocket_frame(), Some(SocketFrame::Request(_))));
    drop(ticket);
    assert_eq!(rig.next_websocket_frame(), Some(SocketFrame::Disconnect(1006, vec![])));
}

#[test]
fn denied_handshake_is_an_ordinary_response() {
    let mut rig = WorkerRig::with_websockets(1);
    let ticket = rig.handshake();
    let Some(SocketFrame::Request(id)) = rig.next_websocket_frame() else { panic!("no request arrived") };
    rig.send_frame(id, 0, &AppFrame { status: 403, end: true, done: true, ..ACCEPT });
    let Poll::Ready(Ok(answer)) = poll(ticket) else { panic!("no answer") };
    assert_eq!(answer.head.status, 403);
    assert!(answer.body.into_stream().is_none());
}

#[test]
fn accepted_websocket_frees_its_slot_up_to_the_limit() {
    let mut rig = WorkerRig::with_websockets(1);
    let (_first, _) = rig.accept_websocket(0);
    let (_second, _) = rig.accept_websocket(1);
    let _waits = rig.submit(b"/");
    assert_eq!(rig.next_websocket_frame(), None, "the second WebSocket has the slot");
}

#[test]
fn accepted_websocket_has_no_deadline() {
    let mut rig = WorkerRig::with_websockets(0);
    let (mut socket, _) = rig.accept_websocket(0);
    rig.dispatcher.tick(Instant::now() + Duration::from_hours(1));
    assert!(poll_next(&mut socket).is_pending());
    assert!(
        !rig.notices
            .try_iter()
            .any(|notice| matches!(notice, Notice::TaskDeadlineExceeded(..) | Notice::SlowRequest(..)))
    );
}

#[test]
fn handshake_has_the_request_deadline() {
    let mut rig = WorkerRig::with_websockets(1);
    let ticket = rig.handshake();
    assert!(rig.next_websocket_frame().is_some());
    rig.dispatcher.tick(Instant::now() + Duration::from_mins(1));
    assert!(matches!(poll(ticket), Poll::Ready(Err(Fault::Deadline(WORKER)))));
}

#[test]
fn websockets_of_a_retiring_worker_close_one_by_one() {
    let mut rig = WorkerRig::with_websockets(2);
    rig.dispatcher.set_policy(Policy {
        queue: 1,
        close_window: Duration::from_secs(10),
        ..Policy::default()
    });
    let mut sockets = [rig.accept_websocket(0), rig.accept_websocket(1)];
    rig.dispatcher.retire(WORKER);
    let mut after: Vec<_> = sockets
        .iter_mut()
        .map(|(socket, _)| match poll_next(socket) {
            Poll::Ready(Ok(Outgoing::GoingAway { after })) => after,
            other => panic!("{other:?}"),
        })
        .collect();
    after.sort();
    assert!(after[0].is_zero() && !after[1].is_zero() && after[1] < Duration::from_secs(1), "{after:?}");
    assert!(sockets.iter_mut().all(|(socket, _)| poll_next(socket).is_pending()), "announced once");
    assert!(!rig.notices.try_iter().any(|notice| matches!(notice, Notice::Drained(_))));
    for (slot, (socket, id)) in (0..).zip(sockets) {
        socket.disconnect(1012, b"Service Restart");
        assert_eq!(
            rig.next_websocket_frame(),
            Some(SocketFrame::Disconnect(1012, b"Service Restart".to_vec()))
        );
        rig.send_frame(id, slot, &DONE);
    }
    assert!(rig.notices.try_iter().any(|notice| matches!(notice, Notice::Drained(WORKER))));
}

#[test]
fn websocket_accepted_by_a_retiring_worker_closes_at_once() {
    let mut rig = WorkerRig::with_websockets(1);
    let ticket = rig.handshake();
    let Some(SocketFrame::Request(id)) = rig.next_websocket_frame() else { panic!("no request arrived") };
    rig.dispatcher.retire(WORKER);
    rig.send_frame(id, 0, &ACCEPT);
    let Poll::Ready(Ok(answer)) = poll(ticket) else { panic!("the handshake was not accepted") };
    let mut socket = answer.body.into_stream().unwrap().into_websocket();
    assert!(matches!(poll_next(&mut socket), Poll::Ready(Ok(Outgoing::GoingAway { after: Duration::ZERO }))));
}

#[test]
fn application_exception_ends_the_websocket() {
    let mut rig = WorkerRig::with_websockets(1);
    let (mut socket, id) = rig.accept_websocket(0);
    let mut error = Vec::new();
    rgun_channel::frame::AppError { summary: "ValueError: no", traceback: "" }.encode(&mut error);
    rig.send_frame(id, 0, &AppFrame { kind: CompletionKind::AppRaised, body: &error, ..DONE });
    assert!(matches!(poll_next(&mut socket), Poll::Ready(Err(Fault::Raised { .. }))));
    assert_eq!(rig.dispatcher.tick(Instant::now()), TickRate::Idle);
}

#[test]
fn worker_death_ends_the_websocket() {
    let mut rig = WorkerRig::with_websockets(1);
    let (mut socket, _) = rig.accept_websocket(0);
    rig.dispatcher.detach(WORKER);
    assert!(matches!(poll_next(&mut socket), Poll::Ready(Err(Fault::WorkerDied(WORKER)))));
}

#[test]
fn invalid_messages_fail_the_worker() {
    let cases: [(&str, &[AppFrame<'_>]); 5] = [
        ("a second accept", &[ACCEPT, ACCEPT]),
        ("a body end instead of a message", &[ACCEPT, AppFrame { body: b"x", end: true, ..MESSAGE }]),
        ("a message after the close", &[ACCEPT, CLOSE, AppFrame { body: b"x", ..MESSAGE }]),
        ("a close without end", &[ACCEPT, AppFrame { end: false, ..CLOSE }]),
        ("an accept that ends", &[AppFrame { end: true, ..ACCEPT }]),
    ];
    for (what, frames) in cases {
        let mut rig = WorkerRig::with_websockets(1);
        let _ticket = rig.handshake();
        let Some(SocketFrame::Request(id)) = rig.next_websocket_frame() else { panic!("no request arrived") };
        for app_frame in frames {
            rig.send_frame(id, 0, app_frame);
        }
        let notices: Vec<_> = rig.notices.try_iter().collect();
        assert!(
            notices.iter().any(|notice| matches!(notice, Notice::ContractBreached(..))),
            "{what}: {notices:?}"
        );
    }
    let mut rig = WorkerRig::with_websockets(1);
    let _ticket = rig.submit(b"/");
    let Some(SocketFrame::Request(id)) = rig.next_websocket_frame() else { panic!("no request arrived") };
    rig.send_frame(id, 0, &ACCEPT);
    assert!(rig.take_breach().contains("not a WebSocket"));
}

#[test]
fn messages_beyond_the_window_are_a_breach() {
    let mut rig = WorkerRig::with_websockets(1);
    let (_socket, id) = rig.accept_websocket(0);
    for _ in 0..=RESPONSE_WINDOW / MESSAGE_COST + 1 {
        rig.send_frame(id, 0, &MESSAGE);
    }
    assert!(rig.take_breach().contains("than its window allows"));
}
