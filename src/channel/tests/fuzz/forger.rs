//! A fake worker that sends forged completions, from almost correct ones to arbitrary bytes.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rgun::id::WorkerId;
use rgun_channel::control::{self, Interface, Report};
use rgun_channel::frame::{ExchangeId, Submission, encode_field};
use rgun_channel::layout::{CHUNK_BYTES, Geometry, Word};
use rgun_channel::map::Map;
use rgun_channel::ring::{CompletionSender, SubmissionReceiver};
use rgun_channel::slab::SlabSender;

use super::{DEADLINE, ForgeryInput, GEOMETRY, Site};

/// The worker's side of the channel.
pub(super) struct Forger {
    pub(super) id: WorkerId,
    pub(super) control: OwnedFd,
    pub(super) map: Arc<Map>,
    pub(super) submissions: SubmissionReceiver,
    pub(super) completions: CompletionSender,
    pub(super) slab: SlabSender,
    /// The exchanges that the worker has claimed.
    pub(super) exchanges: Vec<ExchangeId>,
    /// The first request is a HEAD.
    pub(super) is_head: bool,
    /// No completion was sent yet.
    pub(super) has_sent_nothing: bool,
    /// The first completion that violates the contract regardless of earlier completions: the
    /// daemon must fail the worker.
    pub(super) violation: Option<String>,
}

/// Encodes the fixed part of a completion.
#[expect(clippy::too_many_arguments, reason = "one for each field")]
pub(super) fn head(
    exchange: ExchangeId,
    kind: u8,
    flags: u8,
    status: u16,
    n_fields: u16,
    n_chunks: u16,
    slot: u16,
    reason_len: u16,
) -> Vec<u8> {
    let mut frame = exchange.0.to_le_bytes().to_vec();
    frame.extend_from_slice(&[kind, flags]);
    for number in [status, n_fields, n_chunks] {
        frame.extend_from_slice(&number.to_le_bytes());
    }
    frame.extend_from_slice(&1000_u64.to_le_bytes());
    frame.extend_from_slice(&slot.to_le_bytes());
    frame.extend_from_slice(&reason_len.to_le_bytes());
    frame.extend_from_slice(&[0; 4]);
    frame
}

const STATUSES: [u16; 16] = [200, 200, 200, 204, 304, 101, 100, 103, 199, 299, 404, 500, 999, 1000, 0, 206];
const NUMBERS: [u64; 12] =
    [0, 1, 2, 5, 10, 11, 1 << 32, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX - 4, u64::MAX - 1, u64::MAX];
const FIELDS: [(&[u8], &[u8]); 16] = [
    (b"content-length", b"5"),
    (b"content-length", b"10"),
    (b"content-length", b"+5"),
    (b"content-length", b"0"),
    (b"content-length", b"18446744073709551615"),
    (b"content-length", b"5, 5"),
    (b"Content-Length", b"5"),
    (b"transfer-encoding", b"chunked"),
    (b"Transfer-Encoding", b"identity"),
    (b"connection", b"keep-alive"),
    (b"trailer", b"x-odd, content-length"),
    (b"x-odd", b"a\r\nx-evil: 1"),
    (b"x odd", b"1"),
    (b"x-odd", b"\x80\xff"),
    (b"sec-websocket-accept", b"x"),
    (b"content-type", b"text/plain"),
];

fn lengths<'f>(fields: &[(&'f [u8], &'f [u8])]) -> impl Iterator<Item = &'f [u8]> {
    fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(b"content-length")).map(|(_, value)| *value)
}

/// True if these fields violate the contract.
fn are_impossible(fields: &[(&[u8], &[u8])]) -> bool {
    let is_impossible = |(name, value): &(&[u8], &[u8])| {
        let name = name.to_ascii_lowercase();
        matches!(&*name, b"transfer-encoding" | b"connection" | b"x odd") || value.contains(&b'\n')
    };
    fields.iter().any(is_impossible)
}

/// True if the fields of a head declare different lengths, or a length that is not a number. (A
/// length in a trailer has no effect.)
fn have_invalid_length(fields: &[(&[u8], &[u8])]) -> bool {
    let mut lengths = lengths(fields);
    let first = lengths.next();
    let is_number = |value: &[u8]| value.iter().all(u8::is_ascii_digit);
    first.is_some_and(|first| !is_number(first)) || lengths.any(|other| Some(other) != first)
}

