//! Begins exchanges: as new objects, or as ended ones of which the application has kept nothing.

use std::collections::VecDeque;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rgun_channel::frame::{Request, UNKNOWN_LENGTH};

use super::receive::Receive;
use super::send::Send;
use super::state::{Application, Body, Exchange, Functions, Spare, Stage, State};
use crate::fastcall::bind;
use crate::gil_cell::GilCell;
use crate::head::ResponseHead;
use crate::python::reference_count;

/// Most bytes of a buffer that an exchange leaves to the next one.
const MOST_KEPT: usize = 4096;

impl Exchange {
    /// Begins one.
    pub(super) fn begin<'py>(
        py: Python<'py>,
        served: &'static Application,
        request: &Request<'_>,
        slot: u32,
        started: u64,
    ) -> PyResult<Bound<'py, Self>> {
        let mut state = State::new(py, served, request, slot, started);
        let spare = served.exchanges(py).spares.pop();
        if let Some(Spare { exchange, functions }) = spare.filter(|spare| spare.is_free(py)) {
            let exchange = exchange.into_bound(py);
            {
                let last = &mut *exchange.get().borrow_mut(py);
                if last.fields.capacity() <= MOST_KEPT {
                    state.fields = std::mem::take(&mut last.fields);
                    state.fields.clear();
                }
                state.functions = Some(functions);
                *last = state;
            }
            return Ok(exchange);
        }
        let exchange = Bound::new(py, Self(GilCell::new(state)))?;
        let functions = Functions { receive: bind::<Receive>(&exchange)?, send: bind::<Send>(&exchange)? };
        exchange.get().borrow_mut(py).functions = Some(functions);
        Ok(exchange)
    }
}

impl Spare {
    /// Has nobody kept any of it?
    fn is_free(&self, py: Python<'_>) -> bool {
        // Ours, and the two functions'.
        reference_count(&self.exchange, py) == 3
            && reference_count(&self.functions.receive, py) == 1
            && reference_count(&self.functions.send, py) == 1
    }
}

impl State {
    fn new(
        py: Python<'_>,
        served: &'static Application,
        request: &Request<'_>,
        slot: u32,
        started: u64,
    ) -> Self {
        let streams = request.body_streams && request.body_len != 0;
        debug_assert!(!streams || request.body_len == UNKNOWN_LENGTH || request.body.is_empty());
        let mut parts = VecDeque::new();
        if !request.body.is_empty() {
            parts.push_back(PyBytes::new(py, request.body).unbind());
        }
        Self {
            served,
            id: request.exchange,
            slot,
            started,
            is_head: request.method == b"HEAD",
            stage: Stage::Unstarted,
            head: ResponseHead::default(),
            fields: Vec::new(),
            is_head_sent: false,
            is_head_all: false,
            trailers: Vec::new(),
            n_trailers: 0,
            has_trailers: false,
            given: 0,
            pending: None,
            ended_at: None,
            ends_later: false,
            body: Body { parts, is_complete: !streams, is_received: false, streams, received: 0, taken: 0 },
            websocket: request.websocket.then(Box::default),
            is_disconnected: false,
            is_half_closed: false,
            is_held_up: false,
            receivers: Vec::new(),
            senders: Vec::new(),
            task: None,
            functions: None,
        }
    }
}
