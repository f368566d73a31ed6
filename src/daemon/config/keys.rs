//! The names of all settings: what exists, what is planned, and what somebody meant who wrote something else.
//!
//! File and environment look names up here and nowhere else, and a test compares `packaging/etc/rgun.toml` with
//! [`KEYS`], so a new key cannot be forgotten in one of them. Planned keys are refused by name: accepting one
//! without effect would be a lie.

/// The keys' full names, where code refers to one.
pub(crate) mod name {
    pub(crate) const TARGET: &str = "app.target";
    pub(crate) const DIRECTORY: &str = "app.directory";
    pub(crate) const PYTHON: &str = "app.python";
    pub(crate) const INTERFACE: &str = "app.interface";
    pub(crate) const ROOT_PATH: &str = "app.root_path";
    pub(crate) const ENV: &str = "app.env";
    pub(crate) const PYTHONPATH: &str = "app.pythonpath";
    pub(crate) const COUNT: &str = "workers.count";
    pub(crate) const THREADS: &str = "workers.threads";
    pub(crate) const CONCURRENCY: &str = "workers.concurrency";
    pub(crate) const REQUEST: &str = "timeouts.request";
    pub(crate) const QUEUE_WAIT: &str = "timeouts.queue";
    pub(crate) const HEADER_WAIT: &str = "timeouts.header";
    pub(crate) const BODY_WAIT: &str = "timeouts.body";
    pub(crate) const KEEPALIVE: &str = "timeouts.keepalive";
    pub(crate) const BOOT: &str = "timeouts.boot";
    pub(crate) const DRAIN: &str = "timeouts.drain";
    pub(crate) const QUEUE: &str = "limits.queue";
    pub(crate) const BODY: &str = "limits.body";
    pub(crate) const HEADER: &str = "limits.header";
    pub(crate) const HEADERS: &str = "limits.headers";
    pub(crate) const REQUEST_LINE: &str = "limits.request_line";
    pub(crate) const CONNECTIONS: &str = "limits.connections";
    pub(crate) const BIND: &str = "listen.bind";
    pub(crate) const LEVEL: &str = "log.level";
    pub(crate) const ACCESS: &str = "log.access";
}

/// Every key of this version, sections together.
pub(crate) const KEYS: &[&str] = &[
    name::TARGET,
    name::DIRECTORY,
    name::PYTHON,
    name::INTERFACE,
    name::ROOT_PATH,
    name::ENV,
    name::PYTHONPATH,
    name::COUNT,
    name::THREADS,
    name::CONCURRENCY,
    name::REQUEST,
    name::QUEUE_WAIT,
    name::HEADER_WAIT,
    name::BODY_WAIT,
    name::KEEPALIVE,
    name::BOOT,
    name::DRAIN,
    name::QUEUE,
    name::BODY,
    name::HEADER,
    name::HEADERS,
    name::REQUEST_LINE,
    name::CONNECTIONS,
    name::BIND,
    name::LEVEL,
    name::ACCESS,
];

/// The sections of this version.
pub(crate) const SECTIONS: &[&str] = &["app", "workers", "timeouts", "limits", "listen", "log"];

/// Keys of the design that this version does not have.
const PLANNED: &[&str] = &[
    "workers.preload",
    "workers.max_requests",
    "workers.max_requests_jitter",
    "workers.max_memory",
    "workers.max_lifetime",
    "workers.idle_exit",
];

/// Sections of the design that this version does not have.
pub(crate) const PLANNED_SECTIONS: &[&str] = &["tls", "proxy", "static", "admin"];

/// Gunicorn's names, for people who write them into the file.
const GUNICORN: &[(&str, &str)] = &[
    ("access_log", name::ACCESS),
    ("accesslog", name::ACCESS),
    ("address", name::BIND),
    ("application", name::TARGET),
    ("chdir", name::DIRECTORY),
    ("environment", name::ENV),
    ("graceful_timeout", name::DRAIN),
    ("keep_alive", name::KEEPALIVE),
    ("limit_request_field_size", name::HEADER),
    ("limit_request_fields", name::HEADERS),
    ("limit_request_line", name::REQUEST_LINE),
    ("log_level", name::LEVEL),
    ("loglevel", name::LEVEL),
    ("module", name::TARGET),
    ("port", name::BIND),
    ("raw_env", name::ENV),
    ("timeout", name::REQUEST),
    ("worker_class", name::INTERFACE),
    ("workers", name::COUNT),
    ("working_directory", name::DIRECTORY),
    ("wsgi_app", name::TARGET),
];

