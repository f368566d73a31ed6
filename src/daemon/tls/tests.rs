//! Loading of files, and handshakes in memory with rustls as the client.

use std::sync::Arc;

use rcgen::{CertificateParams, DnType, KeyPair};
use rgun_channel::frame::TlsInfo;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::Acceptor;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConnection};

use super::testing::{TestCert, VALID_YEARS, X509_V1, authority, section, self_signed};
use super::{LoadedTls, TlsContext, TlsSession};
use crate::config::testing::TestDir;
use crate::config::{CertificateFiles, ClientAuth, ConfigErrors, Tls, TlsVersion};

const HTTP1: &[&[u8]] = &[b"http/1.1"];

fn load(tls: &Tls) -> LoadedTls {
    TlsContext::load(tls, HTTP1, None).unwrap().unwrap()
}

fn load_errors(tls: &Tls) -> ConfigErrors {
    TlsContext::load(tls, HTTP1, None).unwrap_err()
}

/// A client that trusts these certificates.
fn client(trusted: &[&TestCert], identity: Option<&TestCert>) -> ClientConfig {
    client_with(rustls::crypto::aws_lc_rs::default_provider(), trusted, identity)
}

/// The same with a certain provider of cryptography.
fn client_with(
    provider: rustls::crypto::CryptoProvider,
    trusted: &[&TestCert],
    identity: Option<&TestCert>,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for TestCert { cert, .. } in trusted {
        roots.add(CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()).unwrap();
    }
    let has_tls12 = provider.cipher_suites.iter().any(|suite| suite.tls13().is_none());
    let has_tls13 = provider.cipher_suites.iter().any(|suite| suite.tls13().is_some());
    let versions: Vec<_> = [(has_tls12, &rustls::version::TLS12), (has_tls13, &rustls::version::TLS13)]
        .into_iter()
        .filter_map(|(has, version)| has.then_some(version))
        .collect();
    let builder =
        ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(&versions).unwrap();
    let builder = builder.with_root_certificates(roots);
    match identity {
        None => builder.with_no_client_auth(),
        Some(TestCert { cert, key }) => {
            let chain = CertificateDer::pem_slice_iter(cert.as_bytes()).collect::<Result<_, _>>().unwrap();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    }
}

/// Returns both ends of a connection after the handshake, or the error of the end that refused it.
fn handshake(
    context: &TlsContext,
    config: &Arc<ClientConfig>,
    name: &str,
) -> Result<(ClientConnection, ServerConnection, Arc<TlsSession>), rustls::Error> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::clone(config), name)?;
    let mut acceptor = Acceptor::default();
    let accepted = loop {
        let mut sent = Vec::new();
        client.write_tls(&mut sent).unwrap();
        acceptor.read_tls(&mut sent.as_slice()).unwrap();
        if let Some(accepted) = acceptor.accept().map_err(|(error, _)| error)? {
            break accepted;
        }
    };
    let hello = accepted.client_hello();
    let identity = context.choose(&hello).unwrap();
    let config = Arc::clone(identity.config(&hello));
    let mut server = accepted.into_connection(config).map_err(|(error, _)| error)?;
    for _ in 0..4 {
        let mut sent = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut sent).unwrap();
        }
        let mut unread = sent.as_slice();
        while !unread.is_empty() {
            client.read_tls(&mut unread).unwrap();
            client.process_new_packets()?;
        }
        let mut sent = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut sent).unwrap();
        }
        let mut unread = sent.as_slice();
        while !unread.is_empty() {
            server.read_tls(&mut unread).unwrap();
            server.process_new_packets()?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    let session = identity.session(&server).unwrap();
    Ok((client, server, session))
}

fn presented_cert(context: &TlsContext, config: &Arc<ClientConfig>, name: &str) -> String {
    let (_, _, session) = handshake(context, config, name).unwrap();
    TlsInfo::decode(session.block()).unwrap().server_cert.to_owned()
}

#[test]
fn sni_selects_the_certificate() {
    let dir = TestDir::new();
    let certs = [
        self_signed(&["example.org"], VALID_YEARS),
        self_signed(&["*.example.org"], VALID_YEARS),
        self_signed(&["example.net"], VALID_YEARS),
    ];
    let config = Arc::new(client(&[&certs[0], &certs[1], &certs[2]], None));
    let expected = certs.each_ref().map(|cert| cert.cert.clone());
    let LoadedTls { context, warnings } = load(&section(&dir, &certs));
    assert_eq!(warnings, [] as [&str; 0]);
    for (name, number) in [("example.org", 0), ("www.example.org", 1), ("example.net", 2)] {
        assert_eq!(presented_cert(&context, &config, name), expected[number], "{name}");
    }
    // For another name the first certificate is presented, and the client refuses it.
    let error = handshake(&context, &config, "example.com").map(drop).unwrap_err();
    assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error}");
}

