//! `[listen.NAME]` and `[tls]`.

use super::*;

const CERT: &str = "[tls]\ncert = \"/c.pem\"\nkey = \"/k.pem\"\n";

fn tls_of(config: &Config) -> Vec<(&str, bool)> {
    let named = config.listen.named.iter().map(|listener| (listener.name.as_str(), listener.tls));
    std::iter::once(("", config.listen.tls)).chain(named).collect()
}

#[test]
fn unset_tls_depends_on_certificate_and_other_sockets() {
    let case = Case::new();
    for (text, expected) in [
        ("", vec![("", false)]),
        (CERT, vec![("", true)]),
        ("[listen.http]\nbind = \":80\"\n", vec![("", false), ("http", false)]),
        (&format!("[listen.a]\nbind = \":80\"\n{CERT}"), vec![("", true), ("a", true)]),
        (
            &format!("[listen.http]\nbind = \":80\"\n[listen.https]\ntls = true\n{CERT}"),
            vec![("", false), ("http", false), ("https", true)],
        ),
        (&format!("[listen.http]\ntls = false\n{CERT}"), vec![("", true), ("http", false)]),
    ] {
        assert_eq!(tls_of(&case.with(text).unwrap()), expected, "{text}");
    }
}

#[test]
fn table_inherits_the_proxy_protocol_of_listen() {
    let case = Case::new();
    for (text, expected) in [
        ("[listen.a]\nbind = \":80\"\n", [false, false, false]),
        (
            "[listen]\nproxy_protocol = true\n[listen.a]\n[listen.b]\nproxy_protocol = false\n",
            [true, true, false],
        ),
        ("[listen.a]\nproxy_protocol = true\n[listen.b]\n", [false, true, false]),
    ] {
        let listen = case.with(text).unwrap().listen;
        assert_eq!(["other", "a", "b"].map(|name| listen.requires_proxy_header(name)), expected, "{text}");
    }
}

#[test]
fn proxy_protocol_without_a_trusted_peer_is_an_error() {
    let case = Case::new();
    for listen in ["[listen]\nproxy_protocol = true\n", "[listen.a]\nproxy_protocol = true\n"] {
        let error = case.with(&format!("{listen}[proxy]\ntrusted = []\n")).unwrap_err();
        assert!(error.contains("proxy.protocol_trusted: names no address"), "{error}");
        let text = format!("{listen}[proxy]\ntrusted = []\nprotocol_trusted = \"10.0.0.1\"\n");
        assert!(case.with(&text).is_ok(), "{text}");
    }
}

#[test]
fn tables_replace_the_default_address() {
    let case = Case::new();
    let addresses = |text: &str| {
        let config = case.with(text).unwrap();
        let addresses = config.listen.addresses().into_iter();
        addresses.map(|(name, bind)| format!("{} {bind}", name.unwrap_or("-"))).collect::<Vec<_>>()
    };
    assert_eq!(addresses(""), ["- 127.0.0.1:8000"]);
    assert_eq!(
        addresses("[listen.b]\nbind = [\":80\", \"[::]:80\"]\n[listen.a]\n"),
        ["b 0.0.0.0:80", "b [::]:80"]
    );
    assert_eq!(
        addresses("[listen]\nbind = \":81\"\n[listen.a]\nbind = \":80\"\n"),
        ["- 0.0.0.0:81", "a 0.0.0.0:80"]
    );
    assert_eq!(addresses("[listen.\"rgun.socket\"]\n[listen.a]\n"), [] as [&str; 0]);
}

