//! A request's body as it arrives on a stream.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::{HeaderMap, request};
use http_body::{Body, Frame, SizeHint};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::http::body::client::ClientBody;
use crate::http::body::stream::{DISCARD_TIMEOUT, MAX_DISCARD};
use crate::http::context::{ConnContext, RequestLimits};
use crate::http::fault::Refusal;
use crate::http::h1::framing::{FORBIDDEN_TRAILERS, Violation};

use super::head;
use super::meter::Meter;

/// The body of a request on a stream. Its trailers are dropped: neither WSGI nor ASGI can receive
/// them.
pub(super) struct StreamBody {
    /// `None`: there is no body, or it has ended.
    pub(super) received: Option<RecvStream>,
    /// Bytes still to come according to `Content-Length`; h2 refuses a body of another length.
    pub(super) declared: Option<u64>,
    /// The client waits for a 100; the first read that finds no data requests it.
    pub(super) awaits_continue: bool,
    pub(super) context: Arc<ConnContext>,
    pub(super) meter: Arc<Meter>,
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let this = &mut *self;
        let Some(received) = &mut this.received else { return Poll::Ready(None) };
        let data = received.poll_data(cx);
        if data.is_pending()
            && std::mem::take(&mut this.awaits_continue)
            && let Some(signals) = &this.context.stream_signals
        {
            signals.request_continue();
            this.context.connection.wake();
        }
        match ready!(data) {
            Some(Ok(data)) => {
                let len = data.len();
                // The window is returned at once: the data goes to the worker or a file, which have
                // their own limits.
                received.flow_control().release_capacity(len)?;
                this.meter.add_useful(len);
                this.declared = this.declared.map(|declared| declared.saturating_sub(len as u64));
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None => {
                // Reading the trailers ends the stream.
                let trailers = ready!(received.poll_trailers(cx));
                this.received = None;
                Poll::Ready(match trailers {
                    Ok(Some(trailers)) if has_forbidden(&trailers) => {
                        Some(Err(Reason::PROTOCOL_ERROR.into()))
                    }
                    Ok(_) => None,
                    Err(error) => Some(Err(error)),
                })
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.received.as_ref().is_none_or(RecvStream::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() {
            return SizeHint::with_exact(0);
        }
        self.declared.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// True if the trailers have a field that the HTTP/1.1 framing refuses in trailers. h2 itself drops
/// pseudo-header fields and refuses connection-specific fields.
fn has_forbidden(trailers: &HeaderMap) -> bool {
    FORBIDDEN_TRAILERS.iter().any(|name| trailers.contains_key(*name))
}

impl Drop for StreamBody {
    /// Keeps the stream for at most [`DISCARD_TIMEOUT`] if the client is still sending. Otherwise
    /// h2 would send RST_STREAM (NO_ERROR, RFC 9113 §8.1) directly after the response, and some
    /// clients would miss the response.
    fn drop(&mut self) {
        if let (Some(received), Ok(runtime)) = (self.received.take(), Handle::try_current())
            && !received.is_end_stream()
        {
            let discarding = discard_rest(received, Arc::clone(&self.meter));
            runtime.spawn(timeout(DISCARD_TIMEOUT, discarding));
        }
    }
}

/// Reads and drops the rest of a body, up to [`MAX_DISCARD`].
async fn discard_rest(mut received: RecvStream, meter: Arc<Meter>) {
    let mut discarded = 0;
    while discarded <= MAX_DISCARD {
        let Some(Ok(data)) = poll_fn(|cx| received.poll_data(cx)).await else { return };
        discarded += data.len();
        meter.add_useful(data.len());
        if received.flow_control().release_capacity(data.len()).is_err() {
            return;
        }
    }
}

impl ClientBody for StreamBody {
    const IS_STREAM: bool = true;

    fn prepare_head(head: &mut request::Parts, limits: &RequestLimits) -> Result<(), Refusal> {
        head::prepare(head, limits)
    }

    fn is_handshake(parts: &request::Parts) -> bool {
        head::is_websocket(parts)
    }

    /// Returns `None`: h2 itself resets a stream whose framing is violated.
    fn violation_of(_: &h2::Error) -> Option<Violation> {
        None
    }
}
