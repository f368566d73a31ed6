//! Parsing of command lines.

use std::num::{NonZeroU16, NonZeroU64};
use std::time::Duration;

use super::compat::peers::{DAPHNE, GRANIAN, HYPERCORN};
use super::*;
use crate::config::testing::{TestDir, access_format};
use crate::config::{
    AccessLog, AppArgumentDefaults, Count, Interface, Level, Preload, PythonSource, SearchedDirectory,
};
use crate::exit_status::{EX_CONFIG, EX_USAGE};

mod commands;
mod completions;
mod control;
mod guides;
mod gunicorn;
mod gunicorn_conf;
mod parity;
mod peer_options;
mod peer_variables;
mod reload;
mod uvicorn;

/// Parses command lines in a temporary directory with an interpreter and, if a test writes one, a
/// default file.
struct Shell {
    place: TestDir,
}

impl Shell {
    fn new() -> Self {
        let place = TestDir::new();
        place.python(".venv/bin/python");
        Self { place }
    }

    fn command(&self, variables: &[(&str, &str)], args: &[&str]) -> Result<Command, Failure> {
        let environment = variables.iter().copied().collect();
        let args = std::iter::once("rgun").chain(args.iter().copied());
        parse_with(args, &environment, self.place.path(), &self.place.join("etc/rgun.toml"))
    }

    fn run_with(&self, variables: &[(&str, &str)], args: &[&str]) -> Result<Invocation, Failure> {
        match self.command(variables, args)? {
            Command::Serve(invocation) | Command::Check(invocation, _) => Ok(*invocation),
            // A test may run as root; the file is a stand-in.
            Command::CheckPython(unread, _) => Ok(unread.read(None, &|_| {}).unwrap()),
            other @ (Command::Control(_) | Command::Doctor(_) | Command::Init(_) | Command::Migrate(_)) => {
                panic!("{args:?} is {other:?}")
            }
        }
    }

    /// Returns the command of a valid line.
    fn kind(&self, line: &str) -> &'static str {
        match self.command(&[], &line.split_whitespace().collect::<Vec<_>>()) {
            Ok(Command::Serve(_)) => "serve",
            Ok(Command::Check(..) | Command::CheckPython(..)) => "check",
            Ok(Command::Control(_)) => "control",
            Ok(Command::Doctor(_)) => "doctor",
            Ok(Command::Init(_)) => "init",
            Ok(Command::Migrate(_)) => "migrate",
            Err(failure) => panic!("{line}: {failure}"),
        }
    }

    fn run(&self, line: &str) -> Result<Invocation, Failure> {
        self.run_with(&[], &line.split_whitespace().collect::<Vec<_>>())
    }

    /// Returns the invocation of a line that is valid and causes no warning.
    fn accepted(&self, line: &str) -> Invocation {
        let invocation = self.run(line).unwrap_or_else(|failure| panic!("{line}: {failure}"));
        assert_eq!(invocation.warnings, [""; 0], "{line}");
        invocation
    }

    /// Returns the text of the usage error that a line causes.
    fn refused(&self, line: &str) -> String {
        let failure = self.run(line).expect_err(line);
        assert_eq!((failure.status, failure.stdout), (EX_USAGE, false), "{line}: {failure}");
        assert!(failure.text.ends_with('\n') && !failure.text.ends_with("\n\n"), "{:?}", failure.text);
        failure.text
    }

    fn default_file(&self, text: &str) {
        let text = text.replace("{here}", &self.place.path().display().to_string());
        self.place.file("etc/rgun.toml", text.as_bytes(), 0o644);
    }
}

const SITE: &str = "[app]\ntarget = \"fromfile\"\ndirectory = \"{here}\"\n";

