//! From what was written to what is meant: merges the sources, checks each value, collects all complaints.
//!
//! Each key has a reader of [`read`], which says what it takes; [`Checker::read`] does the rest: find the
//! value of highest precedence, complain with its place, go on with the default so that the next key is
//! looked at too. A default that stands in for a wrong value never leaves this file.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use super::keys::name;
use super::value::Setting;
use super::{
    App, Complaint, Config, ConfigError, ConfigErrors, Environment, Hooks, Interface, Layer, Limits, Listen,
    Loaded, Log, Python, Reload, Target, Timeouts, Value, Workers, python, read,
};

/// A request's head must fit into one record of the channel, so these have an upper bound.
const HEAD_MAX: u64 = 64 << 10;
/// More header fields than this are no request of a browser or a proxy.
const HEADERS_MAX: u32 = 1000;
/// Waiting requests each hold a connection; more than a million is a slip.
const QUEUE_MAX: u32 = 1_000_000;

/// Where settings come from, and what they are seen from.
pub(crate) struct Sources<'a> {
    /// The flags.
    pub(crate) command_line: Layer,
    /// The variables that are settings.
    pub(crate) variables: Layer,
    /// The file's settings.
    pub(crate) file: Layer,
    /// All variables: VIRTUAL_ENV and PATH lead to the interpreter.
    pub(crate) environment: &'a Environment,
    /// The file.
    pub(crate) path: Option<&'a Path>,
    /// The current directory; absolute.
    pub(crate) cwd: &'a Path,
}

/// Checks everything; `errors` is what reading the sources already found.
pub(crate) fn check(sources: &Sources<'_>, errors: Vec<ConfigError>) -> Result<Loaded, ConfigErrors> {
    let mut checker = Checker { sources, errors, warnings: Vec::new() };
    let directory = checker.directory();
    let target = checker.target();
    let python = checker.python(directory.as_deref());
    // Only ever a stand-in when the directory is wrong, and then nothing of this is returned.
    let base = directory.as_deref().unwrap_or(sources.cwd);
    let interface = checker.read(name::INTERFACE, Interface::Auto, read::interface);
    let root_path = checker.read(name::ROOT_PATH, String::new(), read::root_path);
    let env = checker.env();
    let pythonpath = checker.read(name::PYTHONPATH, Vec::new(), |setting| read::pythonpath(setting, base));
    let workers = checker.workers();
    let timeouts = checker.timeouts();
    let limits = checker.limits();
    let listen = checker.read(name::BIND, Listen::default(), |setting| read::listen(setting, base));
    let log = checker.log();
    let Checker { errors, warnings, .. } = checker;
    match (directory, target, python) {
        (Some(directory), Some(target), Some(python)) if errors.is_empty() => Ok(Loaded {
            config: Config {
                app: App { target, directory, python, interface, root_path, env, pythonpath },
                workers,
                timeouts,
                limits,
                reload: Reload::default(),
                hooks: Hooks::default(),
                listen,
                log,
                origin: sources.path.map(Path::to_owned),
            },
            warnings,
        }),
        _ => Err(ConfigErrors(errors)),
    }
}

struct Checker<'a> {
    sources: &'a Sources<'a>,
    errors: Vec<ConfigError>,
    warnings: Vec<String>,
}

