//! Invalid configurations: all errors are reported at once, with origin, key, value and hint.

use super::super::check::check;
use super::super::checker::Layers;
use super::super::testing::as_nobody;
use super::*;

#[test]
fn syntax_error_is_one_error_for_a_line() {
    let case = Case::new();
    for text in ["[workers]\ncount = 4 threads = 2\n", "[timeouts]\nrequest = 30s\n", "[app\n"] {
        let errors = case.with(text).unwrap_err();
        assert_eq!(errors.matches("is not TOML").count(), 1, "{text}: {errors}");
    }
    let both = case.with("[timeouts]\nrequest = 30s\n[workers]\ncount = x y\n").unwrap_err();
    assert_eq!(both.matches("is not TOML").count(), 2, "{both}");
}

/// Section, line, and parts of the expected error: reason and hint.
const WRONG: &[(&str, &str, &str, &str)] = &[
    ("compression", "algorithms = [\"brotli\"]", "\"brotli\" is not one of the choices", "\"br\""),
    (
        "compression",
        "algorithms = [\"gzpi\"]",
        "\"gzpi\" is not one of the choices",
        "did you mean \"gzip\"?",
    ),
    ("compression", "algorithms = [\"gzip\", \"gzip\"]", "has \"gzip\" twice", "remove"),
    ("compression", "types = [\"text\"]", "\"text\" is not a media type", "\"text/*\""),
    ("compression", "types = [\"*/*\"]", "has more than one \"*\"", "\"text/*\""),
    ("compression", "types = []", "is empty", "\"off\""),
    ("compression", "level = 11", "is out of range: write a number from 1 to 9", ""),
    ("compression", "min_size = 0", "compression.min_size = 0: is zero", "1 byte"),
    ("control", "group = \"\"", "control.group = \"\": cannot be the name of a group", "\"adm\""),
    ("control", "group = \"a b\"", "cannot be the name of a group", "\"off\""),
    ("metrics", "bind = []", "metrics.bind = []: names no address", "\"off\""),
    ("metrics", "bind = \"/run/m\"", "metrics.bind = \"/run/m\": is a path", "unix:/run/m"),
    ("metrics", "bind = \"127.0.0.1:8000\"", "which listen.bind has too", "127.0.0.1:9797"),
    (
        "metrics",
        "bind = \"0.0.0.0:8000\"",
        "and listen.bind has 127.0.0.1:8000, of which one",
        "127.0.0.1:9797",
    ),
    ("health", "path = \"healthz\"", "health.path = \"healthz\": is not a path", "\"/-/healthz\""),
    ("health", "path = \"/health?x=1\"", "contains '?'; a path alone", "\"/-/healthz\""),
    ("timeouts", "drain_delay = \"off\"", "timeouts.drain_delay", "\"0s\" to drain at once"),
    ("workers", "count = 0", "workers.count = 0: is out of range", "\"auto\", a number, or { min = 1"),
    ("workers", "count = -1", "workers.count = -1: is negative", "from 1 to 65535"),
    ("workers", "count = 70000", "is out of range: write a number from 1 to 65535", "\"auto\""),
    ("workers", "count = 2.5", "must be a whole number, not a fraction", "\"auto\""),
    ("workers", "count = \"9\"", "must be a number, not a string", "write 9 without quotes"),
    ("workers", "count = \"many\"", "must be a whole number, not a string", "\"auto\""),
    ("workers", "count = \"1-9\"", "must be a table, not a string", "write { min = 1, max = 9 }"),
    (
        "workers",
        "count = { min = 9, max = 1 }",
        "its min, 9, is more than its max, 1",
        "{ min = 1, max = 9 }",
    ),
    ("workers", "count = { min = 0, max = 9 }", "its min, 0, is out of range", "idle_exit = \"10m\""),
    ("workers", "count = { min = 1, max = 0 }", "its max, 0, is out of range", "{ min = 1, max = 9 }"),
    ("workers", "count = { min = 1, max = \"9\" }", "its max, \"9\", must be a number", "write 9 without"),
    ("workers", "count = { max = 9 }", "workers.count = { max = 9 }: has no \"min\"", "{ min = 1, max = 9 }"),
    ("workers", "count = { min = 1 }", "has no \"max\"", "{ min = 1, max = 9 }"),
    (
        "workers",
        "count = { min = 1, most = 9 }",
        "has a \"most\"; a range has \"min\" and \"max\"",
        "max = 9",
    ),
    (
        "workers",
        "preload = 1",
        "must be true, false or a list of modules, not a number",
        "[\"django.db.models\"",
    ),
    ("workers", "preload = \"asyncio\"", "a list of modules, not a string", "write true, false, or a list"),
    ("workers", "preload = [1]", "must be a list of strings, but has a number in it", "list of modules"),
    (
        "workers",
        "preload = [\"a-b\"]",
        "preload = [\"a-b\"]: \"a-b\" cannot be a module's name",
        "write true",
    ),
    ("workers", "refork = 100", "has no effect without workers.preload = true", "write preload = true"),
    ("workers", "refork = -1", "workers.refork = -1: is negative", "from 0"),
    ("workers", "max_requests = -1", "workers.max_requests = -1: is negative", "from 0"),
    ("workers", "max_requests = \"1000\"", "must be a number, not a string", "write 1000 without quotes"),
    ("workers", "max_requests = \"never\"", "must be a whole number, not a string", "0 for no limit"),
    ("workers", "max_requests = 1.5", "must be a whole number, not a fraction", "0 for no limit"),
    ("workers", "max_requests_jitter = 50", "is added to workers.max_requests, which is not set", "1000"),
    ("workers", "max_requests_jitter = -1", "workers.max_requests_jitter = -1: is negative", "from 0"),
    ("workers", "max_memory = 512", "max_memory = 512: is less than 16MiB", "write \"512MiB\""),
    ("workers", "max_memory = \"1MiB\"", "is less than 16MiB, about what the interpreter", "\"512MiB\""),
    ("workers", "max_memory = 0", "is zero", "\"off\""),
    ("workers", "max_memory = \"50%\"", "\"%\" is not a unit of size", "GiB"),
    ("workers", "max_tasks = 4", "is out of range: write a number from 16", "\"auto\" or \"off\""),
    ("workers", "max_tasks = \"many\"", "must be a whole number, not a string", "\"auto\" or \"off\""),
    ("workers", "cpu_weight = 0", "is out of range: write a number from 1 to 10000", "kernel's 100"),
    ("workers", "user = \"\"", "workers.user = \"\": cannot be a name or a number", "\"shop\""),
    ("workers", "user = -1", "workers.user = -1: cannot be a name or a number", "\"off\""),
    ("workers", "user = 4294967295", "cannot be a name or a number", "\"off\""),
    ("workers", "group = \"a:b\"", "workers.group = \"a:b\": cannot be a name or a number", "\"www-data\""),
    ("workers", "group = true", "must be a name or a number, not a boolean", ""),
    ("workers", "max_lifetime = 3600", "has no unit", "\"3600s\""),
    ("workers", "max_lifetime = \"0s\"", "is zero", "\"off\""),
    ("workers", "idle_exit = true", "must be a duration, not a boolean", "\"30s\""),
    ("daemon", "idle_exit = \"9s\"", "daemon.idle_exit = \"9s\": is less than 10s", "\"10m\""),
    ("daemon", "idle_exit = \"0s\"", "daemon.idle_exit = \"0s\": is zero", "\"off\""),
    ("workers", "children_timeout = \"off\"", "cannot be off", "write \"0s\" to kill them with their worker"),
    ("workers", "retry = true", "must be a string, not a boolean", ""),
    ("workers", "retry = \"on\"", "is not one of the choices", "\"idempotent\""),
    ("workers", "retry = \"idempotant\"", "is not one of the choices", "did you mean \"idempotent\"?"),
    ("workers", "threads = 0", "workers.threads = 0: is out of range", ""),
    ("workers", "threads = -3", "workers.threads = -3: is negative", "from 1"),
    ("workers", "concurrency = 0", "workers.concurrency = 0: is out of range", ""),
    (
        "workers",
        "concurrency = 99999999999999999999999999999999999999999",
        "is out of range: write a number from 1 to",
        "",
    ),
    ("timeouts", "request = 30", "timeouts.request = 30: has no unit", "write \"30s\""),
    ("timeouts", "request = \"30\"", "timeouts.request = \"30\": has no unit", "write \"30s\""),
    ("timeouts", "request = \"30MiB\"", "\"MiB\" is not a unit of time", "ms, s, m or h"),
    ("timeouts", "request = \"0s\"", "is zero", "\"off\""),
    ("timeouts", "queue = -1", "timeouts.queue = -1: is negative", "\"30s\""),
    ("timeouts", "boot = true", "must be a duration, not a boolean", "\"30s\""),
    ("timeouts", "header = \"off\"", "cannot be off", "\"1h\""),
    ("timeouts", "body = \"0s\"", "is zero", "\"10s\""),
    ("timeouts", "keepalive = \"off\"", "cannot be off", "\"0s\""),
    ("timeouts", "drain = \"off\"", "cannot be off", "\"0s\""),
    ("limits", "queue = 0", "limits.queue = 0: is out of range", "\"auto\""),
    ("limits", "queue = \"off\"", "must be a whole number", "\"auto\""),
    ("limits", "connections_per_client = 0", "is out of range", "\"off\""),
    ("limits", "connections_per_client = \"many\"", "must be a whole number", "\"off\""),
    ("limits", "body = \"16MB\"", "\"MB\" is not a unit of size", "\"16MiB\""),
    ("limits", "body = \"30s\"", "\"s\" is not a unit of size", "KiB"),
    ("limits", "body = -5", "is negative", ""),
    ("limits", "body = 0", "is zero", "\"off\""),
    ("limits", "header = \"1MiB\"", "is too large", "64KiB"),
    ("limits", "header = \"off\"", "cannot be off", "64KiB"),
    ("limits", "request_line = 0", "is zero", "64KiB"),
    ("limits", "headers = 0", "is out of range", ""),
    ("websocket", "max_message = \"2GiB\"", "is too large", "1GiB"),
    ("websocket", "max_message = \"off\"", "cannot be off", "1GiB"),
    ("websocket", "ping_interval = 20", "has no unit", "\"20s\""),
    ("websocket", "ping_timeout = \"0s\"", "is zero", "\"off\""),
    ("websocket", "compression = \"yes\"", "must be true or false", "without quotes"),
    ("websocket", "max_connections = 20000", "is out of range", ""),
    ("websocket", "close_window = \"off\"", "cannot be off", "\"0s\""),
    ("websocket", "ping_intervall = \"20s\"", "is not a key", "did you mean \"ping_interval\"?"),
    ("limits", "response_memory = \"off\"", "cannot be off", "write 0 for no buffer"),
    ("limits", "spool_disk = \"much\"", "is not a size", "64KiB"),
    ("limits", "body_rate = 0", "is zero", "\"off\""),
    ("limits", "connections = \"many\"", "must be a whole number", "\"auto\""),
    ("limits", "connections = 0", "is out of range", "\"auto\""),
    ("reload", "probe = \"healthz\"", "reload.probe = \"healthz\": is not a path", "\"/healthz\""),
    ("reload", "probe = \"http://localhost/up?x=1\"", "is a URL", "the path alone: \"/up?x=1\""),
    ("reload", "probe = \"\"", "is not a path", "\"off\""),
    ("reload", "probe = \"/a b\"", "contains ' '", "percent-encoded"),
    ("reload", "probe = true", "must be a string, not a boolean", ""),
    ("reload", "watch = 30", "reload.watch = 30: has no unit", "\"30s\""),
    ("reload", "watch = \"0s\"", "is zero", "\"off\""),
    ("reload", "on_change = \"yes\"", "reload.on_change = \"yes\": must be true or false", "without quotes"),
    (
        "reload",
        "include = \"[a\"",
        "has the pattern \"[a\", which is wrong at character 0",
        "[*] is a literal *",
    ),
    ("reload", "exclude = [\"\"]", "has an empty pattern", "\"*.css\""),
    ("reload", "dirs = \"nowhere\"", "names \"nowhere\", which does not exist", ""),
    ("reload", "delay = \"off\"", "cannot be off", "on_change = false"),
    ("reload", "delay = 1", "has no unit", "\"1s\""),
    ("hooks", "post_fork = \"mysite.hooks\"", "names no function", "\"mysite.hooks:post_fork\""),
    ("hooks", "post_fork = \"hooks:f()\"", "calls the function, which rgun", "write \"hooks:f\""),
    ("hooks", "post_fork = \"hooks:f(server, worker)\"", "calls the function", "write \"hooks:f\""),
    ("hooks", "post_fork = \"gunicorn.conf.py\"", "is a file's path", "gunicorn.conf.py:post_fork"),
    ("hooks", "post_fork = \"conf/gunicorn.conf.py:f\"", "not a full one", "gunicorn.conf.py:post_fork"),
    ("hooks", "worker_exit = \"my-hooks:bye\"", "\"my-hooks\" cannot be a module's name", "\"my_hooks:bye\""),
    ("hooks", "child_exit = \"\"", "names no module", "mysite.hooks:post_fork"),
    ("hooks", "post_worker_init = 1", "must be a string, not a number", ""),
    ("hooks", "pre_fork = \"hooks:f\"", "hooks.pre_fork = \"hooks:f\": is not a key", "ExecStartPre="),
    ("hooks", "post_request = \"hooks:f\"", "is not a key", "middleware"),
    ("listen", "bind = \"app.sock\"", "is a path", "unix:app.sock"),
    ("listen", "bind = [\":80\", \"localhost:http\"]", "\"localhost:http\": \"http\" is not a port", "65535"),
    ("listen", "bind = [\":80\", \"0.0.0.0:80\"]", "has 0.0.0.0:80 twice", ""),
    (
        "listen",
        "bind = [\":80\", \"127.0.0.1:80\"]",
        "has 127.0.0.1:80 and 0.0.0.0:80, of which one",
        "remove one",
    ),
    ("listen", "bind = \"unix:x.sock\"", "\"unix:x.sock\" is relative", "unix:/run/x.sock"),
    ("listen", "bind = []", "names no address", "127.0.0.1:8000"),
    ("listen", "bind = [80]", "must be a list of strings, but has a number in it", ""),
    ("listen", "bind = 80", "must be a string or a list of strings, not a number", ""),
    ("http", "underscores = \"dangerous\"", "is not one of the choices", "\"allow\""),
    ("http", "underscores = \"dorp\"", "is not one of the choices", "did you mean \"drop\"?"),
    ("http", "underscores = true", "must be a string, not a boolean", ""),
    ("proxy", "trusted = \"*\"", "\"*\" is not a keyword of this key", "\"all\""),
    ("proxy", "trusted = [\"10.1.0.0/8\"]", "\"10.1.0.0/8\" has bits outside", "\"10.0.0.0/8\""),
    ("proxy", "trusted = [\"proxy\"]", "\"proxy\" is neither an address nor a network", "\"loopback\""),
    ("proxy", "trusted = true", "must be a string or a list of strings, not a boolean", ""),
    ("proxy", "headers = \"x-forward\"", "is not one of the choices", "\"x-forwarded\""),
    ("proxy", "headers = true", "must be a string, not a boolean", ""),
    ("proxy", "fields = [\"hots\"]", "is not one of the choices", "\"host\""),
    ("proxy", "protocol_trusted = \"10.0.0.5/8\"", "has bits outside", "\"10.0.0.0/8\""),
    ("listen", "proxy_protocol = \"v2\"", "listen.proxy_protocol = \"v2\"", ""),
    ("limits", "queue_per_client = 0", "is out of range", "\"off\""),
    ("log", "level = \"warning\"", "is not a level", "\"warn\""),
    ("log", "level = \"inof\"", "is not one of the choices", "did you mean \"info\"?"),
    ("log", "level = 3", "must be a string, not a number", ""),
    ("log", "slow = 1", "log.slow = 1: has no unit", "\"1s\""),
    ("log", "slow = \"0s\"", "is zero", "\"off\""),
    ("log", "access = \"yes\"", "must be true or false, not a string", "without quotes"),
];

