//! One attached worker: its channel, its load and its state. A [`Worker`] refers to exchanges by id
//! and position.

pub(super) mod channel;
pub(super) mod contract;
pub(super) mod decode;
pub(super) mod load;
pub(super) mod loop_health;
pub(super) mod outbox;
pub(super) mod report_limit;
pub(super) mod running;
pub(super) mod service_time;

use std::io;
use std::num::NonZeroU64;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::task::Waker;
use std::time::{Duration, Instant};

use rgun_channel::control::{self, Command, Interface, Report};
use rgun_channel::frame::{ExchangeId, StreamFrame};
use rgun_channel::ring::Position;

use crate::id::{Generation, WorkerId};
use crate::supervise::ResponseStats;

use crate::dispatch::data::Buffers;
use crate::dispatch::exchange::body::BodyTransport;
use crate::dispatch::worker::channel::WorkerChannel;
use crate::dispatch::worker::contract::ContractBreach;
use crate::dispatch::worker::load::WorkerLoad;
use crate::dispatch::worker::loop_health::{LoopHealth, LoopWatch};
use crate::dispatch::worker::outbox::Outbox;
use crate::dispatch::worker::report_limit::ReportLimiter;
use crate::dispatch::{Notice, NoticeSink};
use crate::link::Link;

/// Number of unclaimed requests from which an event loop has a backlog. While the daemon waits, the
/// loop does not get new requests, so its backlog must be worth the two context switches at the end
/// of the wait. Measured with 64 connections, everything on one core: an application of 40 µs takes
/// 5 % less CPU time per request; one of 2 µs takes the same.
const LOOP_BACKLOG: usize = 32;

/// A request as it goes to a worker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestRecord<'a> {
    /// The frame, or its first part.
    pub(crate) frame: &'a [u8],
    /// The rest of the frame: an inline body that is stored apart.
    pub(crate) body: &'a [u8],
    /// The descriptor of a spooled body, or the socket of a takeover.
    pub(crate) fd: Option<BorrowedFd<'a>>,
}

/// An attached worker.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) id: WorkerId,
    pub(crate) generation: Generation,
    pub(crate) channel: WorkerChannel,
    pub(crate) load: WorkerLoad,
    outbox: Outbox,
    loop_watch: LoopWatch,
    /// The supervisor has admitted the worker: it gets requests.
    pub(crate) is_admitted: bool,
    /// The worker gets no more requests.
    pub(crate) is_retiring: bool,
    /// [`Notice::Drained`] was sent.
    pub(crate) drained_reported: bool,
    /// The daemon has asked the worker to exit, or is about to kill it.
    pub(crate) is_stopped: bool,
    /// Limits the reports on the worker socket.
    report_limit: ReportLimiter,
    /// Number of requests the worker is done with.
    n_served: u64,
    /// Number of requests after which [`Notice::MaxRequestsReached`] is sent; `None` is never.
    max_requests: Option<NonZeroU64>,
    /// Number of responses, and of failed ones among them, since the worker was admitted.
    pub(crate) responses: ResponseStats,
    /// The memory and disk that the responses of all workers share.
    pub(crate) buffers: &'static Buffers,
    /// Bytes acknowledged before slow clients have read them, since completions were last
    /// collected.
    pub(crate) absorbed: u64,
}

impl Worker {
    pub(crate) fn new(link: Link, buffers: &'static Buffers) -> Self {
        let Link { worker, generation, map, geometry, control, wake, slots, max_requests } = link;
        let now = Instant::now();
        Self {
            id: worker,
            generation,
            channel: WorkerChannel::new(map, &geometry, slots.threads, control, wake),
            load: WorkerLoad::new(slots, now),
            outbox: Outbox::default(),
            loop_watch: LoopWatch::default(),
            is_admitted: false,
            is_retiring: false,
            drained_reported: false,
            is_stopped: false,
            report_limit: ReportLimiter::new(now),
            n_served: 0,
            max_requests,
            responses: ResponseStats::default(),
            buffers,
            absorbed: 0,
        }
    }

    /// Returns whether the worker gets requests.
    pub(crate) fn is_open(&self) -> bool {
        self.is_admitted && !self.is_retiring
    }

    pub(crate) fn is_asgi(&self) -> bool {
        self.load.is_asgi()
    }

    /// Returns whether a request can be assigned to the worker now, to start or ahead of time.
    pub(crate) fn has_room(&self, transport: BodyTransport) -> bool {
        self.is_open() && self.load.has_room(transport)
    }

    pub(crate) fn idle_slots(&self) -> u32 {
        if self.is_open() { self.load.idle_slots() } else { 0 }
    }

    /// Returns whether the worker would at once start a request that another worker has left
    /// unclaimed. A stalled event loop would not, although it has idle slots.
    pub(crate) fn can_help(&self) -> bool {
        self.idle_slots() > 0 && !(self.is_asgi() && self.load.is_stalled)
    }

