//! A request's way in: to a worker, into the queue, or refused.

use std::sync::Arc;
use std::time::Instant;

use rgun_channel::frame::{ExchangeId, Request, TooLong};

use crate::id::WorkerId;

use super::exchange::body::BodyTransport;
use super::exchange::response_parts::RequestBody;
use super::exchange::socket::WebSocketState;
use super::exchange::{Exchange, ExchangeState};
use super::fault::Fault;
use super::handles::ticket::Ticket;
use super::tick_rate::TickRate;
use super::worker::Worker;
use super::{Dispatcher, Notice, State};

/// Deferred doorbells are rung after this many submissions even if the reactor has not come to the end of
/// its turn: tokio polls up to `event_interval` tasks before it parks.
const MAX_UNRUNG: u32 = 64;

impl Dispatcher {
    /// Gives a request to a worker, or queues it.
    ///
    /// `request.exchange` is ignored: the id is chosen here. `body` is the spooled body when it does not
    /// travel in the frame. `now` is when the request was complete: its waiting time counts from there.
    ///
    /// # Errors
    /// The queue is full or moves too slowly, nobody will serve soon, a part of the head is too long for a frame, or requests like this
    /// one have ended workers.
    pub fn submit<'f>(
        &'static self,
        request: &Request<'_>,
        fields: impl Iterator<Item = (&'f [u8], &'f [u8])>,
        body: Option<RequestBody>,
        now: Instant,
    ) -> Result<Ticket, Fault> {
        let mut state = self.lock();
        let state = &mut *state;
        state.load_stats.last_active = now;
        let is_trial = !state.quarantine.is_empty() && state.check_quarantine(request, now)?;
        let (limit, rule) = state.classify(request.path);
        let (id, frame) = state.encode(request, fields)?;
        // Who waits for others of its path waits for no worker.
        let held = rule.filter(|rule| state.rules.is_full(*rule));
        // Who waits already goes first, even if what is at the front needs an idle slot and this one does not.
        let can_start = held.is_none() && state.queue.is_empty();
        let carriage = match &body {
            _ if request.websocket => BodyTransport::WebSocket,
            _ if request.body_streams => BodyTransport::Parts,
            Some(_) => BodyTransport::Descriptor,
            None => BodyTransport::Inline,
        };
        let chosen = if can_start { state.choose_worker(carriage) } else { None };
        if chosen.is_none()
            && let Some(fault) = state.rejection(held.is_some(), now)
        {
            state.exchanges.recycle_frame(frame);
            return Err(fault);
        }
        let mut exchange = Exchange::new(id, frame, body, limit, now);
        if request.body_streams || request.websocket {
            exchange.upload = Some(Box::default());
        }
        if request.websocket {
            exchange.websocket = Some(Box::<WebSocketState>::default());
        }
        match (held, rule) {
            (Some(rule), _) => {
                exchange.state = ExchangeState::Held(rule);
                state.rules.hold(rule, id);
            }
            (None, Some(rule)) => {
                exchange.permit = Some(rule);
                state.rules.take_permit(rule);
            }
            (None, None) => {}
        }
        state.exchanges.insert(exchange);
        if is_trial {
            state.quarantine.start_trial(request.method, request.path, id);
        }
        let given = chosen.is_some_and(|worker| self.assign(state, worker, id, now));
        if !given && held.is_none() {
            state.queue.insert(id, now);
            self.request_worker(state);
        }
        // A worker that is given a second request may keep back what it has to say of the first.
        let must_watch = match state.tick_rate {
            TickRate::Idle | TickRate::Parked => true,
            TickRate::Slow => {
                given && chosen.and_then(|index| state.workers[index].as_ref()).is_some_and(Worker::may_defer)
            }
            TickRate::Fast => false,
        };
        if must_watch {
            state.tick_rate = TickRate::Fast;
            self.timer_wakeup.notify_one();
        }
        if state.unrung_submissions >= MAX_UNRUNG {
            state.ring_doorbells();
        }
        Ok(Ticket::new(self, id))
    }

    /// Gives a request to this worker and to no other, admitted or not: to try whether it answers. It passes by the
    /// queue and all bounds but its deadline.
    ///
    /// # Errors
    /// The worker is gone or has no room, or a part of the head is too long for a frame.
    pub fn submit_to<'f>(
        &'static self,
        worker: WorkerId,
        request: &Request<'_>,
        fields: impl Iterator<Item = (&'f [u8], &'f [u8])>,
        now: Instant,
    ) -> Result<Ticket, Fault> {
        let mut state = self.lock();
        let state = &mut *state;
        let Some(index) = state.worker_index(worker) else { return Err(Fault::WorkerDied(worker)) };
        let (limit, _) = state.classify(request.path);
        let (id, frame) = state.encode(request, fields)?;
        let mut exchange = Exchange::new(id, frame, None, limit, now);
        exchange.pinned = true;
        state.exchanges.insert(exchange);
        if !self.assign(state, index, id, now) {
            let is_there = state.worker_index(worker).is_some();
            state.fail(id, Fault::QueueFull, now);
            state.abandon(id, now);
            return Err(if is_there { Fault::QueueFull } else { Fault::WorkerDied(worker) });
        }
        state.tick_rate = TickRate::Fast;
        self.timer_wakeup.notify_one();
        // Whoever asks is not the reactor, whose turn may be over.
        state.ring_doorbells();
        Ok(Ticket::new(self, id))
    }

    /// A request waits: is there anybody it could wait for?
    pub(super) fn request_worker(&self, state: &mut State) {
        if !state.worker_requested && !state.queue.is_empty() && !state.has_open_worker() {
            state.worker_requested = true;
            (self.notice)(Notice::WorkerRequested);
        }
    }

    /// Requests are refused with this reason instead of queued while no worker takes them; `None` takes
    /// it back. What is queued already is refused too.
    pub fn set_unavailable(&self, reason: Option<&str>) {
        let mut state = self.lock();
        state.unavailable = reason.map(Arc::from);
        self.interface_known.notify_waiters();
        state.reject_unservable(Instant::now());
    }
}

