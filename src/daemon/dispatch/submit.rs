//! Submits requests: assigns them to a worker, queues them, or rejects them.

use std::sync::Arc;
use std::time::Instant;

use rgun_channel::frame::{ExchangeId, Request, TooLong};

use crate::id::WorkerId;

use super::admission::rules::RuleId;
use super::exchange::body::BodyTransport;
use super::exchange::response_parts::RequestBody;
use super::exchange::websocket::WebSocketState;
use super::exchange::{Exchange, ExchangeState};
use super::fault::Fault;
use super::handles::ticket::Ticket;
use super::tick_rate::TickRate;
use super::{Dispatcher, Notice, State};

/// Number of submissions after which the workers are woken at once, before the end of the reactor's
/// turn. (In one turn tokio polls up to `event_interval` tasks.)
const MAX_UNRUNG: u32 = 64;

/// The destination of a new request.
enum Route {
    /// To the worker with this index.
    Worker(usize),
    Queue,
    /// To the list of a path rule, which has no permit left.
    Hold(RuleId),
}

impl Dispatcher {
    /// Assigns a request to a worker, or queues it.
    ///
    /// `request.exchange` is ignored: the dispatcher chooses the id. `body` is the body, unless it is in
    /// `request`. `now` is the time of the submission: the request's wait begins then.
    /// The queue relies on ids and submission times rising together.
    ///
    /// # Errors
    /// The queue is full or too slow, the client has too many waiting requests, no worker will
    /// serve soon, a part of the head is too long for a frame, or requests like this one are
    /// quarantined.
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
        let (timeout, rule) = state.classify(request.path);
        let inline_len = match &body {
            Some(RequestBody::Inline(bytes)) => bytes.len(),
            Some(RequestBody::Spooled(_)) | None => 0,
        };
        let (id, frame) = state.encode(request, fields, inline_len)?;
        let transport = BodyTransport::of(request, matches!(body, Some(RequestBody::Spooled(_))));
        let route = match state.route(transport, rule, (request.peer, id), now) {
            Ok(route) => route,
            Err(fault) => {
                state.exchanges.recycle_frame(frame);
                return Err(fault);
            }
        };
        let exchange = state.exchanges.insert(Exchange::new(id, frame, body, timeout, now));
        if request.body_streams || request.websocket && !request.is_takeover() {
            exchange.upload = Some(Box::default());
        }
        if request.websocket {
            let is_takeover = request.is_takeover();
            let socket = if is_takeover { WebSocketState::for_takeover() } else { WebSocketState::default() };
            exchange.websocket = Some(Box::new(socket));
        }
        if let Route::Hold(rule) = route {
            exchange.state = ExchangeState::Held(rule);
            state.rules.hold(rule, id);
        } else if let Some(rule) = rule {
            exchange.permit = Some(rule);
            state.rules.take_permit(rule);
        }
        if is_trial {
            state.quarantine.start_trial(request.method, request.path, id);
        }
        let assigned_to = match route {
            Route::Worker(index) if self.assign(state, index, id, now) => Some(index),
            Route::Worker(_) | Route::Queue => {
                state.queue.insert(id, now);
                self.request_worker(state);
                None
            }
            Route::Hold(_) => None,
        };
        self.watch_submission(state, assigned_to);
        if state.unrung_submissions >= MAX_UNRUNG {
            state.ring_doorbells();
        }
        Ok(Ticket::new(self, id))
    }

    /// Raises the tick rate if the new exchange has to be watched.
    fn watch_submission(&self, state: &mut State, assigned_to: Option<usize>) {
        let must_watch = match state.tick_rate {
            TickRate::Idle | TickRate::Parked => true,
            // A worker with a second request may hold back the completion of the first.
            TickRate::Slow => {
                let worker = assigned_to.and_then(|index| state.workers[index].as_ref());
                worker.is_some_and(|worker| worker.load.may_defer())
            }
            TickRate::Fast => false,
        };
        if must_watch {
            self.tick_fast(&mut state.tick_rate);
        }
    }

    /// Assigns a probe to this worker, even if the worker is not admitted. No other worker may get
    /// the probe. Path rules and the queue's limits do not apply to it; its deadline does.
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
        let (timeout, _) = state.classify(request.path);
        let (id, frame) = state.encode(request, fields, 0)?;
        state.exchanges.insert(Exchange::new(id, frame, None, timeout, now)).is_pinned = true;
        if !self.assign(state, index, id, now) {
            let is_attached = state.worker_index(worker).is_some();
            state.fail(id, Fault::QueueFull, now);
            state.abandon(id, now);
            return Err(if is_attached { Fault::QueueFull } else { Fault::WorkerDied(worker) });
        }
        self.tick_fast(&mut state.tick_rate);
        // The caller is another thread; the reactor's turn may be over.
        state.ring_doorbells();
        Ok(Ticket::new(self, id))
    }

    /// Sends [`Notice::WorkerRequested`], once, if a request is queued and no worker is open.
    pub(super) fn request_worker(&self, state: &mut State) {
        if !state.worker_requested && !state.queue.is_empty() && !state.has_open_worker() {
            state.worker_requested = true;
            (self.notice)(Notice::WorkerRequested);
        }
    }

    /// Sets a reason to reject all requests, including queued ones, as long as no worker is open;
    /// `None` removes the reason.
    pub fn set_unavailable(&self, reason: Option<&str>) {
        let mut state = self.lock();
        state.unavailable = reason.map(Arc::from);
        self.interface_known.notify_waiters();
        state.reject_unservable(Instant::now());
    }
}