#[test]
fn invalid_listener_is_reported_with_line_and_key() {
    let case = Case::new();
    for (text, expected) in [
        ("[listen.a]\ntsl = true\n", "5: listen.a.tsl = true: is not a key\n    hint: did you mean \"tls\"?"),
        (
            "[listen.a]\nbind = 80\n",
            "5: listen.a.bind = 80: must be a string or a list of strings, not a number",
        ),
        (
            "[listen.a]\nbind = \"unix:x\"\n",
            "5: listen.a.bind = \"unix:x\": \"unix:x\" is relative, which only the command line allows\n    hint: write the full path, e.g. \"unix:/run/x\"",
        ),
        (
            "[listen.a]\nbind = \":80\"\n[listen.b]\nbind = \":80\"\n",
            "7: listen.b.bind = \":80\": has 0.0.0.0:80, which [listen.a] has too",
        ),
        (
            "[listen]\nbind = \":80\"\n[listen.b]\nbind = \":80\"\n",
            "7: listen.b.bind = \":80\": has 0.0.0.0:80, which listen.bind has too",
        ),
        (
            "[listen.\"a:b\"]\n",
            "4: listen.a:b: cannot be the name of a socket\n    hint: use a name that FileDescriptorName= of a socket unit may have, e.g. [listen.https]",
        ),
        (
            "[listen]\nNAME = 3\n",
            "5: listen.NAME = 3: must be a table, not a number\n    hint: write [listen.https], with a name for the socket, and bind and tls below it",
        ),
        (
            "[listen.bind]\ntls = true\n",
            "4: listen.bind = { tls = true }: must be a string or a list of strings, not a table",
        ),
    ] {
        let error = case.with(text).unwrap_err().replace("@/rgun.toml:", "");
        assert_eq!(error, expected, "{text}");
    }
    let error = case.with("[listen.a]\ntls = true\n").unwrap_err();
    assert!(
        error.contains("rgun.toml:5: listen.a.tls = true: has no certificate")
            && error.contains("LoadCredential="),
        "{error}"
    );
}

#[test]
fn certificates_are_paired_with_keys_in_order() {
    let case = Case::new();
    let pairs = |text: &str| {
        let tls = case.with(&format!("[tls]\n{text}\n")).unwrap().tls;
        let pairs =
            tls.certificates.iter().map(|files| format!("{} {}", files.cert.display(), files.key.display()));
        pairs.collect::<Vec<_>>()
    };
    assert_eq!(pairs("cert = \"/a\""), ["/a /a"]);
    assert_eq!(pairs("cert = [\"/a\", \"/b\"]\nkey = [\"/c\", \"/d\"]"), ["/a /c", "/b /d"]);
    for (text, expected) in [
        ("key = \"/k\"", "tls.key = \"/k\": has no effect without tls.cert"),
        ("cert = \"/a\"\nkey = [\"/b\", \"/c\"]", "tls.key = [\"/b\", \"/c\"]: names 2 files, tls.cert 1"),
        ("cert = []", "tls.cert = []: names no file"),
        ("cert = \"\"", "tls.cert = \"\": is empty"),
        ("cert = \"a.pem\"", "tls.cert = \"a.pem\": a.pem is relative, which only the command line allows"),
        ("cert = \"$CREDENTIALS_DIRECTORY/a\"", "is a credential, and $CREDENTIALS_DIRECTORY is not set"),
        ("cert = \"/a\"\nmin_version = \"1.1\"", "is an obsolete version (RFC 8996)"),
        ("cert = \"/a\"\nmin_version = 1.2", "must be a string, not a fraction"),
        ("cert = \"/a\"\nclient_auth = \"require\"", "did you mean \"required\"?"),
        ("cert = \"/a\"\nclient_auth = \"required\"", "client_auth = \"required\": needs tls.client_ca"),
        ("cert = \"/a\"\n[http]\nhsts = \"includeSubDomains\"", "has no max-age"),
        ("cert = \"/a\"\n[http]\nhsts = \"max-age=1\\n\"", "has characters that no header field may have"),
        ("cert = \"/a\"\nclient_ca = \"/b\"", "client_ca = \"/b\": has no effect without tls.client_auth"),
    ] {
        let error = case.with(&format!("[tls]\n{text}\n")).unwrap_err();
        assert!(error.contains(expected), "{text}\n{error}");
    }
}

