//! Receives a request's body whole, in memory or spooled, so that a worker never waits for a slow
//! client.
//!
//! ```text
//! ≤ 64 KiB       travels in the frame
//! ≤ 16 MiB       memfd; the worker gets the descriptor
//! above          a file without a name in the spool directory; the descriptor
//! ```
//! All bodies together are bounded in memory and on disk ([`SpoolBudgets`]); while memory is short,
//! bodies go to files earlier.

use std::future::poll_fn;
use std::path::Path;
use std::pin::Pin;
use std::time::Instant;

use bytes::Bytes;
use rgun_channel::layout::MAX_INLINE_BODY;
use tokio::time::timeout;

use crate::dispatch::{Dispatcher, SpooledBody};

use super::client::ClientBody;
use super::rate::{DataRate, MinDataRate};
use super::spool::{Spool, SpoolBudgets, SpoolError};
use crate::http::context::YIELD_AFTER_BYTES;
use crate::http::fault::{Refusal, RequestFault};

/// Maximum size in bytes of a body in memory that is not counted against the budget.
const MAX_UNCOUNTED: usize = 16 * 1024;

impl From<SpoolError> for Refusal {
    fn from(error: SpoolError) -> Self {
        Self::Spool(crate::error_chain::Chain(&error).to_string())
    }
}

/// A body that was received whole.
#[derive(Debug)]
pub(in crate::http) enum RequestBytes {
    /// In memory; it travels in the frame.
    Inline(Bytes),
    /// Spooled: its descriptor and its length in bytes.
    Spooled(SpooledBody, u64),
}

impl RequestBytes {
    pub(in crate::http) fn len(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Spooled(_, len) => *len,
        }
    }
}

/// Limits and resources for receiving a body.
#[derive(Debug, Clone)]
pub(in crate::http) struct ReceiveLimits<'a> {
    /// `limits.body`; `None`: no limit.
    pub(in crate::http) max_body: Option<u64>,
    /// The rate below which the client is too slow.
    pub(in crate::http) min_rate: MinDataRate,
    /// The budgets of all spooled bodies.
    pub(in crate::http) budgets: &'static SpoolBudgets,
    /// Directory for bodies that are spooled to files.
    pub(in crate::http) spool_dir: &'a Path,
    /// Polled when the task yields.
    pub(in crate::http) dispatcher: &'a Dispatcher,
}

impl ReceiveLimits<'_> {
    /// True if a body may be this long.
    fn allows(&self, len: u64) -> bool {
        self.max_body.is_none_or(|max| len <= max)
    }
}

/// Receives a body. Checks the declared length before the first read, because that read sends
/// `100 Continue` (RFC 9110 §10.1.1).
pub(in crate::http) async fn receive<B: ClientBody>(
    mut incoming: B,
    limits: &ReceiveLimits<'_>,
) -> Result<RequestBytes, Refusal> {
    let declared = incoming.size_hint().exact();
    if declared.is_some_and(|len| !limits.allows(len)) {
        return Err(Refusal::Client(RequestFault::BodyTooLarge));
    }
    let mut rate = DataRate::default();
    let Some(first) = next_data(&mut incoming, limits.min_rate, &mut rate).await? else {
        return Ok(RequestBytes::Inline(Bytes::new()));
    };
    if declared == Some(first.len() as u64) && first.len() <= MAX_INLINE_BODY {
        return Ok(RequestBytes::Inline(first));
    }
    if !limits.allows(first.len() as u64) {
        return Err(Refusal::Client(RequestFault::BodyTooLarge));
    }
    let mut collected =
        Vec::with_capacity(first.len().max(declared.map_or(0, inline_capacity)).min(MAX_UNCOUNTED));
    collected.extend_from_slice(&first);
    drop(first);
    let mut counted = None;
    while collected.len() <= MAX_INLINE_BODY {
        if collected.len() > MAX_UNCOUNTED && counted.is_none() {
            counted = limits.budgets.memory.reserve(MAX_INLINE_BODY as u64);
            if counted.is_none() {
                // While memory is short, a slow body must not hold any of it, so the body is
                // spooled.
                break;
            }
            collected.reserve_exact(declared.map_or(0, inline_capacity).saturating_sub(collected.len()));
        }
        match next_data(&mut incoming, limits.min_rate, &mut rate).await? {
            None => return Ok(RequestBytes::Inline(collected.into())),
            Some(next) => collected.extend_from_slice(&next),
        }
        if !limits.allows(collected.len() as u64) {
            return Err(Refusal::Client(RequestFault::BodyTooLarge));
        }
    }
    drop(counted);
    spool_rest(collected, incoming, limits, rate).await
}

/// Spools the bytes in `collected` and the rest of the body.
async fn spool_rest<B: ClientBody>(
    collected: Vec<u8>,
    mut incoming: B,
    limits: &ReceiveLimits<'_>,
    mut rate: DataRate,
) -> Result<RequestBytes, Refusal> {
    let mut spool = Spool::new(limits.budgets, limits.spool_dir)?;
    spool.write(collected.into()).await?;
    let mut bytes_since_yield = 0;
    while let Some(next) = next_data(&mut incoming, limits.min_rate, &mut rate).await? {
        if !limits.allows(spool.len() + next.len() as u64) {
            return Err(Refusal::Client(RequestFault::BodyTooLarge));
        }
        bytes_since_yield += next.len();
        spool.write(next).await?;
        if bytes_since_yield >= YIELD_AFTER_BYTES {
            // A fast client must not keep the reactor from its other tasks and from worker
            // completions.
            bytes_since_yield = 0;
            limits.dispatcher.poll_now();
            tokio::task::yield_now().await;
        }
    }
    let len = spool.len();
    Ok(RequestBytes::Spooled(spool.finish().await?, len))
}

/// Returns the capacity to reserve for a body of this declared length.
fn inline_capacity(len: u64) -> usize {
    usize::try_from(len).unwrap_or(MAX_INLINE_BODY).min(MAX_INLINE_BODY)
}

/// Returns the next data; `None` at the end. Trailers are dropped: neither WSGI nor ASGI can
/// receive them.
async fn next_data<B: ClientBody>(
    incoming: &mut B,
    min: MinDataRate,
    rate: &mut DataRate,
) -> Result<Option<Bytes>, Refusal> {
    loop {
        // Poll once without a timer: usually the data is there.
        let next = poll_fn(|cx| match Pin::new(&mut *incoming).poll_frame(cx) {
            std::task::Poll::Pending => std::task::Poll::Ready(None),
            std::task::Poll::Ready(next) => std::task::Poll::Ready(Some(next)),
        })
        .await;
        let next = if let Some(next) = next {
            next
        } else {
            let remaining = rate.begin_wait(min, Instant::now());
            let next = timeout(remaining, poll_fn(|cx| Pin::new(&mut *incoming).poll_frame(cx))).await;
            rate.end_wait(Instant::now());
            next.map_err(|_| Refusal::Client(RequestFault::BodyTooSlow))?
        };
        match next {
            None => return Ok(None),
            Some(Err(error)) => {
                tracing::debug!(error = %crate::error_chain::Chain(&error), "a request's body ended early");
                return Err(B::violation_of(&error)
                    .map_or(Refusal::Client(RequestFault::BodyBroken), Refusal::Framing));
            }
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data()
                    && !data.is_empty()
                {
                    rate.add(data.len());
                    return Ok(Some(data));
                }
            }
        }
    }
}