/// What a name in the file turns out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// A key of this version.
    Known(&'static str),
    /// A key this version does not have yet.
    Planned,
    /// Not a key; what was probably meant.
    Unknown(Option<String>),
}

/// Looks `key` of `section` up. `section` must be one of [`SECTIONS`].
pub(crate) fn lookup(section: &str, key: &str) -> Lookup {
    let full = format!("{section}.{key}");
    if let Some(known) = KEYS.iter().find(|known| **known == full) {
        return Lookup::Known(known);
    }
    if PLANNED.contains(&full.as_str()) {
        return Lookup::Planned;
    }
    Lookup::Unknown(meant(section, key))
}

/// The remedy for a section that does not exist.
pub(crate) fn section_hint(section: &str) -> String {
    match nearest(section, SECTIONS.iter().copied()) {
        Some(near) => format!("did you mean [{near}]?"),
        None => format!("the sections are {}", bracketed(SECTIONS)),
    }
}

/// The remedy for a key outside any section.
pub(crate) fn section_of(key: &str) -> Option<String> {
    in_another_section(key).or_else(|| gunicorn(key))
}

/// The variable that sets `key`: RGUN_, section, key.
pub(crate) fn variable(key: &str) -> String {
    format!("RGUN_{}", key.replace('.', "_").to_uppercase())
}

/// Whether a variable's name is that of a planned key or lies in a planned section.
pub(crate) fn is_planned_variable(variable_name: &str) -> bool {
    PLANNED.iter().any(|key| variable(key) == variable_name)
        || PLANNED_SECTIONS.iter().any(|section| variable_name.starts_with(&(variable(section) + "_")))
}

/// The candidate most like `word`, if it is close enough to be a slip: two edits, one for short words.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= if candidate.len() < 5 { 1 } else { 2 })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn meant(section: &str, key: &str) -> Option<String> {
    let keys = || KEYS.iter().filter_map(|full| full.split_once('.')).filter(|(its, _)| *its == section);
    let slip = nearest(key, keys().map(|(_, name)| name)).map(|near| format!("did you mean \"{near}\"?"));
    slip.or_else(|| in_another_section(key)).or_else(|| gunicorn(key)).or_else(|| {
        let names: Vec<_> = keys().map(|(_, name)| name).collect();
        Some(format!("the keys of [{section}] are {}", names.join(", ")))
    })
}

fn in_another_section(key: &str) -> Option<String> {
    KEYS.iter()
        .filter_map(|full| full.split_once('.'))
        .find(|(_, name)| *name == key)
        .map(|(section, _)| format!("\"{key}\" is a key of [{section}]"))
}

fn gunicorn(key: &str) -> Option<String> {
    let (_, full) = GUNICORN.iter().find(|(theirs, _)| *theirs == key)?;
    let (section, name) = full.split_once('.')?;
    Some(format!("that is \"{name}\" in [{section}]"))
}

fn bracketed(sections: &[&str]) -> String {
    sections.iter().map(|section| format!("[{section}]")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_lies_in_a_section_and_is_named_once() {
        for (idx, key) in KEYS.iter().enumerate() {
            let (section, _) = key.split_once('.').expect("section.key");
            assert!(SECTIONS.contains(&section), "{key}");
            assert!(!KEYS[idx + 1..].contains(key), "{key} twice");
        }
        for (_, full) in GUNICORN {
            assert!(KEYS.contains(full), "{full}");
        }
    }

    #[test]
    fn a_slip_finds_its_key() {
        for (section, key, hint) in [
            ("workers", "cuont", "did you mean \"count\"?"),
            ("workers", "thread", "did you mean \"threads\"?"),
            ("timeouts", "keep_alive", "did you mean \"keepalive\"?"),
            ("timeouts", "timeout", "that is \"request\" in [timeouts]"),
            ("workers", "bind", "\"bind\" is a key of [listen]"),
            ("app", "chdir", "that is \"directory\" in [app]"),
            ("log", "colour", "the keys of [log] are level, access"),
        ] {
            assert_eq!(lookup(section, key), Lookup::Unknown(Some(hint.to_owned())), "{section}.{key}");
        }
    }

    #[test]
    fn a_slip_in_a_section_finds_its_section() {
        assert_eq!(section_hint("worker"), "did you mean [workers]?");
        assert_eq!(section_hint("timeout"), "did you mean [timeouts]?");
        assert_eq!(
            section_hint("database"),
            "the sections are [app] [workers] [timeouts] [limits] [listen] [log]"
        );
    }
}
