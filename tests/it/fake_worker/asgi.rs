//! The fake worker as an ASGI worker. One thread is the event loop, which claims frames and waits
//! for the eventfd. Each exchange has a thread in place of a task, and an [`Inbox`] in place of
//! `receive()`.
//!
//! The paths of `requests.rs` work here too. In addition, where *end* is a disconnect or a
//! cancellation:
//!
//! | path | response |
//! |---|---|
//! | `/body` | the request's body, part by part; `x-body: inline` or `parts` is its transport |
//! | `/receive`, `/receive/MS` | receives the whole body, waits MS before each part; then `length=… right=… over=…`: whether the body is [`pattern`], and whether the end has come |
//! | `/receive-some/N` | receives N bytes, then `took=…`; leaves the rest unread |
//! | `/answer-first` | head and `first `, then as `/receive` |
//! | `/wait`, `/wait-receiving` | nothing until the end; reports its stack if cancelled; the latter opens a window of 100 bytes first |
//! | `/ignore-cancel/MS` | ignores a cancellation; `at last` after MS |
//! | `/half-close` | responds once the client has closed its sending half |
//! | `/disconnects` | `gone=… cancelled=…`: the numbers of exchanges that got a disconnect and a cancellation |
//! | `/block/MS` | holds the event loop for MS, then `Hello, world!` |
//! | `/trailers` | `Hello, world!`, and the trailer `x-sum: 13` |
//! | `/hints/MS` | early hints, MS later `Hello, world!` |
//! | `/hint-flood/N` | N early hints of 4 KB, then nothing until the end |
//! | `/floods` | the number of requests for `/hint-flood` that have sent all their hints |
//! | `/events`, `/events/MS` | the head; after a request for `/release` the body `event`; waits MS before each of the two |
//! | `/silent-events` | the head, then nothing until the end |
//! | `/file-trailers/N` | a file of N bytes, and the trailer `x-sum: 13` |
//! | `/breach-hints/NAME` | early hints with `NAME: 13` |
//! | `/breach-window` | decreases the window of the body |
//! | `/codes` | how each WebSocket has ended, see `websocket.rs` |

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;
use std::{os::fd::OwnedFd, thread};

use rgun_channel::cancel_report;
use rgun_channel::control::Report;
use rgun_channel::frame::{
    Body, CompletionKind, ExchangeId, Request, StreamFrame, Submission, UNKNOWN_LENGTH, encode_field,
};
use rgun_channel::wake::WaitFlag;

use crate::requests::Exchange;
use crate::worker::{Slot, Worker};
use crate::{EXIT_SOFTWARE, Outcome, lock, milliseconds, pattern, quit, websocket};

/// Maximum bytes of a request's body that the daemon may send ahead of the application.
pub(crate) const WINDOW: u64 = 256 * 1024;

/// The state that the event loop and its tasks share.
pub(crate) struct Loop {
    /// The eventfd that the daemon writes to wake the loop.
    pub(crate) eventfd: OwnedFd,
    /// Number of wake-ups; waiting tasks check their condition after each.
    pub(crate) n_wakes: Mutex<u64>,
    pub(crate) wakes_changed: Condvar,
    /// Number of exchanges that got a disconnect.
    pub(crate) gone: AtomicU32,
    /// Number of exchanges that got a cancellation.
    pub(crate) cancelled: AtomicU32,
    /// Number of requests for `/hint-flood` that have sent all their hints.
    pub(crate) floods: AtomicU32,
    /// Number of events that `/events` may send.
    pub(crate) released: Mutex<u32>,
    pub(crate) releases: Condvar,
    /// The ends of WebSockets: path, code, reason.
    pub(crate) ends: Mutex<VecDeque<String>>,
}

/// The frames that an exchange has received after its request.
#[derive(Default)]
pub(crate) struct Inbox {
    pub(crate) received: Mutex<Received>,
    pub(crate) arrived: Condvar,
}

