//! The fake worker as an ASGI worker: one thread is its event loop, which claims frames and watches the bell; each
//! exchange has a thread of its own in the place of a task, and an inbox in the place of `receive()`.
//!
//! All that the fake knows to do with a request it does here as well. In addition:
//!
//! | path | answer |
//! |---|---|
//! | `/body` | the request's body, part by part; `x-body: inline` or `parts` says how it came |
//! | `/take`, `/take/MS` | takes all of the body, MS before each part; `length=… right=…`: is it [`pattern`]? |
//! | `/take-some/N` | takes N bytes, answers `took=…`, leaves the rest |
//! | `/answer-first` | head and `first `, then takes all of the body, then as `/take` |
//! | `/wait`, `/wait-taking` | nothing until the client is gone or it is cancelled, with a report of its stack; the latter takes 100 bytes first |
//! | `/stubborn/MS` | nothing, whatever it is told; after MS it ends |
//! | `/half-close` | once the client has closed its sending half |
//! | `/gone` | `gone=… cancelled=…`: how many exchanges were told so |
//! | `/block/MS` | holds the event loop for MS, then `Hello, world!` |
//! | `/trailers` | `Hello, world!`, and the trailer `x-sum: 13` |
//! | `/hints/MS` | early hints, MS later `Hello, world!` |
//! | `/hint-flood/N` | N early hints of 4 KB one after the other, then nothing until the client is gone or it is cancelled |
//! | `/floods` | how many of those have said all of their hints |
//! | `/events`, `/events/MS` | a head alone, then `event`, and the end, when somebody asks for `/release`; MS before each |
//! | `/silent-events` | a head alone, then nothing until the client is gone or it is cancelled |
//! | `/file-trailers/N` | a file of N bytes, and the trailer `x-sum: 13` |
//! | `/lie-hints/NAME` | early hints with `NAME: 13` |
//! | `/lie-take` | takes back what it has taken |
//! | `/codes` | how WebSockets ended, see `websocket.rs`, which has what it does with those |

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
use crate::{BROKEN, Outcome, lock, milliseconds, pattern, quit, websocket};

/// Bytes that are taken ahead of what has come.
pub(crate) const WINDOW: u64 = 256 * 1024;

/// What the event loop and its tasks share.
pub(crate) struct Loop {
    pub(crate) bell: OwnedFd,
    /// How often the bell has rung, for those who wait for what is rung for.
    pub(crate) rung: Mutex<u64>,
    pub(crate) rings: Condvar,
    pub(crate) gone: AtomicU32,
    pub(crate) cancelled: AtomicU32,
    pub(crate) floods: AtomicU32,
    /// Events that may be said.
    pub(crate) released: Mutex<u32>,
    pub(crate) releases: Condvar,
    /// How WebSockets ended.
    pub(crate) ends: Mutex<VecDeque<String>>,
}

/// What came of one exchange after its request.
#[derive(Default)]
pub(crate) struct Inbox {
    pub(crate) mail: Mutex<Mail>,
    pub(crate) came: Condvar,
}

#[derive(Default)]
pub(crate) struct Mail {
    pub(crate) parts: VecDeque<Vec<u8>>,
    /// A WebSocket has these instead.
    pub(crate) messages: VecDeque<websocket::Part>,
    /// Its close code and reason.
    pub(crate) end: Option<(u16, String)>,
    pub(crate) websocket: bool,
    pub(crate) whole: bool,
    pub(crate) gone: bool,
    pub(crate) half_closed: bool,
    pub(crate) cancelled: bool,
}

/// Slots that no exchange has.
pub(crate) struct Free<'w> {
    pub(crate) slots: Mutex<Vec<Slot<'w>>>,
    pub(crate) came: Condvar,
}

