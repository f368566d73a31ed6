//! Tests of the protocol over a real socket.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::UnixListener;

use crate::control::{Access, Call, CallFault, Method, serve};

/// A server on a thread of its own. Its calls arrive at `calls`.
struct TestServer {
    directory: std::path::PathBuf,
    calls: mpsc::Receiver<Call>,
    end: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl TestServer {
    fn start(name: &str, access: Result<Access, String>) -> Self {
        let directory = crate::systemd::scratch_dir(name);
        let path = directory.join("control");
        let (calls_tx, calls) = mpsc::channel();
        let (end, ended) = tokio::sync::oneshot::channel();
        let (listening_tx, listening) = mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = UnixListener::bind(path).unwrap();
                listening_tx.send(()).unwrap();
                let call = move |call| drop(calls_tx.send(call));
                tokio::select! {
                    () = serve(listener, move |_| access.clone(), call) => {}
                    _ = ended => {}
                }
            });
        });
        listening.recv().unwrap();
        Self { directory, calls, end: Some(end), thread: Some(thread) }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.directory.join("control")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    fn next_call(&self) -> Call {
        self.calls.recv_timeout(Duration::from_secs(20)).unwrap()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        drop(self.end.take());
        let _ = self.thread.take().map(thread::JoinHandle::join);
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn send(stream: &mut UnixStream, text: &str) {
    stream.write_all(text.as_bytes()).unwrap();
    stream.write_all(&[0]).unwrap();
}

/// Reads one message; `None` at the end of the stream.
fn receive(stream: &mut UnixStream) -> Option<Value> {
    let mut message = Vec::new();
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(0) => return None,
            Ok(_) if byte == [0] => return Some(serde_json::from_slice(&message).unwrap()),
            Ok(_) => message.extend_from_slice(&byte),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn info_and_definitions_are_answered_without_the_main_loop() {
    let server = TestServer::start("control-info", Ok(Access::Read));
    let mut client = server.connect();
    send(&mut client, r#"{"method":"org.varlink.service.GetInfo"}"#);
    let info = receive(&mut client).unwrap();
    assert_eq!(
        info["parameters"]["interfaces"],
        json!(["org.varlink.service", "io.rgun.Server", "io.systemd.Metrics"])
    );
    for interface in ["org.varlink.service", "io.rgun.Server", "io.systemd.Metrics"] {
        let call = json!({
            "method": "org.varlink.service.GetInterfaceDescription",
            "parameters": { "interface": interface },
        });
        send(&mut client, &call.to_string());
        let reply = receive(&mut client).unwrap();
        let text = reply["parameters"]["description"].as_str().unwrap();
        assert!(text.contains(&format!("\ninterface {interface}\n")), "{text}");
    }
}

#[test]
fn wrong_calls_get_the_errors_of_varlink() {
    let server = TestServer::start("control-wrong", Ok(Access::Full));
    let mut client = server.connect();
    for (call, error, parameters) in [
        (
            r#"{"method":"org.varlink.service.GetInterfaceDescription","parameters":{"interface":"a.b"}}"#,
            "org.varlink.service.InterfaceNotFound",
            json!({ "interface": "a.b" }),
        ),
        (r#"{"method":"a.b.C"}"#, "org.varlink.service.InterfaceNotFound", json!({ "interface": "a.b" })),
        (r#"{"method":"C"}"#, "org.varlink.service.InterfaceNotFound", json!({ "interface": "C" })),
        (
            r#"{"method":"io.rgun.Server.Restart"}"#,
            "org.varlink.service.MethodNotFound",
            json!({ "method": "io.rgun.Server.Restart" }),
        ),
        (
            r#"{"method":"io.rgun.Server.Scale"}"#,
            "org.varlink.service.InvalidParameter",
            json!({ "parameter": "workers" }),
        ),
        (
            r#"{"method":"io.rgun.Server.Scale","parameters":{"workers":"4"}}"#,
            "org.varlink.service.InvalidParameter",
            json!({ "parameter": "workers" }),
        ),
        (
            r#"{"method":"io.rgun.Server.Requests","parameters":{"limit":1001}}"#,
            "org.varlink.service.InvalidParameter",
            json!({ "parameter": "limit" }),
        ),
        (
            r#"{"method":"io.rgun.Server.Status","parameters":{"verbose":true}}"#,
            "org.varlink.service.InvalidParameter",
            json!({ "parameter": "verbose" }),
        ),
        (r#"{"method":"io.systemd.Metrics.List"}"#, "org.varlink.service.ExpectedMore", json!({})),
    ] {
        send(&mut client, call);
        let reply = receive(&mut client).unwrap();
        assert_eq!((&reply["error"], &reply["parameters"]), (&json!(error), &parameters), "{call}");
    }
    assert!(server.calls.try_recv().is_err(), "no wrong call reaches the main loop");
}

#[test]
fn progress_is_only_sent_to_a_client_that_wants_more() {
    let server = TestServer::start("control-more", Ok(Access::Full));
    for more in [true, false] {
        let mut client = server.connect();
        send(&mut client, &json!({ "method": "io.rgun.Server.Reload", "more": more }).to_string());
        let Call { method, replies } = server.next_call();
        assert_eq!(method, Method::Reload);
        replies.progress(&json!({ "message": "boots" }));
        replies.finish(&json!({ "message": "serves" }));
        if more {
            let progress = json!({ "parameters": { "message": "boots" }, "continues": true });
            assert_eq!(receive(&mut client), Some(progress));
        }
        assert_eq!(receive(&mut client), Some(json!({ "parameters": { "message": "serves" } })));
    }
}

#[test]
fn pipelined_calls_are_answered_in_order() {
    let server = TestServer::start("control-pipeline", Ok(Access::Full));
    let mut client = server.connect();
    send(
        &mut client,
        "{\"method\":\"io.rgun.Server.Status\",\"parameters\":null}\0{\"method\":\"io.rgun.Server.Workers\"}",
    );
    let first = server.next_call();
    assert!(server.calls.try_recv().is_err(), "the second call waits for the first reply");
    first.replies.finish(&json!({ "n": 1 }));
    let second = server.next_call();
    assert_eq!(second.method, Method::Workers);
    second.replies.fail(CallFault::Stopping {});
    assert_eq!(receive(&mut client), Some(json!({ "parameters": { "n": 1 } })));
    let error = json!({ "error": "io.rgun.Server.Stopping", "parameters": {} });
    assert_eq!(receive(&mut client), Some(error));
}

#[test]
fn oneway_call_is_performed_and_not_answered() {
    let server = TestServer::start("control-oneway", Ok(Access::Full));
    let mut client = server.connect();
    send(&mut client, r#"{"method":"io.rgun.Server.Drain","oneway":true}"#);
    let call = server.next_call();
    assert_eq!(call.method, Method::Drain { enable: true });
    call.replies.finish(&json!({}));
    send(&mut client, r#"{"method":"org.varlink.service.GetInfo"}"#);
    assert_eq!(receive(&mut client).unwrap()["parameters"]["product"], "rgun");
}

#[test]
fn reader_is_refused_methods_that_need_full_access() {
    let server = TestServer::start("control-reader", Ok(Access::Read));
    let mut client = server.connect();
    for method in ["Reload", "Scale", "Drain", "Stacks"] {
        let parameters = if method == "Scale" { json!({ "workers": 1 }) } else { json!({}) };
        let call = json!({ "method": format!("io.rgun.Server.{method}"), "parameters": parameters });
        send(&mut client, &call.to_string());
        let reply = receive(&mut client).unwrap();
        assert_eq!(reply["error"], "io.rgun.Server.PermissionDenied", "{reply}");
    }
    send(&mut client, r#"{"method":"io.rgun.Server.Status"}"#);
    assert_eq!(server.next_call().method, Method::Status);
}

#[test]
fn refused_client_gets_the_reason_and_is_disconnected() {
    let server = TestServer::start("control-refused", Err("a worker".to_owned()));
    for method in ["org.varlink.service.GetInfo", "io.rgun.Server.Status", "nonsense"] {
        let mut client = server.connect();
        send(&mut client, &json!({ "method": method }).to_string());
        let reply =
            json!({ "error": "io.rgun.Server.PermissionDenied", "parameters": { "reason": "a worker" } });
        assert_eq!(receive(&mut client), Some(reply));
        assert_eq!(receive(&mut client), None);
    }
    assert!(server.calls.try_recv().is_err());
}

#[test]
fn malformed_or_overlong_call_ends_the_connection() {
    let server = TestServer::start("control-malformed", Ok(Access::Full));
    let overlong = "x".repeat(40_000);
    for text in ["reload\n", "", "[]", "{\"method\":1}", "\u{1}", &overlong] {
        let mut client = server.connect();
        // The server may close the connection before it has read everything.
        let _ = client.write_all(text.as_bytes()).and_then(|()| client.write_all(&[0]));
        assert_eq!(receive(&mut client), None, "{text:.10}");
    }
    let mut client = server.connect();
    send(&mut client, r#"{"method":"org.varlink.service.GetInfo"}"#);
    assert!(receive(&mut client).is_some(), "other clients are served");
}

#[test]
fn clients_above_the_limit_are_disconnected() {
    let server = TestServer::start("control-limit", Ok(Access::Read));
    let served = |client: &mut UnixStream| {
        // The server may have closed the connection already.
        let _ = client.write_all(b"{\"method\":\"org.varlink.service.GetInfo\"}\0");
        receive(client).is_some()
    };
    let mut clients: Vec<UnixStream> = (0..32).map(|_| server.connect()).collect();
    assert!(clients.iter_mut().all(served));
    assert!(!served(&mut server.connect()), "one client too many");
    clients.pop();
    // The server notices the end of the last client some time later.
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !served(&mut server.connect()) {
        assert!(std::time::Instant::now() < deadline, "a client that left still counts");
        thread::yield_now();
    }
}

#[test]
fn client_that_does_not_read_delays_no_other() {
    let server = TestServer::start("control-slow", Ok(Access::Full));
    let mut slow = server.connect();
    send(&mut slow, r#"{"method":"io.rgun.Server.Requests"}"#);
    server.next_call().replies.finish(&json!({ "text": "x".repeat(8 << 20) }));
    let mut other = server.connect();
    send(&mut other, r#"{"method":"org.varlink.service.GetInfo"}"#);
    assert!(receive(&mut other).is_some());
}

#[test]
fn connection_ends_when_the_main_loop_drops_a_call() {
    let server = TestServer::start("control-dropped", Ok(Access::Full));
    let mut client = server.connect();
    send(&mut client, r#"{"method":"io.rgun.Server.Reload"}"#);
    drop(server.next_call());
    assert_eq!(receive(&mut client), None);
}