/// The content of an [`Inbox`].
#[derive(Default)]
pub(crate) struct Received {
    pub(crate) parts: VecDeque<Vec<u8>>,
    /// Parts of a WebSocket's messages.
    pub(crate) messages: VecDeque<websocket::Part>,
    /// Close code and reason of a WebSocket's disconnect.
    pub(crate) end: Option<(u16, String)>,
    pub(crate) websocket: bool,
    /// True once the last part of the body has been received.
    pub(crate) whole: bool,
    pub(crate) gone: bool,
    pub(crate) half_closed: bool,
    pub(crate) cancelled: bool,
}

/// Slots that no exchange uses.
pub(crate) struct FreeSlots<'w> {
    pub(crate) slots: Mutex<Vec<Slot<'w>>>,
    pub(crate) freed: Condvar,
}

impl Loop {
    pub(crate) fn new(eventfd: OwnedFd) -> Self {
        Self {
            eventfd,
            n_wakes: Mutex::new(0),
            wakes_changed: Condvar::new(),
            gone: AtomicU32::new(0),
            cancelled: AtomicU32::new(0),
            floods: AtomicU32::new(0),
            released: Mutex::new(0),
            releases: Condvar::new(),
            ends: Mutex::default(),
        }
    }

    /// Wakes the event loop.
    pub(crate) fn ring(&self) -> Outcome {
        rustix::io::write(&self.eventfd, &1_u64.to_ne_bytes())?;
        Ok(())
    }

    /// Does what [`WaitFlag::wait_until`] does, for a task.
    pub(crate) fn wait_until(&self, flag: WaitFlag<'_>, mut available: impl FnMut() -> bool) {
        loop {
            let seen = *lock(&self.n_wakes);
            if available() {
                return;
            }
            flag.announce_wait();
            if available() {
                return;
            }
            let n_wakes = self.wakes_changed.wait_while(lock(&self.n_wakes), |n_wakes| *n_wakes == seen);
            drop(n_wakes.unwrap_or_else(PoisonError::into_inner));
        }
    }

    pub(crate) fn sleep(&self) -> Outcome {
        let mut fds = [rustix::event::PollFd::new(&self.eventfd, rustix::event::PollFlags::IN)];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        match rustix::io::read(&self.eventfd, &mut [0; 8]) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
        *lock(&self.n_wakes) += 1;
        self.wakes_changed.notify_all();
        Ok(())
    }
}

/// Runs the event loop until Stop has been received and all exchanges have ended.
pub(crate) fn run(worker: &Worker, events: &Loop) -> Outcome {
    let slots = (0..worker.start.concurrency).map(|number| Slot::new(worker, number));
    let free = FreeSlots { slots: Mutex::new(slots.collect::<Outcome<_>>()?), freed: Condvar::new() };
    let mut inboxes: HashMap<ExchangeId, Arc<Inbox>> = HashMap::new();
    thread::scope(|scope| {
        let mut frame = Vec::new();
        loop {
            worker.sleepers().announce_loop_awake();
            while lock(&worker.submission).claim(&mut frame)? {
                match Submission::decode(&frame)? {
                    Submission::Request(request) => {
                        let id = request.exchange;
                        if let Some(time) = request.path.strip_prefix(b"/block/") {
                            thread::sleep(milliseconds(std::str::from_utf8(time)?)?);
                        }
                        let inbox = Arc::new(Inbox::default());
                        lock(&inbox.received).websocket = request.websocket;
                        inboxes.insert(id, Arc::clone(&inbox));
                        lock(&worker.running).insert(id);
                        let (frame, free) = (frame.clone(), &free);
                        thread::Builder::new().stack_size(128 * 1024).spawn_scoped(scope, move || {
                            if let Err(error) = task(worker, events, free, &frame, &inbox) {
                                quit(EXIT_SOFTWARE, &error.to_string());
                            }
                        })?;
                    }
                    Submission::Stream(stream_frame) => {
                        // The exchange may have ended, or never existed.
                        let (StreamFrame::Part { exchange, .. }
                        | StreamFrame::Disconnect { exchange, .. }
                        | StreamFrame::HalfClose { exchange }) = stream_frame;
                        if let Some(inbox) = inboxes.get(&exchange) {
                            inbox.receive_frame(&stream_frame, events);
                        }
                    }
                }
            }
            let running = lock(&worker.running).clone();
            inboxes.retain(|id, _| running.contains(id));
            if worker.is_stopped() && running.is_empty() {
                return Ok(());
            }
            worker.sleepers().announce_loop_sleep();
            if lock(&worker.submission).is_empty() {
                events.sleep()?;
            }
        }
    })
}

