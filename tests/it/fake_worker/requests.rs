//! Selects the response by the request's path. Paths that begin with `/breach-` are in
//! `breaches.rs`.
//!
//! | path | response |
//! |---|---|
//! | `/hello` | 200 `Hello, world!` |
//! | any other path | 404 `unknown path` |
//! | `/pid` | `pid=… worker=… generation=… slot=…` |
//! | `/echo` | method, version, path, query, peer, request id and fields, one a line |
//! | `/status/N` | status N, no body |
//! | `/slow/MS` | `slow` after MS milliseconds |
//! | `/done-later/MS` | a complete response at once; its exchange is done after MS |
//! | `/body` | the request's body; `x-body: inline` or `file` is its transport |
//! | `/large/N` | N bytes ([`pattern`]) in slab chunks, within the window |
//! | `/stream/N`, `/stream/N/MS` | `part 0` … without a length, one frame a part, MS between them |
//! | `/file/N` | N bytes of pattern as a descriptor |
//! | `/file-short/N` | declares N bytes; the file has only half of them |
//! | `/file-raise/N` | declares twice N bytes, sends a file of N, then AppRaised |
//! | `/reason` | 299 `Odd Reason` |
//! | `/with/NAME/VALUE` | 4000 bytes with that field; `%22` in VALUE is a quote, `%2F` a slash |
//! | `/fd-missing` | a file body whose descriptor is never sent |
//! | `/raise`, `/raise-mid-body/MS` | AppRaised before the head / MS after head and 10 of 1000 bytes |
//! | `/raise-late` | AppRaised after a complete `Hello, world!` |
//! | `/hang`, `/hang-mid-body` | no response / head and 10 of 1000 bytes, then nothing |
//! | `/die`, `/abort` | exit 3 / SIGABRT before the head |
//! | `/die-mid-body` | head and 10 of 1000 bytes, exit 3 once the daemon has popped them |
//! | `/die-after-claim-many/N` | claims requests until N are claimed (including those that run), then exit 3 |
//! | `/flood/N` | N MiB regardless of the window |
//! | `/takeover/WHAT` | answers a WebSocket handshake on the client's socket as WHAT says; see `takeover.rs` |
//! | `/garbage-control` | a malformed control message, then `Hello, world!` |

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};
use std::{process, thread};

use rgun_channel::control::{self, Start};
use rgun_channel::frame::{Body, CompletionKind, ExchangeId, Request};
use rgun_channel::layout::CHUNK_BYTES;

use crate::worker::Slot;
use crate::{Outcome, hang, lock, milliseconds, pattern, quit};

/// An exchange that runs in a slot.
pub(crate) struct Exchange<'s, 'w> {
    pub(crate) slot: &'s mut Slot<'w>,
    pub(crate) id: ExchangeId,
    pub(crate) started: Instant,
}

