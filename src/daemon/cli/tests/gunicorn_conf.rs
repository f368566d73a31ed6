//! `gunicorn.conf.py`. A shell script in place of the interpreter prints what `helper.py` would
//! print; tests/compat has tests with real files.

use super::*;

impl Shell {
    /// Makes the interpreter answer with these settings, written in JSON.
    fn answer(&self, values: &str) {
        self.answer_with(&format!(r#"{{"values":{{{values}}},"others":["cores","wrokers"]}}"#));
    }

    fn answer_with(&self, json: &str) {
        let script = format!("#!/bin/sh\ncat <<'END'\n{json}\nEND\nprintf '\\0'\nexec sleep 60\n");
        self.place.file(".venv/bin/python", script.as_bytes(), 0o755);
        self.place.file("gunicorn.conf.py", b"", 0o644);
    }

    fn served(&self, variables: &[(&str, &str)], line: &str) -> Invocation {
        let args: Vec<_> = line.split_whitespace().collect();
        self.run_with(variables, &args).unwrap_or_else(|failure| panic!("{line}: {failure}"))
    }

    /// Returns the errors for these settings. The exit status must be 78.
    fn wrong(&self, values: &str) -> String {
        self.answer(values);
        let failure = self.run("a -c gunicorn.conf.py").expect_err(values);
        assert_eq!(failure.status, EX_CONFIG, "{failure}");
        failure.text.replace(&format!("{}/", self.place.path().display()), "")
    }
}

#[test]
fn settings_of_the_file_become_those_of_rgun() {
    let shell = Shell::new();
    shell.answer(
        r#""wsgi_app":"mysite.wsgi","workers":"3","bind":["127.0.0.1:8001","unix:/run/a.sock"],"timeout":"120",
        "preload_app":true,"raw_env":["A=1","B=2"],"loglevel":"warning","accesslog":"-","access_log_format":"%(h)s \"%(r)s\" %({x-id}i)s %({user}e)s","keepalive":null,
        "forwarded_allow_ips":"","proxy_allow_ips":"10.0.0.1","daemon":false,"backlog":"2048","sendfile":true,"user":null,"umask":"0",
        "reload":true,"reload_engine":"poll","reload_extra_files":["a.yaml","/etc/b"],
        "proxy_protocol":true,"secure_scheme_headers":{"dict":{"X-FORWARDED-PROTO":"https"}}"#,
    );
    let Invocation { config, warnings, .. } = shell.served(&[], "--config gunicorn.conf.py");
    assert_eq!(config.app.target.to_string(), "mysite.wsgi:application");
    assert_eq!(config.workers.count.resolve(1).get(), 3);
    assert_eq!(config.listen.bind.len(), 2);
    assert_eq!(config.timeouts.request, Some(Duration::from_mins(2)));
    assert_eq!(config.workers.preload, Preload::Application);
    assert!(config.log.access.is_on() && config.listen.proxy_protocol);
    assert_eq!(config.app.env, [("A".into(), "1".into()), ("B".into(), "2".into())]);
    let on_change = config.reload.on_change;
    assert!(on_change.enabled && on_change.poll);
    assert_eq!(on_change.include.iter().map(glob::Pattern::as_str).collect::<Vec<_>>(), ["a.yaml", "/etc/b"]);
    assert_eq!(config.log.level, Level::Warn);
    assert_eq!(config.proxy.trusted, config::TrustedProxies::NONE);
    assert_eq!(config.origin, Some(shell.place.join("gunicorn.conf.py")));
    let format = config.log.access_format.as_ref().unwrap();
    assert_eq!(format.request_fields, ["x-id"]);
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(
        warnings.iter().any(|warning| warning.contains("%({user}e)s is logged as \"-\"")),
        "{warnings:?}"
    );
    assert!(
        warnings[0].ends_with("wrokers: is not a setting of gunicorn; did you mean workers?"),
        "{warnings:?}"
    );
}

#[test]
fn variable_and_command_line_override_the_file() {
    let shell = Shell::new();
    shell.answer(r#""workers":"2","threads":"2","timeout":"2","keepalive":"2""#);
    let variables =
        [("GUNICORN_CMD_ARGS", "-c gunicorn.conf.py --threads 3 --timeout 3"), ("WEB_CONCURRENCY", "9")];
    let config = shell.served(&variables, "a --timeout 4").config;
    assert_eq!((config.workers.count.resolve(1).get(), config.workers.threads.get()), (2, 3));
    assert_eq!(config.timeouts.request, Some(Duration::from_secs(4)));
    assert_eq!(config.timeouts.keepalive, Duration::from_secs(2));
}

#[test]
fn web_concurrency_sets_what_the_file_does_not() {
    let shell = Shell::new();
    shell.answer(r#""timeout":"2""#);
    let config = shell.served(&[("WEB_CONCURRENCY", "9")], "a -c gunicorn.conf.py").config;
    assert_eq!(config.workers.count.resolve(1).get(), 9);
}

#[test]
fn unnamed_gunicorn_conf_py_in_the_directory_is_read() {
    let shell = Shell::new();
    shell.answer(r#""wsgi_app":"fromconf","threads":"5""#);
    let invocation = shell.served(&[], "a");
    assert_eq!(invocation.config.workers.threads.get(), 5);
    let notice = invocation.notice().unwrap();
    assert!(notice.ends_with("gunicorn.conf.py, as gunicorn does; --config names another file"), "{notice}");
    assert_eq!(shell.served(&[], "a -c gunicorn.conf.py").notice(), None);
    assert_eq!(shell.served(&[], "").config.app.target.to_string(), "fromconf:application");
    // Without APP, rgun's default file is read instead; a named file always is.
    shell.default_file(SITE);
    assert_eq!(shell.served(&[], "").config.app.target.to_string(), "fromfile:application");
    assert_eq!(shell.served(&[], "a -c etc/rgun.toml").config.workers.threads.get(), 1);
}

#[test]
fn hooks_are_named_by_the_path_of_their_file() {
    let shell = Shell::new();
    shell.answer(
        r#""post_fork":{"function":true},"when_ready":{"function":true},"pre_fork":{"function":true}"#,
    );
    let Invocation { config, warnings, .. } = shell.served(&[], "a -c gunicorn.conf.py");
    let path = shell.place.join("gunicorn.conf.py").display().to_string();
    assert_eq!(config.hooks.post_fork.unwrap().to_string(), format!("{path}:post_fork"));
    assert!(
        warnings.iter().any(|text| text.starts_with(&format!("{path}: pre_fork: ignored; "))),
        "{warnings:?}"
    );
    let module = ConfLocation::from_flag("python:my.conf".as_ref(), Path::new("/srv"));
    assert_eq!(module.unwrap().to_string(), "python:my.conf");
}

#[test]
fn invalid_settings_are_reported_with_file_and_hint() {
    let shell = Shell::new();
    for (values, expected) in [
        (r#""workers":"many""#, "gunicorn.conf.py: workers: workers.count = \"many\": is not a whole number"),
        (
            r#""umask":"0o27""#,
            "gunicorn.conf.py: umask = 0o27: rgun does not change its umask\n    hint: in the unit, write UMask=0027; SocketMode= of the socket unit is the mode of a Unix socket",
        ),
        (
            r#""workers":["a",{"type":"an object of type Fraction"}]"#,
            "gunicorn.conf.py: workers: is an object of type",
        ),
        (r#""daemon":"maybe""#, "gunicorn.conf.py: daemon: is \"maybe\"\n    hint: write True or False"),
        (r#""post_fork":"7""#, "gunicorn.conf.py: post_fork: is not a function"),
        (r#""ssl_context":{"function":true}"#, "gunicorn.conf.py: ssl_context: the daemon speaks TLS"),
        (r#""chdir":{"dict":{}},"bind":[null]"#, "gunicorn.conf.py: bind: is None"),
    ] {
        let text = shell.wrong(values);
        assert!(text.starts_with(expected), "{values}: {text}");
    }
}

#[test]
fn exception_of_the_file_is_reported_with_its_line() {
    let shell = Shell::new();
    shell.answer_with(
        r#"{"error":{"summary":"ModuleNotFoundError: No module named 'psutil'","file":"gunicorn.conf.py","line":3,"inner":null}}"#,
    );
    let failure = shell.run("a -c gunicorn.conf.py").unwrap_err();
    assert_eq!(failure.status, EX_CONFIG);
    let expected = "gunicorn.conf.py:3: raised ModuleNotFoundError: No module named 'psutil'\n    hint: ";
    assert!(failure.text.starts_with(expected), "{failure}");
    assert!(failure.text.contains("does not have 'psutil'; install it there"), "{failure}");
}

#[test]
fn missing_file_is_an_error_that_names_it() {
    let failure = Shell::new().run("a -c conf/gunicorn.py").unwrap_err();
    assert!(failure.text.contains("conf/gunicorn.py: cannot be read: No such file"), "{failure}");
}

#[test]
fn kind_of_a_configuration_file_follows_from_its_name() {
    for (value, is_python) in [
        ("gunicorn.conf.py", true),
        ("file:conf", true),
        ("python:a.b", true),
        ("gunicorn.conf", true),
        ("gunicorn_config", true),
        ("gunicorn.toml", false),
        ("rgun.toml", false),
        ("conf", false),
        ("/dev/null", false),
    ] {
        let location = ConfLocation::from_flag(value.as_ref(), Path::new("/srv"));
        assert_eq!(location.is_some(), is_python, "{value}");
    }
}

#[test]
fn reload_runs_the_file_again() {
    let shell = Shell::new();
    shell.answer(r#""threads":"2""#);
    let start = shell.served(&[], "a -c gunicorn.conf.py");
    assert!(start.runs_python());
    shell.answer(r#""threads":"3""#);
    assert_eq!(start.reread().unwrap().config.workers.threads.get(), 3);
    shell.answer_with(r#"{"error":{"summary":"ValueError: boom","file":"x.py","line":1,"inner":"y.py:2"}}"#);
    assert_eq!(start.reread().unwrap_err().to_string(), "x.py:1: raised ValueError: boom (in y.py:2)");
}