#[test]
fn invalid_value_is_reported_with_key_value_and_hint() {
    let case = Case::new();
    for (section, line, reason, hint) in WRONG {
        let text = case.with(&format!("[{section}]\n{line}\n")).unwrap_err();
        let key = format!("@/rgun.toml:5: {section}.{}", line.split_once(" = ").unwrap().0);
        assert!(text.starts_with(&key) && text.contains(reason) && text.contains(hint), "{line}\n{text}");
        assert_eq!(text.matches("rgun.toml:").count(), 1, "{text}");
    }
}

#[test]
fn invalid_path_rule_is_reported_with_index_and_key() {
    let case = Case::new();
    for (text, expected) in [
        (
            "match = \"/a\"",
            "4: timeouts.path[0]: limits nothing\n    hint: add request = \"600s\", concurrency = 2, or both",
        ),
        (
            "concurrency = 2",
            "4: timeouts.path[0].match: is not set\n    hint: name the paths: match = \"/admin/*\"",
        ),
        (
            "match = \"/a\"\nrequest = 600",
            "6: timeouts.path[0].request = 600: has no unit\n    hint: write \"600s\" for seconds, or use ms, m, h",
        ),
        (
            "match = \"/a\"\nrequest = \"0s\"",
            "6: timeouts.path[0].request = \"0s\": is zero\n    hint: write \"off\" for no limit",
        ),
        (
            "match = \"/a\"\nconcurrency = 0",
            "6: timeouts.path[0].concurrency = 0: is out of range: write a number from 1 to 4294967295",
        ),
        (
            "match = \"/a\"\nconcurency = 2\nrequest = \"1s\"",
            "6: timeouts.path[0].concurency = 2: is not a key\n    hint: did you mean \"concurrency\"?",
        ),
        (
            "match = \"/a\"\nqueue = \"1s\"\nrequest = \"1s\"",
            "6: timeouts.path[0].queue = \"1s\": is not a key\n    hint: the keys of [[timeouts.path]] are match, request, concurrency",
        ),
        (
            "match = \"admin/*\"\nconcurrency = 2",
            "5: timeouts.path[0].match = \"admin/*\": matches no path: paths begin with \"/\"\n    \
             hint: write \"/admin/*\", or \"*/admin/*\" to match it at any depth",
        ),
        (
            "match = \"\"\nconcurrency = 2",
            "5: timeouts.path[0].match = \"\": is empty\n    hint: write e.g. \"/admin/*\"; \"*\" alone matches every path",
        ),
        (
            "match = \"/search?q=*\"\nconcurrency = 2",
            "5: timeouts.path[0].match = \"/search?q=*\": has a query; rules match the path without it\n    hint: write \"/search\"",
        ),
        (
            "match = \"/café\"\nconcurrency = 2",
            "5: timeouts.path[0].match = \"/café\": contains 'é', which is not valid in a path\n    \
             hint: write it percent-encoded: %C3%A9",
        ),
        (
            "match = [\"/a\"]\nconcurrency = 2",
            "5: timeouts.path[0].match = [\"/a\"]: must be a string, not a list",
        ),
        (
            "match = \"/a*\"\nconcurrency = 2\n[[timeouts.path]]\nmatch = \"/a*\"\nrequest = \"1s\"",
            "8: timeouts.path[1].match = \"/a*\": is a duplicate; the first matching rule applies\n    \
             hint: merge both entries into one",
        ),
        (
            "match = \"/a*\"\nconcurrency = 2\n[[timeouts.path]]\nmatch = \"/admin/*\"\nrequest = \"1s\"",
            "8: timeouts.path[1].match = \"/admin/*\": never applies: the earlier \"/a*\" matches all of its paths\n    hint: put the narrower pattern first",
        ),
    ] {
        let error = case.with(&format!("[[timeouts.path]]\n{text}\n")).unwrap_err();
        let shifted = error.replace("@/rgun.toml:", "");
        assert_eq!(shifted, expected, "{text}");
    }
}

