//! Migrates a `uwsgi.ini`.

use super::flags;
use super::options::{self, UWSGI};
use super::plan::{DropIn, Plan};
use crate::config::{Value, name};

/// Adds the settings of the section `[uwsgi]`.
pub(super) fn migrate(text: &str, label: &str, plan: &mut Plan) {
    let entries = parse(text);
    let get =
        |key: &str| entries.iter().rev().find(|(name, ..)| name == key).map(|(_, value, _)| value.as_str());
    let directory = get("chdir").map(|path| path.trim_end_matches('/').to_owned());
    let mut flags = Vec::new();
    for (key, value, line) in &entries {
        let origin = format!("{label}:{line}");
        let is_false = matches!(value.as_str(), "false" | "0" | "no" | "off");
        if value.contains("%(") || value.contains("%d") || value.contains("$(") {
            plan.left_out(
                &origin,
                &format!("{key} = {value}: the variable is not known here; write the setting"),
            );
        } else if !options::add_one(UWSGI, key, value, &mut flags, &origin, plan) && !is_false {
            plan.left_out(&origin, &format!("{key} = {value}: is not an option that rgun knows"));
        }
        add_special(key, value, directory.as_deref(), &origin, plan);
    }
    if let Some(target) = target(&get) {
        flags.push(target);
    } else {
        plan.left_out(label, "the application: neither module nor wsgi-file names it; write app.target");
    }
    if let Some(directory) = directory {
        plan.set(name::DIRECTORY, Value::text(directory), label);
    }
    add_count(get("processes").or(get("workers")).or(get("p")), get("cheaper"), label, plan);
    if !matches!(get("lazy-apps").or(get("lazy")), Some("true" | "1" | "yes" | "on")) {
        plan.changed.push(format!(
            "{label}: uWSGI imports the application once, before it forks; rgun imports it in each worker, unless workers.preload = true"
        ));
    }
    flags::add(&flags, label, plan);
    plan.set_default(
        name::REQUEST,
        Value::text("off"),
        "uWSGI has no deadline without harakiri; a value such as \"60s\" ends requests that hang",
    );
}

/// Adds a setting whose value has a form of its own. Relative paths are below `base`.
fn add_special(key: &str, value: &str, base: Option<&str>, origin: &str, plan: &mut Plan) {
    match key {
        "virtualenv" | "home" | "venv" => {
            plan.set(
                name::PYTHON,
                Value::text(format!("{}/bin/python", value.trim_end_matches('/'))),
                origin,
            );
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
        "socket" | "uwsgi-socket" => {
            let directory = plan.directory();
            plan.listen(
                if value.contains('/') { value } else { value.trim_start_matches('@') },
                directory.as_deref(),
                origin,
            );
            plan.changed.push(format!("{origin}: socket = {value}: rgun speaks HTTP there, not uwsgi; write proxy_pass in place of uwsgi_pass in nginx"));
        }
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

/// Returns the application's name: module and callable.
fn target<'a>(get: &impl Fn(&str) -> Option<&'a str>) -> Option<String> {
    let callable = get("callable");
    let module = get("module").or(get("wsgi")).map(str::to_owned).or_else(|| {
        let file = get("wsgi-file").or(get("file"))?;
        Some(
            file.rsplit_once(".py").map_or(file, |(stem, _)| stem).trim_start_matches("./").replace('/', "."),
        )
    })?;
    Some(match callable {
        Some(callable) if !module.contains(':') => format!("{module}:{callable}"),
        _ => module,
    })
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
        (None, _) => plan.set_default(
            name::COUNT,
            Value::Integer(1),
            "uWSGI's default; without this key, rgun.service uses \"auto\"",
        ),
    }
}

/// Returns the entries of `[uwsgi]`: name, value, line.
fn parse(text: &str) -> Vec<(String, String, usize)> {
    let (mut entries, mut is_uwsgi) = (Vec::new(), false);
    for (idx, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            is_uwsgi = line == "[uwsgi]";
        } else if is_uwsgi && !line.is_empty() && !line.starts_with(['#', ';']) {
            let (key, value) = line.split_once('=').unwrap_or((line, "true"));
            entries.push((key.trim().to_owned(), value.trim().to_owned(), idx + 1));
        }
    }
    entries
}
