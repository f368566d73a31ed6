//! TLS handshakes: session tickets, and the connections and threads that handshakes may occupy.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;

use nix::sys::signal::Signal;

use crate::support::Daemon;
use crate::tls::{TestCert, TlsClient, client, connect, get, self_signed, tcp, tls_rgun};

/// Completes the handshake up to the client's last message, which the client holds back.
fn handshake_without_last_message(daemon: &Daemon, cert: &TestCert) -> TlsClient {
    let mut client = connect(daemon, &Arc::new(client(&[cert], None)), "localhost");
    client.conn.write_tls(&mut client.sock).expect("the daemon reads");
    while client.conn.is_handshaking() {
        client.conn.read_tls(&mut client.sock).expect("the daemon answers");
        client.conn.process_new_packets().expect("a valid handshake");
    }
    assert!(client.conn.wants_write());
    client
}

#[test]
fn session_ticket_comes_with_the_first_response() {
    let certificate = self_signed(&["localhost"]);
    let daemon = tls_rgun(&[&certificate], "").start_ready();
    let mut client = handshake_without_last_message(&daemon, &certificate);
    // The request and the last message of the handshake arrive together.
    client.conn.writer().write_all(b"GET /hello HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    client.conn.write_tls(&mut client.sock).unwrap();
    let mut packet = vec![0; 16 * 1024];
    let len = client.sock.read(&mut packet).unwrap();
    client.conn.read_tls(&mut &packet[..len]).unwrap();
    let state = client.conn.process_new_packets().unwrap();
    assert_eq!(client.conn.tls13_tickets_received(), 1);
    assert!(state.plaintext_bytes_to_read() > 0, "the response is in the same packet");
}

#[test]
fn session_ticket_is_sent_to_a_client_without_a_request() {
    let certificate = self_signed(&["localhost"]);
    let daemon = tls_rgun(&[&certificate], "").start_ready();
    let mut client = handshake_without_last_message(&daemon, &certificate);
    client.conn.write_tls(&mut client.sock).unwrap();
    while client.conn.tls13_tickets_received() == 0 {
        assert_ne!(client.conn.read_tls(&mut client.sock).expect("a ticket before the deadline"), 0);
        client.conn.process_new_packets().unwrap();
    }
    assert_eq!(get(&mut client, "/hello").unwrap().0, 200);
}

#[test]
fn silent_tls_clients_are_evicted_for_new_ones() {
    let certificate = self_signed(&["localhost"]);
    let daemon = tls_rgun(&[&certificate], "[limits]\nconnections = 4").start_ready();
    let silent: Vec<_> = (0..4).map(|_| tcp(daemon.tcp_address())).collect();
    let mut served = connect(&daemon, &Arc::new(client(&[&certificate], None)), "localhost");
    assert_eq!(get(&mut served, "/hello").unwrap().0, 200);
    drop(silent);
}

/// Opens a connection and sends the beginning of a handshake.
fn partial_handshake(daemon: &Daemon) -> TcpStream {
    let mut socket = tcp(daemon.tcp_address());
    socket.write_all(b"\x16\x03\x01\x02\x00\x01").expect("an open connection");
    socket
}

#[test]
fn log_names_why_an_unfinished_handshake_ended() {
    let certificate = self_signed(&["localhost"]);
    let settings = "[limits]\nconnections = 2\n[timeouts]\nheader = \"60s\"";
    let mut daemon = tls_rgun(&[&certificate], settings).start_ready();
    let _partial = [partial_handshake(&daemon), partial_handshake(&daemon)];
    // The new connection replaces the oldest of the two.
    let mut served = connect(&daemon, &Arc::new(client(&[&certificate], None)), "localhost");
    assert_eq!(get(&mut served, "/hello").unwrap().0, 200);
    let line = daemon.log.wait_for("TLS handshake of 127.0.0.1 failed: its connection was closed after ");
    assert!(line.contains(" s to make room for a new one"), "{line}");
    daemon.signal(Signal::SIGTERM);
    daemon.log.wait_for("TLS handshake of 127.0.0.1 failed: rgun stopped before it was complete");
    assert_eq!(daemon.wait_exit().code(), Some(0));
}

#[test]
fn log_names_the_time_of_a_handshake_that_took_too_long() {
    let certificate = self_signed(&["localhost"]);
    let daemon = tls_rgun(&[&certificate], "[timeouts]\nheader = \"1s\"").start_ready();
    let _partial = partial_handshake(&daemon);
    let line = daemon.log.wait_for("TLS handshake of 127.0.0.1 failed: it was not complete after ");
    assert!(line.contains(" s"), "{line}");
}

/// Returns name and nice value (proc(5)) of each thread of the daemon.
fn threads(daemon: &Daemon) -> Vec<(String, i32)> {
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("the daemon runs");
    let stats = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
    let parse = |stat: String| {
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        Some((name.to_owned(), rest.split_whitespace().nth(16)?.parse().ok()?))
    };
    stats.filter_map(parse).collect()
}

#[test]
fn handshakes_have_few_threads_of_a_lower_priority() {
    let certificate = self_signed(&["localhost"]);
    let daemon = tls_rgun(&[&certificate], "").start_ready();
    let config = Arc::new(client(&[&certificate], None));
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                assert_eq!(get(&mut connect(&daemon, &config, "localhost"), "/hello").unwrap().0, 200);
            });
        }
    });
    let threads = threads(&daemon);
    let nice = |name: &str| {
        threads.iter().filter(|thread| thread.0 == name).map(|thread| thread.1).collect::<Vec<_>>()
    };
    let (edge, tls) = (nice("edge"), nice("tls"));
    let cores = thread::available_parallelism().unwrap().get();
    assert!((1..=cores).contains(&tls.len()), "{threads:?}");
    // 19 is the lowest priority (sched(7)).
    assert!(tls.iter().all(|nice| *nice == (edge[0] + 5).min(19)), "{threads:?}");
}