impl Exchange<'_, '_> {
    pub(crate) fn answer(&mut self, request: &Request<'_>) -> Outcome {
        let path = String::from_utf8_lossy(request.path).into_owned();
        let mut parts = path.trim_start_matches('/').split('/');
        let name = parts.next().unwrap_or_default();
        let (first, second) = (parts.next().unwrap_or_default(), parts.next());
        let worker = self.slot.worker;
        match name {
            "hello" => self.text(200, "Hello, world!"),
            "pid" => {
                let Start { generation, worker, .. } = &worker.start;
                let (pid, slot) = (process::id(), self.slot.number);
                self.text(200, &format!("pid={pid} worker={worker} generation={generation} slot={slot}"))
            }
            "echo" => self.text(200, &echo(request)?),
            "status" => self.respond(first.parse()?, Some(0), Body::Inline(b""), true, true),
            "slow" => {
                thread::sleep(milliseconds(first)?);
                self.text(200, "slow")
            }
            "done-later" => {
                self.respond(200, Some(5), Body::Inline(b"early"), true, false)?;
                thread::sleep(milliseconds(first)?);
                self.part(CompletionKind::Body, Body::Inline(b""), true, true)
            }
            "body" => self.echo_body(request),
            "large" => {
                let bytes = pattern(first.parse()?);
                self.respond(200, Some(bytes.len() as u64), Body::Inline(b""), false, false)?;
                self.send(&bytes)?;
                self.finish()
            }
            "stream" => {
                let pause = second.map_or(Ok(Duration::ZERO), milliseconds)?;
                self.respond(200, None, Body::Inline(b""), false, false)?;
                for part in 0..first.parse::<u32>()? {
                    thread::sleep(pause);
                    self.send_inline(format!("part {part}\n").as_bytes())?;
                }
                self.finish()
            }
            "file" => {
                let len = first.parse()?;
                self.send_file(&pattern(len))?;
                self.respond_file(len as u64)
            }
            "file-short" => {
                let len: usize = first.parse()?;
                self.send_file(&pattern(len / 2))?;
                self.respond_file(len as u64)
            }
            "file-raise" => {
                let len: usize = first.parse()?;
                self.send_file(&pattern(len))?;
                let body = Body::File { offset: 0, len: len as u64 };
                self.respond(200, Some(2 * len as u64), body, false, false)?;
                worker.wait_until_taken()?;
                self.raise()
            }
            "reason" => self.reason(b"Odd Reason"),
            "with" => {
                let value = second.unwrap_or_default().replace("%22", "\"").replace("%2F", "/");
                let fields = [(first.as_bytes(), value.as_bytes()), (&b"content-length"[..], &b"4000"[..])];
                self.head(200, &fields, Body::Inline(&pattern(4000)), true, true)
            }
            "fd-missing" => self.respond_file(1000),
            "raise" => self.raise(),
            "raise-late" => {
                self.respond(200, Some(13), Body::Inline(b"Hello, world!"), true, false)?;
                self.raise()
            }
            "raise-mid-body" => {
                self.start_response()?;
                worker.wait_until_taken()?;
                thread::sleep(milliseconds(first)?);
                self.raise()
            }
            "hang" => hang(),
            "hang-mid-body" => {
                self.start_response()?;
                hang()
            }
            "die" => quit(3, "exits, as the path requests"),
            "abort" => process::abort(),
            "die-mid-body" => {
                self.start_response()?;
                worker.wait_until_taken()?;
                quit(3, "exits within the body, as the path requests")
            }
            "die-after-claim-many" => self.die_after_claiming(first.parse()?),
            "takeover" => self.take_over(request, first),
            "garbage-control" => {
                control::send(&worker.socket, &[0xff; 32], &[])?;
                self.text(200, "Hello, world!")
            }
            "flood" => {
                self.respond(200, None, Body::Inline(b""), false, false)?;
                let bytes = pattern(16 * 1024);
                for _ in 0..first.parse::<u32>()? * 64 {
                    self.part(CompletionKind::Body, Body::Inline(&bytes), false, false)?;
                }
                self.finish()
            }
            _ if name.starts_with("breach-") => self.break_contract(name, first),
            _ => self.text(404, "unknown path"),
        }
    }

    /// Claims requests until all slots together have claimed `count`, then exits.
    pub(crate) fn die_after_claiming(&self, count: usize) -> Outcome {
        let worker = self.slot.worker;
        let mut submission = lock(&worker.submission);
        let mut frame = Vec::new();
        let mut claimed = lock(&worker.running).len();
        while claimed < count && !worker.is_stopped() {
            if submission.claim(&mut frame)? {
                claimed += 1;
            } else {
                worker.sleep_until_submission(|| submission.is_empty());
            }
        }
        quit(3, &format!("exits with {claimed} requests claimed, as the path requests"))
    }

    pub(crate) fn echo_body(&mut self, request: &Request<'_>) -> Outcome {
        let (how, file) = if request.body_is_fd {
            ("file", Some(fs::File::from(self.slot.worker.body(request.exchange)?)))
        } else {
            ("inline", None)
        };
        let length = request.body_len.to_string();
        self.head(
            200,
            &[(b"content-length", length.as_bytes()), (b"x-body", how.as_bytes())],
            Body::Inline(b""),
            false,
            false,
        )?;
        match file {
            None => self.send(request.body)?,
            Some(file) => {
                let mut block = vec![0; CHUNK_BYTES];
                let mut at = 0;
                while at < request.body_len {
                    match file.read_at(&mut block, at)? {
                        0 => return Err("the body's file is shorter than declared".into()),
                        read => {
                            self.send(&block[..read])?;
                            at += read as u64;
                        }
                    }
                }
            }
        }
        self.finish()
    }
}

pub(crate) fn echo(request: &Request<'_>) -> Result<String, std::fmt::Error> {
    let text = String::from_utf8_lossy;
    let mut lines = format!(
        "{} {} {}\nquery: {}\npeer: {} {}\nrequest id: {}\nlistener: {}\nhttps: {}\nserver port: {}\nroot path: {}\nbody: {}\n",
        text(request.method),
        text(request.path),
        request.version,
        text(request.query),
        text(request.peer),
        request.peer_port,
        text(request.request_id),
        request.listener,
        request.https,
        request.server_port,
        text(request.root_path),
        request.body_len,
    );
    for (name, value) in request.fields() {
        writeln!(lines, "{}: {}", text(name.as_bytes()), text(value))?;
    }
    Ok(lines)
}
