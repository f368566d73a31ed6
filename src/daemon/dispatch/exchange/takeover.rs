//! An exchange whose request is a WebSocket handshake for a WSGI application. The application may
//! take over the client's connection.
//!
//! The application has one end of a socket pair, the connection has the other. Until the
//! application writes to its end, the exchange is an ordinary request. Once the connection has read
//! a response with status 101 from its end, the exchange has no deadline, its response parts are
//! discarded, and it ends with DONE.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use rgun_channel::frame::{Completion, CompletionKind, Request};

use crate::dispatch::exchange::Exchange;
use crate::dispatch::exchange::response::ClientState;
use crate::dispatch::exchange::response_parts::Payload;
use crate::dispatch::exchange::websocket::WebSocketState;
use crate::dispatch::fault::Fault;
use crate::dispatch::worker::Worker;
use crate::dispatch::worker::contract::ContractBreach;
use crate::dispatch::worker::decode::ReceivedCompletion;

/// An event of a connection that the application has taken over.
#[derive(Debug, PartialEq, Eq)]
pub enum TakeoverEvent {
    /// The worker or the daemon is about to stop, so the connection must close. Sent once.
    GoingAway {
        /// Time from now until the connection must close.
        after: Duration,
    },
    /// The application has returned.
    Ended,
}

impl Exchange {
    /// Turns a handshake for an ASGI application into a handshake for a WSGI application.
    pub(crate) fn offer_takeover(&mut self) {
        if self.websocket.is_none() {
            return;
        }
        self.upload = None;
        self.websocket = Some(Box::new(WebSocketState::for_takeover()));
        let mut frame = Vec::new();
        let Some(request) = self.request() else { return };
        let fields = request.fields().map(|(name, value)| (name.as_bytes(), value));
        // A request that was encoded once can be encoded again.
        if (Request { body_is_fd: true, ..request }).encode(fields, &mut frame).is_ok() {
            self.frame = frame;
        }
    }

    /// Returns whether the application gets a socket in its environ.
    pub(crate) fn may_take_over(&self) -> bool {
        self.websocket.as_ref().is_some_and(|socket| socket.takeover.is_some())
    }

    /// Returns whether the application has taken over the connection.
    pub(crate) fn is_taken_over(&self) -> bool {
        self.websocket.as_ref().is_some_and(|socket| socket.is_accepted && socket.takeover.is_some())
    }

    /// Creates the socket pair of a takeover, and returns the application's end; `None` if the
    /// exchange is not a takeover.
    pub(crate) fn open_socket(&mut self) -> io::Result<Option<OwnedFd>> {
        let Some(takeover) = self.websocket.as_mut().and_then(|socket| socket.takeover.as_mut()) else {
            return Ok(None);
        };
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        takeover.socket = Some(ours);
        Ok(Some(theirs.into()))
    }

    /// Takes the daemon's end of the socket pair; `None` before the exchange is assigned.
    pub(crate) fn take_socket(&mut self) -> Option<UnixStream> {
        self.websocket.as_mut()?.takeover.as_mut()?.socket.take()
    }

    /// Notes that the application has taken over the connection.
    pub(crate) fn take_over(&mut self, worker: &mut Worker) {
        let Some(socket) = &mut self.websocket else { return };
        socket.is_accepted = true;
        self.response.head_received = true;
        self.response.client = ClientState::Streaming(101);
        self.attempt.slow_reported = true;
        self.response.drop_parts();
        self.acknowledge_all(worker);
        worker.load.remove_deadline(self.position());
        self.trim_request();
        if worker.is_retiring {
            self.begin_close(Duration::ZERO);
        }
    }

    /// Applies a completion of an exchange whose connection the application has taken over. Its
    /// response is discarded.
    pub(super) fn receive_after_takeover(
        &mut self,
        completion: ReceivedCompletion,
        worker: &mut Worker,
        notice: &crate::dispatch::NoticeSink,
    ) -> Result<Option<Waker>, ContractBreach> {
        let ReceivedCompletion { header, payload, error, .. } = completion;
        match header.kind {
            CompletionKind::Respond | CompletionKind::Body | CompletionKind::EarlyHints => {}
            CompletionKind::AppRaised => {
                self.count_exception()?;
                if let Some(error) = error
                    && !header.ends_takeover
                {
                    self.on_exception_after_takeover(*error, worker, notice);
                }
            }
            kind @ (CompletionKind::WindowUpdate | CompletionKind::Trailers | CompletionKind::Close) => {
                return Err(format!("sent {kind:?} in exchange {}, which is taken over", self.id.0).into());
            }
        }
        self.discard(&header, &payload, worker);
        Ok(if self.response.ended { self.waker.take() } else { None })
    }

    /// Discards a part of the response: gives the worker credit for it, and notes the end if it is
    /// the last.
    fn discard(&mut self, header: &Completion, payload: &Payload, worker: &mut Worker) {
        if !matches!(payload, Payload::File(_)) {
            worker.channel.acknowledge(header.slot, payload.len().unwrap_or(0));
        }
        self.response.ended |= header.end || header.kind == CompletionKind::AppRaised;
    }

    fn on_exception_after_takeover(
        &mut self,
        (summary, traceback): (String, String),
        worker: &Worker,
        notice: &crate::dispatch::NoticeSink,
    ) {
        if self.is_client_done() || self.response.ended {
            let request = self.request_info(worker.channel.thread_of(self.id), Instant::now());
            notice(crate::dispatch::Notice::RaisedAfterEnd {
                worker: worker.id,
                request,
                summary,
                traceback,
            });
            return;
        }
        self.response.app_failed = true;
        let fault = Fault::Raised { worker: worker.id, summary, traceback, ends_takeover: false };
        self.fault = Some(Box::new(fault));
    }

    /// Returns the next event for the connection.
    pub(crate) fn poll_takeover(&mut self, waker: &Waker) -> Poll<Result<TakeoverEvent, Fault>> {
        if let Some(after) = self.websocket.as_mut().and_then(|socket| socket.close_after.take()) {
            return Poll::Ready(Ok(TakeoverEvent::GoingAway { after }));
        }
        if self.fault.is_some() {
            return self.poll_fault();
        }
        if self.response.ended {
            self.response.client = ClientState::Done;
            return Poll::Ready(Ok(TakeoverEvent::Ended));
        }
        self.store_waker(waker);
        Poll::Pending
    }
}