#[test]
fn all_invalid_path_rules_are_reported_at_once() {
    let case = Case::new();
    let errors = case
        .with(
            "[[timeouts.path]]\nmatch = 3\n[[timeouts.path]]\nmatch = \"/fine\"\nconcurrency = 2\n\
             [[timeouts.path]]\nrequest = \"soon\"\nconcurrency = \"two\"\n",
        )
        .unwrap_err();
    assert_eq!(
        errors.lines().filter(|line| !line.starts_with(' ')).collect::<Vec<_>>(),
        [
            "@/rgun.toml:5: timeouts.path[0].match = 3: must be a string, not a number",
            "@/rgun.toml:4: timeouts.path[0]: limits nothing",
            "@/rgun.toml:10: timeouts.path[2].request = \"soon\": is not a duration",
            "@/rgun.toml:11: timeouts.path[2].concurrency = \"two\": must be a whole number, not a string",
            "@/rgun.toml:9: timeouts.path[2].match: is not set",
        ]
    );
}

#[test]
fn path_rules_of_another_type_are_refused_with_the_syntax() {
    let case = Case::new();
    for (text, reason) in [
        ("[timeouts.path]\nmatch = \"/a\"\nconcurrency = 2\n", "must be a list of tables, not a table"),
        ("[timeouts]\npath = \"/a\"\n", "timeouts.path = \"/a\": must be a list of tables, not a string"),
        ("[timeouts]\npath = [\"/a\"]\n", "must be a list of tables, but has a string in it"),
        ("[timeouts]\npath = [{ match = \"/a\" }, 3]\n", "must be a list of tables, but has a number in it"),
    ] {
        let errors = case.with(text).unwrap_err();
        assert!(
            errors.contains(reason) && errors.contains("write [[timeouts.path]], in two pairs"),
            "{text}\n{errors}"
        );
    }
    let inline = case.with("[timeouts]\npath = [{ match = \"/a\", concurrency = 2 }]\n").unwrap();
    assert_eq!(inline.timeouts.paths.len(), 1);
    assert_eq!(case.with("[timeouts]\npath = []\n").unwrap().timeouts.paths, []);
    let rules = |count: usize| {
        let rule = |n| format!("[[timeouts.path]]\nmatch = \"/{n}\"\nrequest = \"9s\"\n");
        (0..count).map(rule).collect::<String>()
    };
    assert_eq!(case.with(&rules(1000)).unwrap().timeouts.paths.len(), 1000);
    let errors = case.with(&rules(1001)).unwrap_err();
    assert!(errors.contains("has 1001 tables; the maximum is 1000") && errors.len() < 1000, "{errors}");
}

