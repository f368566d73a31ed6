//! The daemon's end of one worker's channel, and what is known of how busy it is.

pub(super) mod decode;
pub(super) mod outbox;
pub(super) mod report_limit;
pub(super) mod running;
pub(super) mod service_time;

use std::collections::{HashMap, HashSet};
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rgun_channel::control::{self, Command, Interface, Report};
use rgun_channel::frame::{self, ExchangeId};
use rgun_channel::layout::{Geometry, SLOT_ACKED, SLOT_CREDIT_WAIT, SLOT_EXCHANGE, SLOT_THREAD, Word};
use rgun_channel::map::Map;
use rgun_channel::ring::{CompletionReceiver, Position, SubmissionSender};
use rgun_channel::slab::{Chunk, SlabReceiver};
use rgun_channel::wake::{Sleepers, WaitFlag, Waker};

use crate::id::{Generation, WorkerId};
use crate::supervise::ResponseStats;

use crate::dispatch::data::Buffers;
use crate::dispatch::exchange::body::BodyTransport;
use crate::dispatch::link::{Link, Slots};
use crate::dispatch::worker::outbox::Outbox;
use crate::dispatch::worker::report_limit::ReportLimiter;
use crate::dispatch::worker::running::Running;
use crate::dispatch::worker::service_time::{MAX_PREFETCH_DEPTH, PREFETCH_TIME, ServiceTime};
use crate::dispatch::{Notice, NoticeSink};

/// A worker that finished something within this time may have more to say before the slow tick comes.
const ACTIVE_TIME: Duration = Duration::from_millis(50);

/// A prefetched record that has been the next to start for this long, and twice the usual service time, is stuck.
const THREAD_STALL_TIMEOUT: Duration = Duration::from_millis(1);

/// The same of an event loop: a turn of it with many tasks takes its time, and one that is as busy helps nobody.
const LOOP_STALL_TIMEOUT: Duration = Duration::from_millis(10);

/// Waiting this long in another worker's ring is worth a wake-up of an idle one.
const MIN_STEAL_WAIT: Duration = Duration::from_micros(50);

/// A worker that is attached.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) id: WorkerId,
    pub(crate) generation: Generation,
    pub(crate) submissions: SubmissionSender,
    pub(crate) completions: CompletionReceiver,
    slab: SlabReceiver,
    map: Arc<Map>,
    control: Arc<OwnedFd>,
    /// Rung for an event loop.
    wake: Arc<OwnedFd>,
    /// By either interface; which counts is known when it is ready.
    offered: Slots,
    /// It is ASGI; known when it is ready, and nothing is given to it before.
    asgi: bool,
    slots: u32,
    pub(crate) admitted: bool,
    pub(crate) retiring: bool,
    pub(crate) drained_reported: bool,
    /// It is about to be killed by the daemon, with what it has.
    pub(crate) is_killed: bool,
    /// Exchanges it has been given and is not done with.
    running: Running,
    /// WebSockets that it has accepted: they take no slot of those that it is given requests for.
    websockets: HashSet<ExchangeId>,
    service_time: ServiceTime,
    /// When it last showed progress: was given work while idle, or finished something.
    last_progress: Instant,
    /// The record that was seen to be the next to start, and when first.
    next_unclaimed: Option<(ExchangeId, Instant)>,
    /// It let prefetched records lie: nothing is given ahead of time until it finishes something.
    pub(crate) stalled: bool,
    pub(crate) outbox: Outbox,
    /// Per slot: bytes acknowledged so far.
    acked: Vec<u64>,
    /// Descriptors that arrived before the frame that names them.
    files: HashMap<ExchangeId, OwnedFd>,
    /// What it may still say on its control socket.
    report_limit: ReportLimiter,
    /// Requests it is done with, and after how many that is told.
    served: u64,
    max_requests: Option<NonZeroU64>,
    /// How those were answered that it was given since it was admitted.
    pub(crate) responses: ResponseStats,
    /// What answers may hold, all workers' together.
    pub(crate) buffers: &'static Buffers,
    /// Bytes that were acknowledged before their clients took them since the reactor last looked at its sockets.
    pub(crate) absorbed: u64,
}

