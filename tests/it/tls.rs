//! TLS: what a client sees of handshakes, certificates, reloads and the end of a connection.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rcgen::{CertificateParams, DnType, Issuer, KeyPair};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};

use crate::support::{DEADLINE, Daemon, Rgun, pattern};

/// A certificate and its key, in PEM.
pub(crate) struct TestCert {
    pub(crate) cert: String,
    pub(crate) key: String,
}

pub(crate) fn self_signed(names: &[&str]) -> TestCert {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let key = KeyPair::generate().expect("a key");
    let cert = CertificateParams::new(names).expect("valid names").self_signed(&key).expect("a certificate");
    TestCert { cert: cert.pem(), key: key.serialize_pem() }
}

/// Makes a CA, and a client certificate signed by the CA.
fn authority_and_client() -> (TestCert, TestCert) {
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let cert = params.self_signed(&key).expect("a certificate");
    let ca = TestCert { cert: cert.pem(), key: key.serialize_pem() };
    let issuer = Issuer::new(params, key);
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "a client");
    let key = KeyPair::generate().expect("a key");
    let cert = params.signed_by(&key, &issuer).expect("a certificate");
    (ca, TestCert { cert: cert.pem(), key: key.serialize_pem() })
}

/// Configures a daemon with TLS, a free port and a control socket. `toml` is added to `[tls]`.
pub(crate) fn tls_rgun(certs: &[&TestCert], toml: &str) -> Rgun {
    let rgun = Rgun::fake().over_tcp();
    let (cert, key) = write(&rgun, certs);
    let text = format!("[tls]\ncert = {cert:?}\nkey = {key:?}\n{toml}\n");
    let file = rgun.scratch().write("rgun.toml", &text).display().to_string();
    let runtime = rgun.scratch().path().display().to_string();
    rgun.flags(["--config", &file]).variable("RUNTIME_DIRECTORY", &runtime)
}

/// Writes certificates and keys; returns their paths.
fn write(rgun: &Rgun, certs: &[&TestCert]) -> (Vec<String>, Vec<String>) {
    let place = rgun.scratch();
    let files = certs.iter().enumerate().map(|(number, TestCert { cert, key })| {
        let cert = place.write(&format!("{number}.crt"), cert).display().to_string();
        (cert, place.write(&format!("{number}.key"), key).display().to_string())
    });
    files.unzip()
}

pub(crate) fn client(trusted: &[&TestCert], identity: Option<&TestCert>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for TestCert { cert, .. } in trusted {
        roots.add(CertificateDer::from_pem_slice(cert.as_bytes()).expect("PEM")).expect("a certificate");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.expect("versions").with_root_certificates(roots);
    match identity {
        None => builder.with_no_client_auth(),
        Some(TestCert { cert, key }) => {
            let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).expect("PEM")];
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
            builder.with_client_auth_cert(chain, key).expect("a certificate and its key")
        }
    }
}

pub(crate) type TlsClient = StreamOwned<ClientConnection, TcpStream>;

pub(crate) fn tcp(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect_timeout(&address, DEADLINE).expect("the daemon listens");
    socket.set_read_timeout(Some(DEADLINE)).expect("a timeout that is not 0");
    socket
}

pub(crate) fn connect(daemon: &Daemon, config: &Arc<ClientConfig>, name: &str) -> TlsClient {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let connection = ClientConnection::new(Arc::clone(config), name).expect("a configuration");
    StreamOwned::new(connection, tcp(daemon.tcp_address()))
}

pub(crate) fn send(client: &mut TlsClient, path: &str) -> io::Result<()> {
    client.write_all(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes())?;
    client.flush()
}

/// Sends a request, and reads a response with a Content-Length: its status and body.
pub(crate) fn get(client: &mut TlsClient, path: &str) -> io::Result<(u16, Vec<u8>)> {
    send(client, path)?;
    receive(client)
}

/// Reads a response with a Content-Length: its status and body.
fn receive(client: &mut TlsClient) -> io::Result<(u16, Vec<u8>)> {
    let mut received = Vec::new();
    loop {
        let mut block = [0; 16 * 1024];
        match client.read(&mut block)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            len => received.extend_from_slice(&block[..len]),
        }
        let text = String::from_utf8_lossy(&received).to_ascii_lowercase();
        let Some(end) = text.find("\r\n\r\n") else { continue };
        let length = text.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next());
        let length: usize = length.and_then(|length| length.parse().ok()).expect("a length");
        if received.len() >= end + 4 + length {
            let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
            return Ok((status, received[end + 4..end + 4 + length].to_vec()));
        }
    }
}