impl State {
    /// Why a request that cannot start now may not wait either. `held`: it would wait for others of its path, not for a
    /// worker, and nobody knows how long.
    fn rejection(&mut self, held: bool, now: Instant) -> Option<Fault> {
        if let Some(reason) = &self.unavailable {
            return Some(Fault::Unavailable(Arc::clone(reason)));
        }
        if self.n_waiting() >= self.policy.queue {
            return Some(Fault::QueueFull);
        }
        let Self { queue, workers, .. } = self;
        let open = || workers.iter().flatten().filter(|worker| worker.is_open());
        let slots = || open().map(Worker::n_slots).sum::<usize>();
        let excess = if held { None } else { queue.excess_wait(slots, now) };
        excess.map(Fault::QueueTooSlow)
    }

    /// Refuses what waits when there is nobody to wait for.
    pub(super) fn reject_unservable(&mut self, now: Instant) {
        let Some(reason) = self.unavailable.clone() else { return };
        if self.has_open_worker() {
            return;
        }
        // Those without a permit first: none of them is to get one from another that is refused.
        let waiting: Vec<_> = self.rules.held().chain(self.queue.iter()).collect();
        for id in waiting {
            self.fail(id, Fault::Unavailable(Arc::clone(&reason)), now);
        }
    }

    /// An id and the frame for a request.
    fn encode<'f>(
        &mut self,
        request: &Request<'_>,
        fields: impl Iterator<Item = (&'f [u8], &'f [u8])>,
    ) -> Result<(ExchangeId, Vec<u8>), Fault> {
        let mut frame = self.exchanges.spare_frame();
        let id = self.exchanges.next_id();
        let encoded = Request { exchange: id, ..*request }.encode(fields, &mut frame);
        let refused = match encoded {
            Err(TooLong(what)) => what,
            Ok(()) if frame.len() > self.max_frame => "head, with its body,",
            Ok(()) => return Ok((id, frame)),
        };
        self.exchanges.recycle_frame(frame);
        Err(Fault::TooLong(refused))
    }
}
