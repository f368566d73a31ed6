//! Serves the requests of one connection, and the WebSocket that one of them may become.

use std::sync::{Arc, OnceLock};

use hyper::server::conn::http1::{self, Parts};
use hyper_util::rt::TokioIo;

use crate::net::{Connection, Stream};
use crate::websocket;

use super::context::{Served, Server};
use super::service::Requests;
use super::wire::Wire;

/// Bytes of a head that belong to neither the request line nor a field.
const LINE_ENDS: usize = 4;

/// hyper's own default, for which it keeps the fields on the stack.
const STACK_HEADERS: usize = 100;

/// Serves a connection until it ends.
pub async fn serve(server: Arc<Server>, stream: Stream) {
    let connection = Arc::clone(stream.connection());
    // Boxed, because a WebSocket has no use for it, and would have to keep it: this future does not become smaller.
    let mut serving = Box::new(speak(server, stream));
    // Dropped before `serving`, and so before what is under way in it, whatever ends this.
    let mut through = Through { connection: Arc::clone(&connection), by_itself: false };
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
    through.by_itself = true;
}

type Speaking = http1::Connection<TokioIo<Wire>, Requests>;

fn speak(server: Arc<Server>, stream: Stream) -> Speaking {
    let connection = Arc::clone(stream.connection());
    let limits = &server.limits;
    let mut builder = http1::Builder::new();
    builder
        .header_read_timeout(None) // `Connections::sweep` does that, without a timer per request
        // The wire looks at the client while a request is served.
        .half_close(true)
        // Not `pipeline_flush`: it buffers without bound for a client that does not read. Nor `keep_alive`: it says
        // `close` in a 101, too. The framing has bounded a head already, but for its line ends.
        .max_header_size(limits.header + limits.request_line + LINE_ENDS);
    if limits.headers != STACK_HEADERS {
        builder.max_headers(limits.headers);
    }
    let trusts_peer = server.trusted.trusts(connection.peer.ip);
    let served = Arc::new(Served { server, connection, trusts_peer, refused_head: OnceLock::new() });
    let wire = Wire::new(stream, Arc::clone(&served));
    builder.serve_connection(TokioIo::new(wire), Requests { served, place: OnceLock::new() })
}

/// What the connection is after its last answer, if that was a 101: hyper leaves the socket open then, and what it has
/// read too much in its buffer.
fn upgraded(spoken: Speaking) -> Option<Box<websocket::WebSocketConn>> {
    let Parts { io, read_buf, service, .. } = spoken.into_parts();
    let accepted = service.accepted()?;
    let (stream, held) = io.into_inner().into_parts();
    Some(websocket::serve(stream, &[&*read_buf, &*held].concat(), *accepted))
}

/// Notes that a connection is over before what is under way on it is dropped.
struct Through {
    connection: Arc<Connection>,
    /// Its task came to its end. If not, the reactor has dropped it, as it does when the daemon stops.
    by_itself: bool,
}

impl Drop for Through {
    fn drop(&mut self) {
        if self.by_itself {
            self.connection.mark_closed();
        } else {
            self.connection.mark_shutdown();
        }
    }
}
