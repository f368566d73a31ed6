//! Migrates a `uwsgi.ini`, and the command line of `uwsgi`.

use super::flags::{self, FlagSet};
use super::options::{self, UWSGI};
use super::placeholders::Placeholders;
use super::plan::{DropIn, Plan};
use super::server::ReplacedServer;
use super::variables;
use crate::config::{Value, name};

/// Short names of options, on the command line and in files.
const SHORT: [(&str, &str); 16] = [
    ("s", "socket"),
    ("p", "processes"),
    ("w", "module"),
    ("M", "master"),
    ("H", "home"),
    ("C", "chmod-socket"),
    ("t", "harakiri"),
    ("d", "daemonize"),
    ("l", "listen"),
    ("b", "buffer-size"),
    ("R", "max-requests"),
    ("T", "enable-threads"),
    ("i", "single-interpreter"),
    ("L", "disable-logging"),
    ("m", "memory-report"),
    ("z", "socket-timeout"),
];

/// Options that name a configuration file.
const FILES: [&str; 5] = ["ini", "yaml", "yml", "json", "xml"];

/// An option: name, value, place.
struct UwsgiOption {
    key: String,
    value: String,
    origin: String,
}

/// Adds the settings of the section `[uwsgi]` of the file at `path`.
pub(super) fn migrate(text: &str, label: &str, path: &str, plan: &mut Plan) {
    let entries = parse(text, label, path, plan);
    plan.is_server = true;
    add(&entries, label, plan);
    variables::apply(ReplacedServer::Uwsgi, &FlagSet::new(), plan);
    plan.servers.push(ReplacedServer::Uwsgi);
}

/// Adds the options of a command line. A command that names a configuration file is not migrated as
/// a server: the file is. Returns an empty set, because no variables of uWSGI are applied.
pub(super) fn add_command(args: &[String], origin: &str, plan: &mut Plan) -> FlagSet {
    let mut entries: Vec<UwsgiOption> = Vec::new();
    let (mut is_file_named, mut rest) = (false, args.iter().peekable());
    while let Some(word) = rest.next() {
        let Some(option) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
            is_file_named = true;
            plan.configurations.push((word.clone(), origin.to_owned()));
            continue;
        };
        let (key, inline) =
            option.split_once('=').map_or((option, None), |(key, value)| (key, Some(value.to_owned())));
        let key = long_name(key);
        let value = match inline {
            Some(value) => value,
            None if options::is_switch(UWSGI, key) => "true".to_owned(),
            None => rest.next_if(|next| !next.starts_with('-')).cloned().unwrap_or_else(|| "true".to_owned()),
        };
        if FILES.contains(&key) {
            is_file_named = true;
            plan.configurations
                .push((value.split(':').next().unwrap_or_default().to_owned(), origin.to_owned()));
        } else {
            entries.push(UwsgiOption { key: key.to_owned(), value, origin: origin.to_owned() });
        }
    }
    plan.is_server = !is_file_named;
    if plan.is_server {
        add(&entries, origin, plan);
    } else {
        add_entries(&entries, None, plan);
    }
    FlagSet::new()
}

/// Returns the long name of an option.
fn long_name(key: &str) -> &str {
    SHORT.iter().find(|(short, _)| *short == key).map_or(key, |(_, long)| long)
}

/// Adds all options, and the defaults.
fn add(entries: &[UwsgiOption], label: &str, plan: &mut Plan) {
    let get =
        |key: &str| entries.iter().rev().find(|entry| entry.key == key).map(|entry| entry.value.as_str());
    if let Some(directory) = get("chdir").or(get("chdir2")) {
        plan.set(name::DIRECTORY, Value::text(directory.trim_end_matches('/')), label);
    }
    let mut flags = add_entries(entries, plan.directory().as_deref(), plan);
    if let Some(target) = target(&get, label, plan) {
        flags.push(target);
    } else {
        plan.left_out(label, "the application: neither module nor wsgi-file names it; write app.target");
    }
    add_count(get("processes").or(get("workers")), get("cheaper"), label, plan);
    let is_true = |value: Option<&str>| matches!(value, Some("true" | "1" | "yes" | "on"));
    if !is_true(get("lazy-apps").or(get("lazy"))) {
        plan.changed.push(format!(
            "{label}: uWSGI imports the application once, before it forks; rgun imports it in each worker, unless workers.preload = true"
        ));
    }
    if is_true(get("disable-logging")) {
        plan.set(name::ACCESS, Value::Boolean(false), label);
    }
    let is_http = get("protocol") == Some("http");
    for entry in entries.iter().filter(|entry| matches!(entry.key.as_str(), "socket" | "uwsgi-socket")) {
        add_socket(entry, is_http, plan);
    }
    flags::add(&flags, label, plan);
}