    /// Returns whether the worker has a backlog, so that a new request could not start: more requests
    /// are assigned than there are slots, or an event loop has left [`LOOP_BACKLOG`] unclaimed.
    pub(crate) fn is_saturated(&self) -> bool {
        if self.is_asgi() {
            self.load.has_unclaimed(LOOP_BACKLOG, &self.channel.submissions)
        } else {
            self.load.is_saturated()
        }
    }

    /// Pushes a request into the ring. `timeout` is how long the request may run. Returns `None` if
    /// the ring or the worker socket is full, or if the worker has closed the socket.
    pub(crate) fn push(
        &mut self,
        id: ExchangeId,
        record: RequestRecord<'_>,
        timeout: Option<Duration>,
        now: Instant,
    ) -> Result<Option<Position>, ContractBreach> {
        if let Some(fd) = record.fd
            && let Err(error) = self.channel.send_command(&Command::Body(id), &[fd])
        {
            // The worker empties a full socket soon. If the socket is closed, the reactor removes
            // the worker soon.
            return match error.kind() {
                io::ErrorKind::WouldBlock
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::NotConnected => Ok(None),
                _ => Err(format!("does not accept descriptors: {error}").into()),
            };
        }
        let Some(position) = self.channel.submissions.push_split(record.frame, record.body)? else {
            if record.fd.is_some() {
                self.channel.send_cancel(id);
            }
            return Ok(None);
        };
        self.load.add(id, timeout, position, now);
        self.outbox.note_published(position);
        Ok(Some(position))
    }

    /// Sends a stream frame, now or when the ring has room.
    pub(crate) fn send(&mut self, frame: &StreamFrame<'_>) {
        self.outbox.send(&mut self.channel.submissions, frame);
    }

    /// Sends a part and returns true, or returns false and wakes `waker` when the ring has room.
    pub(crate) fn send_part(
        &mut self,
        part: &StreamFrame<'_>,
        waker: &Waker,
    ) -> Result<bool, ContractBreach> {
        self.outbox.send_part(&mut self.channel.submissions, part, waker)
    }

    /// Returns whether frames or senders wait for room in the ring.
    pub(crate) fn has_backlog(&self) -> bool {
        self.outbox.has_backlog()
    }

    /// Sends the stream frames for which there is room now. Returns whether a sender of parts was
    /// woken.
    pub(crate) fn flush(&mut self) -> Result<bool, ContractBreach> {
        self.outbox.flush(&mut self.channel.submissions)
    }

    /// Returns whether the worker has an event loop that is to be checked.
    pub(crate) fn has_watched_loop(&self) -> bool {
        let has_work = self.load.n_assigned() > 0 || self.load.n_websockets() > 0;
        self.is_asgi() && (has_work || self.loop_watch.is_waiting())
    }

    /// Checks the event loop. `stall` is `timeouts.stall`.
    pub(crate) fn check_loop(&mut self, stall: Duration, now: Instant) -> LoopHealth {
        let progress = self.load.last_progress();
        self.loop_watch.check(&mut self.outbox, &mut self.channel.submissions, stall, progress, now)
    }

    /// Removes an exchange that the worker has finished.
    pub(crate) fn finish(&mut self, id: ExchangeId, position: Option<Position>, now: Instant) {
        self.load.finish(id, position, now);
        self.channel.drop_file(id);
    }

    /// Counts a request that the worker has finished. Returns the total when it reaches
    /// `max_requests`.
    pub(crate) fn count_served(&mut self) -> Option<u64> {
        self.n_served += 1;
        self.max_requests.filter(|max| max.get() == self.n_served).map(NonZeroU64::get)
    }

    /// Counts a response, if the worker is admitted. Before that it answers only probes.
    pub(crate) fn count_response(&mut self, failed: bool) {
        if self.is_admitted {
            self.responses.answered += 1;
            self.responses.failed += u64::from(failed);
        }
    }

    /// Wakes the worker for the records published since the last call. Returns whether it slept.
    pub(crate) fn ring(&mut self) -> bool {
        if self.outbox.n_unrung == 0 {
            return false;
        }
        self.outbox.n_unrung_parts = 0;
        let n_published = std::mem::take(&mut self.outbox.n_unrung);
        self.channel.wake(self.load.threads_to_wake(n_published))
    }

    /// Returns the number of parts of bodies published since the worker was last woken.
    pub(crate) fn n_unrung_parts(&self) -> u32 {
        self.outbox.n_unrung_parts
    }

    /// Wakes another sleeping thread. Returns false if none sleeps.
    pub(crate) fn wake_more(&self) -> bool {
        self.channel.wake(1)
    }