/// Waits for a free slot, and runs one exchange in it.
pub(crate) fn task(
    worker: &Worker,
    events: &Loop,
    free: &FreeSlots<'_>,
    frame: &[u8],
    inbox: &Inbox,
) -> Outcome {
    let request = Request::decode(frame)?;
    let mut slots = free
        .freed
        .wait_while(lock(&free.slots), |slots| slots.is_empty())
        .unwrap_or_else(PoisonError::into_inner);
    let Some(mut slot) = slots.pop() else { return Err("no slot after waiting for one".into()) };
    drop(slots);
    let answered = Exchange { id: request.exchange, started: std::time::Instant::now(), slot: &mut slot }
        .answer_asgi(events, inbox, &request);
    lock(&free.slots).push(slot);
    free.freed.notify_one();
    lock(&worker.running).remove(&request.exchange);
    events.ring()?;
    answered
}

impl Inbox {
    pub(crate) fn receive_frame(&self, stream_frame: &StreamFrame<'_>, events: &Loop) {
        let mut received = lock(&self.received);
        match stream_frame {
            StreamFrame::Part { bytes, text, more, .. } if received.websocket => {
                let (bytes, text, more) = (bytes.to_vec(), *text, *more);
                received.messages.push_back(websocket::Part { bytes, text, more });
            }
            StreamFrame::Part { bytes, end, .. } => {
                received.parts.push_back(bytes.to_vec());
                received.whole |= end;
            }
            StreamFrame::HalfClose { .. } => received.half_closed = true,
            StreamFrame::Disconnect { cancel: true, .. } => {
                received.cancelled = true;
                events.cancelled.fetch_add(1, Ordering::SeqCst);
            }
            StreamFrame::Disconnect { code, reason, .. } => {
                received.end = Some((*code, String::from_utf8_lossy(reason).into_owned()));
                received.gone = true;
                events.gone.fetch_add(1, Ordering::SeqCst);
            }
        }
        self.arrived.notify_all();
    }

    pub(crate) fn has_ended(&self) -> bool {
        let received = lock(&self.received);
        received.gone || received.cancelled
    }