/// Adds options one by one. Relative paths are below `base`. Returns the flags of rgun.
fn add_entries(entries: &[UwsgiOption], base: Option<&str>, plan: &mut Plan) -> Vec<String> {
    let mut flags = Vec::new();
    for UwsgiOption { key, value, origin } in entries {
        let is_false = matches!(value.as_str(), "false" | "0" | "no" | "off");
        let value = match key.as_str() {
            "chdir" | "chdir2" | "protocol" | "mount" | "manage-script-name" => continue,
            // Without a value, the option lets every user connect.
            "chmod-socket" if value == "true" => "666",
            _ => value,
        };
        if FILES.contains(&key.as_str()) {
            plan.configurations.push((value.to_owned(), origin.clone()));
            continue;
        }
        if !options::add_one(UWSGI, key, value, &mut flags, origin, plan) && !is_false {
            plan.left_out(origin, &format!("{key} = {value}: is not an option that rgun knows"));
        }
        add_special(key, value, base, origin, plan);
    }
    flags
}

/// Adds a setting whose value has a form of its own. Relative paths are below `base`.
fn add_special(key: &str, value: &str, base: Option<&str>, origin: &str, plan: &mut Plan) {
    match key {
        "virtualenv" | "home" | "venv" | "pyhome" => {
            let prefix = value.trim_end_matches('/');
            match (prefix.starts_with('/'), base) {
                (true, _) => plan.set(name::PYTHON, Value::text(format!("{prefix}/bin/python")), origin),
                (false, Some(base)) => {
                    plan.set(name::PYTHON, Value::text(format!("{base}/{prefix}/bin/python")), origin);
                }
                (false, None) => {
                    plan.left_out(
                        origin,
                        &format!("{key} = {value}: the directory is not known here; write app.python"),
                    );
                }
            }
        }
        "static-map" => match value.split_once('=') {
            Some((url, directory)) => {
                let url = format!("{}/", url.trim_end_matches('/'));
                match (directory.starts_with('/'), base) {
                    (true, _) => plan.mounts.push((url, directory.to_owned())),
                    (false, Some(base)) => plan.mounts.push((url, format!("{base}/{directory}"))),
                    (false, None) => plan.left_out(
                        origin,
                        &format!("static-map = {value}: write [[static]] with the full path of {directory}"),
                    ),
                }
            }
            None => plan.left_out(origin, &format!("static-map = {value}: has no \"=\"")),
        },
        "chown-socket" => {
            let (user, group) = value.split_once(':').unwrap_or((value, ""));
            plan.directive(DropIn::Socket, "SocketUser", user);
            if !group.is_empty() {
                plan.directive(DropIn::Socket, "SocketGroup", group);
            }
        }
        _ => {}
    }
}

/// Adds an address of uWSGI's own protocol, or of HTTP with `protocol = http`.
fn add_socket(UwsgiOption { value, origin, .. }: &UwsgiOption, is_http: bool, plan: &mut Plan) {
    let directory = plan.directory();
    let is_path = value.contains('/') || !value.contains(':');
    let address = if is_path && !value.starts_with('/') && !value.starts_with('@') {
        format!("unix:{value}")
    } else {
        value.clone()
    };
    plan.listen(&address, directory.as_deref(), origin);
    if !is_http {
        plan.changed.push(format!("{origin}: socket = {value}: rgun speaks HTTP there, not uwsgi; write proxy_pass in place of uwsgi_pass in nginx"));
    }
}

/// Returns the application's name: module and callable.
fn target<'a>(get: &impl Fn(&str) -> Option<&'a str>, label: &str, plan: &mut Plan) -> Option<String> {
    let mut callable = get("callable").map(str::to_owned);
    let file = get("wsgi-file").or(get("file")).map(str::to_owned).or_else(|| {
        // `mount = /shop=shop.py:app`
        let (prefix, application) = get("mount")?.split_once('=')?;
        if prefix != "/" {
            plan.set(name::ROOT_PATH, Value::text(prefix), label);
        }
        let (file, name) =
            application.rsplit_once(':').map_or((application, None), |(file, name)| (file, Some(name)));
        callable = callable.take().or(name.map(str::to_owned));
        Some(file.to_owned())
    });
    let module =
        get("module").or(get("wsgi")).map(str::to_owned).or_else(|| Some(module_of(&file?, label, plan)))?;
    Some(match callable {
        Some(callable) if !module.contains(':') => format!("{module}:{callable}"),
        _ => module,
    })
}