impl State {
    /// Chooses where a request goes. `client` is the client's address as text, `id` the request's
    /// exchange.
    ///
    /// # Errors
    /// The request cannot start now and may not wait.
    fn route(
        &mut self,
        transport: BodyTransport,
        rule: Option<RuleId>,
        (client, id): (&[u8], ExchangeId),
        now: Instant,
    ) -> Result<Route, Fault> {
        // A request held by its path's concurrency limit is not in the worker queue.
        let full_rule = rule.filter(|rule| self.rules.is_full(*rule));
        // Queued requests go first, even if the one at the front needs an idle slot and this one
        // does not.
        if full_rule.is_none()
            && self.queue.is_empty()
            && let Some(index) = self.choose_worker(transport)
        {
            return Ok(Route::Worker(index));
        }
        match self.rejection(full_rule.is_some(), now) {
            Some(fault) => Err(fault),
            None if !self.admits_client(client, id) => Err(Fault::ClientQueueFull),
            None => Ok(full_rule.map_or(Route::Queue, Route::Hold)),
        }
    }

    /// Returns false if the client already has `limits.queue_per_client` waiting requests;
    /// otherwise records that the request will wait.
    fn admits_client(&mut self, client: &[u8], id: ExchangeId) -> bool {
        let Some(max) = self.policy.queue_per_client else { return true };
        let exchanges = &self.exchanges;
        self.client_queue.admit(client, id, max, |id| {
            exchanges.get(id).is_some_and(|exchange| {
                matches!(exchange.state, ExchangeState::Queued | ExchangeState::Held(_))
            })
        })
    }

    /// Returns the fault for a request that can neither start now nor wait; `None` if it may wait.
    /// `is_held`: the request would wait for a permit, not for a worker, so its wait cannot be
    /// estimated.
    fn rejection(&mut self, is_held: bool, now: Instant) -> Option<Fault> {
        if let Some(reason) = &self.unavailable {
            return Some(Fault::Unavailable(Arc::clone(reason)));
        }
        if self.n_waiting() >= self.policy.queue {
            return Some(Fault::QueueFull);
        }
        let Self { queue, workers, .. } = self;
        let open = || workers.iter().flatten().filter(|worker| worker.is_open());
        let slots = || open().map(|worker| worker.load.n_slots()).sum::<usize>();
        let wait = if is_held { None } else { queue.wait_over_timeout(slots, now) };
        wait.map(Fault::QueueTooSlow)
    }

    /// Rejects waiting requests if a reason to do so is set and no worker is open.
    pub(super) fn reject_unservable(&mut self, now: Instant) {
        let Some(reason) = self.unavailable.clone() else { return };
        if self.has_open_worker() {
            return;
        }
        // Held requests first, so that none of them gets the permit of a rejected request.
        let waiting: Vec<_> = self.rules.held().chain(self.queue.iter()).collect();
        for id in waiting {
            self.fail(id, Fault::Unavailable(Arc::clone(&reason)), now);
        }
    }

    /// Chooses an id for a request and encodes its frame. `inline_len` is the length of an inline body
    /// that is not in `request`.
    fn encode<'f>(
        &mut self,
        request: &Request<'_>,
        fields: impl Iterator<Item = (&'f [u8], &'f [u8])>,
        inline_len: usize,
    ) -> Result<(ExchangeId, Vec<u8>), Fault> {
        let mut frame = self.exchanges.spare_frame();
        let id = self.exchanges.next_id();
        let encoded = Request { exchange: id, ..*request }.encode(fields, &mut frame);
        let too_long = match encoded {
            Err(TooLong(what)) => what,
            Ok(()) if frame.len() + inline_len > self.max_frame => "head, with its body,",
            Ok(()) => return Ok((id, frame)),
        };
        self.exchanges.recycle_frame(frame);
        Err(Fault::TooLong(too_long))
    }
}
