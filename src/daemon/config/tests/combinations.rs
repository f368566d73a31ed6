//! Settings that have no effect together, although each is valid.

use super::*;

#[test]
fn slow_log_above_every_timeout_is_warned_about() {
    let case = Case::new();
    let warnings = |text: &str| case.load(&format!("{VALID_APP}{text}"), &[], Layer::new()).unwrap().warnings;
    assert_eq!(
        warnings("[log]\nslow = \"60s\"\n"),
        ["log.slow = \"1m\" has no effect: no request runs for longer than 30s, its deadline"]
    );
    for reachable in [
        "[log]\nslow = \"29s\"\n",
        "[log]\nslow = \"60s\"\n[timeouts]\nrequest = \"off\"\n",
        "[log]\nslow = \"60s\"\n[[timeouts.path]]\nmatch = \"/export\"\nrequest = \"600s\"\n",
        "[log]\nslow = \"60s\"\n[[timeouts.path]]\nmatch = \"/export\"\nrequest = \"off\"\n",
    ] {
        assert_eq!(warnings(reachable), [""; 0], "{reachable}");
    }
}

#[test]
fn preloading_the_application_as_a_module_is_warned_about() {
    let case = Case::new();
    let warnings = |modules: &str| {
        let text = format!("{VALID_APP}[workers]\npreload = {modules}\n");
        case.load(&text, &[], Layer::new()).unwrap().warnings
    };
    let [warning] = &warnings("[\"email\", \"mysite.wsgi\"]")[..] else { panic!("one warning") };
    assert!(warning.contains("mysite.wsgi is the application's module"), "{warning}");
    assert_eq!(warnings("[\"email\", \"mysite\"]"), [""; 0]);
}

#[test]
fn settings_of_a_feature_that_is_off_are_warned_about() {
    let case = Case::new();
    let warnings = |text: &str| {
        let loaded = case.load(&format!("{VALID_APP}{text}"), &[], Layer::new()).unwrap();
        loaded
            .warnings
            .into_iter()
            .map(|warning| warning.replace(&case.place.path().display().to_string(), "@"))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        warnings("[compression]\nlevel = 5\n"),
        ["@/rgun.toml:5: compression.level = 5 has no effect: compression.algorithms is \"off\""]
    );
    assert_eq!(warnings("[compression]\nalgorithms = [\"gzip\"]\nlevel = 5\n"), [""; 0]);
    let [fields] = &*warnings("[proxy]\nheaders = \"off\"\nfields = [\"for\"]\n") else { panic!() };
    assert!(fields.contains("proxy.fields = [\"for\"] has no effect: proxy.headers is \"off\""), "{fields}");
    assert_eq!(warnings("[proxy]\nheaders = \"off\"\n"), [""; 0]);
    let [version] = &*warnings("[tls]\nmin_version = \"1.3\"\n") else { panic!() };
    assert!(version.contains("tls.min_version = \"1.3\" has no effect: tls.cert is not set"), "{version}");
    // A load balancer may learn of the stop otherwise.
    assert_eq!(warnings("[timeouts]\ndrain_delay = \"5s\"\n"), [""; 0]);
}

#[test]
fn client_authentication_without_a_certificate_is_an_error() {
    let case = Case::new();
    for mode in ["required", "optional"] {
        let error =
            case.with(&format!("[tls]\nclient_auth = \"{mode}\"\nclient_ca = \"/ca\"\n")).unwrap_err();
        let expected = format!(
            "@/rgun.toml:5: tls.client_auth = \"{mode}\": has no effect without tls.cert: clients would not use TLS, \
             and none would be authenticated\n    hint: add cert (and key) to [tls]"
        );
        assert!(error.starts_with(&expected), "{error}");
    }
    assert!(case.with("[tls]\nclient_auth = \"off\"\n").is_ok());
    // The socket without its certificate is the one error.
    let error = case
        .with("[tls]\nclient_auth = \"required\"\nclient_ca = \"/ca\"\n[listen.a]\ntls = true\n")
        .unwrap_err();
    assert!(error.contains("listen.a.tls") && !error.contains("client_auth"), "{error}");
}

#[test]
fn certificates_that_no_socket_uses_are_warned_about() {
    const MUTUAL: &str = "[tls]\ncert = \"/c\"\nclient_auth = \"required\"\nclient_ca = \"/ca\"\n";
    let case = Case::new();
    let warnings = |listen: &str, variables: &[(&str, &str)]| {
        case.load(&format!("{VALID_APP}{MUTUAL}{listen}"), variables, Layer::new()).unwrap().warnings
    };
    let plain = "[listen.a]\nbind = \":80\"\ntls = false\n";
    let [cert, auth] = &*warnings(plain, &[]) else { panic!() };
    assert!(cert.contains("tls.cert = \"/c\" has no effect: no socket has TLS"), "{cert}");
    assert!(
        auth.contains("tls.client_auth = \"required\" has no effect") && auth.contains("no client"),
        "{auth}"
    );
    let inherited = |names| [("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", names)];
    assert_eq!(warnings(plain, &inherited("a:metrics")).len(), 2);
    for (listen, variables) in [
        (String::new(), vec![]),
        (format!("[listen]\nbind = \":443\"\n{plain}"), vec![]),
        (plain.to_owned(), inherited("a:other").to_vec()),
        // A check outside of the unit does not know the sockets that systemd passes.
        ("[listen.a]\ntls = false\n".to_owned(), vec![]),
    ] {
        assert_eq!(warnings(&listen, &variables), [""; 0], "{listen}");
    }
}