    pub(crate) fn wait_until_ended(&self) {
        let ended =
            self.arrived.wait_while(lock(&self.received), |received| !received.gone && !received.cancelled);
        drop(ended.unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits for the next part of the body. None: the body or the exchange has ended.
    pub(crate) fn part(&self) -> Option<Vec<u8>> {
        let waits = |received: &mut Received| {
            received.parts.is_empty() && !received.whole && !received.gone && !received.cancelled
        };
        let mut received =
            self.arrived.wait_while(lock(&self.received), waits).unwrap_or_else(PoisonError::into_inner);
        received.parts.pop_front()
    }
}

/// A request's body while it is received.
pub(crate) struct RequestBody<'i> {
    pub(crate) inbox: &'i Inbox,
    pub(crate) inline: Option<Vec<u8>>,
    pub(crate) window_end: u64,
    pub(crate) received: u64,
}

impl Exchange<'_, '_> {
    pub(crate) fn answer_asgi(&mut self, events: &Loop, inbox: &Inbox, request: &Request<'_>) -> Outcome {
        if request.websocket {
            return self.serve_websocket(events, inbox, request);
        }
        let path = String::from_utf8_lossy(request.path).into_owned();
        let mut parts = path.trim_start_matches('/').split('/');
        let (name, first) = (parts.next().unwrap_or_default(), parts.next());
        let inline = (!request.body_streams).then(|| request.body.to_vec());
        let mut body = RequestBody { inbox, inline, window_end: 0, received: 0 };
        match name {
            "body" => {
                let how: &[u8] = if request.body_streams { b"parts" } else { b"inline" };
                let length = (request.body_len != UNKNOWN_LENGTH).then(|| request.body_len.to_string());
                let mut fields = vec![(&b"x-body"[..], how)];
                fields.extend(length.as_ref().map(|length| (&b"content-length"[..], length.as_bytes())));
                self.head(200, &fields, Body::Inline(b""), false, false)?;
                while let Some(part) = self.receive(&mut body, WINDOW)? {
                    self.send(&part)?;
                }
                self.finish()
            }
            "receive" => {
                let pause = first.map_or(Ok(Duration::ZERO), milliseconds)?;
                let report = self.receive_all(&mut body, pause)?;
                self.text(200, &report)
            }
            "receive-some" => {
                let limit = first.unwrap_or("0").parse()?;
                while body.received < limit && self.receive(&mut body, limit)?.is_some() {}
                self.text(200, &format!("took={}", body.received))
            }
            "answer-first" => {
                self.respond(200, None, Body::Inline(b"first "), false, false)?;
                let report = self.receive_all(&mut body, Duration::ZERO)?;
                self.send_inline(report.as_bytes())?;
                self.finish()
            }
            "wait" | "wait-receiving" => {
                if name == "wait-receiving" {
                    self.take(&mut body, 100)?;
                }
                inbox.wait_until_ended();
                if lock(&inbox.received).cancelled {
                    let text = cancel_report::encode(self.id, "  File \"fake.py\", line 1, in wait\n");
                    self.slot.worker.report(&Report::Warning(text), &[])?;
                }
                self.finish()
            }
            "half-close" => {
                let waits = |received: &mut Received| !received.half_closed && !received.gone;
                let closed = inbox
                    .arrived
                    .wait_while(lock(&inbox.received), waits)
                    .unwrap_or_else(PoisonError::into_inner);
                let is_gone = closed.gone;
                drop(closed);
                self.text(200, if is_gone { "gone" } else { "answered all the same" })
            }
            "ignore-cancel" => {
                thread::sleep(milliseconds(first.unwrap_or("0"))?);
                self.text(200, "at last")
            }
            "disconnects" => {
                let count = |count: &AtomicU32| count.load(Ordering::SeqCst);
                let (gone, cancelled) = (count(&events.gone), count(&events.cancelled));
                self.text(200, &format!("gone={gone} cancelled={cancelled}"))
            }
            "codes" => self.text(200, &events.codes()),
            "block" => self.text(200, "Hello, world!"),
            "trailers" => {
                self.head(200, &[(b"trailer", b"x-sum")], Body::Inline(b"Hello, world!"), false, false)?;
                self.send_asgi_frame(CompletionKind::Trailers, &[(b"x-sum", b"13")], b"", true)
            }
            "hints" => {
                let link = (&b"link"[..], &b"</style.css>; rel=preload"[..]);
                self.send_asgi_frame(CompletionKind::EarlyHints, &[link], b"", false)?;
                thread::sleep(milliseconds(first.unwrap_or("0"))?);
                self.text(200, "Hello, world!")
            }
            "hint-flood" => {
                let value = format!("</{}.css>; rel=preload", "x".repeat(4000));
                for _ in 0..first.unwrap_or("0").parse()? {
                    self.send_asgi_frame(
                        CompletionKind::EarlyHints,
                        &[(b"link", value.as_bytes())],
                        b"",
                        false,
                    )?;
                }
                events.floods.fetch_add(1, Ordering::SeqCst);
                inbox.wait_until_ended();
                self.finish()
            }
            "floods" => self.text(200, &format!("floods={}", events.floods.load(Ordering::SeqCst))),
            "events" => {
                let pause = first.map_or(Ok(Duration::ZERO), milliseconds)?;
                thread::sleep(pause);
                self.head(200, &[], Body::Inline(b""), false, false)?;
                let waits = |released: &mut u32| *released == 0;
                let released = events.releases.wait_while(lock(&events.released), waits);
                *released.unwrap_or_else(PoisonError::into_inner) -= 1;
                thread::sleep(pause);
                self.send_inline(b"event")?;
                self.finish()
            }
            "release" => {
                *lock(&events.released) += 1;
                events.releases.notify_all();
                self.text(200, "released")
            }
            "silent-events" => {
                self.head(200, &[], Body::Inline(b""), false, false)?;
                inbox.wait_until_ended();
                self.finish()
            }
            "file-trailers" => {
                let len: usize = first.unwrap_or("0").parse()?;
                self.send_file(&pattern(len))?;
                let body = Body::File { offset: 0, len: len as u64 };
                self.head(200, &[(b"trailer", b"x-sum")], body, false, false)?;
                self.slot.worker.wait_until_taken()?;
                self.send_asgi_frame(CompletionKind::Trailers, &[(b"x-sum", b"13")], b"", true)
            }
            "breach-hints" => {
                let field = (first.unwrap_or_default().as_bytes(), &b"13"[..]);
                self.send_asgi_frame(CompletionKind::EarlyHints, &[field], b"", false)?;
                self.text(200, "Hello, world!")
            }
            "breach-window" => {
                self.take(&mut body, 100)?;
                self.send_asgi_frame(CompletionKind::WindowUpdate, &[], &50_u64.to_le_bytes(), false)?;
                inbox.wait_until_ended();
                Ok(())
            }
            _ => self.answer(request),
        }
    }

