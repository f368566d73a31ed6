//! Handshakes for a WSGI application, which may take over the connection.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use rgun_channel::control::ReceivedMessage;

use super::one_worker::*;

impl WorkerRig {
    fn offer(&self) -> Ticket {
        let request =
            Request { path: b"/ws", websocket: true, body_is_fd: true, ..Request::new(ExchangeId(0)) };
        self.dispatcher.submit(&request, iter::empty(), None, Instant::now()).unwrap()
    }

    /// Returns the application's end of the socket pair, which the worker receives.
    fn receive_socket(&self) -> UnixStream {
        let mut buffer = vec![0; control::MAX_MESSAGE_BYTES];
        let ReceivedMessage { fds, .. } = control::receive(&self.control, &mut buffer).unwrap();
        let [socket] = <[OwnedFd; 1]>::try_from(fds).unwrap();
        socket.into()
    }

    /// Has the worker claim a handshake whose application takes over the connection.
    fn taken_over(&mut self) -> (TakeoverHandle, ExchangeId) {
        let ticket = self.offer();
        let (id, _) = self.claim().unwrap();
        (ticket.take_over().unwrap(), id)
    }
}

fn next(handle: &mut TakeoverHandle) -> Poll<Result<TakeoverEvent, Fault>> {
    handle.poll_event(&mut Context::from_waker(Waker::noop()))
}

fn is_pending(ticket: &mut Ticket) -> bool {
    Pin::new(ticket).poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

/// Returns the daemon's end of the socket pair, if a poll finds a new one.
fn socket_of(ticket: &mut Ticket) -> Option<UnixStream> {
    drop(Pin::new(&mut *ticket).poll(&mut Context::from_waker(Waker::noop())));
    ticket.take_socket()
}

#[test]
fn both_ends_of_the_socket_pair_are_connected() {
    let mut rig = WorkerRig::new();
    let mut ticket = rig.offer();
    let mut ours = socket_of(&mut ticket).unwrap();
    assert!(socket_of(&mut ticket).is_none(), "it is taken once");
    let mut theirs = rig.receive_socket();
    theirs.write_all(b"101").unwrap();
    let mut bytes = [0; 3];
    ours.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"101");
    drop(theirs);
    assert_eq!(ours.read(&mut bytes).unwrap(), 0, "the daemon keeps no copy of the application's end");
    rig.claim().unwrap();
}

#[test]
fn unused_socket_leaves_an_ordinary_response() {
    let mut rig = WorkerRig::new();
    let mut ticket = rig.offer();
    let (id, _) = rig.claim().unwrap();
    rig.complete(id, CompletionKind::Respond, b"plain", true, true);
    rig.dispatcher.before_park();
    assert!(!is_pending(&mut ticket));
    assert!(ticket.take_over().is_none());
}

#[test]
fn takeover_lifts_the_deadline() {
    let mut rig = WorkerRig::new();
    let late = Instant::now() + Duration::from_mins(1);
    let (mut handle, id) = rig.taken_over();
    rig.dispatcher.tick(late);
    assert!(next(&mut handle).is_pending());
    rig.complete(id, CompletionKind::Respond, b"dropped", true, true);
    rig.dispatcher.before_park();
    assert_eq!(next(&mut handle), Poll::Ready(Ok(TakeoverEvent::Ended)));
    assert!(rig.notices.try_iter().next().is_none());
    // Before the takeover the deadline applies.
    let mut ticket = rig.offer();
    rig.claim().unwrap();
    rig.dispatcher.tick(late + Duration::from_mins(1));
    let polled = Pin::new(&mut ticket).poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(polled, Poll::Ready(Err(Fault::Deadline(_)))));
}

#[test]
fn discarded_response_does_not_fill_the_window() {
    let mut rig = WorkerRig::new();
    let (_handle, id) = rig.taken_over();
    rig.complete(id, CompletionKind::Respond, b"", false, false);
    for _ in 0..1000 {
        rig.complete(id, CompletionKind::Body, &[0; 10_000], false, false);
        rig.dispatcher.before_park();
    }
    assert_eq!(rig.acked(), 10_000_000);
    rig.complete(id, CompletionKind::Body, b"", true, true);
    rig.dispatcher.before_park();
    assert_eq!(rig.dispatcher.load().assigned, 0);
}

