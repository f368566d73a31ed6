//! A request's body: kept in memory while small, else spooled, so that a worker gets it whole and never waits
//! for a slow client.
//!
//! ```text
//! ≤ 64 KiB       travels in the frame
//! ≤ 16 MiB       memfd; the worker gets the descriptor
//! above          a file without a name in the spool directory; the descriptor
//! ```
//! What all bodies may have of memory and of the disk is bounded ([`Spools`]); when memory is short, files come earlier.

use std::future::poll_fn;
use std::path::Path;
use std::pin::Pin;
use std::time::Instant;

use bytes::Bytes;
use http_body::Body as _;
use hyper::body::Incoming;
use rgun_channel::layout::MAX_INLINE_BODY;
use tokio::time::timeout;

use crate::dispatch::{Dispatcher, RequestBody};

use super::rate::{DataRate, MinDataRate};
use super::spool::{Spool, SpoolBudgets, SpoolError};
use crate::http::context::YIELD_AFTER_BYTES;
use crate::http::fault::{Refusal, RequestFault};
use crate::http::h1;

/// Bytes that a body may have in memory without being counted.
const MAX_UNCOUNTED: usize = 16 * 1024;

impl From<SpoolError> for Refusal {
    fn from(error: SpoolError) -> Self {
        Self::Spool(crate::error_chain::Chain(&error).to_string())
    }
}

/// A body that has arrived.
#[derive(Debug)]
pub(in crate::http) enum RequestBytes {
    /// In memory, for the frame.
    Inline(Bytes),
    /// Spooled: descriptor, and number of bytes.
    Spooled(RequestBody, u64),
}

impl RequestBytes {
    pub(in crate::http) fn len(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Spooled(_, len) => *len,
        }
    }
}

/// What bounds a body.
#[derive(Debug, Clone)]
pub(in crate::http) struct ReceiveLimits<'a> {
    /// `limits.body`.
    pub(in crate::http) max_body: Option<u64>,
    /// How fast it has to come.
    pub(in crate::http) min_rate: MinDataRate,
    /// What all bodies may hold.
    pub(in crate::http) budgets: &'static SpoolBudgets,
    /// Directory for bodies over 16 MiB.
    pub(in crate::http) spool_dir: &'a Path,
    /// Who else has something to do.
    pub(in crate::http) dispatcher: &'a Dispatcher,
}

/// Receives a body. The `100 Continue` that a client may wait for (RFC 9110 §10.1.1) is sent by hyper when the
/// first piece is asked for, so not before the length has been checked.
pub(in crate::http) async fn receive(
    mut incoming: Incoming,
    limits: &ReceiveLimits<'_>,
) -> Result<RequestBytes, Refusal> {
    let announced = incoming.size_hint().exact();
    let within = |len: u64| limits.max_body.is_none_or(|most| len <= most);
    if announced.is_some_and(|len| !within(len)) {
        return Err(Refusal::Client(RequestFault::BodyTooLarge));
    }
    let mut pace = DataRate::default();
    let Some(first) = next_data(&mut incoming, limits.min_rate, &mut pace).await? else {
        return Ok(RequestBytes::Inline(Bytes::new()));
    };
    if announced == Some(first.len() as u64) && first.len() <= MAX_INLINE_BODY {
        return Ok(RequestBytes::Inline(first));
    }
    if !within(first.len() as u64) {
        return Err(Refusal::Client(RequestFault::BodyTooLarge));
    }
    let mut collected =
        Vec::with_capacity(first.len().max(announced.map_or(0, inline_capacity)).min(MAX_UNCOUNTED));
    collected.extend_from_slice(&first);
    drop(first);
    let mut counted = None;
    while collected.len() <= MAX_INLINE_BODY {
        if collected.len() > MAX_UNCOUNTED && counted.is_none() {
            counted = limits.budgets.memory.reserve(MAX_INLINE_BODY as u64);
            if counted.is_none() {
                // Whoever dribbles it must not keep memory that others need.
                break;
            }
        }
        match next_data(&mut incoming, limits.min_rate, &mut pace).await? {
            None => return Ok(RequestBytes::Inline(collected.into())),
            Some(next) => collected.extend_from_slice(&next),
        }
        if !within(collected.len() as u64) {
            return Err(Refusal::Client(RequestFault::BodyTooLarge));
        }
    }
    drop(counted);
    let mut spool = Spool::new(limits.budgets, limits.spool_dir)?;
    spool.write(collected.into()).await?;
    let mut taken = 0;
    while let Some(next) = next_data(&mut incoming, limits.min_rate, &mut pace).await? {
        if !within(spool.len() + next.len() as u64) {
            return Err(Refusal::Client(RequestFault::BodyTooLarge));
        }
        taken += next.len();
        spool.write(next).await?;
        if taken >= YIELD_AFTER_BYTES {
            // A client as fast as this one would keep the reactor for megabytes, and its turn from ending.
            taken = 0;
            limits.dispatcher.poll_now();
            tokio::task::yield_now().await;
        }
    }
    let len = spool.len();
    Ok(RequestBytes::Spooled(spool.finish().await?, len))
}

fn inline_capacity(len: u64) -> usize {
    usize::try_from(len).unwrap_or(MAX_INLINE_BODY).min(MAX_INLINE_BODY)
}

/// The next piece of data; `None` at the end. Trailers are read and dropped: neither WSGI nor ASGI has a place
/// for them.
async fn next_data(
    incoming: &mut Incoming,
    least: MinDataRate,
    pace: &mut DataRate,
) -> Result<Option<Bytes>, Refusal> {
    loop {
        // What has arrived already needs no timer.
        let next = poll_fn(|cx| match Pin::new(&mut *incoming).poll_frame(cx) {
            std::task::Poll::Pending => std::task::Poll::Ready(None),
            std::task::Poll::Ready(next) => std::task::Poll::Ready(Some(next)),
        })
        .await;
        let next = if let Some(next) = next {
            next
        } else {
            let patience = pace.begin_wait(least, Instant::now());
            let next = timeout(patience, poll_fn(|cx| Pin::new(&mut *incoming).poll_frame(cx))).await;
            pace.end_wait(Instant::now());
            next.map_err(|_| Refusal::Client(RequestFault::BodyTooSlow))?
        };
        match next {
            None => return Ok(None),
            Some(Err(error)) => {
                tracing::debug!(error = %crate::error_chain::Chain(&error), "a request's body broke off");
                return Err(h1::violation_of(&error)
                    .map_or(Refusal::Client(RequestFault::BodyBroken), Refusal::Framing));
            }
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data()
                    && !data.is_empty()
                {
                    pace.add(data.len());
                    return Ok(Some(data));
                }
            }
        }
    }
}
