//! The TLS client of the benchmarks: a closed loop of connections, each with a full handshake and
//! one request.
//!
//! `bench-handshake ADDRESS CONNECTIONS SECONDS` keeps CONNECTIONS connections busy for SECONDS and
//! then prints a line of JSON: the number of responses, the duration in seconds, and latencies in
//! microseconds. A latency is the time from before the connect to the end of the connection. After
//! an unexpected event, such as a resumed session or a wrong response, the program exits with 1 and
//! a message on stderr.
//!
//! wrk cannot be used for this purpose: it resumes its sessions, and no option prevents that. This
//! client checks neither certificates nor signatures, so that it needs less processor time than the
//! server, which is measured.

#![forbid(unsafe_code)]

mod no_verifier;

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use no_verifier::NoVerifier;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};
use tokio_rustls::TlsConnector;

const USAGE: &str = "usage: bench-handshake ADDRESS CONNECTIONS SECONDS";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";
const STATUS: &[u8] = b"HTTP/1.1 200 ";
const BODY: &[u8] = b"\r\n\r\nHello, world!";
/// Time allowed for one connection. After this time, the server counts as stuck.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Runs the program. An error goes to stderr.
fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Parses the command line and runs.
fn start() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, connections, seconds] = arguments.as_slice() else { return Err(USAGE.into()) };
    let address: SocketAddr = address.parse()?;
    let (connections, seconds) = (connections.parse()?, Duration::try_from_secs_f64(seconds.parse()?)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, run(address, connections, seconds))?;
    Ok(())
}

/// Runs all clients and prints the result.
async fn run(address: SocketAddr, connections: usize, seconds: Duration) -> io::Result<()> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(NoVerifier(provider)))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    let connector = TlsConnector::from(Arc::new(config));
    let (begun, mut clients) = (Instant::now(), JoinSet::new());
    for _ in 0..connections {
        clients.spawn_local(run_client(connector.clone(), address, begun + seconds));
    }
    let mut times = Vec::new();
    while let Some(client) = clients.join_next().await {
        times.extend(client.map_err(io::Error::other)??);
    }
    println!("{}", summarize(times, begun.elapsed()));
    Ok(())
}

/// Opens one connection after the other. Returns their latencies in microseconds.
async fn run_client(connector: TlsConnector, address: SocketAddr, until: Instant) -> io::Result<Vec<u64>> {
    let mut times = Vec::new();
    let mut response = Vec::new();
    loop {
        let begun = Instant::now();
        if begun >= until {
            return Ok(times);
        }
        response.clear();
        tokio::time::timeout(TIMEOUT, request(&connector, address, &mut response)).await??;
        times.push(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
}

/// Sends a request on a new connection and reads the response up to the end of the connection.
async fn request(connector: &TlsConnector, address: SocketAddr, response: &mut Vec<u8>) -> io::Result<()> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let name = ServerName::IpAddress(address.ip().into());
    let mut stream = connector.connect(name, socket).await?;
    let kind = stream.get_ref().1.handshake_kind();
    if kind != Some(HandshakeKind::Full) {
        return Err(io::Error::other(format!("the handshake was {kind:?} instead of Full")));
    }
    stream.write_all(REQUEST).await?;
    match stream.read_to_end(response).await {
        // Some servers do not send close_notify.
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
        _ => {}
    }
    if !response.starts_with(STATUS) || !response.ends_with(BODY) {
        let text = String::from_utf8_lossy(response);
        return Err(io::Error::other(format!("unexpected response: {text:?}")));
    }
    Ok(())
}

/// Returns the result as a line of JSON.
fn summarize(mut times: Vec<u64>, elapsed: Duration) -> String {
    times.sort_unstable();
    // The nearest rank, in percent.
    let percentile = |share: usize| {
        let rank = (times.len() * share).div_ceil(100).max(1) - 1;
        times.get(rank).copied().unwrap_or_default()
    };
    format!(
        r#"{{"requests":{},"seconds":{:.6},"p50_us":{},"p99_us":{},"max_us":{}}}"#,
        times.len(),
        elapsed.as_secs_f64(),
        percentile(50),
        percentile(99),
        percentile(100)
    )
}