impl Worker {
    pub(crate) fn new(link: Link, buffers: &'static Buffers) -> Self {
        let Link { worker, generation, map, geometry, control, wake, slots, max_requests } = link;
        let now = Instant::now();
        Self {
            id: worker,
            generation,
            submissions: SubmissionSender::new(Arc::clone(&map), &geometry),
            completions: CompletionReceiver::new(Arc::clone(&map), &geometry),
            slab: SlabReceiver::new(Arc::clone(&map), &geometry),
            map,
            control,
            wake,
            offered: slots,
            asgi: false,
            slots: slots.threads,
            admitted: false,
            retiring: false,
            drained_reported: false,
            is_killed: false,
            running: Running::with_capacity(
                (slots.threads.max(slots.concurrency) + MAX_PREFETCH_DEPTH) as usize,
            ),
            websockets: HashSet::new(),
            service_time: ServiceTime::new(),
            last_progress: now,
            next_unclaimed: None,
            stalled: false,
            outbox: Outbox::default(),
            acked: vec![0; geometry.slots as usize],
            files: HashMap::new(),
            report_limit: ReportLimiter::new(now),
            served: 0,
            max_requests,
            responses: ResponseStats::default(),
            buffers,
            absorbed: 0,
        }
    }

    fn sleepers(&self) -> Sleepers<'_> {
        Sleepers {
            asleep: self.map.u32(Geometry::word(Word::Asleep)),
            tokens: self.map.u32(Geometry::word(Word::Tokens)),
        }
    }

    /// How whoever waits in it is woken.
    fn waker(&self) -> Waker<'_> {
        if self.asgi { Waker::EventFd(self.wake.as_fd()) } else { Waker::Futex }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.admitted && !self.retiring
    }

    /// How many requests it may have per slot, the running one included.
    fn depth(&self) -> u32 {
        if self.stalled { 1 } else { self.service_time.depth() }
    }

    fn n_assigned_u32(&self) -> u32 {
        u32::try_from(self.running.len()).unwrap_or(u32::MAX)
    }

    /// Can it take a request now? One whose body is a descriptor is never prefetched, because a revoked
    /// record would leave its descriptor behind.
    pub(crate) fn has_room(&self, carriage: BodyTransport) -> bool {
        let ahead = if carriage == BodyTransport::Inline { self.depth() - 1 } else { 0 };
        self.is_open() && self.takes(carriage) && self.n_assigned_u32() < self.slots + ahead
    }

    /// Can it ever take a request whose body travels like this?
    pub(crate) fn takes(&self, carriage: BodyTransport) -> bool {
        match carriage {
            BodyTransport::Inline => true,
            BodyTransport::Descriptor => !self.asgi,
            BodyTransport::Parts | BodyTransport::WebSocket => self.asgi,
        }
    }

    pub(crate) fn is_asgi(&self) -> bool {
        self.asgi
    }

    /// When it last finished something, or began to have something to do.
    pub(crate) fn progress(&self) -> Instant {
        self.last_progress
    }

    /// Would it start at once what another has not claimed? An event loop has slots in plenty, and may still be busy.
    pub(crate) fn can_help(&self) -> bool {
        self.idle_slots() > 0 && !(self.asgi && self.stalled)
    }

    pub(crate) fn idle_slots(&self) -> u32 {
        if self.is_open() { self.slots.saturating_sub(self.n_assigned_u32()) } else { 0 }
    }

    /// How busy it is, for choosing among equals: requests per slot, in 256ths; for one that may become a WebSocket, how
    /// many of those it has.
    pub(crate) fn load(&self, carriage: BodyTransport) -> (u32, u32) {
        let (load, n_sockets) =
            (self.n_assigned_u32().saturating_mul(256) / self.slots, self.websockets.len());
        let n_sockets = u32::try_from(n_sockets).unwrap_or(u32::MAX);
        if carriage == BodyTransport::WebSocket {
            (n_sockets + self.n_assigned_u32(), load)
        } else {
            (load, n_sockets)
        }
    }

    pub(crate) fn n_slots(&self) -> usize {
        self.slots as usize
    }

    /// How many of its slots have something to do.
    pub(crate) fn n_busy(&self) -> usize {
        self.running.len().min(self.n_slots())
    }

    pub(crate) fn n_running(&self) -> usize {
        self.running.len()
    }

    /// Slots that the map has room for, which its completions may name.
    pub(crate) fn n_map_slots(&self) -> usize {
        self.acked.len()
    }

    /// WebSockets that it has accepted.
    pub(crate) fn n_websockets(&self) -> usize {
        self.websockets.len()
    }

    /// It has accepted a WebSocket: its slot is for others, unless it has too many already. It may run for ever.
    pub(crate) fn park(&mut self, id: ExchangeId, position: Option<Position>, now: Instant) {
        if self.websockets.len() < self.offered.websockets as usize {
            self.remove(position, now);
            self.websockets.insert(id);
        } else {
            self.running.lift_limit(position);
        }
    }

    /// Returns the accepted WebSockets that take no slot.
    pub(crate) fn parked(&self) -> impl Iterator<Item = ExchangeId> {
        self.websockets.iter().copied()
    }

    /// Returns the exchanges that it was given and has not finished, the oldest first, without [`Worker::parked`].
    pub(crate) fn assigned_ids(&self) -> impl DoubleEndedIterator<Item = ExchangeId> {
        self.running.ids()
    }

    /// How long what it has prefetched would have to wait, if that is worth taking away.
    pub(crate) fn prefetch_wait(&self, now: Instant) -> Option<Duration> {
        let ahead = self.n_assigned_u32().checked_sub(self.slots).filter(|ahead| *ahead > 0)?;
        let expected = self.service_time.total(ahead);
        let wait = expected.max(now.saturating_duration_since(self.last_progress));
        (wait > MIN_STEAL_WAIT).then_some(wait)
    }

    /// Puts a request into the ring; `None` when it is full. `limit` is how long it may run.
    pub(crate) fn push(
        &mut self,
        id: ExchangeId,
        frame: &[u8],
        body: Option<BorrowedFd<'_>>,
        limit: Option<Duration>,
        now: Instant,
    ) -> Result<Option<Position>, String> {
        if let Some(body) = body
            && let Err(error) = self.send_command(&Command::Body(id), &[body])
        {
            // A full socket empties by itself, and of one that is closed the reactor is about to hear.
            return match error.kind() {
                io::ErrorKind::WouldBlock
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::NotConnected => Ok(None),
                _ => Err(format!("does not take descriptors: {error}")),
            };
        }
        let Some(position) = self.submissions.push(frame).map_err(|broken| broken.to_string())? else {
            if body.is_some() {
                self.send_cancel(id);
            }
            return Ok(None);
        };
        let started = (self.n_assigned_u32() < self.slots).then_some(now);
        if self.running.is_empty() {
            self.last_progress = now;
        }
        self.running.push(id, limit, position, started);
        self.outbox.note_published(position);
        Ok(Some(position))
    }

    /// The worker is done with an exchange: its slot is free, and the oldest prefetched one starts.
    pub(crate) fn finish(&mut self, id: ExchangeId, position: Option<Position>, now: Instant) {
        // Mostly there are none of either, and an id need not be hashed to find out.
        if self.websockets.is_empty() || !self.websockets.remove(&id) {
            self.remove(position, now);
        }
        if !self.files.is_empty() {
            self.files.remove(&id);
        }
        self.stalled = false;
        self.last_progress = now;
    }

    /// One more request is done with. The number of all, when that is to be told: once.
    pub(crate) fn count_served(&mut self) -> Option<u64> {
        self.served += 1;
        self.max_requests.filter(|most| most.get() == self.served).map(NonZeroU64::get)
    }

    /// A request has been answered, well or not. Before a worker is admitted it is only tried.
    pub(crate) fn count_answer(&mut self, failed: bool) {
        if self.admitted {
            self.responses.answered += 1;
            self.responses.failed += u64::from(failed);
        }
    }

    /// An exchange is not the worker's any more: the oldest prefetched one has its slot, and its time begins.
    fn remove(&mut self, position: Option<Position>, now: Instant) {
        self.running.remove(position);
        // Nothing is given to an event loop ahead of time.
        if !self.asgi {
            self.running.start(self.n_slots(), now);
        }
    }

    pub(crate) fn record_service_time(&mut self, service: u64) {
        // What a task takes says nothing about when the next can start; and nothing is given ahead of time.
        if !self.asgi {
            self.service_time.record(service);
        }
    }

    /// Rings the doorbell if something was published since the last time.
    pub(crate) fn ring(&mut self) {
        if self.outbox.unrung == 0 {
            return;
        }
        // `wake_more` corrects that within a tick if it was wrong.
        let most = if self.service_time.needs_one_thread() { 1 } else { self.outbox.unrung };
        self.outbox.unrung = 0;
        self.sleepers().wake(&self.waker(), most);
    }

    /// Wakes another thread if there are unclaimed records and somebody sleeps.
    pub(crate) fn wake_more(&self) -> bool {
        self.sleepers().wake(&self.waker(), 1) > 0
    }

    /// May records lie unclaimed in its ring, or completions unrung? Then the housekeeper looks often. A worker that
    /// has shown no progress for a while and has claimed everything is running something slow: nothing lies anywhere.
    pub(crate) fn needs_fast_tick(&self, now: Instant) -> bool {
        let is_quick = self.n_assigned_u32() > self.slots || self.service_time.is_short();
        let has_moved = now.saturating_duration_since(self.last_progress) < ACTIVE_TIME;
        self.outbox.has_backlog()
            || !self.running.is_empty() && (is_quick && has_moved || self.first_unclaimed().is_some())
    }

    /// Might it hold back a completion because there is more to do? Only quick ones do.
    pub(crate) fn may_defer(&self) -> bool {
        self.running.len() > 1 && self.service_time.is_short()
    }

    fn first_unclaimed(&self) -> Option<ExchangeId> {
        self.running.first_unclaimed(&self.submissions)
    }

    /// Notes which record starts next, and returns whether it has been the next one for too long.
    pub(crate) fn check_stall(&mut self, now: Instant) -> bool {
        let Some(next) = self.first_unclaimed() else {
            self.next_unclaimed = None;
            return false;
        };
        match self.next_unclaimed {
            Some((id, since)) if id == next => {
                let usual = self.service_time.total(2);
                let limit = if self.asgi {
                    LOOP_STALL_TIMEOUT
                } else {
                    usual.clamp(THREAD_STALL_TIMEOUT, PREFETCH_TIME * 2)
                };
                now.saturating_duration_since(since) > limit
            }
            _ => {
                self.next_unclaimed = Some((next, now));
                false
            }
        }
    }

    /// How long the next record to start has waited for an event loop that has slots, but is busy.
    pub(crate) fn unclaimed_wait(&self, now: Instant) -> Option<Duration> {
        let (_, since) = self.next_unclaimed.filter(|_| self.asgi)?;
        Some(now.saturating_duration_since(since))
    }

    /// Has it something to do, and no slot for more? Then what arrives cannot start here.
    pub(crate) fn is_saturated(&self) -> bool {
        self.n_assigned_u32() > self.slots
    }

    pub(crate) fn has_no_completions(&self) -> bool {
        self.completions.is_empty()
    }

    /// Records were popped: the worker may be waiting for the room.
    pub(crate) fn notify_space(&self) {
        WaitFlag(self.map.u32(Geometry::word(Word::SpaceWait))).notify(&self.waker());
    }

    /// Body bytes have left for the client (or were discarded).
    pub(crate) fn acknowledge(&mut self, slot: u16, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let Some(acked) = self.acked.get_mut(usize::from(slot)) else { return };
        *acked += bytes;
        let slot = u32::from(slot);
        self.map.u64(Geometry::slot(slot, SLOT_ACKED)).store(*acked, Ordering::Release);
        WaitFlag(self.map.u32(Geometry::slot(slot, SLOT_CREDIT_WAIT))).notify(&self.waker());
    }

    pub(crate) fn drain_running(&mut self) -> Vec<ExchangeId> {
        self.running.drain().chain(self.websockets.drain()).collect()
    }

    /// Takes one record back; true if it had not been claimed.
    pub(crate) fn revoke(&mut self, id: ExchangeId, position: Position) -> bool {
        let is_revoked = self.take_back(position);
        if is_revoked && !self.asgi {
            self.send_cancel(id);
        }
        is_revoked
    }

    /// Takes one record back without a message to the worker; true if it had not been claimed.
    pub(crate) fn take_back(&mut self, position: Position) -> bool {
        let is_revoked = self.submissions.revoke(position);
        if is_revoked {
            self.remove(Some(position), Instant::now());
        }
        is_revoked
    }

    /// Nobody waits for this exchange any more: a body that went ahead of its record is closed, a response that is
    /// being made ends at its next part. Only a hint: what the worker still says of it is discarded anyway.
    pub(crate) fn send_cancel(&self, id: ExchangeId) {
        if let Err(error) = self.send_command(&Command::Cancel(id), &[]) {
            tracing::debug!(%error, "cannot tell a worker to forget an exchange, ignoring");
        }
    }

    /// The exchange gets its whole time again.
    pub(crate) fn restart_clock(&mut self, position: Option<Position>, now: Instant) {
        self.running.restart_clock(position, now);
    }

    /// So much of the time that the exchange has had was not the application's.
    pub(crate) fn extend_clock(&mut self, position: Option<Position>, by: Duration) {
        self.running.extend_clock(position, by);
    }

    /// Exchanges that have had a slot for longer than they may.
    pub(crate) fn overdue(&mut self, now: Instant) -> Vec<ExchangeId> {
        self.running.overdue(now)
    }

    /// Exchanges that have had a slot for longer than `slow`, and really run. Each is told once.
    pub(crate) fn slower_than(&mut self, slow: Duration, now: Instant) -> Vec<ExchangeId> {
        self.running.slower_than(slow, now, &self.submissions)
    }

    #[cfg(test)]
    pub(crate) fn has(&self, id: ExchangeId) -> bool {
        self.running.contains(id)
    }

    /// Exchanges that it has begun to answer.
    pub(crate) fn claimed(&self) -> impl Iterator<Item = ExchangeId> {
        self.running.claimed(&self.submissions)
    }

    /// `pthread_self(3)` of the thread that says that it runs this exchange. Hostile: any number.
    pub(crate) fn thread_of(&self, id: ExchangeId) -> Option<u64> {
        let read = |slot, field| self.map.u64(Geometry::slot(slot, field)).load(Ordering::Relaxed);
        let slot =
            (0..u32::try_from(self.n_map_slots()).ok()?).find(|slot| read(*slot, SLOT_EXCHANGE) == id.0)?;
        Some(read(slot, SLOT_THREAD)).filter(|thread| *thread != 0)
    }

    pub(crate) fn expect_stacks(&mut self) {
        self.report_limit.expect_stacks();
    }

    pub(crate) fn send_command(&self, command: &Command, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        control::send(&*self.control, &command.encode(), fds)
    }

    /// Reads the control socket until it is empty. False when the worker has closed it.
    pub(crate) fn pump_control(&mut self, notice: &NoticeSink) -> Result<bool, String> {
        let mut buffer = vec![0; control::MAX_MESSAGE_BYTES];
        loop {
            let received = match control::receive(&*self.control, &mut buffer) {
                Ok(received) if received.len == 0 => return Ok(false),
                Ok(received) => received,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(true),
                    io::ErrorKind::Interrupted => continue,
                    io::ErrorKind::ConnectionReset => return Ok(false),
                    _ => return Err(format!("control socket: {error}")),
                },
            };
            let message = buffer.get(..received.len).unwrap_or_default();
            match Report::decode(message).map_err(|broken| broken.to_string())? {
                Report::File(id) => {
                    let Some(fd) = received.fds.into_iter().next() else {
                        return Err(format!("sent no descriptor for the file of exchange {}", id.0));
                    };
                    if !self.running.contains(id) {
                        return Err(format!("sent a file for exchange {}, which is not its own", id.0));
                    }
                    if self.files.insert(id, fd).is_some() {
                        return Err(format!("sent a second file for exchange {}", id.0));
                    }
                }
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

    /// Takes over the interface of the worker's application: how many exchanges it takes and how it is woken.
    fn on_ready(&mut self, interface: Interface) -> Result<(), String> {
        let asgi = interface == Interface::Asgi;
        if asgi != self.asgi && !self.running.is_empty() {
            return Err("changed its interface".to_owned());
        }
        self.asgi = asgi;
        if asgi {
            self.slab.wake_by_eventfd(Arc::clone(&self.wake));
        }
        self.slots = if asgi { self.offered.concurrency } else { self.offered.threads };
        Ok(())
    }

    pub(crate) fn take_file(&mut self, id: ExchangeId, notice: &NoticeSink) -> Result<OwnedFd, String> {
        if let Some(fd) = self.files.remove(&id) {
            return Ok(fd);
        }
        // Sent before the frame was published, so it is in the socket even if nobody has read it yet.
        self.pump_control(notice)?;
        self.files
            .remove(&id)
            .ok_or_else(|| format!("named a file for exchange {} and sent no descriptor", id.0))
    }

    pub(crate) fn take_chunks(&self, pairs: &[u8]) -> Result<Vec<Arc<Chunk>>, String> {
        let mut chunks = Vec::with_capacity(pairs.len() / 8);
        for (number, len) in frame::chunks(pairs) {
            let chunk = self.slab.receive(number, len).map_err(|broken| broken.to_string())?;
            // Lent as it lies, unless so much of the slab is lent that others would wait for it.
            if self.slab.is_scarce() {
                chunk.copy_and_return();
            }
            chunks.push(chunk);
        }
        Ok(chunks)
    }

    /// Is much of its slab lent to the daemon?
    pub(crate) fn has_lent_chunks(&self) -> bool {
        self.slab.is_quarter_lent()
    }

    /// Copies what it has lent for long, for slow clients.
    pub(crate) fn reclaim(&self) {
        self.slab.reclaim_overdue();
    }
}