#[test]
fn credentials_of_the_unit_serve_a_socket_with_tls() {
    let case = Case::new();
    case.place.file("credentials/tls.crt", b"", 0o400);
    case.place.file("credentials/tls.key", b"", 0o400);
    let directory = case.place.join("credentials").display().to_string();
    let load = |text: &str| {
        let text = format!("{VALID_APP}{text}");
        case.load(&text, &[("CREDENTIALS_DIRECTORY", &directory)], Layer::new()).unwrap().config.tls
    };
    let files = |name: &str| PathBuf::from(format!("{directory}/{name}"));
    let default = CertificateFiles { cert: files("tls.crt"), key: files("tls.key") };
    assert_eq!(load("[listen.https]\ntls = true\n").certificates, [default]);
    assert_eq!(load("[listen.https]\nbind = \":443\"\n").certificates, []);
    let named = load("[tls]\ncert = \"$CREDENTIALS_DIRECTORY/site\"\n");
    assert_eq!(named.certificates, [CertificateFiles { cert: files("site"), key: files("site") }]);
}

#[test]
fn check_outside_the_unit_leaves_credentials_unknown() {
    let case = Case::new();
    let unset = Environment::default().allowing_unknown_credentials();
    let directory = unset.value("CREDENTIALS_DIRECTORY").unwrap().to_str().unwrap();
    let load = |text: &str| {
        let text = format!("{VALID_APP}{text}");
        case.load(&text, &[("CREDENTIALS_DIRECTORY", directory)], Layer::new()).unwrap()
    };
    let named = "[tls]\ncert = [\"$CREDENTIALS_DIRECTORY/a\", \"/b\"]\nkey = [\"$CREDENTIALS_DIRECTORY/k\", \"/l\"]\n";
    let (known, unknown) = load(named).config.tls.split_unknown_credentials();
    assert_eq!(unknown, ["a", "k"]);
    let [files] = &*known.certificates else { panic!("{known:?}") };
    assert_eq!((&*files.cert, &*files.key), (Path::new("/b"), Path::new("/l")));
    let default = load("[listen.https]\ntls = true\n").config;
    assert!(default.listen.speaks_tls("https"));
    assert_eq!(default.tls.split_unknown_credentials().1, ["tls.crt", "tls.key"]);
    assert!(load("[tls]\ncert = \"/b\"\n").config.tls.split_unknown_credentials().1.is_empty());
}

#[test]
fn metrics_have_addresses_of_their_own() {
    let case = Case::new();
    let metrics = |value: &str| {
        let config = case.with(&format!("[metrics]\nbind = {value}\n")).unwrap();
        config.listen.metrics.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(metrics("\"127.0.0.1:9797\""), ["127.0.0.1:9797"]);
    assert_eq!(metrics("[\":9797\", \"unix:/run/m.sock\"]"), ["0.0.0.0:9797", "unix:/run/m.sock"]);
    assert_eq!(metrics("[\"9797\", \"[::1]:9797\"]"), ["127.0.0.1:9797", "[::1]:9797"]);
    assert!(metrics("\"off\"").is_empty());
    assert!(case.with("").unwrap().listen.metrics.is_empty());
    // The addresses are not those of the application.
    let config = case.with("[metrics]\nbind = \":9797\"\n").unwrap();
    assert_eq!(config.listen.addresses().len(), 1);
    assert!(!config.listen.explicit);
}

#[test]
fn address_for_metrics_without_a_port_is_refused() {
    let case = Case::new();
    for (value, text) in [
        (
            "\"nonsense\"",
            "metrics.bind = \"nonsense\": \"nonsense\" names no port\n    hint: write \"nonsense:9797\"",
        ),
        ("\"127.0.0.1\"", "\"127.0.0.1\" names no port"),
        ("[\":9797\", \"[::1]\"]", "\"[::1]\" names no port\n    hint: write \"[::1]:9797\""),
        ("\"nonsense:x\"", "\"x\" is not a port"),
    ] {
        let error = case.with(&format!("[metrics]\nbind = {value}\n")).unwrap_err();
        assert!(error.contains(text), "{value}: {error}");
    }
}

#[test]
fn table_of_the_socket_for_metrics_is_refused() {
    let error = Case::new().with("[listen.metrics]\nbind = \":1\"\n").unwrap_err();
    assert!(error.contains("listen.metrics: is the name of the sockets for metrics"), "{error}");
    assert!(error.contains("hint: choose another name; metrics.bind"), "{error}");
}