/// True if no file can have the offset and length in this part.
fn ends_beyond_files(part: &[u8]) -> bool {
    let numbers: Vec<u64> =
        part.as_chunks::<8>().0.iter().map(|number| u64::from_le_bytes(*number)).collect();
    let [offset, len] = numbers[..] else { return true };
    let end = offset.checked_add(if len == u64::MAX { 0 } else { len });
    end.is_none_or(|end| i64::try_from(end).is_err())
}

impl Forger {
    /// Waits for the client's request and claims it.
    pub(super) fn claim(&mut self, site: &Site) {
        let begun = Instant::now();
        while self.exchanges.is_empty() && !site.has_failed(self) {
            self.claim_available();
            assert!(begun.elapsed() < DEADLINE, "no request was assigned");
            std::thread::yield_now();
        }
    }

    fn claim_available(&mut self) {
        let mut frame = Vec::new();
        while let Ok(true) = self.submissions.claim(&mut frame) {
            if let Ok(Submission::Request(request)) = Submission::decode(&frame) {
                self.exchanges.push(request.exchange);
            }
        }
    }

    /// Carries out the next instruction of the input.
    pub(super) fn step(&mut self, site: &Site, input: &mut ForgeryInput<'_>) {
        match input.byte() % 16 {
            0..10 => {
                let (frame, is_violation) = self.completion(input);
                if self.push(site, &frame) && is_violation {
                    self.violation.get_or_insert_with(|| format!("{frame:02x?}"));
                }
            }
            10 => {
                // Arbitrary bytes for an exchange that the worker has claimed.
                let mut frame = self.exchange(0).0.to_le_bytes().to_vec();
                let len = usize::from(input.byte());
                frame.extend((0..len).map(|_| input.byte()));
                self.push(site, &frame);
            }
            11 => {
                // Not empty: an empty message is the end of the stream.
                let message: Vec<u8> = (0..=input.byte() % 32).map(|_| input.byte()).collect();
                control::send(&self.control, &message, &[]).ok();
            }
            12 => self.send_file(input),
            13 => {
                let interface = if input.byte() & 1 == 0 { Interface::Wsgi } else { Interface::Asgi };
                control::send(&self.control, &Report::Ready { interface }.encode(), &[]).ok();
            }
            14 => self.wait_until_taken(site),
            _ => self.claim_available(),
        }
    }

    /// Publishes a frame. Returns false if the frame does not fit.
    fn push(&mut self, site: &Site, frame: &[u8]) -> bool {
        self.has_sent_nothing = false;
        let is_published = self.completions.push(frame).unwrap_or(false);
        site.ring();
        is_published
    }

    fn exchange(&self, choice: u8) -> ExchangeId {
        match (choice, self.exchanges.as_slice()) {
            (0xf0..=0xf7, [.., last]) => *last,
            (0xf8..=0xfb, _) => ExchangeId(u64::from(choice & 3)),
            (0xfc..=0xff, _) => ExchangeId(u64::MAX),
            (_, [first, ..]) => *first,
            (_, []) => ExchangeId(1),
        }
    }

    /// Returns an almost correct completion; true if it certainly violates the contract.
    fn completion(&mut self, input: &mut ForgeryInput<'_>) -> (Vec<u8>, bool) {
        let kind = match input.byte() {
            common @ 0..0xc0 => 1 + common % 2,
            rare => rare % 9,
        };
        let (flags, choice) = (input.byte() & 0x3f, input.byte());
        let status = if kind == 1 || kind == 7 { STATUSES[usize::from(input.byte()) % 16] } else { 0 };
        let n_fields = if kind == 2 { 0 } else { u16::from(input.byte() % 4) };
        let reason: &[u8] = match (kind, input.byte()) {
            (1, 0xe0..0xf0) => b"Odd Reason",
            (1, 0xf0..0xf4) => b"two\r\nlines",
            (_, 0xff) => b"x",
            _ => b"",
        };
        let slot = if input.byte() < 0xf0 { 0 } else { u16::from(input.byte()) };
        let n_chunks = if flags & 4 == 0 { 0 } else { u16::from(input.byte() % 4) };
        let reason_len = u16::try_from(reason.len()).unwrap_or(0);
        let exchange = self.exchange(choice);
        let mut frame = head(exchange, kind, flags, status, n_fields, n_chunks, slot, reason_len);
        frame.extend_from_slice(reason);
        let mut fields = Vec::new();
        for _ in 0..n_fields {
            let (name, value) = FIELDS[usize::from(input.byte()) % FIELDS.len()];
            encode_field(name, value, &mut frame).expect("short");
            fields.push((name, value));
        }
        let head_len = frame.len();
        self.body(flags, n_chunks, &mut frame, input);
        let is_violation = kind == 0
            || kind == 8
            || kind == 1 && status != 101 && !(200..=999).contains(&status)
            || usize::from(slot) >= GEOMETRY.slots as usize
            || flags & 6 == 6
            || !reason.is_empty() && (kind != 1 || reason.contains(&b'\n'))
            || matches!(kind, 1 | 5 | 6) && are_impossible(&fields)
            || kind == 1 && have_invalid_length(&fields)
            || flags & 6 == 2 && ends_beyond_files(&frame[head_len..])
            || self.has_sent_nothing
                && (kind, flags & 6) == (1, 0)
                && self.exchanges.first() == Some(&exchange)
                && self.has_wrong_length(status, flags & 1 != 0, &fields, (frame.len() - head_len) as u64);
        (frame, is_violation)
    }