impl<'a> Checker<'a> {
    /// The setting that counts.
    fn setting(&self, key: &str) -> Option<&'a Setting> {
        let Sources { command_line, variables, file, .. } = self.sources;
        [command_line, variables, file].into_iter().find_map(|layer| layer.get(key))
    }

    fn read<T>(
        &mut self,
        key: &'static str,
        default: T,
        reader: impl FnOnce(&Setting) -> Result<T, Complaint>,
    ) -> T {
        let Some(setting) = self.setting(key) else { return default };
        reader(setting).unwrap_or_else(|complaint| {
            self.complain(key, setting, complaint);
            default
        })
    }

    fn complain(&mut self, key: &'static str, setting: &Setting, complaint: Complaint) {
        self.errors.push(ConfigError {
            origin: setting.origin.clone(),
            key: key.to_owned(),
            value: Some(setting.value.to_string()),
            reason: complaint.reason,
            hint: complaint.hint,
        });
    }

    /// A complaint about something nobody wrote.
    fn lacking(&mut self, key: &'static str, complaint: Complaint) {
        self.errors.push(ConfigError {
            origin: self.sources.path.map_or_else(|| "rgun".to_owned(), |path| path.display().to_string()),
            key: key.to_owned(),
            value: None,
            reason: complaint.reason,
            hint: complaint.hint,
        });
    }

    fn target(&mut self) -> Option<Target> {
        if self.setting(name::TARGET).is_none() {
            let complaint = Complaint::new("is not set")
                .hint("name the application: target = \"mysite.wsgi:application\" in [app]");
            self.lacking(name::TARGET, complaint);
        }
        self.read(name::TARGET, None, |setting| read::text(setting)?.parse().map(Some))
    }

    /// The application's directory; without the key, the current one, which the unit's WorkingDirectory= sets.
    fn directory(&mut self) -> Option<PathBuf> {
        let cwd = self.sources.cwd;
        if self.setting(name::DIRECTORY).is_none() {
            return match read::readable_directory(cwd.to_owned()) {
                Ok(directory) => Some(directory),
                Err(complaint) => {
                    let reason = format!(
                        "is not set, and the current directory {} {}",
                        cwd.display(),
                        complaint.reason
                    );
                    self.lacking(name::DIRECTORY, Complaint { reason, ..complaint });
                    None
                }
            };
        }
        self.read(name::DIRECTORY, None, |setting| read::directory(setting, cwd).map(Some))
    }

    fn python(&mut self, directory: Option<&Path>) -> Option<Python> {
        let Sources { environment, cwd, .. } = self.sources;
        if let Some(setting) = self.setting(name::PYTHON) {
            let absolute = matches!(&setting.value, Value::Text(text) if text.starts_with('/'));
            // A relative one cannot be looked for in a directory that is wrong; that error stands already.
            let base = match directory {
                Some(directory) => directory,
                None if absolute => cwd,
                None => return None,
            };
            return self.read(name::PYTHON, None, |setting| {
                python::configured(read::text(setting)?, base, environment, cwd).map(Some)
            });
        }
        match python::search(directory?, environment, cwd, &mut self.warnings) {
            Ok(python) => Some(python),
            Err(complaint) => {
                self.lacking(name::PYTHON, complaint);
                None
            }
        }
    }

    /// The file's variables with the command line's over them, name by name: `--env DEBUG=1` changes one
    /// variable, it does not take the others away.
    fn env(&mut self) -> Vec<(String, String)> {
        let Sources { command_line, file, .. } = self.sources;
        let mut merged = BTreeMap::new();
        for setting in [file, command_line].into_iter().filter_map(|layer| layer.get(name::ENV)) {
            let mut complaints = Vec::new();
            merged.extend(read::env(&setting.value, &mut complaints));
            self.errors.extend(complaints.into_iter().map(|complaint| ConfigError {
                origin: setting.origin.clone(),
                key: name::ENV.to_owned(),
                // A variable's value may be a password.
                value: None,
                reason: complaint.reason,
                hint: complaint.hint,
            }));
        }
        merged.into_iter().collect()
    }

    fn workers(&mut self) -> Workers {
        let defaults = Workers::default();
        Workers {
            count: self.read(name::COUNT, defaults.count, read::count),
            threads: self.read(name::THREADS, defaults.threads, |setting| {
                read::whole(setting, 1, u16::MAX.into()).map(read::non_zero_u16)
            }),
            concurrency: self.read(name::CONCURRENCY, defaults.concurrency, |setting| {
                read::whole(setting, 1, u32::MAX).map(|n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN))
            }),
            ..defaults
        }
    }

    fn timeouts(&mut self) -> Timeouts {
        let defaults = Timeouts::default();
        Timeouts {
            request: self.read(name::REQUEST, defaults.request, read::timeout_or_off),
            queue: self.read(name::QUEUE_WAIT, defaults.queue, read::timeout_or_off),
            header: self.read(name::HEADER_WAIT, defaults.header, read::timeout),
            body: self.read(name::BODY_WAIT, defaults.body, read::timeout),
            keepalive: self.read(name::KEEPALIVE, defaults.keepalive, |setting| {
                read::timeout_or_zero(setting, "write \"0s\" to close the connection after each response")
            }),
            boot: self.read(name::BOOT, defaults.boot, read::timeout_or_off),
            drain: self.read(name::DRAIN, defaults.drain, |setting| {
                read::timeout_or_zero(
                    setting,
                    "write \"0s\" to wait for nothing, or the longest wait you can bear",
                )
            }),
            paths: Vec::new(),
        }
    }

    fn limits(&mut self) -> Limits {
        let defaults = Limits::default();
        let head = |setting: &Setting| read::bytes(setting, HEAD_MAX);
        Limits {
            queue: self.read(name::QUEUE, defaults.queue, |setting| {
                read::whole(setting, 1, QUEUE_MAX).map(read::to_usize)
            }),
            body: self.read(name::BODY, defaults.body, read::bytes_or_off),
            header: self.read(name::HEADER, defaults.header, head),
            headers: self.read(name::HEADERS, defaults.headers, |setting| {
                read::whole(setting, 1, HEADERS_MAX).map(read::to_usize)
            }),
            request_line: self.read(name::REQUEST_LINE, defaults.request_line, head),
            connections: self.read(name::CONNECTIONS, defaults.connections, |setting| {
                if read::is_auto(setting) {
                    return Ok(None);
                }
                read::whole(setting, 1, u32::MAX).map(|n| Some(read::to_usize(n))).map_err(|complaint| {
                    complaint.hint("write a number, or \"auto\" for what LimitNOFILE= leaves")
                })
            }),
        }
    }

    fn log(&mut self) -> Log {
        let defaults = Log::default();
        Log {
            level: self.read(name::LEVEL, defaults.level, read::level),
            access: self.read(name::ACCESS, defaults.access, read::boolean),
            slow: defaults.slow,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;
    use std::time::Duration;

    use super::*;
    use crate::config::testing::{Place, as_nobody};
    use crate::config::{Bind, Count, Level, PythonSource, file, keys};

    /// A place with an application directory and an interpreter, and what the file says about the rest.
    struct Case {
        place: Place,
    }

    impl Case {
        fn new() -> Self {
            let place = Place::new();
            place.python("app/.venv/bin/python");
            Self { place }
        }

        /// Loads `text` as the file; `{app}` in it stands for the application's directory.
        fn load(&self, text: &str, variables: &[(&str, &str)], flags: Layer) -> Result<Loaded, String> {
            let text = text.replace("{app}", &self.place.join("app").display().to_string());
            let path = self.place.file("rgun.toml", text.as_bytes(), 0o644);
            let environment = variables.iter().copied().collect();
            crate::config::load(flags, &environment, Some(&path), self.place.path())
                .map_err(|errors| errors.to_string().replace(&self.place.path().display().to_string(), "@"))
        }

        /// Loads a sound `[app]` and `text`.
        fn with(&self, text: &str) -> Result<Config, String> {
            self.load(&format!("{SOUND}{text}"), &[], Layer::new()).map(|loaded| loaded.config)
        }
    }

    const SOUND: &str = "[app]\ntarget = \"mysite.wsgi\"\ndirectory = \"{app}\"\n";

    fn flags(settings: &[(&'static str, &str, Value)]) -> Layer {
        settings.iter().map(|(key, flag, value)| (*key, Setting::flag(flag, value.clone()))).collect()
    }

    #[test]
    fn what_is_not_written_has_the_default_of_the_design() {
        let case = Case::new();
        let config = case.with("").unwrap();
        let app = case.place.join("app");
        assert_eq!(
            config.app,
            App {
                target: "mysite.wsgi:application".parse().unwrap(),
                python: Python { path: app.join(".venv/bin/python"), source: PythonSource::DotVenv },
                directory: app,
                interface: Interface::Auto,
                root_path: String::new(),
                env: vec![],
                pythonpath: vec![],
            }
        );
        let seconds = Duration::from_secs;
        let Timeouts { request, queue, header, body, keepalive, boot, drain } = config.timeouts;
        assert_eq!((request, queue, boot), (Some(seconds(30)), Some(seconds(30)), Some(seconds(60))));
        assert_eq!((header, body, keepalive, drain), (seconds(10), seconds(60), seconds(75), seconds(30)));
        let Limits { queue, body, header, headers, request_line, connections } = config.limits;
        assert_eq!((queue, body, header), (1000, Some(1 << 30), 16 << 10));
        assert_eq!((headers, request_line, connections), (100, 8 << 10, None));
        let Workers { count, threads, concurrency } = config.workers;
        assert_eq!((count, threads.get(), concurrency.get()), (Count::Auto, 1, 1000));
        assert_eq!(config.listen.bind, ["127.0.0.1:8000".parse().unwrap()]);
        assert!(!config.listen.explicit);
        assert_eq!(config.log, Log { level: Level::Info, access: false });
        assert_eq!(config.origin, Some(case.place.join("rgun.toml")));
    }

    #[test]
    fn every_key_of_the_file_arrives() {
        let case = Case::new();
        case.place.python("app/env/bin/python3");
        let config = case
            .load(
                r#"
                [app]
                target = "mysite.asgi:make()"
                directory = "{app}"
                python = "env/bin/python3"
                interface = "asgi"
                root_path = "/shop"
                env = { DJANGO_SETTINGS_MODULE = "mysite.settings", A = "" }
                pythonpath = ["lib", "/opt/lib"]
                [workers]
                count = 9
                threads = 3
                concurrency = 50
                [timeouts]
                request = "off"
                queue = "off"
                header = "5s"
                body = "500ms"
                keepalive = "0s"
                boot = "off"
                drain = "2m"
                [limits]
                queue = 10
                body = "off"
                header = "32KiB"
                headers = 50
                request_line = 4096
                connections = 500
                [listen]
                bind = ["[::1]:8000", "unix:/run/x.sock"]
                [log]
                level = "debug"
                access = true
                "#,
                &[],
                Layer::new(),
            )
            .unwrap()
            .config;
        let app = case.place.join("app");
        assert_eq!(config.app.target.to_string(), "mysite.asgi:make()");
        let python = Python { path: app.join("env/bin/python3"), source: PythonSource::Configured };
        assert_eq!(config.app.python, python);
        assert_eq!((config.app.interface, config.app.root_path.as_str()), (Interface::Asgi, "/shop"));
        let env = [("A", ""), ("DJANGO_SETTINGS_MODULE", "mysite.settings")];
        assert_eq!(config.app.env, env.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(config.app.pythonpath, [app.join("lib"), PathBuf::from("/opt/lib")]);
        assert_eq!(config.workers.count, Count::Fixed(NonZeroU16::new(9).unwrap()));
        assert_eq!((config.workers.threads.get(), config.workers.concurrency.get()), (3, 50));
        let Timeouts { request, queue, header, body, keepalive, boot, drain } = config.timeouts;
        assert_eq!((request, queue, boot), (None, None, None));
        assert_eq!((header, body), (Duration::from_secs(5), Duration::from_millis(500)));
        assert_eq!((keepalive, drain), (Duration::ZERO, Duration::from_mins(2)));
        let Limits { queue, body, header, headers, request_line, connections } = config.limits;
        assert_eq!((queue, body, header), (10, None, 32 << 10));
        assert_eq!((headers, request_line, connections), (50, 4096, Some(500)));
        let bind: Vec<_> = config.listen.bind.iter().map(ToString::to_string).collect();
        assert_eq!(bind, ["[::1]:8000", "unix:/run/x.sock"]);
        assert!(config.listen.explicit);
        assert_eq!(config.log, Log { level: Level::Debug, access: true });
    }

    #[test]
    fn the_command_line_wins_over_the_environment_and_that_over_the_file() {
        let case = Case::new();
        let text = format!("{SOUND}[workers]\ncount = 2\n");
        let flag = || flags(&[(name::COUNT, "--workers", Value::text("5"))]);
        let web = ("WEB_CONCURRENCY", "3");
        let own = ("RGUN_WORKERS_COUNT", "4");
        for (variables, flags, n) in [
            (vec![], Layer::new(), 2),
            (vec![web], Layer::new(), 3),
            (vec![web, own], Layer::new(), 4),
            (vec![web, own], flag(), 5),
        ] {
            let config = case.load(&text, &variables, flags).unwrap().config;
            assert_eq!(config.workers.count.resolve(1).get(), n);
        }
    }

    #[test]
    fn variables_of_the_command_line_are_added_to_those_of_the_file() {
        let case = Case::new();
        let text = format!("{SOUND}env = {{ A = \"file\", B = \"file\" }}\n");
        let flags = flags(&[(name::ENV, "--env", Value::list(["B=flag", "C=x=y", "B=last"]))]);
        let env = case.load(&text, &[], flags).unwrap().config.app.env;
        let expected = [("A", "file"), ("B", "last"), ("C", "x=y")];
        assert_eq!(env, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn paths_of_the_command_line_may_be_relative() {
        let case = Case::new();
        let loaded = case
            .load(
                SOUND,
                &[],
                flags(&[
                    (name::DIRECTORY, "--chdir", Value::text("./app")),
                    (name::PYTHONPATH, "--pythonpath", Value::text("lib, /opt/lib")),
                    (name::BIND, "--bind", Value::list(["unix:x.sock"])),
                ]),
            )
            .unwrap();
        let app = case.place.join("app");
        assert_eq!(loaded.config.app.directory, app);
        assert_eq!(loaded.config.app.pythonpath, [app.join("lib"), PathBuf::from("/opt/lib")]);
        assert_eq!(loaded.config.listen.bind, [Bind::Unix { path: app.join("x.sock") }]);
    }

    #[test]
    fn the_environment_sets_every_kind_of_value() {
        let case = Case::new();
        let config = case
            .load(
                SOUND,
                &[
                    ("RGUN_APP_TARGET", "other:app"),
                    ("RGUN_TIMEOUTS_REQUEST", "2m"),
                    ("RGUN_LIMITS_BODY", "off"),
                    ("RGUN_LIMITS_CONNECTIONS", "auto"),
                    ("RGUN_LISTEN_BIND", ":80, [::]:80"),
                    ("RGUN_LOG_ACCESS", "1"),
                ],
                Layer::new(),
            )
            .unwrap()
            .config;
        assert_eq!(config.app.target.to_string(), "other:app");
        assert_eq!(config.timeouts.request, Some(Duration::from_mins(2)));
        assert_eq!((config.limits.body, config.limits.connections), (None, None));
        assert_eq!(config.listen.bind, [":80".parse().unwrap(), "[::]:80".parse().unwrap()]);
        assert!(config.log.access);
    }

    /// Section, line, and what must be said about it: reason, then hint.
    const WRONG: &[(&str, &str, &str, &str)] = &[
        ("workers", "count = 0", "workers.count = 0: is out of bounds", "\"auto\" or a number"),
        ("workers", "count = -1", "workers.count = -1: is negative", "from 1 to 65535"),
        ("workers", "count = 70000", "is out of bounds: the least is 1, the most 65535", "\"auto\""),
        ("workers", "count = 2.5", "must be a whole number, not a fraction", "\"auto\""),
        ("workers", "count = \"9\"", "must be a number, not a string", "write 9 without quotes"),
        ("workers", "count = \"many\"", "must be a whole number, not a string", "\"auto\""),
        (
            "workers",
            "count = { min = 1, max = 9 }",
            "{ max = 9, min = 1 }: a range of workers is not in this version",
            "\"auto\"",
        ),
        ("workers", "threads = 0", "workers.threads = 0: is out of bounds", ""),
        ("workers", "threads = -3", "workers.threads = -3: is negative", "from 1"),
        ("workers", "concurrency = 0", "workers.concurrency = 0: is out of bounds", ""),
        ("workers", "concurrency = 99999999999999999999999999999999999999999", "a huge number", ""),
        ("timeouts", "request = 30", "timeouts.request = 30: has no unit", "write \"30s\""),
        ("timeouts", "request = \"30\"", "timeouts.request = \"30\": has no unit", "write \"30s\""),
        ("timeouts", "request = \"30MiB\"", "\"MiB\" is not a unit of time", "ms, s, m or h"),
        ("timeouts", "request = \"0s\"", "is no time at all", "\"off\""),
        ("timeouts", "queue = -1", "timeouts.queue = -1: is negative", "\"30s\""),
        ("timeouts", "boot = true", "must be a duration, not a boolean", "\"30s\""),
        ("timeouts", "header = \"off\"", "cannot be off", "\"1h\""),
        ("timeouts", "body = \"0s\"", "is no time at all", "\"10s\""),
        ("timeouts", "keepalive = \"off\"", "cannot be off", "\"0s\""),
        ("timeouts", "drain = \"off\"", "cannot be off", "\"0s\""),
        ("limits", "queue = 0", "limits.queue = 0: is out of bounds", ""),
        ("limits", "body = \"16MB\"", "\"MB\" is not a unit of size", "\"16MiB\""),
        ("limits", "body = \"30s\"", "\"s\" is not a unit of size", "KiB"),
        ("limits", "body = -5", "is negative", ""),
        ("limits", "body = 0", "is no size at all", "\"off\""),
        ("limits", "header = \"1MiB\"", "is too large", "64KiB"),
        ("limits", "header = \"off\"", "cannot be off", "64KiB"),
        ("limits", "request_line = 0", "is no size at all", "64KiB"),
        ("limits", "headers = 0", "is out of bounds", ""),
        ("limits", "connections = \"many\"", "must be a whole number", "\"auto\""),
        ("limits", "connections = 0", "is out of bounds", "\"auto\""),
        ("listen", "bind = \"localhost\"", "\"localhost\" has no port", "localhost:8000"),
        (
            "listen",
            "bind = [\":80\", \"localhost:http\"]",
            "\"localhost:http\" \"http\" is not a port",
            "65535",
        ),
        ("listen", "bind = [\":80\", \"0.0.0.0:80\"]", "has 0.0.0.0:80 twice", ""),
        ("listen", "bind = \"unix:x.sock\"", "\"unix:x.sock\" is relative", "unix:/run/x.sock"),
        ("listen", "bind = []", "names no address", "127.0.0.1:8000"),
        ("listen", "bind = [80]", "must be a list of strings, but has a number in it", ""),
        ("listen", "bind = 80", "must be a string or a list of strings, not a number", ""),
        ("log", "level = \"warning\"", "is not a level", "\"warn\""),
        ("log", "level = \"inof\"", "is not one of the choices", "did you mean \"info\"?"),
        ("log", "level = 3", "must be a string, not a number", ""),
        ("log", "access = \"yes\"", "must be true or false, not a string", "without quotes"),
    ];

    #[test]
    fn a_wrong_value_is_told_with_key_value_and_remedy() {
        let case = Case::new();
        for (section, line, reason, hint) in WRONG {
            let text = case.with(&format!("[{section}]\n{line}\n")).unwrap_err();
            let key = format!("@/rgun.toml:5: {section}.{}", line.split_once(" = ").unwrap().0);
            assert!(text.starts_with(&key) && text.contains(reason) && text.contains(hint), "{line}\n{text}");
            assert_eq!(text.matches("rgun.toml:").count(), 1, "{text}");
        }
    }

    #[test]
    fn a_wrong_application_is_told_with_key_value_and_remedy() {
        let case = Case::new();
        case.place.file("app/file", b"", 0o644);
        std::os::unix::fs::symlink("nowhere", case.place.join("gone")).unwrap();
        let sound = "target = \"a\"\ndirectory = \"{app}\"\n";
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
            (
                "target = \"a:b:c\"\ndirectory = \"{app}\"".to_owned(),
                "more than one \":\"",
                "module:attribute",
            ),
            ("target = \"mysite/wsgi.py\"\ndirectory = \"{app}\"".to_owned(), "file's path", "mysite.wsgi"),
            (format!("{here} = \"srv/app\""), "is relative", "full path"),
            (format!("{here} = \"\""), "is empty", "full path"),
            (
                format!("{here} = \"{{app}}/missing\""),
                "app.directory = \"@/app/missing\": does not exist",
                "looked at",
            ),
            (format!("{here} = \"{{app}}/../gone\""), "a link that leads nowhere", "looked at"),
            (format!("{here} = \"{{app}}/file\""), "is not a directory", "module is in"),
            (format!("{here} = \"{{app}}/file/x\""), "cannot be reached", "namei"),
            (
                format!("{sound}python = \"/no/such/python\""),
                "app.python = \"/no/such/python\": there is no file",
                "interpreter",
            ),
            (format!("{sound}python = \"./file\""), "cannot be executed", "test -x"),
            (format!("{sound}python = true"), "must be a string", ""),
            (format!("{sound}interface = \"wgsi\""), "is not one of the choices", "did you mean \"wsgi\"?"),
            (format!("{sound}root_path = \"shop/\""), "begin with one \"/\"", "write \"/shop\""),
            (format!("{sound}root_path = \"/\""), "begin with one \"/\"", "write \"\""),
            (format!("{sound}root_path = \"/a b\""), "not the path of a URL", ""),
            (format!("{sound}env = {{ A = 1 }}"), "app.env: A must be a string, not a number", "quotes"),
            (format!("{sound}env = \"A=1\""), "must be a table of strings", "NAME"),
            (format!("{sound}env = {{ \"A=B\" = \"1\" }}"), "\"A=B\" cannot be a variable's name", ""),
            (format!("{sound}env = {{ A = \"secret\\u0000\" }}"), "the value of A has a zero byte", ""),
            (format!("{sound}pythonpath = \"a:b\""), "not one path", "list"),
            (format!("{sound}pythonpath = [\"\"]"), "empty entry", ""),
        ] {
            let told = case.load(&format!("[app]\n{text}\n"), &[], Layer::new()).unwrap_err();
            assert!(told.contains(reason) && told.contains(hint), "{text}\n{told}");
            assert!(!told.contains("secret"), "{told}");
        }
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once_and_in_one_block_each() {
        let case = Case::new();
        let told = case
            .load(
                "[app]\ntarget = \"my-site\"\ndirectory = \"/no/such/dir\"\n[workers]\ncuont = 3\n[timeouts]\nrequest = 30\n",
                &[("RGUN_LIMITS_QUEUE", "-1"), ("RGUN_LOG_LEVLE", "info")],
                flags(&[(name::DRAIN, "--graceful-timeout", Value::text("soon"))]),
            )
            .unwrap_err();
        let blocks: Vec<_> = told.lines().filter(|line| !line.starts_with(' ')).collect();
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
    fn a_relative_directory_in_a_variable_is_refused() {
        let case = Case::new();
        let told = case.load(SOUND, &[("RGUN_APP_DIRECTORY", "app")], Layer::new()).unwrap_err();
        assert!(told.starts_with("RGUN_APP_DIRECTORY: app.directory = \"app\": is relative"), "{told}");
    }

    #[test]
    fn a_variable_of_the_command_line_without_a_value_is_refused() {
        let case = Case::new();
        let told =
            case.load(SOUND, &[], flags(&[(name::ENV, "--env", Value::list(["DEBUG", "=x"]))])).unwrap_err();
        assert!(
            told.contains("--env: app.env: \"DEBUG\" has no \"=\"\n    hint: write NAME=value"),
            "{told}"
        );
        assert!(told.contains("\"\" cannot be a variable's name"), "{told}");
    }

    #[test]
    fn a_directory_that_only_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: takes root to become somebody else");
            return;
        }
        let case = Case::new();
        std::fs::set_permissions(case.place.join("app"), std::fs::Permissions::from_mode(0o700)).unwrap();
        let (told, case) = as_nobody(move || {
            let text = SOUND.replace("{app}", &case.place.join("app").display().to_string());
            let mut errors = Vec::new();
            let file = file::parse(Path::new("/f"), &text, &mut errors).unwrap();
            let environment = Environment::default();
            let sources = Sources {
                command_line: Layer::new(),
                variables: Layer::new(),
                file,
                environment: &environment,
                path: None,
                cwd: Path::new("/"),
            };
            (check(&sources, errors).unwrap_err().to_string(), case)
        });
        assert!(told.starts_with("/f:3: app.directory = "), "{told}");
        assert!(told.contains("cannot be read: Permission denied") && told.contains("ls -ld"), "{told}");
        drop(case);
    }

    #[test]
    fn a_value_that_is_overridden_is_not_checked() {
        let case = Case::new();
        let text = SOUND.replace("{app}", "/no/such/dir");
        let flags = flags(&[(name::DIRECTORY, "--chdir", Value::text("app"))]);
        assert!(case.load(&text, &[], flags).is_ok());
    }

    /// The packaged file, for a machine without the package: its directory and interpreter are replaced.
    fn packaged(case: &Case) -> String {
        let python = case.place.python("python3");
        let text = include_str!("../../../packaging/etc/rgun.toml");
        assert_eq!(text.matches("\"/usr/share/rgun/welcome\"").count(), 1);
        assert_eq!(text.matches("\"/usr/bin/python3\"").count(), 1);
        text.replace("\"/usr/share/rgun/welcome\"", "\"{app}\"")
            .replace("\"/usr/bin/python3\"", &format!("{:?}", python.display().to_string()))
    }

    /// A commented key: `#key = value`, as against prose, which has a space after the `#`.
    fn commented(line: &str) -> Option<&str> {
        line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
    }

    #[test]
    fn every_commented_key_of_the_packaged_file_is_the_default() {
        let case = Case::new();
        let text = packaged(&case);
        let plain = case.load(&text, &[], Layer::new()).unwrap().config;
        assert_eq!(plain.app.target.to_string(), "welcome:application");
        let mut n_keys = 0;
        for line in text.lines() {
            let Some(key) = commented(line) else { continue };
            let with = text.replacen(&format!("\n{line}\n"), &format!("\n{key}\n"), 1);
            assert_ne!(with, text, "{key}");
            let mut config =
                case.load(&with, &[], Layer::new()).unwrap_or_else(|told| panic!("{key}: {told}")).config;
            // Written down is asked for; the address is the default one all the same.
            config.listen.explicit = false;
            assert_eq!(config, plain, "{key}");
            n_keys += 1;
        }
        let active = 3;
        assert_eq!(n_keys + active, keys::KEYS.len());
    }

    #[test]
    fn the_packaged_file_names_every_key_and_says_what_it_means() {
        let text = packaged(&Case::new());
        let all: String =
            text.lines().map(|line| commented(line).unwrap_or(line).to_owned() + "\n").collect();
        let mut errors = Vec::new();
        let layer = file::parse(Path::new("rgun.toml"), &all, &mut errors).unwrap();
        assert_eq!(errors, []);
        for key in keys::KEYS {
            assert!(layer.contains_key(key), "{key}");
        }
        let lines: Vec<_> = text.lines().collect();
        for (idx, line) in lines.iter().enumerate().filter(|(_, line)| commented(line).is_some()) {
            assert!(lines[idx - 1].starts_with("# "), "no meaning above {line}");
        }
    }
}
