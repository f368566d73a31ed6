//! The limit of the benchmarks: hyper responds with a constant, on one thread. This is an upper
//! bound for a server with an application on the same kernel, runtime and HTTP library.
//!
//! `bench-limit ADDRESS BYTES [CERTIFICATE KEY]` answers every request with `Hello, world!`, or with
//! BYTES bytes if BYTES is not 0. With the paths of two PEM files it speaks TLS by rustls.
//! `tests/bench/run` starts the program, which has no routes, limits or shutdown: a signal ends it.

#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::LocalSet;
use tokio_rustls::TlsAcceptor;

/// The backlog; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: u32 = 2048;

const USAGE: &str = "usage: bench-limit ADDRESS BYTES [CERTIFICATE KEY]";

/// Parses the command line and serves until a signal ends the process.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (address, bytes, tls) = match arguments.as_slice() {
        [address, bytes] => (address, bytes, None),
        [address, bytes, certificate, key] => (address, bytes, Some(tls_acceptor(certificate, key)?)),
        _ => return Err(USAGE.into()),
    };
    let body = match bytes.parse()? {
        0 => Bytes::from_static(b"Hello, world!"),
        size => Bytes::from(vec![b'x'; size]),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    LocalSet::new().block_on(&runtime, serve(address.parse()?, body, tls))?;
    Ok(())
}

/// Returns the settings of TLS: rustls's own, but without sessions, which no client resumes.
fn tls_acceptor(certificate: &str, key: &str) -> Result<TlsAcceptor, Box<dyn std::error::Error>> {
    let certificates = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, PrivateKeyDer::from_pem_file(key)?)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Accepts connections, each served in a local task.
async fn serve(address: SocketAddr, body: Bytes, tls: Option<TlsAcceptor>) -> io::Result<()> {
    let listener = listen(address)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (body, tls) = (body.clone(), tls.clone());
        tokio::task::spawn_local(async move {
            let Some(tls) = tls else { return respond(stream, body).await };
            // A load generator counts failed handshakes itself.
            if let Ok(stream) = tls.accept(stream).await {
                respond(stream, body).await;
            }
        });
    }
}

/// Answers the requests of a connection.
async fn respond(stream: impl AsyncRead + AsyncWrite + Unpin + 'static, body: Bytes) {
    let service = service_fn(move |_: Request<Incoming>| {
        let answer = answer(body.clone());
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // A load generator may stop in the middle of a request, and counts errors itself.
    let _ = connection.await;
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