/// Returns the module of a file, and sets the directory in which Python finds the module.
fn module_of(file: &str, label: &str, plan: &mut Plan) -> String {
    let stem = file.rsplit_once(".py").map_or(file, |(stem, _)| stem).trim_start_matches("./");
    let directory = plan.directory();
    let inside = directory.as_deref().and_then(|directory| stem.strip_prefix(directory)?.strip_prefix('/'));
    if let (true, None, Some((parent, name))) = (stem.starts_with('/'), inside, stem.rsplit_once('/')) {
        let key = if directory.is_none() { name::DIRECTORY } else { name::PYTHONPATH };
        plan.set(key, Value::text(parent), label);
        return name.to_owned();
    }
    inside.unwrap_or(stem).replace('/', ".")
}

fn add_count(processes: Option<&str>, cheaper: Option<&str>, label: &str, plan: &mut Plan) {
    let is_number = |text: &&str| text.parse::<u32>().is_ok_and(|number| number > 0);
    if let Some(other) = cheaper.filter(|text| !is_number(text) && *text != "0") {
        plan.left_out(
            label,
            &format!("cheaper = {other}: is not a number; workers.count = \"1-9\" scales with the load"),
        );
    }
    match (processes, cheaper.filter(is_number)) {
        (Some(max), Some(min)) => plan.set(name::COUNT, Value::text(format!("{min}-{max}")), label),
        (Some(count), None) => plan.set(name::COUNT, Value::text(count), label),
        (None, _) => {}
    }
}

/// Returns the options of `[uwsgi]`, with their placeholders replaced. Options whose value is not
/// known, or that depend on a condition, are left out with a note.
fn parse(text: &str, label: &str, path: &str, plan: &mut Plan) -> Vec<UwsgiOption> {
    let (mut entries, mut is_uwsgi, mut condition) = (Vec::new(), false, None);
    let mut placeholders = Placeholders::new(path, plan.scope());
    for (idx, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            is_uwsgi = line == "[uwsgi]";
        }
        if !is_uwsgi || line.is_empty() || line.starts_with(['#', ';', '[']) {
            continue;
        }
        let (key, value) = line.split_once('=').unwrap_or((line, "true"));
        let (key, value, origin) = (long_name(key.trim()), value.trim(), format!("{label}:{}", idx + 1));
        match key {
            "endif" | "end-if" | "end" | "endfor" | "end-for" => {
                condition = None;
                continue;
            }
            // As for `${NAME:-4}`, a variable that no file sets counts as unset.
            "if-not-env" if plan.scope().get(value).is_none() => {
                plan.changed
                    .push(format!("{origin}: {line}: the options below apply, because no file sets {value}"));
                continue;
            }
            _ if key.starts_with("if-") || key.starts_with("for") => {
                condition = Some(line.to_owned());
                continue;
            }
            _ => {}
        }
        if let Some(condition) = &condition {
            plan.left_out(
                &origin,
                &format!("{key} = {value}: depends on {condition}; write the setting if it applies"),
            );
            continue;
        }
        match placeholders.replace(value) {
            Ok((value, notes)) => {
                plan.changed.extend(notes.into_iter().map(|note| format!("{origin}: {note}")));
                match value.split_once('=') {
                    Some((name, value)) if matches!(key, "set" | "set-placeholder" | "set-ph") => {
                        placeholders.define(name, value);
                    }
                    _ => {
                        placeholders.define(key, &value);
                        entries.push(UwsgiOption { key: key.to_owned(), value, origin });
                    }
                }
            }
            Err(unknown) => plan.left_out(
                &origin,
                &format!("{key} = {value}: the value of {unknown} is not known here; write the setting"),
            ),
        }
    }
    // An option that only other options refer to, as `%(name)`, is a variable.
    entries.retain(|entry| options::is_known(UWSGI, &entry.key) || !placeholders.is_used(&entry.key));
    entries
}