#[test]
fn application_alone_is_served_with_the_defaults() {
    let shell = Shell::new();
    let Invocation { config, .. } = shell.accepted("mysite.wsgi");
    assert_eq!(shell.kind("mysite.wsgi"), "serve");
    assert_eq!(config.app.target.to_string(), "mysite.wsgi:application");
    assert_eq!(config.app.directory, shell.place.path());
    assert_eq!(config.app.python.path, shell.place.join(".venv/bin/python"));
    assert_eq!(config.app.python.source, PythonSource::Folder(".venv", SearchedDirectory::Application));
    assert_eq!((config.workers.count, config.origin), (Count::Fixed(NonZeroU16::MIN), None));
}

#[test]
fn app_argument_has_the_defaults_of_gunicorn_and_uvicorn() {
    let shell = Shell::new();
    let file = shell.place.file("f.toml", b"[app]\ntarget = \"a\"\n", 0o644).display().to_string();
    let with = |variables: &[(&str, &str)], args: &[&str]| {
        let config = shell.run_with(variables, args).unwrap().config;
        let AppArgumentDefaults { one_worker, untimed_asgi, .. } = config.app_argument;
        (config.workers.count, one_worker, untimed_asgi)
    };
    let one = Count::Fixed(NonZeroU16::MIN);
    assert_eq!(with(&[], &["a"]), (one, true, true));
    assert_eq!(with(&[], &["a", "-w", "1", "-t", "9"]), (one, false, false));
    assert_eq!(with(&[], &["a", "-w", "auto"]), (Count::Auto, false, true));
    assert_eq!(with(&[("WEB_CONCURRENCY", "1")], &["a"]), (one, false, true));
    assert_eq!(with(&[("RGUN_TIMEOUTS_REQUEST", "30s")], &["a"]), (one, true, false));
    assert_eq!(with(&[], &["-c", &file]), (Count::Auto, false, false));
    assert_eq!(with(&[("RGUN_APP_TARGET", "a")], &[]), (Count::Auto, false, false));
}

#[test]
fn unknown_flag_is_a_usage_error_with_a_suggestion() {
    let shell = Shell::new();
    let text = shell.refused("a --wrokers 3");
    assert!(text.contains("--wrokers") && text.contains("--workers"), "{text}");
    assert!(shell.refused("a b").contains("'b'"));
    assert!(shell.refused("a --workers").contains("a value is required"));
}

#[test]
fn invalid_flag_value_is_a_usage_error_naming_the_flag() {
    let shell = Shell::new();
    for (line, text) in [
        ("my-site.wsgi", "APP: app.target = \"my-site.wsgi\": \"my-site.wsgi\" cannot be a module's name"),
        ("mysite/wsgi.py", "APP: app.target = \"mysite/wsgi.py\": is a file's path"),
        ("a:b:c", "APP: app.target = \"a:b:c\": has more than one \":\""),
        ("a:make(1)", "APP: app.target = \"a:make(1)\": calls the factory with arguments"),
        ("a -w 0", "--workers: workers.count = \"0\": is out of range"),
        ("a -w -1", "--workers: workers.count = \"-1\": is negative"),
        ("a -w many", "--workers: workers.count = \"many\": is not a whole number"),
        ("a -w +2", "--workers: workers.count = \"+2\": is not a whole number"),
        ("a -w 9-1", "--workers: workers.count = \"9-1\": its min, 9, is more than its max, 1"),
        ("a -w 0-3", "--workers: workers.count = \"0-3\": its min, \"0\", is out of range"),
        ("a -w 1-", "--workers: workers.count = \"1-\": is not a whole number"),
        ("a --max-requests -1", "--max-requests: workers.max_requests = \"-1\": is negative"),
        ("a --max-requests many", "--max-requests: workers.max_requests = \"many\": is not a whole number"),
        (
            "a --max-requests-jitter 50",
            "--max-requests-jitter: workers.max_requests_jitter = \"50\": is added to workers.max_requests, which is not set",
        ),
        ("a --threads 0", "--threads: workers.threads = \"0\": is out of range"),
        ("a --bind my/host", "--bind: listen.bind = [\"my/host\"]: \"my/host\" is not a host"),
        (
            "a --forwarded-allow-ips proxy",
            "--forwarded-allow-ips: proxy.trusted = [\"proxy\", \"unix\"]: \"proxy\" is neither an address nor a network",
        ),
        ("a --header-map yes", "--header-map: http.underscores = \"yes\": is not one of the choices"),
        ("a --chdir missing", "--chdir: app.directory = \"missing\": does not exist"),
        ("a --python /no/such/python", "--python: app.python = \"/no/such/python\": there is no file"),
        ("a --env DEBUG", "--env: app.env: \"DEBUG\" has no \"=\""),
        ("a --interface cgi", "--interface: app.interface = \"cgi\": is not one of the choices"),
        (
            "a --limit-request-fields 1001",
            "--limit-request-fields: limits.headers = \"1001\": is out of range",
        ),
    ] {
        assert!(shell.refused(line).starts_with(text), "{line}: {}", shell.refused(line));
    }
    assert_eq!(shell.accepted("a -w auto").config.workers.count, Count::Auto);
    let (min, max) = shell.accepted("a -w 1-9").config.workers.count.bounds(1);
    assert_eq!((min.get(), max.get()), (1, 9));
}

