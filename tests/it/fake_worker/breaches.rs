//! Breaches of the channel's contract, by the request's path. After most of them the daemon kills
//! this process.
//!
//! | path | breach |
//! |---|---|
//! | `/breach-length` | each word of the completion ring is a length beyond it, and the head is advanced |
//! | `/breach-head` | a completion head far beyond the ring |
//! | `/breach-tail`, `/breach-tail/back` | a submission tail far beyond the head / of 0, and a correct response; then claims nothing |
//! | `/breach-asleep` | 4 billion sleeping threads, and a correct response |
//! | `/breach-chunk/twice`, `/range`, `/length` | a chunk sent twice / that does not exist / longer than a chunk |
//! | `/breach-exchange/unknown`, `/zero`, `/twice` | a head for an unknown exchange / for exchange 0 / after the end of the response |
//! | `/breach-exchange/other` | waits until another slot runs an exchange, and sends a response to that exchange |
//! | `/breach-slot` | a slot that does not exist |
//! | `/breach-frame` | a frame of 0xff bytes |
//! | `/breach-length-header`, `/more`, `/stream` | `content-length: 5` before 10 bytes / before 3 / before 10 in two parts |
//! | `/breach-length-header/sign`, `/two` | `content-length: +10` / 10 and 11 |
//! | `/breach-file`, `/huge`, `/beyond` | a file after bytes / the same, with almost 2^64 bytes / a file whose end is beyond 2^63 |
//! | `/breach-status/N` | status N |
//! | `/breach-field/NAME` | `NAME: chunked` in addition to a length |
//! | `/breach-reason` | a reason phrase of two lines |
//! | `/breach-empty-chunks` | a part with an empty chunk |

use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use rgun_channel::frame::{Body, CompletionKind, ExchangeId};
use rgun_channel::layout::{CHUNK_BYTES, Geometry, REACTOR_EPOCH, Word};
use rgun_channel::wake::Epoch;

use crate::requests::Exchange;
use crate::worker::{Completions, Worker};
use crate::{EXIT_SOFTWARE, Outcome, WAIT_TIMEOUT, hang, lock, quit};

impl Exchange<'_, '_> {
    /// Breaches the contract of the channel: rings, chunks, exchanges, frames.
    pub(crate) fn break_contract(&mut self, name: &str, how: &str) -> Outcome {
        let worker = self.slot.worker;
        let (map, geometry) = (&*worker.map, &worker.start.geometry);
        match (name, how) {
            ("breach-length", _) => {
                let completions = lock(&worker.completion);
                map.copy_in(geometry.completion_offset(), &vec![0xf8; geometry.completion as usize]);
                map.u64(Geometry::word(Word::CompletionHead)).fetch_add(64, Ordering::AcqRel);
                // The lock is kept, so that nothing published later repairs the ring.
                wake_daemon_and_hang(worker, completions)
            }
            ("breach-head", _) => {
                let completions = lock(&worker.completion);
                map.u64(Geometry::word(Word::CompletionHead)).store(1 << 62, Ordering::Release);
                wake_daemon_and_hang(worker, completions)
            }
            ("breach-tail", _) => {
                let _submissions = lock(&worker.submission);
                let tail = if how == "back" { 0 } else { 1 << 62 };
                map.u64(Geometry::word(Word::SubmissionTail)).store(tail, Ordering::Release);
                self.text(200, "Hello, world!")?;
                hang()
            }
            ("breach-asleep", _) => {
                map.u32(Geometry::word(Word::Asleep)).store(u32::MAX, Ordering::Release);
                self.text(200, "Hello, world!")
            }
            ("breach-chunk", _) => {
                let chunk = worker.fill_chunk(b"bad")?;
                let chunks = match how {
                    "range" => vec![(geometry.chunks, 3)],
                    "length" => vec![(chunk, u32::try_from(CHUNK_BYTES + 1)?)],
                    _ => vec![(chunk, 3), (chunk, 3)],
                };
                self.respond(200, None, Body::Chunks(&chunks), true, true)
            }
            ("breach-exchange", "unknown" | "zero" | "other") => {
                let own = self.id;
                self.id = match how {
                    "unknown" => ExchangeId(u64::MAX),
                    "zero" => ExchangeId(0),
                    _ => self.other_exchange()?,
                };
                self.text(200, "for another")?;
                self.id = own;
                self.text(200, "Hello, world!")
            }
            ("breach-exchange", _) => {
                self.text(200, "Hello, world!")?;
                self.text(200, "Hello again")
            }
            ("breach-slot", _) => {
                let own = std::mem::replace(&mut self.slot.number, geometry.slots);
                let answered = self.text(200, "from nowhere");
                self.slot.number = own;
                answered
            }
            ("breach-frame", _) => worker.publish(&[0xff; 64]),
            _ => self.send_invalid_response(name, how),
        }
    }

