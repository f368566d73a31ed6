//! Serves `GET /metrics` on a listener of its own.
//!
//! Each connection serves one request and has a task on the runtime of the main thread, so busy
//! workers and a busy edge thread do not delay the response.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};

use super::text;
use crate::error_chain::Chain;
use crate::net::{ClientSocket, Listener};

/// The path of the metrics.
pub const METRICS_PATH: &str = "/metrics";

/// Maximum number of connections to one listener at the same time. Further ones wait in the backlog.
const MAX_CONNECTIONS: usize = 16;

/// Time for a client to send its request and to receive the response.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after an error of accept4(2).
const ACCEPT_RETRY: Duration = Duration::from_secs(1);

/// Serves the metrics until the task is aborted. `collect` returns the text, or `None` if the daemon
/// is ending. Each connection has a clone of `open` until it is closed, also after the task was aborted.
///
/// # Errors
/// The listener cannot be registered with the reactor.
pub async fn serve<F>(
    listener: Listener,
    collect: impl Fn() -> F + Clone + Send + Sync + 'static,
    open: mpsc::Sender<Infallible>,
) -> io::Result<()>
where
    F: Future<Output = Option<String>> + Send,
{
    let acceptor = listener.acceptor()?;
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return Ok(()) };
        match acceptor.accept().await {
            Ok((socket, _)) => {
                let (collect, open) = (collect.clone(), open.clone());
                tokio::spawn(async move {
                    serve_connection(socket, collect).await;
                    drop((slot, open));
                });
            }
            Err(error) => {
                tracing::warn!(%error, rgun.listener = %listener.name,
                    "cannot accept a connection for metrics, trying again in a second");
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn serve_connection<F>(socket: ClientSocket, collect: impl Fn() -> F)
where
    F: Future<Output = Option<String>>,
{
    let service = service_fn(|request| {
        let text = is_scrape(&request).then(&collect);
        async move { Ok::<_, Infallible>(respond(&request, text).await) }
    });
    let connection = http1::Builder::new()
        // The timeout of the whole connection covers the head.
        .header_read_timeout(None)
        .keep_alive(false)
        .serve_connection(TokioIo::new(socket), service);
    match timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(error = %Chain(&error), "a connection for metrics ended early"),
        Err(_) => tracing::debug!("a connection for metrics took too long, closing it"),
    }
}

/// True if the request asks for the metrics.
fn is_scrape(request: &Request<Incoming>) -> bool {
    request.uri().path() == METRICS_PATH && is_read(request.method())
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// Returns the response. `text` resolves to the metrics; `None` if the request does not ask for them.
async fn respond(
    request: &Request<Incoming>,
    text: Option<impl Future<Output = Option<String>>>,
) -> Response<String> {
    let (status, body) = match text {
        Some(text) => match text.await {
            Some(text) => (StatusCode::OK, text),
            None => (StatusCode::SERVICE_UNAVAILABLE, "the daemon is ending\n".to_owned()),
        },
        None if is_read(request.method()) => {
            (StatusCode::NOT_FOUND, format!("the metrics are at {METRICS_PATH}\n"))
        }
        None => (StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are allowed\n".to_owned()),
    };
    let media_type = if status == StatusCode::OK { text::CONTENT_TYPE } else { "text/plain; charset=utf-8" };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}