/// Returns the certificate that the server has presented, in DER.
fn presented(client: &TlsClient) -> Vec<u8> {
    client.conn.peer_certificates().and_then(<[_]>::first).map(|cert| cert.to_vec()).unwrap_or_default()
}

fn der(cert: &TestCert) -> Vec<u8> {
    CertificateDer::from_pem_slice(cert.cert.as_bytes()).expect("PEM").to_vec()
}

fn reload(daemon: &Daemon) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rgun"));
    command.arg("reload").env_clear().env("RUNTIME_DIRECTORY", daemon.scratch().path());
    let output = command.output().expect("rgun runs");
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// Reads to the end of a connection without TLS.
fn read_to_end(mut socket: TcpStream) -> String {
    let mut text = Vec::new();
    // A reset after the response ends the connection, too.
    let _ = socket.read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn requests_are_served_over_tls_and_kept_alive() {
    let cert = self_signed(&["localhost"]);
    let daemon = tls_rgun(&[&cert], "").start_ready();
    let mut client = connect(&daemon, &Arc::new(client(&[&cert], None)), "localhost");
    for _ in 0..3 {
        assert_eq!(get(&mut client, "/hello").unwrap().0, 200);
    }
    assert_eq!(client.conn.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    daemon.log.wait_for(" with TLS");
}

#[test]
fn http_1_0_is_served_over_tls_with_and_without_keep_alive() {
    let certificate = self_signed(&["localhost"]);
    let mount = format!("[[static]]\nurl = \"/files/\"\ndirectory = {:?}", env!("CARGO_MANIFEST_DIR"));
    let daemon = tls_rgun(&[&certificate], &mount).start_ready();
    let mut config = client(&[&certificate], None);
    config.alpn_protocols = vec![b"http/1.0".to_vec()];
    let config = Arc::new(config);
    for path in ["/hello", "/files/Cargo.toml"] {
        let mut once = connect(&daemon, &config, "localhost");
        once.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
        let mut response = String::new();
        once.read_to_string(&mut response).expect("the connection ends with close_notify");
        assert!(response.starts_with("HTTP/1.0 200") || response.starts_with("HTTP/1.1 200"), "{response}");

        let mut kept = connect(&daemon, &config, "localhost");
        for _ in 0..2 {
            let request = format!("GET {path} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
            kept.write_all(request.as_bytes()).unwrap();
            assert_eq!(receive(&mut kept).unwrap().0, 200, "{path}");
        }
    }
}

#[test]
fn large_response_arrives_whole_over_tls() {
    let cert = self_signed(&["localhost"]);
    let daemon = tls_rgun(&[&cert], "").start_ready();
    let mut client = connect(&daemon, &Arc::new(client(&[&cert], None)), "localhost");
    let (status, body) = get(&mut client, "/file/3000000").unwrap();
    assert_eq!((status, body.len()), (200, 3_000_000));
    assert!(body == pattern(3_000_000));
}

#[test]
fn sni_selects_the_certificate_and_defaults_to_the_first() {
    let (first, second) = (self_signed(&["one.test"]), self_signed(&["*.two.test"]));
    let daemon = tls_rgun(&[&first, &second], "").start_ready();
    let config = Arc::new(client(&[&first, &second], None));
    for (name, cert) in [("one.test", &first), ("www.two.test", &second)] {
        let mut client = connect(&daemon, &config, name);
        assert_eq!(get(&mut client, "/hello").unwrap().0, 200);
        assert_eq!(presented(&client), der(cert), "{name}");
    }
    let mut client = connect(&daemon, &config, "three.test");
    let error = get(&mut client, "/hello").unwrap_err();
    assert!(
        error.to_string().contains("NotValidForName") || error.to_string().contains("not valid for"),
        "{error}"
    );
}

#[test]
fn plain_http_on_a_tls_port_is_answered_400() {
    let cert = self_signed(&["localhost"]);
    let daemon = tls_rgun(&[&cert], "").start_ready();
    let mut socket = tcp(daemon.tcp_address());
    socket.write_all(b"POST /hello HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello").unwrap();
    let text = read_to_end(socket);
    assert!(text.starts_with("HTTP/1.1 400 ") && text.contains("use https://"), "{text}");
    let lower = text.to_ascii_lowercase();
    assert!(lower.contains("connection: close") && !lower.contains("vary"), "{text}");
    let line = daemon.log.wait_for("plain_http");
    assert!(line.contains("use https://") && !line.contains("\"\""), "{line}");
}

/// Configures a daemon that requires client certificates. Returns also the certificate of a client
/// that the daemon trusts.
fn rgun_with_client_auth(cert: &TestCert) -> (Rgun, TestCert) {
    let (ca, known) = authority_and_client();
    let rgun = Rgun::fake().over_tcp();
    let (certs, keys) = write(&rgun, &[cert]);
    let ca = rgun.scratch().write("ca.pem", &ca.cert).display().to_string();
    let text =
        format!("[tls]\ncert = {certs:?}\nkey = {keys:?}\nclient_auth = \"required\"\nclient_ca = {ca:?}\n");
    let file = rgun.scratch().write("rgun.toml", &text).display().to_string();
    (rgun.flags(["--config", &file]), known)
}

#[test]
fn tls_alert_reaches_a_client_that_already_sends_data() {
    let cert = self_signed(&["localhost"]);
    let (rgun, known) = rgun_with_client_auth(&cert);
    let daemon = rgun.start_ready();
    let anonymous = Arc::new(client(&[&cert], None));
    for _ in 0..20 {
        let mut client = connect(&daemon, &anonymous, "localhost");
        // In TLS 1.3 the client may send at once, before the daemon has seen that the client has no
        // certificate.
        client.write_all(&vec![b'x'; 256 * 1024]).unwrap();
        let error = client.read(&mut [0; 16]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        assert!(error.to_string().to_lowercase().contains("certificate"), "{error}");
    }
    let mut client = connect(&daemon, &Arc::new(client(&[&cert], Some(&known))), "localhost");
    assert_eq!(get(&mut client, "/hello").unwrap().0, 200);
}

#[test]
fn failed_handshake_is_a_warning_with_client_and_reason() {
    let cert = self_signed(&["localhost"]);
    let (rgun, _) = rgun_with_client_auth(&cert);
    let daemon = rgun.start_ready();
    let failed = |reason: &str| {
        let line = daemon.log.wait_for(reason);
        for part in ["WARN", "TLS handshake of 127.0.0.1 failed: ", "rgun.kind=tls_handshake"] {
            assert!(line.contains(part), "{part}: {line}");
        }
        assert!(!line.contains("rgun.status"), "{line}");
    };
    // A client that sends nothing has no entry. The number of entries per second is limited, so a
    // failure may be logged in the next second.
    drop(tcp(daemon.tcp_address()));
    tcp(daemon.tcp_address()).write_all(b"\x16\x03\x01\xff\xff nonsense").unwrap();
    failed("something that is not TLS");
    let anonymous = Arc::new(client(&[&cert], None));
    get(&mut connect(&daemon, &anonymous, "localhost"), "/hello").unwrap_err();
    failed("the client has no certificate, and tls.client_auth is \"required\"");
    for _ in 0..30 {
        let mut socket = tcp(daemon.tcp_address());
        socket.write_all(b"\x16\x03\x01\xff\xff nonsense").unwrap();
        read_to_end(socket);
    }
    daemon.log.wait_for(" more within 1 s)");
    let entries = daemon.log.text().matches("something that is not TLS").count();
    assert!((2..12).contains(&entries), "{}", daemon.log.text());
    assert!(!daemon.log.text().contains("left before its TLS handshake"), "only at level debug");
}

#[test]
fn invalid_handshake_bytes_are_closed_or_alerted() {
    let cert = self_signed(&["localhost"]);
    let daemon = tls_rgun(&[&cert], "").start_ready();
    for bytes in [
        &b"\x16\x03\x01\x00\x02\x01\x00"[..],
        b"\x16\x03\x01\xff\xff",
        b"\x80\x2e\x01\x03\x01",
        b"\0\0\0\0\0\0",
    ] {
        let mut socket = tcp(daemon.tcp_address());
        socket.write_all(bytes).unwrap();
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        let mut received = Vec::new();
        let _ = socket.read_to_end(&mut received);
        assert!(received.is_empty() || received[0] == 21, "{bytes:02x?}: {received:02x?}");
    }
    // The daemon still serves.
    let mut client = connect(&daemon, &Arc::new(client(&[&cert], None)), "localhost");
    assert_eq!(get(&mut client, "/hello").unwrap().0, 200);
}

#[test]
fn client_certificates_are_requested_as_configured() {
    let cert = self_signed(&["localhost"]);
    let (ca, known) = authority_and_client();
    let (_, unknown) = authority_and_client();
    for (mode, anonymous_is_served) in [("optional", true), ("required", false)] {
        let rgun = Rgun::fake().over_tcp();
        let (certs, keys) = write(&rgun, &[&cert]);
        let ca_path = rgun.scratch().write("ca.pem", &ca.cert).display().to_string();
        let text = format!(
            "[tls]\ncert = {certs:?}\nkey = {keys:?}\nclient_auth = {mode:?}\nclient_ca = {ca_path:?}\n"
        );
        let file = rgun.scratch().write("rgun.toml", &text).display().to_string();
        let daemon = rgun.flags(["--config", &file]).start_ready();
        let served = |identity| {
            let config = Arc::new(client(&[&cert], identity));
            get(&mut connect(&daemon, &config, "localhost"), "/hello").map(|(status, _)| status).ok()
        };
        assert_eq!(served(Some(&known)), Some(200), "{mode}");
        assert_eq!(served(Some(&unknown)), None, "{mode}");
        assert_eq!(served(None), anonymous_is_served.then_some(200), "{mode}");
    }
}

#[test]
fn reload_presents_new_certificates_and_keeps_connections() {
    let (old, new) = (self_signed(&["localhost"]), self_signed(&["localhost"]));
    let daemon = tls_rgun(&[&old], "").start_ready();
    let mut config = client(&[&old, &new], None);
    config.resumption = Resumption::in_memory_sessions(8);
    let config = Arc::new(config);
    let mut open = connect(&daemon, &config, "localhost");
    assert_eq!(get(&mut open, "/hello").unwrap().0, 200);

    daemon.scratch().write("0.crt", &new.cert);
    daemon.scratch().write("0.key", &new.key);
    let (succeeded, text) = reload(&daemon);
    assert!(succeeded, "{text}");
    assert_eq!(get(&mut open, "/hello").unwrap().0, 200);
    // The session from before the reload is resumed; a client without one gets the new certificate.
    let mut resumed = connect(&daemon, &config, "localhost");
    assert_eq!(get(&mut resumed, "/hello").unwrap().0, 200);
    assert_eq!(resumed.conn.handshake_kind(), Some(HandshakeKind::Resumed));
    let mut fresh = connect(&daemon, &Arc::new(client(&[&old, &new], None)), "localhost");
    assert_eq!(get(&mut fresh, "/hello").unwrap().0, 200);
    assert_eq!(presented(&fresh), der(&new));
}

#[test]
fn reload_with_a_bad_certificate_changes_nothing() {
    let (good, other) = (self_signed(&["localhost"]), self_signed(&["localhost"]));
    let daemon = tls_rgun(&[&good], "").start_ready();
    daemon.scratch().write("0.key", &other.key);
    let (succeeded, text) = reload(&daemon);
    assert!(!succeeded && text.contains("is not the key of the certificate"), "{text}");
    let mut client = connect(&daemon, &Arc::new(client(&[&good], None)), "localhost");
    assert_eq!(get(&mut client, "/hello").unwrap().0, 200);
    assert_eq!(presented(&client), der(&good));
    assert_eq!(daemon.log.text().matches("generation 2").count(), 0, "no worker was booted");
}

#[test]
fn reload_reports_warnings_about_new_certificates() {
    let good = self_signed(&["localhost"]);
    let daemon = tls_rgun(&[&good], "").start_ready();
    let files = [("0.crt", 0o644), ("0.key", 0o600)].map(|(name, mode)| {
        let path = daemon.scratch().join(name);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("a file of the test");
        path.display().to_string()
    });
    let (succeeded, text) = reload(&daemon);
    assert!(succeeded && !text.contains(&files[0]) && !text.contains(&files[1]), "{text}");

    let key = KeyPair::from_pem(&good.key).expect("a key");
    let mut params = CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(2001, 1, 1);
    params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    daemon.scratch().write("0.crt", &params.self_signed(&key).expect("a certificate").pem());
    let mode = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&files[1], mode).expect("a file of the test");
    let (succeeded, text) = reload(&daemon);
    assert!(succeeded, "warnings only: {text}");
    let warnings = [
        format!("tls.cert = \"{}\": expired on ", files[0]),
        format!("tls.cert = \"{}\": has no host name or address (subjectAltName)", files[0]),
        format!("tls.key = \"{}\": every user of this machine can read it (mode 0644)", files[1]),
    ];
    for warning in warnings {
        let lines: Vec<_> = text.lines().filter(|line| line.contains(&warning)).collect();
        assert_eq!(lines.len(), 1, "{warning} in {text}");
        daemon.log.wait_for(lines[0]);
    }
    assert!(text.contains("generation 3 serves"), "{text}");
}

#[test]
fn missing_key_fails_the_start_with_status_78() {
    let cert = self_signed(&["localhost"]);
    let rgun = tls_rgun(&[&cert], "");
    std::fs::remove_file(rgun.scratch().join("0.key")).unwrap();
    let (status, text, _) = rgun.run();
    assert_eq!(status, 78);
    assert!(text.contains("tls.key = ") && text.contains("does not exist"), "{text}");
}

#[test]
fn check_warns_about_a_key_that_everyone_can_read() {
    let cert = self_signed(&["localhost"]);
    let rgun = tls_rgun(&[&cert], "").check_as_self();
    let (_, text, printed) = rgun.run();
    assert!((text + &printed).contains("every user of this machine can read it"));
}

#[test]
fn slow_handshake_is_closed_after_the_header_timeout() {
    let cert = self_signed(&["localhost"]);
    let daemon = tls_rgun(&[&cert], "[timeouts]\nheader = \"1s\"").start_ready();
    let config = Arc::new(client(&[&cert], None));
    let begun = Instant::now();
    // No bytes, a part of the first message, and one byte every 100 ms.
    let mut silent = tcp(daemon.tcp_address());
    let mut partial = tcp(daemon.tcp_address());
    partial.write_all(b"\x16\x03\x01\x02\x00\x01").unwrap();
    let mut dripping = tcp(daemon.tcp_address());
    let dripper = thread::spawn(move || {
        while begun.elapsed() < DEADLINE && dripping.write_all(b"\x16").is_ok() {
            thread::sleep(Duration::from_millis(100));
        }
        begun.elapsed()
    });
    // Others are served meanwhile.
    assert_eq!(get(&mut connect(&daemon, &config, "localhost"), "/hello").unwrap().0, 200);
    let mut rest = Vec::new();
    let _ = silent.read_to_end(&mut rest);
    let _ = partial.read_to_end(&mut rest);
    assert!(begun.elapsed() >= Duration::from_secs(1) && begun.elapsed() < DEADLINE);
    assert!(dripper.join().unwrap() < DEADLINE);
}

#[test]
fn connection_closes_with_close_notify() {
    let cert = self_signed(&["localhost"]);
    let daemon = tls_rgun(&[&cert], "").start_ready();
    let mut client = connect(&daemon, &Arc::new(client(&[&cert], None)), "localhost");
    client.write_all(b"GET /hello HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    // rustls reports a connection that ends without close_notify as an error.
    client.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
}

#[test]
fn half_closed_client_still_gets_its_response() {
    let cert = self_signed(&["localhost"]);
    let daemon = tls_rgun(&[&cert], "").start_ready();
    let mut client = connect(&daemon, &Arc::new(client(&[&cert], None)), "localhost");
    send(&mut client, "/slow/300").unwrap();
    client.conn.send_close_notify();
    client.flush().unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
}

#[test]
fn idle_tls_connection_ends_when_the_daemon_stops() {
    let cert = self_signed(&["localhost"]);
    let mut daemon = tls_rgun(&[&cert], "").start_ready();
    let mut client = connect(&daemon, &Arc::new(client(&[&cert], None)), "localhost");
    assert_eq!(get(&mut client, "/hello").unwrap().0, 200);
    // This connection never starts a handshake. The stop does not wait for it.
    let _silent = tcp(daemon.tcp_address());
    daemon.signal(Signal::SIGTERM);
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    assert_eq!(daemon.wait_exit().code(), Some(0));
}