#[test]
fn without_an_application_the_default_file_is_read() {
    let shell = Shell::new();
    shell.default_file(SITE);
    let config = shell.accepted("--workers 2").config;
    assert_eq!(config.app.target.to_string(), "fromfile:application");
    assert_eq!(config.origin, Some(shell.place.join("etc/rgun.toml")));
    assert_eq!(config.workers.count.resolve(1).get(), 2);
    let config = shell.accepted("typed").config;
    assert_eq!((config.app.target.to_string().as_str(), config.origin), ("typed:application", None));
}

#[test]
fn without_application_and_file_an_example_is_shown() {
    let shell = Shell::new();
    for line in ["", "check", "--workers 2"] {
        let text = shell.refused(line);
        assert!(text.contains("no application given, and there is no "), "{text}");
        assert!(text.contains("rgun mysite.wsgi --chdir /srv/mysite"), "{text}");
        assert!(text.contains("target = \"mysite.wsgi\""), "{text}");
    }
}

#[test]
fn target_in_the_environment_needs_no_file() {
    let shell = Shell::new();
    let invocation = shell.run_with(&[("RGUN_APP_TARGET", "container:app")], &[]).unwrap();
    assert_eq!(invocation.config.app.target.to_string(), "container:app");
    assert_eq!(invocation.config.origin, None);
}

#[test]
fn flags_override_the_file_named_by_config() {
    let shell = Shell::new();
    let text = SITE.replace("{here}", &shell.place.path().display().to_string()) + "[workers]\ncount = 3\n";
    let path = shell.place.file("my.toml", text.as_bytes(), 0o644);
    let full = path.display().to_string();
    for (variables, args) in [
        (vec![], vec!["--config", "my.toml"]),
        (vec![], vec!["-c", full.as_str()]),
        (vec![], vec!["--config=my.toml", "typed"]),
        (vec![("RGUN_CONFIG", full.as_str())], vec![]),
        (vec![("RGUN_CONFIG", "/no/such/file")], vec!["-c", "my.toml"]),
    ] {
        let config = shell.run_with(&variables, &args).unwrap().config;
        assert_eq!(config.origin.as_deref(), Some(path.as_path()), "{args:?}");
        assert_eq!(config.workers.count.resolve(1).get(), 3);
        let target = if args.contains(&"typed") { "typed:application" } else { "fromfile:application" };
        assert_eq!(config.app.target.to_string(), target);
    }
}

