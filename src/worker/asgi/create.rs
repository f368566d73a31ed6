//! Creates exchanges. Reuses the object of an ended exchange if the application has kept no
//! reference to it.

use std::collections::VecDeque;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rgun_channel::frame::{Request, UNKNOWN_LENGTH};

use super::receive::Receive;
use super::send::Send;
use super::state::{
    Application, Exchange, ExchangeState, Functions, PooledExchange, RequestBody, ResponseState, Stage,
};
use crate::fastcall::bind;
use crate::gil_cell::GilCell;
use crate::head::ResponseHead;
use crate::python::reference_count;

/// Maximum capacity of a buffer for encoded fields that the next exchange reuses.
const MAX_REUSED_FIELD_BYTES: usize = 4096;

impl Exchange {
    /// Creates the exchange of a request.
    pub(super) fn create<'py>(
        py: Python<'py>,
        application: &'static Application,
        request: &Request<'_>,
        slot: u32,
        started_ns: u64,
    ) -> PyResult<Bound<'py, Self>> {
        let mut state = ExchangeState::new(py, application, request, slot, started_ns);
        let pooled = application.exchanges(py).pool.pop();
        if let Some(PooledExchange { exchange, functions }) =
            pooled.filter(|pooled| pooled.is_unreferenced(py))
        {
            let exchange = exchange.into_bound(py);
            {
                let old = &mut *exchange.get().borrow_mut(py);
                if old.response.encoded_fields.capacity() <= MAX_REUSED_FIELD_BYTES {
                    state.response.encoded_fields = std::mem::take(&mut old.response.encoded_fields);
                    state.response.encoded_fields.clear();
                }
                state.functions = Some(functions);
                state.context = old.context.take();
                *old = state;
            }
            return Ok(exchange);
        }
        let exchange = Bound::new(py, Self(GilCell::new(state)))?;
        let functions = Functions { receive: bind::<Receive>(&exchange)?, send: bind::<Send>(&exchange)? };
        exchange.get().borrow_mut(py).functions = Some(functions);
        Ok(exchange)
    }
}

impl PooledExchange {
    /// Returns whether the application has kept no reference.
    fn is_unreferenced(&self, py: Python<'_>) -> bool {
        // The pool and the two functions refer to the exchange.
        reference_count(&self.exchange, py) == 3
            && reference_count(&self.functions.receive, py) == 1
            && reference_count(&self.functions.send, py) == 1
    }
}

impl ExchangeState {
    fn new(
        py: Python<'_>,
        application: &'static Application,
        request: &Request<'_>,
        slot: u32,
        started_ns: u64,
    ) -> Self {
        let is_streamed = request.body_streams && request.body_len != 0;
        debug_assert!(!is_streamed || request.body_len == UNKNOWN_LENGTH || request.body.is_empty());
        let mut parts = VecDeque::new();
        if !request.body.is_empty() {
            parts.push_back(PyBytes::new(py, request.body).unbind());
        }
        Self {
            application,
            id: request.exchange,
            slot,
            started_ns,
            stage: Stage::Unstarted,
            response: ResponseState {
                is_for_head: request.method == b"HEAD",
                head: ResponseHead::default(),
                encoded_fields: Vec::new(),
                is_head_sent: false,
                ends_with_head: false,
                encoded_trailers: Vec::new(),
                n_trailers: 0,
                has_trailers: false,
                body_bytes: 0,
                pending: None,
                end_position: None,
                finish_deferred: false,
            },
            body: RequestBody {
                parts,
                is_complete: !is_streamed,
                is_fully_received: false,
                is_streamed,
                received_bytes: 0,
                window_end: 0,
            },
            websocket: request.websocket.then(Box::default),
            is_disconnected: false,
            is_half_closed: false,
            is_blocked: false,
            receivers: Vec::new(),
            senders: Vec::new(),
            task: None,
            context: None,
            functions: None,
        }
    }
}