#[test]
fn min_version_refuses_older_clients() {
    let dir = TestDir::new();
    let certs = [self_signed(&["localhost"], VALID_YEARS)];
    let mut tls = section(&dir, &certs);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certs[0].cert.as_bytes()).unwrap()).unwrap();
    let old =
        ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS12]);
    let old = Arc::new(old.unwrap().with_root_certificates(roots).with_no_client_auth());
    let (_, _, session) = handshake(&load(&tls).context, &old, "localhost").unwrap();
    assert_eq!(TlsInfo::decode(session.block()).unwrap().version, 0x0303);
    tls.min_version = TlsVersion::Tls13;
    assert!(handshake(&load(&tls).context, &old, "localhost").is_err());
    let new = Arc::new(client(&[&certs[0]], None));
    let (_, _, session) = handshake(&load(&tls).context, &new, "localhost").unwrap();
    assert_eq!(TlsInfo::decode(session.block()).unwrap().version, 0x0304);
}

#[test]
fn alpn_is_negotiated_by_the_servers_preference() {
    let dir = TestDir::new();
    let certs = [self_signed(&["localhost"], VALID_YEARS)];
    let tls = section(&dir, &certs);
    let both = TlsContext::load(&tls, &[b"h2", b"http/1.1"], None).unwrap().unwrap().context;
    let only_http1 = load(&tls).context;
    for (offered, context, http2) in [
        (&[&b"http/1.1"[..], b"h2"][..], &both, Some(true)),
        (&[b"http/1.1"], &both, Some(false)),
        (&[], &both, Some(false)),
        (&[b"h2", b"http/1.1"], &only_http1, Some(false)),
        (&[b"h2"], &only_http1, None),
    ] {
        let mut config = client(&[&certs[0]], None);
        config.alpn_protocols = offered.iter().map(|protocol| protocol.to_vec()).collect();
        let session = handshake(context, &Arc::new(config), "localhost").map(|(_, _, session)| session);
        assert_eq!(session.ok().map(|session| session.is_http2()), http2, "{offered:?}");
    }
}

#[test]
fn server_chooses_aes128_unless_client_prefers_chacha20() {
    use rustls::crypto::aws_lc_rs::cipher_suite::{
        TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 as OLD_AES128,
        TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 as OLD_AES256,
        TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 as OLD_CHACHA20, TLS13_AES_128_GCM_SHA256 as AES128,
        TLS13_AES_256_GCM_SHA384 as AES256, TLS13_CHACHA20_POLY1305_SHA256 as CHACHA20,
    };
    let dir = TestDir::new();
    let certs = [self_signed(&["localhost"], VALID_YEARS)];
    let context = load(&section(&dir, &certs)).context;
    for (offered, chosen) in [
        (&[AES256, AES128, CHACHA20][..], AES128),
        (&[AES256, CHACHA20, AES128], AES128),
        (&[AES256, CHACHA20], AES256),
        (&[CHACHA20, AES256, AES128], CHACHA20),
        (&[CHACHA20], CHACHA20),
        (&[OLD_AES256, OLD_AES128, OLD_CHACHA20], OLD_AES128),
        (&[OLD_CHACHA20, OLD_AES128], OLD_CHACHA20),
    ] {
        let provider = rustls::crypto::CryptoProvider {
            cipher_suites: offered.to_vec(),
            ..rustls::crypto::aws_lc_rs::default_provider()
        };
        let config = client_with(provider, &[&certs[0]], None);
        let (_, server, _) = handshake(&context, &Arc::new(config), "localhost").unwrap();
        assert_eq!(server.negotiated_cipher_suite(), Some(chosen), "{offered:?}");
    }
}

fn client_cert(issuer: &rcgen::Issuer<'static, KeyPair>, authority: &TestCert) -> TestCert {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, "Example, Inc.");
    params.distinguished_name.push(DnType::CommonName, "Zoë");
    params.serial_number = Some(rcgen::SerialNumber::from(0x0A1B));
    params.not_before = rcgen::date_time_ymd(2020, 2, 9);
    params.not_after = rcgen::date_time_ymd(2120, 12, 31);
    let key = KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, issuer).unwrap();
    TestCert { cert: cert.pem() + &authority.cert, key: key.serialize_pem() }
}