#[test]
fn contradictory_settings_are_reported_once() {
    let case = Case::new();
    let errors = case.with("[workers]\nmax_requests = -1\nmax_requests_jitter = 50\n").unwrap_err();
    assert!(errors.contains("max_requests = -1: is negative") && !errors.contains("jitter"), "{errors}");
    let errors = case.with("[workers]\npreload = \"yes\"\nrefork = 5\n").unwrap_err();
    assert!(errors.contains("preload = \"yes\"") && !errors.contains("refork"), "{errors}");
    for valid in [
        "[workers]\nmax_requests = 0\nmax_requests_jitter = 0\nrefork = 0\n",
        "[workers]\npreload = true\nrefork = \"off\"\n",
        "[workers]\ncount = { min = 1, max = 3 }\nidle_exit = \"5m\"\n",
        "[app]\ninterface = \"asgi\"\n[workers]\npreload = true\n",
        "[reload]\nwatch = \"2h\"\n",
    ] {
        let text = format!("{VALID_APP}{valid}").replace("[app]\ninterface", "interface");
        case.load(&text, &[], Layer::new()).unwrap_or_else(|errors| panic!("{valid}{errors}"));
    }
    let errors =
        case.load(VALID_APP, &[("RGUN_WORKERS_MAX_REQUESTS_JITTER", "5")], Layer::new()).unwrap_err();
    assert_eq!(
        errors,
        "RGUN_WORKERS_MAX_REQUESTS_JITTER: workers.max_requests_jitter = \"5\": is added to workers.max_requests, \
         which is not set\n    hint: set max_requests (--max-requests) as well, e.g. to 1000, or remove the jitter"
    );
}

