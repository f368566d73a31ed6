//! Clients that do with a WebSocket what no client should, and how the daemon and everybody else get over it.

use nix::sys::signal::Signal;

use crate::bodies::pattern;
use crate::support::Rgun;
use crate::support::websocket::{BINARY, FIN, WebSocket, frame, handshake};

fn asgi() -> Rgun {
    Rgun::fake().fake_does("asgi").set("workers.concurrency", "10")
}

#[test]
fn much_may_come_with_the_handshake() {
    let daemon = asgi().serving();
    let mut client = daemon.connect();
    // A large body, after which hyper reads much at a time.
    let body = pattern(16 << 20);
    client.send(format!("POST /take HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len()));
    assert_eq!(client.send(body).answer().status, 200);
    // All of it lies there before any of it is read.
    daemon.signal(Signal::SIGSTOP);
    let message = pattern(50_000);
    let mut early = handshake("/echo", "").into_bytes();
    for _ in 0..3 {
        early.extend(frame(FIN | BINARY, &message));
    }
    client.send(early);
    daemon.signal(Signal::SIGCONT);
    let answer = client.head();
    assert_eq!(answer.status, 101);
    let mut socket = WebSocket { client, answer };
    for _ in 0..3 {
        assert!(socket.message() == (BINARY, message.clone()));
    }
}

#[test]
fn a_stop_closes_all_before_its_time_is_up_however_long_the_window() {
    let mut daemon = asgi().set("timeouts.drain", "1s").set("websocket.close_window", "10s").serving();
    let mut sockets: Vec<_> = (0..60).map(|_| WebSocket::open(&daemon, "/echo")).collect();
    daemon.signal(Signal::SIGTERM);
    for socket in &mut sockets {
        assert_eq!(socket.closed(), (1012, "Service Restart".to_owned()));
        socket.close(1012, "");
    }
    for socket in &mut sockets {
        socket.is_gone();
    }
    assert!(daemon.exit().success());
}

#[test]
fn a_handshake_that_comes_while_the_first_worker_boots_waits_for_it() {
    for interface in ["asgi", ""] {
        let (rgun, gate) = Rgun::fake().gated();
        let daemon = rgun.start();
        let mut client = daemon.connect();
        client.send(handshake("/echo", ""));
        // When who comes later has been read, so has this one.
        assert_eq!(daemon.connect().send("nonsense\r\n\r\n").answer().status, 400);
        gate.open(interface);
        if interface == "asgi" {
            let answer = client.head();
            assert_eq!(answer.status, 101);
            WebSocket { client, answer }.text("on").says("on");
        } else {
            // Of a WSGI application, which knows no WebSockets, it gets an ordinary answer.
            let answer = client.answer();
            assert_eq!((answer.status, answer.said("upgrade").as_str()), (200, "websocket"));
        }
    }
}
