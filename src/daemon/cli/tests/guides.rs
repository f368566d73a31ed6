//! Flags and variables that guides and platforms use (addresses, ports, proxies), and misspelled
//! flags.

use super::*;

#[test]
fn bind_accepts_gunicorns_address_forms() {
    let shell = Shell::new();
    for (typed, address) in [
        ("--bind=127.0.0.1", "127.0.0.1:8000"),
        ("--bind 0.0.0.0", "0.0.0.0:8000"),
        ("-b 0:8000", "0.0.0.0:8000"),
        ("-b :8000", "0.0.0.0:8000"),
        ("-b localhost", "localhost:8000"),
        ("-b [::]", "[::]:8000"),
        ("-b unix:/run/x.sock", "unix:/run/x.sock"),
    ] {
        let listen = shell.accepted(&format!("a {typed}")).config.listen;
        assert_eq!((listen.bind[0].to_string().as_str(), listen.explicit), (address, true), "{typed}");
    }
}

#[test]
fn bind_takes_several_addresses() {
    let shell = Shell::new();
    for line in ["a --bind :80,127.0.0.1:81", "a -b :80 -b 127.0.0.1:81"] {
        let bind = shell.accepted(line).config.listen.bind;
        let bind: Vec<_> = bind.iter().map(ToString::to_string).collect();
        assert_eq!(bind, ["0.0.0.0:80", "127.0.0.1:81"], "{line}");
    }
    let text = shell.refused("a --bind :80,::1:81,");
    assert!(text.contains("\"::1:81\" is ambiguous"), "{text}");
    assert!(shell.refused("a --bind :80,").contains("\"\" is empty"));
}

#[test]
fn misspelled_hyphens_of_a_flag_are_named() {
    let shell = Shell::new();
    for (line, meant) in [
        ("a -- bind 0:8000", "'-- bind' is not a flag: did you mean --bind?"),
        ("a --workers 2 -- bind=0:8000", "'-- bind=0:8000' is not a flag: did you mean --bind=0:8000?"),
        ("-- workers 3", "'-- workers' is not a flag: did you mean --workers?"),
        ("a -- forwarded-allow-ips *", "did you mean --forwarded-allow-ips?"),
        ("a -bind 0:8000", "'-bind' is not a flag: did you mean --bind?"),
        ("check a -- bind 0:8000", "did you mean --bind?"),
    ] {
        let text = shell.refused(line);
        assert!(text.contains(meant), "{line}: {text}");
    }
    assert_eq!(
        shell.accepted("-- bind").config.app.target.to_string(),
        "bind:application",
        "may be a module"
    );
    assert!(shell.refused("a -- b c").contains("'b'"));
}

#[test]
fn port_variable_is_used_without_any_bind_address() {
    let shell = Shell::new();
    let listen = |variables: &[(&str, &str)], args: &[&str]| {
        let listen = shell.run_with(variables, args).unwrap().config.listen;
        (listen.bind[0].to_string(), listen.explicit)
    };
    let port = ("PORT", "5000");
    assert_eq!(listen(&[port], &["a"]), ("0.0.0.0:5000".to_owned(), false));
    assert_eq!(listen(&[("PORT", "")], &["a"]), ("127.0.0.1:8000".to_owned(), false));
    assert_eq!(listen(&[port], &["a", "--bind", ":80"]), ("0.0.0.0:80".to_owned(), true));
    assert_eq!(listen(&[port], &["a", "--port", "81"]), ("127.0.0.1:81".to_owned(), true));
    assert_eq!(listen(&[port, ("RGUN_LISTEN_BIND", ":82")], &["a"]), ("0.0.0.0:82".to_owned(), true));
    shell.default_file(&format!("{SITE}[listen]\nbind = \":83\"\n"));
    assert_eq!(listen(&[port], &[]), ("0.0.0.0:83".to_owned(), true));
    // Sockets from systemd take precedence over PORT.
    assert_eq!(listen(&[("PORT", "x"), ("LISTEN_FDS", "1")], &["a"]), ("127.0.0.1:8000".to_owned(), false));
    for bad in ["http", "-1", "65536", "+80", "80 ", "tcp://10.0.0.1:80", "0:80"] {
        let failure = shell.run_with(&[("PORT", bad)], &["a"]).unwrap_err();
        assert_eq!(failure.status, EX_CONFIG, "{bad}");
        let start =
            format!("PORT: listen.bind = {bad:?}: \"{bad}\" is not a port\n    hint: set PORT to a number");
        assert!(failure.text.starts_with(&start), "{failure}");
    }
}