#[test]
fn client_certificate_is_optional_or_required() {
    let dir = TestDir::new();
    let certs = [self_signed(&["localhost"], VALID_YEARS)];
    let (ca, issuer) = authority("Test CA");
    let (_, other_ca) = authority("Other CA");
    let mut tls = section(&dir, &certs);
    tls.client_ca = Some(dir.file("ca.pem", ca.cert.as_bytes(), 0o644));
    let known = client_cert(&issuer, &ca);
    let unknown = client_cert(&other_ca, &ca);
    let anonymous = Arc::new(client(&[&certs[0]], None));
    let with = |identity| Arc::new(client(&[&certs[0]], Some(identity)));

    tls.client_auth = ClientAuth::Optional;
    let optional = load(&tls).context;
    let (_, _, session) = handshake(&optional, &anonymous, "localhost").unwrap();
    assert_eq!(TlsInfo::decode(session.block()).unwrap().client, None);
    let (_, _, session) = handshake(&optional, &with(&known), "localhost").unwrap();
    let info = TlsInfo::decode(session.block()).unwrap();
    let cert = info.client.unwrap();
    assert_eq!((cert.subject, cert.issuer, cert.serial), ("O=Example\\, Inc.,CN=Zoë", "CN=Test CA", "0A1B"));
    assert_eq!((cert.not_before, cert.not_after), ("Feb  9 00:00:00 2020 GMT", "Dec 31 00:00:00 2120 GMT"));
    assert_eq!(cert.chain().collect::<String>().replace('\r', ""), known.cert.replace('\r', ""));
    assert!(handshake(&optional, &with(&unknown), "localhost").is_err());

    tls.client_auth = ClientAuth::Required;
    let required = load(&tls).context;
    assert!(handshake(&required, &anonymous, "localhost").is_err());
    assert!(handshake(&required, &with(&unknown), "localhost").is_err());
    assert!(handshake(&required, &with(&known), "localhost").is_ok());
}

#[test]
fn sessions_are_resumed_over_a_reload_with_the_same_policy() {
    let dir = TestDir::new();
    let certs = [self_signed(&["localhost"], VALID_YEARS)];
    let (ca, _) = authority("Test CA");
    let mut tls = section(&dir, &certs);
    let first = load(&tls).context;
    let reloaded = TlsContext::load(&tls, HTTP1, Some(&first)).unwrap().unwrap().context;
    let with_other_ca = load(&tls).context;
    tls.client_ca = Some(dir.file("ca.pem", ca.cert.as_bytes(), 0o644));
    tls.client_auth = ClientAuth::Optional;
    let stricter = TlsContext::load(&tls, HTTP1, Some(&first)).unwrap().unwrap().context;
    for (second, resumed) in [(&first, true), (&reloaded, true), (&with_other_ca, false), (&stricter, false)]
    {
        let mut config = client(&[&certs[0]], None);
        config.resumption = Resumption::in_memory_sessions(8);
        let config = Arc::new(config);
        let kinds = [&first, second].map(|context| {
            let (_, server, _) = handshake(context, &config, "localhost").unwrap();
            server.handshake_kind().unwrap()
        });
        assert_ne!(kinds[0], HandshakeKind::Resumed);
        assert_eq!(kinds[1] == HandshakeKind::Resumed, resumed);
    }
}

#[test]
fn certificate_that_is_not_valid_now_is_a_warning() {
    let dir = TestDir::new();
    let warnings = |years| load(&section(&dir, &[self_signed(&["localhost"], years)])).warnings;
    let [expired] = &*warnings((2001, 2002)) else { panic!() };
    assert!(expired.contains("expired on 2002-01-01T00:00:00Z") && expired.contains("tls.cert"), "{expired}");
    let [early] = &*warnings((2100, 2101)) else { panic!() };
    assert!(early.contains("is not valid before 2100-01-01T00:00:00Z"), "{early}");
    let [nameless] = &*load(&section(&dir, &[self_signed(&[], VALID_YEARS)])).warnings else { panic!() };
    assert!(nameless.contains("has no host name or address"), "{nameless}");
    let of_an_address = load(&section(&dir, &[self_signed(&["192.0.2.1"], VALID_YEARS)]));
    assert_eq!(of_an_address.warnings, Vec::<String>::new());
}

#[test]
fn connections_with_equal_descriptions_share_their_session() {
    let dir = TestDir::new();
    let certs = [self_signed(&["one.test", "two.test"], VALID_YEARS)];
    let context = load(&section(&dir, &certs)).context;
    let config = Arc::new(client(&[&certs[0]], None));
    let session = |name| handshake(&context, &config, name).unwrap().2;
    let first = session("one.test");
    assert!(Arc::ptr_eq(&first, &session("one.test")));
    let other = session("two.test");
    assert!(!Arc::ptr_eq(&first, &other));
    assert_eq!(TlsInfo::decode(other.block()).unwrap().server_name, "two.test");
}

#[test]
fn key_that_everyone_can_read_is_a_warning() {
    let dir = TestDir::new();
    let cert = self_signed(&["localhost"], VALID_YEARS);
    let mut tls = section(&dir, &[TestCert { cert: cert.cert.clone(), key: cert.key.clone() }]);
    tls.certificates[0].key = dir.file("open.key", cert.key.as_bytes(), 0o644);
    let [warning] = &*load(&tls).warnings else { panic!() };
    assert!(warning.contains("every user of this machine can read it (mode 0644): chmod o="), "{warning}");
}