impl Loop {
    pub(crate) fn new(bell: OwnedFd) -> Self {
        Self {
            bell,
            rung: Mutex::new(0),
            rings: Condvar::new(),
            gone: AtomicU32::new(0),
            cancelled: AtomicU32::new(0),
            floods: AtomicU32::new(0),
            released: Mutex::new(0),
            releases: Condvar::new(),
            ends: Mutex::default(),
        }
    }

    /// Has the event loop look.
    pub(crate) fn ring(&self) -> Outcome {
        rustix::io::write(&self.bell, &1_u64.to_ne_bytes())?;
        Ok(())
    }

    /// As [`WaitFlag::wait_until`], for a task.
    pub(crate) fn wait_until(&self, want: WaitFlag<'_>, mut available: impl FnMut() -> bool) {
        loop {
            let seen = *lock(&self.rung);
            if available() {
                return;
            }
            want.announce_wait();
            if available() {
                return;
            }
            let rung = self.rings.wait_while(lock(&self.rung), |rung| *rung == seen);
            drop(rung.unwrap_or_else(PoisonError::into_inner));
        }
    }

    pub(crate) fn sleep(&self) -> Outcome {
        let mut fds = [rustix::event::PollFd::new(&self.bell, rustix::event::PollFlags::IN)];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        match rustix::io::read(&self.bell, &mut [0; 8]) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
        *lock(&self.rung) += 1;
        self.rings.notify_all();
        Ok(())
    }
}