#[test]
fn invalid_app_key_is_reported_with_value_and_hint() {
    let case = Case::new();
    case.place.file("app/file", b"", 0o644);
    std::os::unix::fs::symlink("nowhere", case.place.join("gone")).unwrap();
    let valid = "target = \"a\"\ndirectory = \"{app}\"\n";
    let here = "target = \"a\"\ndirectory";
    for (text, reason, hint) in [
        (
            "directory = \"{app}\"".to_owned(),
            "@/rgun.toml: app.target: is not set",
            "mysite.wsgi:application",
        ),
        ("target = 3\ndirectory = \"{app}\"".to_owned(), "must be a string", ""),
        (
            "target = \"my-site.wsgi\"\ndirectory = \"{app}\"".to_owned(),
            "rgun.toml:2: app.target = \"my-site.wsgi\"",
            "my_site.wsgi",
        ),
        ("target = \"a:b:c\"\ndirectory = \"{app}\"".to_owned(), "more than one \":\"", "module:attribute"),
        ("target = \"mysite/wsgi.py\"\ndirectory = \"{app}\"".to_owned(), "file's path", "mysite.wsgi"),
        (format!("{here} = \"srv/app\""), "is relative", "full path"),
        (format!("{here} = \"\""), "is empty", "full path"),
        (format!("{here} = \"{{app}}/missing\""), "app.directory = \"@/app/missing\": does not exist", ""),
        (format!("{here} = \"{{app}}/../gone\""), "a dangling symlink", ""),
        (format!("{here} = \"{{app}}/file\""), "is not a directory", "module is in"),
        (format!("{here} = \"{{app}}/file/x\""), "cannot be reached", "namei"),
        (
            format!("{valid}python = \"/no/such/python\""),
            "app.python = \"/no/such/python\": there is no file",
            "interpreter",
        ),
        (format!("{valid}python = \"./file\""), "cannot be executed", "test -x"),
        (format!("{valid}python = true"), "must be a string", ""),
        (format!("{valid}interface = \"wgsi\""), "is not one of the choices", "did you mean \"wsgi\"?"),
        (format!("{valid}root_path = \"shop/\""), "begin with one \"/\"", "write \"/shop\""),
        (format!("{valid}root_path = \"/\""), "begin with one \"/\"", "write \"\""),
        (format!("{valid}root_path = \"/a b\""), "not the path of a URL", ""),
        (format!("{valid}env = {{ A = 1 }}"), "app.env: A must be a string, not a number", "quotes"),
        (format!("{valid}env = \"A=1\""), "must be a table of strings", "NAME"),
        (format!("{valid}env = {{ \"A=B\" = \"1\" }}"), "\"A=B\" cannot be a variable's name", ""),
        (format!("{valid}env = {{ A = \"secret\\u0000\" }}"), "the value of A has a zero byte", ""),
        (format!("{valid}pythonpath = \"a:b\""), "not one path", "list"),
        (format!("{valid}pythonpath = [\"\"]"), "empty entry", ""),
    ] {
        let errors = case.load(&format!("[app]\n{text}\n"), &[], Layer::new()).unwrap_err();
        assert!(errors.contains(reason) && errors.contains(hint), "{text}\n{errors}");
        assert!(!errors.contains("secret"), "{errors}");
    }
}

