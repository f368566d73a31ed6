//! The limit of the benchmarks: hyper responds with a constant, on one thread. This is an upper
//! bound for a server with an application on the same kernel, runtime and HTTP library.
//!
//! `bench-limit ADDRESS [BYTES]` answers every request with `Hello, world!`, or with BYTES bytes.
//! `tests/bench/run` starts the program, which has no routes, limits or shutdown: a signal ends it.

#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::LocalSet;

/// The backlog; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: u32 = 2048;

/// Parses the command line and serves until a signal ends the process.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address: SocketAddr = arguments.next().ok_or("usage: bench-limit ADDRESS [BYTES]")?.parse()?;
    let body = match arguments.next() {
        Some(size) => Bytes::from(vec![b'x'; size.parse()?]),
        None => Bytes::from_static(b"Hello, world!"),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    LocalSet::new().block_on(&runtime, serve(address, body))?;
    Ok(())
}

/// Accepts connections, each served in a local task.
async fn serve(address: SocketAddr, body: Bytes) -> io::Result<()> {
    let listener = listen(address)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let body = body.clone();
        tokio::task::spawn_local(async move {
            let service = service_fn(move |_: Request<Incoming>| {
                let answer = answer(body.clone());
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            // A load generator may stop in the middle of a request, and counts errors itself.
            let _ = connection.await;
        });
    }
}

/// Returns a listening socket with a backlog for all connections of a load generator.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Builds a response with the head of the hello application; hyper adds Content-Length and Date.
fn answer(body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}