    /// True if the first part of a response is too long, or ends the response at another length
    /// than the head declares.
    fn has_wrong_length(&self, status: u16, is_end: bool, fields: &[(&[u8], &[u8])], len: u64) -> bool {
        let announced = lengths(fields).find_map(|value| str::from_utf8(value).ok()?.parse::<u64>().ok());
        let is_bodiless = self.is_head || matches!(status, 204 | 304);
        !self.is_head && is_bodiless && len > 0
            || !is_bodiless
                && announced.is_some_and(|announced| announced < len || is_end && announced != len)
    }

    fn body(&mut self, flags: u8, n_chunks: u16, frame: &mut Vec<u8>, input: &mut ForgeryInput<'_>) {
        for _ in 0..n_chunks {
            let filled = self.slab.fill(&[b'c'; 5]).ok().flatten();
            let (chunk, len) = match input.byte() {
                0..0xc0 => (filled.unwrap_or(0), 5),
                0xc0..0xe0 => (filled.unwrap_or(0), 0),
                other => {
                    (u32::from(other & 7), u32::try_from(CHUNK_BYTES).unwrap_or(0) + u32::from(other & 1))
                }
            };
            frame.extend_from_slice(&chunk.to_le_bytes());
            frame.extend_from_slice(&len.to_le_bytes());
        }
        if flags & 4 != 0 {
            return;
        }
        if flags & 2 != 0 {
            let offset = match input.byte() {
                0..0xc0 => 0,
                other => NUMBERS[usize::from(other) % NUMBERS.len()],
            };
            frame.extend_from_slice(&offset.to_le_bytes());
            frame.extend_from_slice(&NUMBERS[usize::from(input.byte()) % NUMBERS.len()].to_le_bytes());
            return;
        }
        let len = match input.byte() {
            0..0x40 => 0,
            0x40..0x80 => 5,
            0x80..0xc0 => 10,
            large => usize::from(large) * 100,
        };
        frame.extend(std::iter::repeat_n(b'x', len));
    }

    /// Sends a File report, with a descriptor or without one; a frame may name it later.
    fn send_file(&self, input: &mut ForgeryInput<'_>) {
        let report = Report::File(self.exchange(input.byte())).encode();
        let opened = match input.byte() % 8 {
            0..4 => rustix::fs::memfd_create("forged", rustix::fs::MemfdFlags::CLOEXEC).inspect(|fd| {
                rustix::io::write(fd, b"0123456789").ok();
            }),
            4 => File::open("/proc/self/stat").map(OwnedFd::from).map_err(|_| rustix::io::Errno::NOENT),
            5 => File::open("/").map(OwnedFd::from).map_err(|_| rustix::io::Errno::NOENT),
            6 => rustix::pipe::pipe().map(|(reading, _)| reading),
            _ => File::open("/dev/null").map(OwnedFd::from).map_err(|_| rustix::io::Errno::NOENT),
        };
        let Ok(file) = opened else { return };
        let fds = [file.as_fd()];
        control::send(&self.control, &report, if input.byte() < 0xf0 { &fds } else { &[] }).ok();
    }

    /// Waits until the daemon has popped all completions, or for 2 ms.
    fn wait_until_taken(&mut self, site: &Site) {
        let word = |word| self.map.u64(Geometry::word(word)).load(Ordering::Acquire);
        let begun = Instant::now();
        while word(Word::CompletionHead) != word(Word::CompletionTail) && !site.has_failed(self) {
            // A completion with END stays in the ring until it is marked DONE
            // (`CompletionSender::mark_done`).
            if begun.elapsed() > Duration::from_millis(2) {
                return;
            }
            std::thread::yield_now();
        }
    }
}