#[test]
fn all_errors_are_reported_at_once_in_one_block_each() {
    let case = Case::new();
    let errors = case
        .load(
            "[app]\ntarget = \"my-site\"\ndirectory = \"/no/such/dir\"\n[workers]\ncuont = 3\n[timeouts]\nrequest = 30\n",
            &[("RGUN_LIMITS_QUEUE", "-1"), ("RGUN_LOG_LEVLE", "info")],
            flags(&[(name::DRAIN, "--graceful-timeout", Value::text("soon"))]),
        )
        .unwrap_err();
    let blocks: Vec<_> = errors.lines().filter(|line| !line.starts_with(' ')).collect();
    assert_eq!(
        blocks,
        [
            "RGUN_LOG_LEVLE: is not a variable of rgun",
            "@/rgun.toml:5: workers.cuont = 3: is not a key",
            "@/rgun.toml:3: app.directory = \"/no/such/dir\": does not exist",
            "@/rgun.toml:2: app.target = \"my-site\": \"my-site\" cannot be a module's name",
            "@/rgun.toml:7: timeouts.request = 30: has no unit",
            "--graceful-timeout: timeouts.drain = \"soon\": is not a duration",
            "RGUN_LIMITS_QUEUE: limits.queue = \"-1\": is negative",
        ]
    );
}