    /// Sends a window update: the body is accepted up to byte `window_end`.
    pub(crate) fn take(&mut self, body: &mut RequestBody<'_>, window_end: u64) -> Outcome {
        if body.inline.is_some() || window_end <= body.window_end {
            return Ok(());
        }
        body.window_end = window_end;
        self.send_asgi_frame(CompletionKind::WindowUpdate, &[], &window_end.to_le_bytes(), false)
    }

    /// Receives the next part of the body, with this window. None at its end.
    pub(crate) fn receive(&mut self, body: &mut RequestBody<'_>, window: u64) -> Outcome<Option<Vec<u8>>> {
        if let Some(inline) = &mut body.inline {
            let part = std::mem::take(inline);
            body.received += part.len() as u64;
            return Ok((!part.is_empty()).then_some(part));
        }
        let window_end = body.received + window;
        // As in the real worker, small updates are not sent.
        if body.window_end < window_end - window / 2 || body.window_end == body.received {
            self.take(body, window_end)?;
        }
        let part = body.inbox.part();
        let len = part.as_ref().map_or(0, Vec::len) as u64;
        body.received += len;
        if body.received > body.window_end {
            return Err("the daemon sent more than the window".into());
        }
        Ok(part)
    }

    pub(crate) fn receive_all(&mut self, body: &mut RequestBody<'_>, pause: Duration) -> Outcome<String> {
        let expected = pattern(251 * 1024);
        let mut right = true;
        loop {
            thread::sleep(pause);
            let at = usize::try_from(body.received % 251)?;
            let Some(part) = self.receive(body, WINDOW)? else { break };
            right &= expected.get(at..at + part.len()) == Some(&part[..]);
        }
        let over = body.inbox.has_ended();
        Ok(format!("length={} right={right} over={over}", body.received))
    }

    /// Publishes a frame that only ASGI workers send.
    pub(crate) fn send_asgi_frame(
        &mut self,
        kind: CompletionKind,
        fields: &[(&[u8], &[u8])],
        bytes: &[u8],
        end: bool,
    ) -> Outcome {
        let mut frame = std::mem::take(&mut self.slot.frame);
        let body = Body::Inline(bytes);
        self.completion(kind, 0, end, end)?.encode(u16::try_from(fields.len())?, &body, &mut frame);
        for (name, value) in fields {
            encode_field(name, value, &mut frame)?;
        }
        body.encode(&mut frame);
        self.publish(frame)
    }
}