#[test]
fn invalid_file_is_a_configuration_error() {
    let shell = Shell::new();
    let failure = shell.run("-c missing.toml").unwrap_err();
    assert_eq!((failure.status, failure.stdout), (EX_CONFIG, false));
    assert!(failure.text.contains("missing.toml: cannot be read: No such file"), "{failure}");
    shell.default_file(&format!("{SITE}[workers]\ncuont = 1\n"));
    let failure = shell.run("-w 0").unwrap_err();
    assert_eq!(failure.status, EX_CONFIG);
    assert!(failure.text.contains("rgun.toml:5: workers.cuont = 1: is not a key"), "{failure}");
    assert!(failure.text.contains("--workers: workers.count = \"0\""), "all at once: {failure}");
    let failure = Shell::new().run_with(&[("WEB_CONCURRENCY", "x")], &["a"]).unwrap_err();
    assert_eq!(failure.status, EX_CONFIG);
    assert!(failure.text.starts_with("WEB_CONCURRENCY: workers.count = \"x\": "), "{failure}");
}

#[test]
fn missing_interpreter_is_a_configuration_error() {
    let shell = Shell { place: TestDir::new() };
    let failure = shell.run("a").unwrap_err();
    assert_eq!(failure.status, EX_CONFIG);
    assert!(failure.text.starts_with("rgun: app.python: no interpreter found: "), "{failure}");
}

#[test]
fn check_accepts_the_flags_of_a_start() {
    let shell = Shell::new();
    for line in ["check a -w 3 --chdir .", "a -w 3 --chdir . --check-config"] {
        let invocation = shell.accepted(line);
        assert_eq!(shell.kind(line), "check", "{line}");
        assert_eq!(invocation.config.workers.count.resolve(1).get(), 3);
    }
    assert!(shell.refused("check a --daemon").contains("--daemon: rgun does not run itself"));
    assert_eq!(shell.run("check a --backlog 5").unwrap().warnings.len(), 1);
    assert!(shell.refused("--workers 2 check").contains("\"check\" must come first"));
    assert!(shell.refused("check check").contains("\"check\" must come first"));
    assert_eq!(shell.kind("check:application"), "serve", "a module may be called check");
}

#[test]
fn check_accepts_user_and_unit() {
    let shell = Shell::new();
    for (line, user, unit) in [
        ("check a", None, None),
        ("check --user shop a", Some("shop"), None),
        ("check -u shop --unit rgun@shop", Some("shop"), Some("rgun@shop")),
        ("a --check-config", None, None),
    ] {
        shell.default_file(SITE);
        let Ok(Command::Check(_, wanted)) = shell.command(&[], &line.split(' ').collect::<Vec<_>>()) else {
            panic!("{line}")
        };
        assert_eq!((wanted.user.as_deref(), wanted.unit.as_deref()), (user, unit), "{line}");
    }
    let user = shell.accepted("a --user shop").config.workers.user.user;
    assert_eq!(user.map(|user| user.text).as_deref(), Some("shop"), "only a check is run as --user");
    let group = shell.accepted("a -g shop").config.workers.user.group;
    assert_eq!(group.map(|group| group.text).as_deref(), Some("shop"));
}

#[test]
fn missing_virtual_environment_is_warned_about() {
    let invocation = Shell::new().run_with(&[("VIRTUAL_ENV", "/no/such/venv")], &["a"]).unwrap();
    assert!(invocation.warnings[0].contains("no /no/such/venv/bin/python"), "{:?}", invocation.warnings);
}

#[test]
fn help_and_version_go_to_stdout_and_succeed() {
    let shell = Shell::new();
    for line in ["--help", "-h", "check --help", "reload --help", "--version", "-v", "-V"] {
        let failure = shell.run(line).unwrap_err();
        assert_eq!((failure.status, failure.stdout), (0, true), "{line}");
        assert!(failure.text.ends_with('\n'), "{line}");
    }
    assert_eq!(shell.run("-v").unwrap_err().text, concat!("rgun ", env!("CARGO_PKG_VERSION"), "\n"));
    let help = shell.run("--help").unwrap_err().text;
    for word in [
        "--bind",
        "--workers",
        "check",
        "reload",
        "--preload",
        "--reload",
        "--max-requests",
        "Examples:",
        "/etc/rgun/rgun.toml",
        "RGUN_<SECTION>_<KEY>",
        "64",
        "69",
        "78",
    ] {
        assert!(help.contains(word), "{word}\n{help}");
    }
    assert!(!help.contains("--daemon"), "unsupported flags are hidden\n{help}");
}