    /// Returns whether the timers have to check the worker every millisecond.
    pub(crate) fn needs_fast_tick(&self, now: Instant) -> bool {
        self.outbox.has_backlog() || self.load.needs_fast_tick(&self.channel.submissions, now)
    }

    /// Returns whether the worker has left its next record unclaimed for too long. The caller
    /// repeats this at each tick.
    pub(crate) fn check_stall(&mut self, now: Instant) -> bool {
        self.load.check_stall(&self.channel.submissions, now)
    }

    /// Revokes a record and has the worker drop its body. Returns false if the worker has claimed
    /// the record.
    pub(crate) fn revoke(&mut self, id: ExchangeId, position: Position) -> bool {
        let is_revoked = self.revoke_silently(position);
        if is_revoked && !self.is_asgi() {
            self.channel.send_cancel(id);
        }
        is_revoked
    }

    /// Revokes a record without a message to the worker. Returns false if the worker has claimed
    /// the record.
    pub(crate) fn revoke_silently(&mut self, position: Position) -> bool {
        let is_revoked = self.channel.submissions.revoke(position);
        if is_revoked {
            self.load.remove(Some(position), Instant::now());
        }
        is_revoked
    }

    /// Returns the claimed exchanges that have run for longer than `slow`, each once.
    pub(crate) fn slower_than(&mut self, slow: Duration, now: Instant) -> Vec<ExchangeId> {
        self.load.slower_than(slow, now, &self.channel.submissions)
    }

    /// Returns whether the worker has claimed the record at this position.
    pub(crate) fn has_claimed(&self, position: Position) -> bool {
        self.channel.submissions.is_claimed(position)
    }

    /// Returns the exchanges that the worker has claimed.
    pub(crate) fn claimed(&self) -> impl Iterator<Item = ExchangeId> {
        self.load.claimed(&self.channel.submissions)
    }

    #[cfg(test)]
    pub(crate) fn has(&self, id: ExchangeId) -> bool {
        self.load.is_running(id)
    }

    /// Expects one more report of stacks, which does not count towards the limit.
    pub(crate) fn expect_stacks(&mut self) {
        self.report_limit.expect_stacks();
    }

    /// Notes a cancelled task, whose stack the worker reports.
    pub(crate) fn expect_cancel_report(&mut self) {
        self.report_limit.expect_cancel_report();
    }

    /// Reads the worker socket until it is empty. Returns false when the worker has closed it.
    pub(crate) fn read_reports(&mut self, notice: &NoticeSink) -> Result<bool, ContractBreach> {
        let mut buffer = vec![0; control::MAX_MESSAGE_BYTES];
        loop {
            let received = match self.channel.receive(&mut buffer) {
                Ok(received) if received.len == 0 => return Ok(false),
                Ok(received) => received,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(true),
                    io::ErrorKind::Interrupted => continue,
                    io::ErrorKind::ConnectionReset => return Ok(false),
                    _ => return Err(format!("has a worker socket that cannot be read: {error}").into()),
                },
            };
            let message = buffer.get(..received.len).unwrap_or_default();
            match Report::decode(message)? {
                Report::File(id) => self.on_file(id, received.fds.into_iter().next())?,
                report => {
                    if let Report::Ready { interface } = report {
                        self.on_ready(interface)?;
                    }
                    self.report_limit.admit(&report, Instant::now())?;
                    notice(Notice::Report(self.id, report));
                }
            }
        }
    }

    fn on_file(&mut self, id: ExchangeId, fd: Option<OwnedFd>) -> Result<(), ContractBreach> {
        let Some(fd) = fd else {
            return Err(format!("sent no descriptor for the file of exchange {}", id.0).into());
        };
        if !self.load.is_running(id) {
            return Err(format!("sent a file for exchange {}, which is not assigned to it", id.0).into());
        }
        self.channel.store_file(id, fd)
    }

    /// Adopts the application's interface, which determines the number of slots and how the worker
    /// is woken.
    fn on_ready(&mut self, interface: Interface) -> Result<(), ContractBreach> {
        let is_asgi = interface == Interface::Asgi;
        if is_asgi != self.is_asgi() && self.load.n_assigned() > 0 {
            return Err("changed its interface while it had requests".into());
        }
        self.load.set_interface(is_asgi);
        self.channel.set_waker(is_asgi);
        Ok(())
    }

    /// Returns the descriptor of a response file that a completion names.
    pub(crate) fn take_file(
        &mut self,
        id: ExchangeId,
        notice: &NoticeSink,
    ) -> Result<OwnedFd, ContractBreach> {
        if let Some(fd) = self.channel.take_file(id) {
            return Ok(fd);
        }
        // The worker sent the descriptor before the completion, so it is in the socket if it has
        // not been read yet.
        self.read_reports(notice)?;
        let fd = self.channel.take_file(id);
        fd.ok_or_else(|| format!("named a file for exchange {} and sent no descriptor", id.0).into())
    }
}