    /// Sends invalid HTTP responses in well-formed frames.
    pub(crate) fn send_invalid_response(&mut self, name: &str, how: &str) -> Outcome {
        let ten = Body::Inline(b"0123456789");
        match (name, how) {
            ("breach-length-header", "sign") => {
                self.head(200, &[(b"content-length", b"+10")], ten, true, true)
            }
            ("breach-length-header", "two") => {
                let lengths = [(&b"content-length"[..], &b"10"[..]), (b"content-length", b"11")];
                self.head(200, &lengths, ten, true, true)
            }
            ("breach-length-header", "more") => self.respond(200, Some(5), Body::Inline(b"012"), true, true),
            ("breach-length-header", "stream") => {
                self.respond(200, Some(5), Body::Inline(b"012"), false, false)?;
                self.part(CompletionKind::Body, Body::Inline(b"3456789"), true, true)
            }
            ("breach-length-header", _) => self.respond(200, Some(5), ten, true, true),
            ("breach-file", "beyond") => {
                self.send_file(b"file")?;
                self.respond(200, None, Body::File { offset: i64::MAX as u64, len: 1 }, true, true)
            }
            ("breach-file", _) => {
                let (len, declared) = if how == "huge" { (u64::MAX - 4, 5) } else { (4, 14) };
                self.send_file(b"file")?;
                self.respond(200, Some(declared), ten, false, false)?;
                self.part(CompletionKind::Body, Body::File { offset: 0, len }, true, true)
            }
            ("breach-status", _) => self.text(how.parse()?, "invalid"),
            ("breach-field", _) => {
                let fields = [(&b"content-length"[..], &b"10"[..]), (how.as_bytes(), b"chunked")];
                self.head(200, &fields, ten, true, true)
            }
            ("breach-reason", _) => self.reason(b"OK\r\nx-evil: 1"),
            ("breach-empty-chunks", _) => {
                self.respond(200, None, Body::Inline(b""), false, false)?;
                let chunk = self.slot.worker.fill_chunk(b"")?;
                self.part(CompletionKind::Body, Body::Chunks(&[(chunk, 0)]), false, false)
            }
            _ => self.text(404, "unknown breach"),
        }
    }

    /// Waits until another slot runs an exchange, and returns its id.
    pub(crate) fn other_exchange(&self) -> Outcome<ExchangeId> {
        let worker = self.slot.worker;
        let (running, _) = worker
            .running_changed
            .wait_timeout_while(lock(&worker.running), WAIT_TIMEOUT, |running| running.len() < 2)
            .unwrap_or_else(PoisonError::into_inner);
        running.iter().copied().find(|id| *id != self.id).ok_or_else(|| "nothing else runs".into())
    }
}

pub(crate) fn wake_daemon_and_hang(worker: &Worker, mut completions: MutexGuard<'_, Completions>) -> ! {
    if Epoch(worker.reactor.u32(REACTOR_EPOCH)).must_wake(&mut completions.last_epoch)
        && let Err(error) = rustix::io::write(&worker.eventfd, &1_u64.to_ne_bytes())
    {
        quit(EXIT_SOFTWARE, &format!("cannot wake the daemon: {error}"));
    }
    hang()
}