#[test]
fn argument_that_is_not_utf8_is_named() {
    use std::os::unix::ffi::OsStringExt;
    for (args, named) in [
        (&[&b"a\xff"[..]][..], "\"a\\xff\""),
        (&[b"--chdir=caf\xe9", b"a", b"--env", b"A=\xff\""], "\"A=\\xff\\\"\""),
        (&[b"a", b"--env=A=\xff"], "\"--env=A=\\xff\""),
        (&[b"check", b"--workers", b"\xff"], "\"\\xff\""),
    ] {
        let args = args.iter().map(|arg| OsString::from_vec(arg.to_vec()));
        let args = std::iter::once(OsString::from("rgun")).chain(args);
        let failure = parse_with(args, &Environment::default(), Path::new("/"), Path::new("/no/such/file"));
        let failure = failure.unwrap_err();
        assert_eq!((failure.status, failure.stdout), (EX_USAGE, false));
        assert!(failure.text.starts_with(&format!("error: argument {named} is not UTF-8\n")), "{failure}");
    }
}

#[test]
fn variables_that_rgun_does_not_read_are_warned_about() {
    let shell = Shell::new();
    for (variable, warning) in [
        ("RGUN_BIND", "RGUN_BIND: ignored; use RGUN_LISTEN_BIND or --bind"),
        ("RGUN_WORKERS", "RGUN_WORKERS: ignored; use RGUN_WORKERS_COUNT or --workers"),
        ("RGUN_TIMEOUT", "RGUN_TIMEOUT: ignored; use RGUN_TIMEOUTS_REQUEST or --timeout"),
        ("RGUN_MAX_MEMORY", "RGUN_MAX_MEMORY: ignored; use RGUN_WORKERS_MAX_MEMORY"),
        ("RGUN_PORT", "RGUN_PORT: ignored; use RGUN_LISTEN_BIND or --port"),
        ("RGUN_ENV", "RGUN_ENV: ignored; use app.env in the file or --env"),
        ("RGUN_HOST", "RGUN_HOST: ignored; use --host"),
        ("RGUN_APP", "RGUN_APP: ignored; the keys of [app] are set by RGUN_APP_<KEY>"),
        ("RGUN_FOO", "RGUN_FOO: ignored; rgun reads no such variable, see ENVIRONMENT in rgun(1)"),
    ] {
        let start = shell.run_with(&[(variable, "7")], &["a"]).unwrap();
        assert_eq!(start.warnings, [warning]);
        assert_eq!(start.reread().unwrap().warnings, [""; 0], "once, at the start");
    }
}

#[test]
fn command_definition_is_valid() {
    compat::add_flags(Cli::command()).debug_assert();
}

/// The long names of all flags, hidden or not.
fn known_flags() -> Vec<String> {
    let command = compat::add_flags(Cli::command());
    let mut known = Vec::new();
    for arg in command.get_arguments().chain(command.get_subcommands().flat_map(clap::Command::get_arguments))
    {
        known.extend(arg.get_long_and_visible_aliases().unwrap_or_default());
        known.extend(arg.get_all_aliases().unwrap_or_default());
    }
    known.into_iter().map(str::to_owned).collect()
}

#[test]
fn manual_has_every_flag_and_command_of_the_help() {
    let manual = include_str!("../../../../packaging/man/rgun.1");
    let command = Cli::command();
    let reload = command.find_subcommand("reload").unwrap();
    for arg in command.get_arguments().chain(reload.get_arguments()).filter(|arg| !arg.is_hide_set()) {
        if let Some(long) = arg.get_long() {
            let item = |line: &str| line.starts_with(".It Fl ") && line.split(' ').any(|word| word == long);
            assert!(manual.lines().any(item), "--{long}");
        }
    }
    for sub in command.get_subcommands() {
        assert!(manual.contains(&format!(".Cm {}\n", sub.get_name())), "{}", sub.get_name());
    }
}