#[test]
fn relative_directory_in_a_variable_is_refused() {
    let case = Case::new();
    let errors = case.load(VALID_APP, &[("RGUN_APP_DIRECTORY", "app")], Layer::new()).unwrap_err();
    assert!(errors.starts_with("RGUN_APP_DIRECTORY: app.directory = \"app\": is relative"), "{errors}");
}

#[test]
fn env_flag_without_a_value_is_refused() {
    let case = Case::new();
    let errors =
        case.load(VALID_APP, &[], flags(&[(name::ENV, "--env", Value::list(["DEBUG", "=x"]))])).unwrap_err();
    assert!(
        errors.contains("--env: app.env: \"DEBUG\" has no \"=\"\n    hint: write NAME=value"),
        "{errors}"
    );
    assert!(errors.contains("\"\" cannot be a variable's name"), "{errors}");
}

#[test]
fn unreadable_directory_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs root to become another user");
        return;
    }
    let case = Case::new();
    std::fs::set_permissions(case.place.join("app"), std::fs::Permissions::from_mode(0o700)).unwrap();
    let (errors, case) = as_nobody(move || {
        let text = VALID_APP.replace("{app}", &case.place.join("app").display().to_string());
        let mut errors = Vec::new();
        let file = file::parse(Path::new("/f"), &text, &mut errors).unwrap();
        let environment = Environment::default();
        let layers = Layers {
            command_line: Layer::new(),
            variables: Layer::new(),
            file,
            environment: &environment,
            path: None,
            cwd: Path::new("/"),
            program: None,
        };
        (check(&layers, errors).unwrap_err().to_string(), case)
    });
    assert!(errors.starts_with("/f:3: app.directory = "), "{errors}");
    assert!(errors.contains("cannot be read: Permission denied") && errors.contains("ls -ld"), "{errors}");
    drop(case);
}