/// Returns the first half of a text.
fn first_half(text: &str) -> String {
    text[..text.len() / 2].to_owned()
}

#[test]
fn all_unusable_files_are_reported_together() {
    let dir = TestDir::new();
    let bad = |cert: &str, key: &str| TestCert { cert: cert.to_owned(), key: key.to_owned() };
    let mut tls = section(&dir, &[bad("", "x"), bad("x", "")]);
    tls.client_auth = ClientAuth::Required;
    tls.client_ca = Some(dir.join("missing"));
    let errors = load_errors(&tls).0;
    let found: Vec<_> = errors.iter().map(|error| (&*error.origin, &*error.key, &*error.reason)).collect();
    assert_eq!(
        found,
        [
            ("rgun.toml:2", "tls.cert", "is empty"),
            ("rgun.toml:3", "tls.key", "has no private key"),
            ("rgun.toml:2", "tls.cert", "has no certificate"),
            ("rgun.toml:3", "tls.key", "is empty"),
            ("rgun.toml:4", "tls.client_ca", "does not exist"),
        ]
    );
    assert!(errors.iter().all(|error| error.value.is_some() && error.hint.is_some()));
}

#[test]
fn error_about_a_file_with_cert_and_key_names_tls_cert() {
    let dir = TestDir::new();
    let good = self_signed(&["localhost"], VALID_YEARS);
    for content in ["", &good.cert] {
        let mut tls = section(&dir, &[]);
        let both = dir.file("both.pem", content.as_bytes(), 0o600);
        tls.certificates = vec![CertificateFiles { cert: both.clone(), key: both }];
        tls.origins.key = None;
        let errors = load_errors(&tls).0;
        let found: Vec<_> = errors.iter().map(|error| (&*error.origin, &*error.key)).collect();
        assert_eq!(found, [("rgun.toml:2", "tls.cert")]);
    }
}

#[test]
fn unusable_file_is_refused_with_the_remedy() {
    let dir = TestDir::new();
    let good = self_signed(&["localhost"], VALID_YEARS);
    let other = self_signed(&["localhost"], VALID_YEARS);
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let legacy = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    let damaged = good.cert.replacen("MII", "MIX", 1);
    for (cert, key, part, hint) in [
        (&*good.cert, &*other.key, "tls.key", "first certificate in the file must be the server's"),
        (&good.cert, encrypted, "is encrypted", "openssl pkey -in"),
        (&good.cert, legacy, "is encrypted", "LoadCredentialEncrypted="),
        (&good.cert, &good.cert, "has no private key", "it has a certificate"),
        (&good.cert, "x", "has no private key", "-----BEGIN PRIVATE KEY-----"),
        (&good.cert, "\n", "is empty", "in PEM format"),
        (&good.cert, &first_half(&good.key), "is cut off", "copy the file again"),
        (&good.cert, &good.key.replace("MI", "M?"), "not base64", "copy the file again"),
        (&good.key, &good.key, "has no certificate", "it has a key"),
        ("x", &good.key, "has no certificate", "-----BEGIN CERTIFICATE-----"),
        ("\x30\u{82}", &good.key, "has no certificate", ""),
        ("", &good.key, "is empty", "in PEM format"),
        (&damaged, &good.key, "has a damaged certificate", "openssl x509 -noout"),
        (&first_half(&good.cert), &good.key, "is cut off", "copy the file again"),
        (X509_V1, &good.key, "has the version X.509 v1", "-addext subjectAltName="),
    ] {
        let error = load_errors(&section(&dir, &[TestCert { cert: cert.to_owned(), key: key.to_owned() }]));
        let [error] = &*error.0 else { panic!("{error}") };
        let text = error.to_string();
        assert!(text.starts_with("rgun.toml:") && text.contains(part) && text.contains(hint), "{text}");
        assert!(!text.contains(['{', '[']) && !text.contains("os error"), "{text}");
    }
    let mut tls = section(&dir, &[good]);
    tls.certificates[0].key = dir.join("missing");
    assert!(load_errors(&tls).to_string().contains("does not exist"));
    tls.certificates[0].key = dir.path().to_owned();
    assert!(load_errors(&tls).to_string().contains("is a directory"));
    tls.certificates[0].key = tls.certificates[0].cert.with_extension("key");
    tls.client_auth = ClientAuth::Required;
    tls.client_ca = Some(dir.file("empty", b"", 0o644));
    assert!(load_errors(&tls).to_string().starts_with("rgun.toml:4: tls.client_ca = "));
}
