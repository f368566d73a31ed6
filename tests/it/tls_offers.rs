//! The versions, cipher suites and extensions that the daemon offers or refuses in TLS handshakes,
//! after the list of testssl.sh.
//!
//! For old versions and for all cipher suites the tests build the ClientHello themselves, because
//! today's OpenSSL no longer sends such messages. The rest is tested with `openssl s_client`.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use crate::support::{Daemon, Rgun};
use crate::tls::{TestCert, self_signed, tcp, tls_rgun};

const REQUEST: &str = "GET /hello HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";

/// Runs `openssl s_client` with these arguments and this input; returns what it prints.
fn openssl(daemon: &Daemon, arguments: &[&str], input: &str) -> String {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &daemon.tcp_address().to_string()]).args(arguments);
    if !arguments.contains(&"-noservername") && !arguments.contains(&"-servername") {
        command.args(["-servername", "localhost"]);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("openssl is installed");
    // Writing fails if the handshake has already failed.
    drop(child.stdin.take().expect("a pipe").write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("openssl ends");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// Returns the version and the cipher suite of a handshake. Empty if the handshake has failed.
fn agreed(daemon: &Daemon, arguments: &[&str]) -> String {
    let text = openssl(daemon, arguments, "");
    let line = text.lines().find_map(|line| line.trim().strip_prefix("New, "));
    line.filter(|line| !line.contains("(NONE)")).unwrap_or_default().to_owned()
}

/// A certificate with an RSA key, for which other cipher suites exist than for an EC key.
fn rsa_certificate(rgun: &Rgun) -> TestCert {
    let place = rgun.scratch().path();
    let kind = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"];
    let files = ["-keyout", "rsa.key", "-out", "rsa.crt"];
    let made = Command::new("openssl").args(kind).args(files).current_dir(place).output();
    assert!(made.expect("openssl is installed").status.success());
    let read = |name: &str| std::fs::read_to_string(place.join(name)).expect("openssl has written it");
    TestCert { cert: read("rsa.crt"), key: read("rsa.key") }
}

/// Encodes a TLS vector whose length field has two bytes (RFC 5246 §4.3).
fn vector(bytes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(bytes.len()).expect("a short vector");
    [&len.to_be_bytes(), bytes].concat()
}

/// Encodes a record with a ClientHello of this version that offers these cipher suites (RFC 5246
/// §7.4.1.2).
fn client_hello(version: [u8; 2], suites: &[u16]) -> Vec<u8> {
    let extension = |kind: u16, content: &[u8]| [&kind.to_be_bytes(), &*vector(content)].concat();
    let suites: Vec<u8> = suites.iter().flat_map(|suite| suite.to_be_bytes()).collect();
    let extensions = [
        // supported_groups: x25519, secp256r1, secp384r1. ec_point_formats: uncompressed.
        extension(10, &vector(&[0, 0x1d, 0, 0x17, 0, 0x18])),
        extension(11, &[1, 0]),
        // signature_algorithms: ECDSA and RSA with SHA-256, RSA-PSS, and the old ones with SHA-1.
        extension(13, &vector(&[4, 3, 4, 1, 8, 4, 2, 3, 2, 1])),
        extension(23, &[]),
    ]
    .concat();
    let compression = [1, 0];
    let body = [&version[..], &[7; 32], &[0], &vector(&suites), &compression, &vector(&extensions)].concat();
    let len = u32::try_from(body.len()).expect("a short message").to_be_bytes();
    let message = [&[1], &len[1..], &body].concat();
    [&[22, 3, version[1].min(1)], &*vector(&message)].concat()
}

/// The first record that answers a ClientHello.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// A fatal alert with this description (RFC 8446 §6).
    Alert(u8),
    /// A ServerHello.
    Hello,
}

const HANDSHAKE_FAILURE: u8 = 40;
const PROTOCOL_VERSION: u8 = 70;

fn answer(daemon: &Daemon, hello: &[u8]) -> Answer {
    let mut socket = tcp(daemon.tcp_address());
    socket.write_all(hello).expect("the daemon reads");
    let mut record = [0; 7];
    socket.read_exact(&mut record).expect("an answer");
    match record {
        [21, _, _, 0, 2, 2, description] => Answer::Alert(description),
        [22, ..] => Answer::Hello,
        other => panic!("neither an alert nor a handshake: {other:?}"),
    }
}

#[test]
fn only_tls_1_2_and_1_3_are_offered() {
    let daemon = tls_rgun(&[&self_signed(&["localhost"])], "").start_ready();
    // Suites that each of these versions has.
    let suites = [0xc02b, 0xc02c, 0xc009, 0xc00a, 0xc013, 0x002f, 0x0035, 0x000a, 0x0005];
    for (minor, what) in [(0, "SSLv3"), (1, "TLS 1.0"), (2, "TLS 1.1")] {
        let answer = answer(&daemon, &client_hello([3, minor], &suites));
        assert_eq!(answer, Answer::Alert(PROTOCOL_VERSION), "{what}");
    }
    assert_eq!(answer(&daemon, &client_hello([3, 3], &suites)), Answer::Hello);
    assert!(agreed(&daemon, &["-tls1_2"]).contains("Cipher is ECDHE-ECDSA-AES128-GCM-SHA256"));
    assert!(agreed(&daemon, &["-tls1_3"]).contains("TLSv1.3, Cipher is TLS_AES_128_GCM_SHA256"));
    // A client that offers both versions gets TLS 1.3.
    assert!(agreed(&daemon, &[]).contains("TLSv1.3"));
}

/// Tries all 65,536 numbers of cipher suites. The accepted ones use ECDHE and AEAD.
#[test]
fn only_suites_with_forward_secrecy_and_aead_are_accepted() {
    const ECDSA: [u16; 3] = [0xc02b, 0xc02c, 0xcca9];
    const RSA: [u16; 3] = [0xc02f, 0xc030, 0xcca8];
    let with_rsa = {
        let probe = Rgun::fake();
        rsa_certificate(&probe)
    };
    for (certificate, accepted, others) in [(self_signed(&["localhost"]), ECDSA, RSA), (with_rsa, RSA, ECDSA)]
    {
        let daemon = tls_rgun(&[&certificate], "").start_ready();
        for suite in accepted {
            assert_eq!(answer(&daemon, &client_hello([3, 3], &[suite])), Answer::Hello, "{suite:#06x}");
        }
        let refused: Vec<u16> = (0..=u16::MAX).filter(|suite| !accepted.contains(suite)).collect();
        assert!(others.iter().all(|suite| refused.contains(suite)));
        for suites in refused.chunks(4096) {
            let answer = answer(&daemon, &client_hello([3, 3], suites));
            assert_eq!(answer, Answer::Alert(HANDSHAKE_FAILURE), "from {:#06x} on", suites[0]);
        }
    }
    let daemon = tls_rgun(&[&self_signed(&["localhost"])], "").start_ready();
    for suite in ["TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"] {
        assert!(agreed(&daemon, &["-tls1_3", "-ciphersuites", suite]).contains(suite), "{suite}");
    }
    for suite in ["TLS_AES_128_CCM_SHA256", "TLS_AES_128_CCM_8_SHA256"] {
        assert_eq!(agreed(&daemon, &["-tls1_3", "-ciphersuites", suite]), "", "{suite}");
    }
}

#[test]
fn compression_and_renegotiation_are_refused() {
    let daemon = tls_rgun(&[&self_signed(&["localhost"])], "").start_ready();
    for version in ["-tls1_2", "-tls1_3"] {
        assert!(openssl(&daemon, &[version, "-comp"], "").contains("Compression: NONE"), "{version}");
    }
    // Secure renegotiation is announced, so that clients can detect an attack (RFC 5746), but a
    // client must not renegotiate. "R" makes s_client try it.
    let text = openssl(&daemon, &["-tls1_2"], "R\n");
    assert!(text.contains("Secure Renegotiation IS supported"), "{text}");
    assert!(text.contains("RENEGOTIATING") && text.contains("no renegotiation"), "{text}");
}

#[test]
fn groups_are_elliptic_curves_of_at_least_128_bits() {
    let daemon = tls_rgun(&[&self_signed(&["localhost"])], "").start_ready();
    for group in ["X25519", "P-256", "P-384"] {
        assert!(!agreed(&daemon, &["-tls1_3", "-groups", group]).is_empty(), "{group}");
    }
    // In TLS 1.2 the list must also have the curve of the certificate.
    for groups in ["X25519:P-256", "P-256"] {
        assert!(!agreed(&daemon, &["-tls1_2", "-groups", groups]).is_empty(), "{groups}");
    }
    for group in ["P-224", "brainpoolP256r1", "secp256k1"] {
        assert_eq!(
            agreed(&daemon, &["-tls1_2", "-cipher", "ALL:@SECLEVEL=0", "-groups", group]),
            "",
            "{group}"
        );
    }
    // Finite-field groups (RFC 7919).
    assert_eq!(agreed(&daemon, &["-tls1_3", "-groups", "ffdhe2048"]), "");
}

#[test]
fn alpn_chooses_http2_before_http1_1_and_refuses_others() {
    for (toml, offered, expected) in [
        ("", "h2,http/1.1", "ALPN protocol: h2"),
        ("", "http/1.1,h2", "ALPN protocol: h2"),
        ("", "http/1.1", "ALPN protocol: http/1.1"),
        ("", "http/1.0,http/1.1", "ALPN protocol: http/1.1"),
        ("", "http/1.0", "ALPN protocol: http/1.0"),
        ("", "spdy/3,http/1.1", "ALPN protocol: http/1.1"),
        ("", "acme-tls/1", "no application protocol"),
        ("[http]\nhttp2 = false", "h2,http/1.1", "ALPN protocol: http/1.1"),
        // RFC 7301 §3.2: an alert, not a protocol that the client does not speak.
        ("[http]\nhttp2 = false", "h2", "no application protocol"),
    ] {
        let daemon = tls_rgun(&[&self_signed(&["localhost"])], toml).start_ready();
        let text = openssl(&daemon, &["-alpn", offered], "");
        assert!(text.contains(expected), "{toml} {offered}: {text}");
    }
    let daemon = tls_rgun(&[&self_signed(&["localhost"])], "").start_ready();
    assert!(openssl(&daemon, &[], "").contains("No ALPN negotiated"));
}

#[test]
fn unknown_and_missing_names_get_the_first_certificate() {
    let daemon = tls_rgun(&[&self_signed(&["one.test"]), &self_signed(&["two.test"])], "").start_ready();
    let presented = |arguments: &[&str]| {
        let text = openssl(&daemon, arguments, "");
        let pem = text.split("-----BEGIN CERTIFICATE-----").nth(1).expect("a certificate");
        pem.split("-----END").next().unwrap_or_default().to_owned()
    };
    let first = presented(&["-servername", "one.test"]);
    assert_ne!(presented(&["-servername", "two.test"]), first);
    assert_eq!(presented(&["-servername", "three.test"]), first);
    assert_eq!(presented(&["-noservername"]), first);
}

#[test]
fn sessions_are_resumed_and_early_data_is_not_accepted() {
    let certificate = self_signed(&["localhost"]);
    let daemon = tls_rgun(&[&certificate], "").start_ready();
    let session = daemon.scratch().join("session").display().to_string();
    let early = daemon.scratch().write("early", REQUEST).display().to_string();
    for (version, name) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let text = openssl(&daemon, &[version, "-ign_eof", "-sess_out", &session], REQUEST);
        assert!(
            text.contains("HTTP/1.1 200 OK") && text.contains("New, TLSv1.3") == (version == "-tls1_3"),
            "{text}"
        );
        let text = openssl(&daemon, &[version, "-ign_eof", "-sess_in", &session], REQUEST);
        assert!(text.contains(&format!("Reused, {name}")) && text.contains("HTTP/1.1 200 OK"), "{text}");
    }
    // Early data can be replayed (RFC 8446 §8). The tickets allow none, so clients send none.
    let text = openssl(&daemon, &["-ign_eof", "-sess_in", &session, "-early_data", &early], REQUEST);
    assert!(!text.contains("Early data was accepted"), "{text}");
    assert!(text.contains("Max Early Data: 0") || text.contains("Early data was not sent"), "{text}");
}
