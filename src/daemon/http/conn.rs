//! Serves the requests of one connection, and the WebSocket that one of them may become.

use std::sync::{Arc, OnceLock};

use hyper::server::conn::http1::{self, Parts};
use hyper_util::rt::TokioIo;

use crate::net::{ClientStream, Connection};
use crate::websocket;

use super::context::{ConnContext, Server};
use super::h1::Wire;
use super::service::ConnService;

/// Bytes of a head that belong to neither the request line nor a field.
const HEAD_CRLF_BYTES: usize = 4;

/// hyper's own default, for which it keeps the fields on the stack.
const HYPER_MAX_HEADERS: usize = 100;

/// Serves a connection until it ends.
pub async fn serve(server: Arc<Server>, stream: ClientStream) {
    let connection = Arc::clone(stream.connection());
    // Boxed, because a WebSocket has no use for it, and would have to keep it: this future does not become smaller.
    let mut serving = Box::new(http1_connection(server, stream));
    // Dropped before `serving`, and so before what is under way in it, whatever ends this.
    let mut through = CloseGuard { connection: Arc::clone(&connection), has_finished: false };
    match (&mut *serving).await {
        Ok(()) => {
            if let Some(socket) = upgraded(*serving) {
                socket.await;
            }
        }
        Err(error) => {
            tracing::debug!(client = %connection.peer.address, error = %crate::error_chain::Chain(&error),
                "a connection ended early");
        }
    }
    through.has_finished = true;
}

type HttpConn = http1::Connection<TokioIo<Wire>, ConnService>;

fn http1_connection(server: Arc<Server>, stream: ClientStream) -> HttpConn {
    let connection = Arc::clone(stream.connection());
    let limits = &server.limits;
    let mut builder = http1::Builder::new();
    builder
        .header_read_timeout(None) // `Connections::sweep` does that, without a timer per request
        // The wire looks at the client while a request is served.
        .half_close(true)
        // Not `pipeline_flush`: it buffers without bound for a client that does not read. Nor `keep_alive`: it says
        // `close` in a 101, too. The framing has bounded a head already, but for its line ends.
        .max_header_size(limits.header + limits.request_line + HEAD_CRLF_BYTES);
    if limits.headers != HYPER_MAX_HEADERS {
        builder.max_headers(limits.headers);
    }
    let trusts_peer = server.trusted.trusts(connection.peer.ip);
    let context = Arc::new(ConnContext { server, connection, trusts_peer, refused_head: OnceLock::new() });
    let wire = Wire::new(stream, Arc::clone(&context));
    builder.serve_connection(TokioIo::new(wire), ConnService { context, upgrade_slot: OnceLock::new() })
}

/// What the connection is after its last answer, if that was a 101: hyper leaves the socket open then, and what it has
/// read too much in its buffer.
fn upgraded(spoken: HttpConn) -> Option<Box<websocket::WebSocketConn>> {
    let Parts { io, read_buf, service, .. } = spoken.into_parts();
    let accepted = service.take_upgrade()?;
    let (stream, held) = io.into_inner().into_parts();
    Some(websocket::serve(stream, &[&*read_buf, &*held].concat(), *accepted))
}

/// Notes that a connection is over before what is under way on it is dropped.
struct CloseGuard {
    connection: Arc<Connection>,
    /// Its task came to its end. If not, the reactor has dropped it, as it does when the daemon stops.
    has_finished: bool,
}

impl Drop for CloseGuard {
    fn drop(&mut self) {
        if self.has_finished {
            self.connection.mark_closed();
        } else {
            self.connection.mark_shutdown();
        }
    }
}