#[test]
fn takeover_does_not_count_as_service_time() {
    let mut rig = WorkerRig::new();
    let (_handle, id) = rig.taken_over();
    // The rig reports a service time of a microsecond. If it counted, requests would be prefetched.
    rig.complete(id, CompletionKind::Respond, b"", true, true);
    rig.dispatcher.before_park();
    let (_first, mut second) = (rig.submit(b"/1"), rig.submit(b"/2"));
    assert!(is_pending(&mut second));
    assert_eq!(rig.dispatcher.load().queued, 1);
    rig.claim().unwrap();
}

#[test]
fn takeover_keeps_its_slot_and_is_closed_on_retirement() {
    let mut rig = WorkerRig::new();
    let (mut handle, id) = rig.taken_over();
    assert_eq!(rig.dispatcher.load().assigned, 1);
    rig.dispatcher.retire(WORKER);
    assert!(matches!(next(&mut handle), Poll::Ready(Ok(TakeoverEvent::GoingAway { .. }))));
    assert!(next(&mut handle).is_pending());
    assert!(!rig.notices.try_iter().any(|notice| matches!(notice, Notice::Drained(_))));
    rig.complete(id, CompletionKind::Respond, b"", true, true);
    rig.dispatcher.before_park();
    assert!(rig.notices.try_iter().any(|notice| matches!(notice, Notice::Drained(_))));
}

#[test]
fn exception_after_a_takeover_is_a_fault() {
    let mut rig = WorkerRig::new();
    let (mut handle, id) = rig.taken_over();
    let mut error = Vec::new();
    rgun_channel::frame::AppError { summary: "Boom", traceback: "" }.encode(&mut error);
    rig.complete(id, CompletionKind::AppRaised, &error, true, true);
    rig.dispatcher.before_park();
    assert!(matches!(next(&mut handle), Poll::Ready(Err(Fault::Raised { .. }))));
}

#[test]
fn worker_death_ends_the_takeover() {
    let mut rig = WorkerRig::new();
    let (mut handle, _) = rig.taken_over();
    rig.dispatcher.detach(WORKER);
    assert_eq!(next(&mut handle), Poll::Ready(Err(Fault::WorkerDied(WORKER))));
}

#[test]
fn asgi_frames_after_a_takeover_are_a_breach() {
    for kind in [CompletionKind::WindowUpdate, CompletionKind::Trailers, CompletionKind::Close] {
        let mut rig = WorkerRig::new();
        let (_handle, id) = rig.taken_over();
        rig.complete(id, kind, b"", false, false);
        rig.dispatcher.before_park();
        assert!(rig.take_breach().contains("sent"), "{kind:?}");
    }
}

#[test]
fn handshake_before_the_boot_becomes_a_takeover() {
    let mut rig = WorkerRig::booting(1);
    let request = Request { path: b"/ws", websocket: true, ..Request::new(ExchangeId(0)) };
    let mut ticket = rig.dispatcher.submit(&request, iter::empty(), None, Instant::now()).unwrap();
    assert!(socket_of(&mut ticket).is_none());
    rig.dispatcher.admit(WORKER);
    let mut frame = Vec::new();
    assert!(rig.submissions.claim(&mut frame).unwrap());
    assert!(Request::decode(&frame).unwrap().is_takeover());
    assert!(socket_of(&mut ticket).is_some());
}

#[test]
fn revoked_handshake_gets_a_new_socket_pair() {
    let mut rig = WorkerRig::new();
    let mut ticket = rig.offer();
    let mut first = socket_of(&mut ticket).unwrap();
    rig.dispatcher.retire(WORKER);
    drop(rig.receive_socket());
    assert_eq!(first.read(&mut [0]).unwrap(), 0);
    assert!(rig.commands().iter().any(|command| matches!(command, Command::Cancel(_))));
    rig.dispatcher.admit(WORKER);
    assert!(socket_of(&mut ticket).is_some());
    rig.claim().unwrap();
}

/// A busy daemon may process the end of the response before the connection polls its ticket.
#[test]
fn socket_is_found_with_a_complete_response() {
    let mut rig = WorkerRig::new();
    let mut ticket = rig.offer();
    let mut theirs = rig.receive_socket();
    let (id, _) = rig.claim().unwrap();
    theirs.write_all(b"101").unwrap();
    rig.complete(id, CompletionKind::Respond, b"", true, true);
    rig.dispatcher.before_park();
    assert!(!is_pending(&mut ticket));
    let mut bytes = [0; 3];
    ticket.take_socket().unwrap().read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"101");
}