#[test]
fn gunicorn_and_uvicorn_flags_set_trusted_proxies() {
    let shell = Shell::new();
    let proxy = |variables: &[(&str, &str)], line: &str| {
        shell.run_with(variables, &line.split(' ').collect::<Vec<_>>()).unwrap().config.proxy.trusted
    };
    let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let near = config::TrustedProxies::default();
    let one = config::TrustedProxies { all: false, unix: true, networks: networks(&["10.0.0.1/32"]) };
    for (line, expected) in [
        ("a", &near),
        ("a --proxy-headers", &near),
        ("a --no-proxy-headers", &config::TrustedProxies::NONE),
        ("a --proxy-headers --no-proxy-headers", &config::TrustedProxies::NONE),
        ("a --no-proxy-headers --proxy-headers", &near),
        ("a --forwarded-allow-ips 10.0.0.1", &one),
        ("a --proxy-headers --forwarded-allow-ips=10.0.0.1", &one),
        ("a --no-proxy-headers --forwarded-allow-ips=10.0.0.1", &config::TrustedProxies::NONE),
        ("a --forwarded-allow-ips=", &config::TrustedProxies::NONE),
    ] {
        assert_eq!(&proxy(&[], line), expected, "{line}");
    }
    assert!(proxy(&[], "a --forwarded-allow-ips *").all);
    let variable = [("FORWARDED_ALLOW_IPS", "10.0.0.1")];
    assert_eq!(proxy(&variable, "a"), one);
    assert_eq!(proxy(&variable, "a --no-proxy-headers"), config::TrustedProxies::NONE);
    assert_eq!(proxy(&[("FORWARDED_ALLOW_IPS", "")], "a"), config::TrustedProxies::NONE);
}

#[test]
fn header_map_sets_the_handling_of_underscores() {
    let shell = Shell::new();
    for (typed, underscores) in [
        ("drop", config::Underscores::Drop),
        ("refuse", config::Underscores::Refuse),
        ("dangerous", config::Underscores::Allow),
        ("allow", config::Underscores::Allow),
    ] {
        let http = shell.accepted(&format!("a --header-map {typed}")).config.http;
        assert_eq!(http.underscores, underscores, "{typed}");
    }
}

#[test]
fn http2_flag_of_uvicorn_overrides_the_file() {
    let shell = Shell::new();
    let off = [("RGUN_HTTP_HTTP2", "false")];
    assert!(!shell.run_with(&off, &["a"]).unwrap().config.http.http2);
    assert!(shell.run_with(&off, &["a", "--http2"]).unwrap().config.http.http2);
}

#[test]
fn http_protocols_switches_http2_on_and_off() {
    let shell = Shell::new();
    for (typed, is_on) in [("h1", false), ("h1,h2", true), ("h2, h1", true)] {
        let invocation = shell.run_with(&[], &["a", "--http-protocols", typed]).unwrap();
        assert_eq!(invocation.config.http.http2, is_on, "{typed}");
    }
    assert!(shell.refused("a --http-protocols h1,h3").contains("--http-protocols: http.http2 = \"h1,h3\""));
    assert!(shell.accepted("a --http2").config.http.http2);
    let limits = shell.accepted("a --http2-max-concurrent-streams 7").config.limits;
    assert_eq!(limits.streams, 7);
    assert!(shell.refused("a --http2-max-concurrent-streams 0").contains("limits.streams"));
}

#[test]
fn paths_need_not_be_utf8() {
    use std::os::unix::ffi::OsStringExt;
    let shell = Shell::new();
    let path = |name: &[u8]| shell.place.path().join(OsString::from_vec(name.to_vec()));
    let app = path(b"caf\xe9");
    std::fs::create_dir_all(app.join("bin")).unwrap();
    std::fs::copy(shell.place.join(".venv/bin/python"), app.join("bin/python")).unwrap();
    let file = path(b"\xfc.toml");
    std::fs::write(&file, "[app]\ntarget = \"fromfile\"\n").unwrap();
    let bytes = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let parse = |args: Vec<OsString>, variables: Vec<(&str, OsString)>| {
        let args = std::iter::once(OsString::from("rgun")).chain(args);
        match parse_with(
            args,
            &variables.into_iter().collect(),
            shell.place.path(),
            Path::new("/no/such/file"),
        ) {
            Ok(Command::Serve(invocation)) => invocation.config,
            other => panic!("{other:?}"),
        }
    };
    let config = parse(
        vec![
            bytes(b"--config=\xfc.toml"),
            bytes(b"--chdir=caf\xe9"),
            bytes(b"--python=bin/python"),
            bytes(b"--pythonpath=l\xefb, /opt/lib"),
            bytes(b"--app-dir=\xff"),
        ],
        vec![],
    );
    assert_eq!((&config.app.directory, &config.origin), (&app, &Some(file)));
    assert_eq!(config.app.python.path, app.join("bin/python"));
    let lib = app.join(bytes(b"l\xefb"));
    assert_eq!(config.app.pythonpath, [app.join(bytes(b"\xff")), lib.clone(), PathBuf::from("/opt/lib")]);
    let variables = vec![
        ("RGUN_APP_DIRECTORY", app.clone().into_os_string()),
        ("RGUN_APP_PYTHON", app.join("bin/python").into_os_string()),
        ("RGUN_APP_PYTHONPATH", bytes(b"l\xefb")),
    ];
    let config = parse(vec!["a".into()], variables);
    assert_eq!((config.app.directory, config.app.pythonpath), (app, vec![lib]));
}