/// The event loop, until it is stopped and every exchange has ended.
pub(crate) fn run(worker: &Worker, events: &Loop) -> Outcome {
    let slots = (0..worker.start.concurrency).map(|number| Slot::new(worker, number));
    let free = Free { slots: Mutex::new(slots.collect::<Outcome<_>>()?), came: Condvar::new() };
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
                        lock(&inbox.mail).websocket = request.websocket;
                        inboxes.insert(id, Arc::clone(&inbox));
                        lock(&worker.running).insert(id);
                        let (frame, free) = (frame.clone(), &free);
                        thread::Builder::new().stack_size(128 * 1024).spawn_scoped(scope, move || {
                            if let Err(error) = task(worker, events, free, &frame, &inbox) {
                                quit(BROKEN, &error.to_string());
                            }
                        })?;
                    }
                    Submission::Stream(later) => {
                        // Of an exchange that has ended meanwhile, or of none.
                        let (StreamFrame::Part { exchange, .. }
                        | StreamFrame::Disconnect { exchange, .. }
                        | StreamFrame::HalfClose { exchange }) = later;
                        if let Some(inbox) = inboxes.get(&exchange) {
                            inbox.take_in(&later, events);
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

/// One exchange, in a slot when there is one.
pub(crate) fn task(worker: &Worker, events: &Loop, free: &Free<'_>, frame: &[u8], inbox: &Inbox) -> Outcome {
    let request = Request::decode(frame)?;
    let mut slots = free
        .came
        .wait_while(lock(&free.slots), |slots| slots.is_empty())
        .unwrap_or_else(PoisonError::into_inner);
    let Some(mut slot) = slots.pop() else { return Err("no slot after waiting for one".into()) };
    drop(slots);
    let answered = Exchange { id: request.exchange, started: std::time::Instant::now(), slot: &mut slot }
        .answer_by(events, inbox, &request);
    lock(&free.slots).push(slot);
    free.came.notify_one();
    lock(&worker.running).remove(&request.exchange);
    events.ring()?;
    answered
}

impl Inbox {
    pub(crate) fn take_in(&self, later: &StreamFrame<'_>, events: &Loop) {
        let mut mail = lock(&self.mail);
        match later {
            StreamFrame::Part { bytes, text, more, .. } if mail.websocket => {
                let (bytes, text, more) = (bytes.to_vec(), *text, *more);
                mail.messages.push_back(websocket::Part { bytes, text, more });
            }
            StreamFrame::Part { bytes, end, .. } => {
                mail.parts.push_back(bytes.to_vec());
                mail.whole |= end;
            }
            StreamFrame::HalfClose { .. } => mail.half_closed = true,
            StreamFrame::Disconnect { cancel: true, .. } => {
                mail.cancelled = true;
                events.cancelled.fetch_add(1, Ordering::SeqCst);
            }
            StreamFrame::Disconnect { code, reason, .. } => {
                mail.end = Some((*code, String::from_utf8_lossy(reason).into_owned()));
                mail.gone = true;
                events.gone.fetch_add(1, Ordering::SeqCst);
            }
        }
        self.came.notify_all();
    }

    pub(crate) fn is_over(&self) -> bool {
        let mail = lock(&self.mail);
        mail.gone || mail.cancelled
    }

    pub(crate) fn wait_until_over(&self) {
        let over = self.came.wait_while(lock(&self.mail), |mail| !mail.gone && !mail.cancelled);
        drop(over.unwrap_or_else(PoisonError::into_inner));
    }

    /// The next part; `None` at the end of the body, or when it is over.
    pub(crate) fn part(&self) -> Option<Vec<u8>> {
        let waits = |mail: &mut Mail| mail.parts.is_empty() && !mail.whole && !mail.gone && !mail.cancelled;
        let mut mail = self.came.wait_while(lock(&self.mail), waits).unwrap_or_else(PoisonError::into_inner);
        mail.parts.pop_front()
    }
}

/// A body as it comes.
pub(crate) struct Incoming<'i> {
    pub(crate) inbox: &'i Inbox,
    pub(crate) inline: Option<Vec<u8>>,
    pub(crate) taken: u64,
    pub(crate) came: u64,
}

impl Exchange<'_, '_> {
    pub(crate) fn answer_by(&mut self, events: &Loop, inbox: &Inbox, request: &Request<'_>) -> Outcome {
        if request.websocket {
            return self.be_a_websocket(events, inbox, request);
        }
        let path = String::from_utf8_lossy(request.path).into_owned();
        let mut parts = path.trim_start_matches('/').split('/');
        let (name, first) = (parts.next().unwrap_or_default(), parts.next());
        let inline = (!request.body_streams).then(|| request.body.to_vec());
        let mut body = Incoming { inbox, inline, taken: 0, came: 0 };
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
            "take" => {
                let pause = first.map_or(Ok(Duration::ZERO), milliseconds)?;
                let report = self.take_all(&mut body, pause)?;
                self.text(200, &report)
            }
            "take-some" => {
                let most = first.unwrap_or("0").parse()?;
                while body.came < most && self.receive(&mut body, most)?.is_some() {}
                self.text(200, &format!("took={}", body.came))
            }
            "answer-first" => {
                self.respond(200, None, Body::Inline(b"first "), false, false)?;
                let report = self.take_all(&mut body, Duration::ZERO)?;
                self.send_inline(report.as_bytes())?;
                self.finish()
            }
            "wait" | "wait-taking" => {
                if name == "wait-taking" {
                    self.take(&mut body, 100)?;
                }
                inbox.wait_until_over();
                if lock(&inbox.mail).cancelled {
                    let text = cancel_report::encode(self.id, "  File \"fake.py\", line 1, in wait\n");
                    self.slot.worker.report(&Report::Warning(text), &[])?;
                }
                self.finish()
            }
            "half-close" => {
                let waits = |mail: &mut Mail| !mail.half_closed && !mail.gone;
                let closed =
                    inbox.came.wait_while(lock(&inbox.mail), waits).unwrap_or_else(PoisonError::into_inner);
                let is_gone = closed.gone;
                drop(closed);
                self.text(200, if is_gone { "gone" } else { "answered all the same" })
            }
            "stubborn" => {
                thread::sleep(milliseconds(first.unwrap_or("0"))?);
                self.text(200, "at last")
            }
            "gone" => {
                let count = |count: &AtomicU32| count.load(Ordering::SeqCst);
                let (gone, cancelled) = (count(&events.gone), count(&events.cancelled));
                self.text(200, &format!("gone={gone} cancelled={cancelled}"))
            }
            "codes" => self.text(200, &events.codes()),
            "block" => self.text(200, "Hello, world!"),
            "trailers" => {
                self.head(200, &[(b"trailer", b"x-sum")], Body::Inline(b"Hello, world!"), false, false)?;
                self.say(CompletionKind::Trailers, &[(b"x-sum", b"13")], b"", true)
            }
            "hints" => {
                let link = (&b"link"[..], &b"</style.css>; rel=preload"[..]);
                self.say(CompletionKind::EarlyHints, &[link], b"", false)?;
                thread::sleep(milliseconds(first.unwrap_or("0"))?);
                self.text(200, "Hello, world!")
            }
            "hint-flood" => {
                let value = format!("</{}.css>; rel=preload", "x".repeat(4000));
                for _ in 0..first.unwrap_or("0").parse()? {
                    self.say(CompletionKind::EarlyHints, &[(b"link", value.as_bytes())], b"", false)?;
                }
                events.floods.fetch_add(1, Ordering::SeqCst);
                inbox.wait_until_over();
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
                inbox.wait_until_over();
                self.finish()
            }
            "file-trailers" => {
                let len: usize = first.unwrap_or("0").parse()?;
                self.send_file(&pattern(len))?;
                let body = Body::File { offset: 0, len: len as u64 };
                self.head(200, &[(b"trailer", b"x-sum")], body, false, false)?;
                self.slot.worker.wait_until_taken()?;
                self.say(CompletionKind::Trailers, &[(b"x-sum", b"13")], b"", true)
            }
            "lie-hints" => {
                let field = (first.unwrap_or_default().as_bytes(), &b"13"[..]);
                self.say(CompletionKind::EarlyHints, &[field], b"", false)?;
                self.text(200, "Hello, world!")
            }
            "lie-take" => {
                self.take(&mut body, 100)?;
                self.say(CompletionKind::WindowUpdate, &[], &50_u64.to_le_bytes(), false)?;
                inbox.wait_until_over();
                Ok(())
            }
            _ => self.answer(request),
        }
    }

    /// Says how far the body is taken.
    pub(crate) fn take(&mut self, body: &mut Incoming<'_>, taken: u64) -> Outcome {
        if body.inline.is_some() || taken <= body.taken {
            return Ok(());
        }
        body.taken = taken;
        self.say(CompletionKind::WindowUpdate, &[], &taken.to_le_bytes(), false)
    }

    /// What comes next of the body, with so much room for more.
    pub(crate) fn receive(&mut self, body: &mut Incoming<'_>, window: u64) -> Outcome<Option<Vec<u8>>> {
        if let Some(inline) = &mut body.inline {
            let part = std::mem::take(inline);
            body.came += part.len() as u64;
            return Ok((!part.is_empty()).then_some(part));
        }
        let wanted = body.came + window;
        // As a real worker does: not for every few bytes.
        if body.taken < wanted - window / 2 || body.taken == body.came {
            self.take(body, wanted)?;
        }
        let part = body.inbox.part();
        let len = part.as_ref().map_or(0, Vec::len) as u64;
        body.came += len;
        if body.came > body.taken {
            return Err("the daemon sent more than was taken".into());
        }
        Ok(part)
    }

    pub(crate) fn take_all(&mut self, body: &mut Incoming<'_>, pause: Duration) -> Outcome<String> {
        let expected = pattern(251 * 1024);
        let mut right = true;
        loop {
            thread::sleep(pause);
            let at = usize::try_from(body.came % 251)?;
            let Some(part) = self.receive(body, WINDOW)? else { break };
            right &= expected.get(at..at + part.len()) == Some(&part[..]);
        }
        let over = body.inbox.is_over();
        Ok(format!("length={} right={right} over={over}", body.came))
    }

    /// What only ASGI workers say.
    pub(crate) fn say(
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