#[test]
fn flags_named_in_user_documents_exist() {
    let known = known_flags();
    let check = Cli::command();
    let check = check.find_subcommand("check").unwrap();
    let mut known: Vec<_> = known.iter().map(String::as_str).collect();
    known.extend(check.get_arguments().filter_map(clap::Arg::get_long));
    known.extend(["socket", "help"]);
    known.extend([GRANIAN, HYPERCORN, DAPHNE].into_iter().flatten().flat_map(|row| row.names));
    let manual = include_str!("../../../../packaging/man/rgun.1");
    for word in manual.lines().flat_map(|line| line.split(" Fl Fl ").skip(1)).chain(
        manual
            .lines()
            .filter_map(|line| line.strip_prefix(".Fl Fl ").or_else(|| line.strip_prefix(".Op Fl Fl "))),
    ) {
        let flag = word.split([' ', ',']).next().unwrap();
        assert!(known.contains(&flag), "rgun.1: --{flag}");
    }
    // Flags of systemctl, journalctl, pip and others that the texts quote.
    let others = [
        "now",
        "strip-components",
        "user",
        "system-site-packages",
        "no-block",
        "no-pager",
        "unix-socket",
        "since",
    ];
    for (file, text) in [
        ("README.md", include_str!("../../../../README.md")),
        ("migrating.md", include_str!("../../../../packaging/doc/migrating.md")),
        ("nginx.md", include_str!("../../../../packaging/doc/nginx.md")),
        ("tuning.md", include_str!("../../../../packaging/doc/tuning.md")),
        ("rgun.toml", include_str!("../../../../packaging/etc/rgun.toml")),
        ("rgun.service", include_str!("../../../../systemd/rgun.service")),
    ] {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        for word in text.split(|c: char| !is_part(c)).filter_map(|word| word.strip_prefix("--")) {
            if !word.is_empty() && !word.starts_with('-') && !others.contains(&word) {
                // "--permit-*" stands for several.
                let is_known = |flag: &&str| *flag == word || word.ends_with('-') && flag.starts_with(word);
                assert!(known.iter().any(is_known), "{file}: --{word}");
            }
        }
    }
}

#[test]
fn log_config_names_a_readable_file_or_is_off() {
    let shell = Shell::new();
    shell.place.file("log.ini", b"[loggers]", 0o644);
    let path = shell.place.join("log.ini");
    let given = |line: &str| shell.accepted(line).config.app.log_config;
    for line in ["a --log-config log.ini", "a --log-config-json log.ini", "a --log-config json:log.ini"] {
        assert_eq!(given(line), Some(path.clone()), "{line}");
    }
    assert_eq!(given("a --log-config off"), None);
    assert!(shell.refused("a --log-config gone.ini").contains("cannot be read: No such file"));
    assert!(shell.refused("a --log-config .").contains("is not a file"));
    let failure = shell.run_with(&[("RGUN_APP_LOG_CONFIG", "log.ini")], &["a"]).unwrap_err();
    assert!(failure.text.contains("is relative, which only the command line allows"), "{failure}");
}

#[test]
fn hints_fit_the_place_of_the_setting() {
    let shell = Shell::new();
    let failure = shell.run_with(&[("WEB_CONCURRENCY", "x")], &["a"]).unwrap_err();
    assert!(failure.text.contains("hint: write auto, a number, or a range such as 1-9\n"), "{failure}");
    assert!(!shell.refused("a --chdir /srv/nothere").contains("hint"));
    assert!(shell.refused("a --chdir nothere").contains("hint: looked at /"));
    let invocation = shell.run_with(&[("RGUN_LOG_LEVEL", "INFO")], &["a"]).unwrap();
    assert_eq!(invocation.config.log.level, Level::Info);
}
