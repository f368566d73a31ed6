//! The configuration of NGINX Unit, in JSON.

use serde_json::{Map, Value as Json};

use super::interpreter;
use super::plan::{DropIn, EnvPlace, Plan};
use super::variables;
use crate::config::{Value, name};

/// Returns a plan for each Python application, or for each of its targets, with its listeners and
/// their routes to static files. Other applications are left out with a note.
///
/// # Errors
/// The text is not JSON.
pub(super) fn migrate(text: &str, label: &str, plan: &mut Plan) -> Result<Vec<Plan>, String> {
    let json: Json = serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))?;
    let root = json.get("config").unwrap_or(&json);
    let mut servers = Vec::new();
    for (app_name, app) in object(root, "applications").into_iter().flatten() {
        let origin = format!("{label}: applications/{app_name}");
        let Some(settings) = app.as_object().filter(|_| is_python(app)) else {
            plan.left_out(&origin, "is not an application in Python");
            continue;
        };
        let targets = settings.get("targets").and_then(Json::as_object);
        for (target, own) in targets.into_iter().flatten() {
            let mut merged = settings.clone();
            merged.remove("targets");
            merged.extend(own.as_object().cloned().unwrap_or_default());
            let mut service = Plan { name: format!("{app_name}-{target}"), is_server: true, ..plan.clone() };
            let origin = format!("{origin}/{target}");
            add_application(root, &format!("{app_name}/{target}"), &merged, label, &origin, &mut service);
            service.changed.push(format!("{origin}: became an instance of its own; in Unit, the targets of an application share its processes"));
            servers.push(service);
        }
        if targets.is_none() {
            let mut service = Plan { name: app_name.clone(), is_server: true, ..plan.clone() };
            add_application(root, app_name, settings, label, &origin, &mut service);
            servers.push(service);
        }
    }
    for (key, value) in root.as_object().into_iter().flatten() {
        match key.as_str() {
            "applications" | "listeners" | "routes" => {}
            "access_log" => servers.iter_mut().for_each(|service| {
                service.set(name::ACCESS, Value::Boolean(true), &format!("{label}: access_log"));
                service.left_out(
                    &format!("{label}: access_log"),
                    "the log is in the journal, journalctl -u rgun",
                );
            }),
            _ => plan.left_out(&format!("{label}: {key}"), &format!("{value}: rgun.toml has no such key")),
        }
    }
    if servers.is_empty() {
        plan.left_out(label, "has no application in Python");
    }
    Ok(servers)
}

/// Adds an application, or a target of an application (`app` is then `APPLICATION/TARGET`), with its
/// listeners.
fn add_application(
    root: &Json,
    app: &str,
    settings: &Map<String, Json>,
    label: &str,
    origin: &str,
    plan: &mut Plan,
) {
    for (address, listener) in object(root, "listeners").into_iter().flatten() {
        let place = format!("{label}: listeners/{address}");
        add_listener(root, (address, listener), app, &place, plan);
    }
    for (key, value) in settings {
        add(key, value, settings, origin, plan);
    }
    plan.set_default(
        name::COUNT,
        Value::Integer(1),
        "Unit's default; without this key, rgun.service uses \"auto\"",
    );
    variables::remove_unread("NGINX Unit", plan);
}

/// Adds a listener, if it passes requests to the application.
fn add_listener(root: &Json, (address, listener): (&str, &Json), app: &str, place: &str, plan: &mut Plan) {
    let Some(pass) = listener.get("pass").and_then(Json::as_str) else { return };
    // `applications/NAME`, or `applications/NAME/TARGET`
    let is_of = |pass: &str| pass.strip_prefix("applications/").map(|path| path == app);
    let steps = route_steps(root, pass);
    let passes_here = |step: &&Json| {
        let next = step.pointer("/action/pass").and_then(Json::as_str);
        let fallback = step.pointer("/action/fallback/pass").and_then(Json::as_str);
        [next, fallback].into_iter().flatten().any(|next| is_of(next) == Some(true))
    };
    let is_mine = is_of(pass)
        .unwrap_or_else(|| steps.iter().flat_map(|steps| steps.iter()).any(|step| passes_here(&step)));
    if !is_mine {
        return;
    }
    plan.listen(address, None, place);
    if listener.get("tls").is_some() {
        plan.left_out(place, "tls: write tls.cert and tls.key");
    }
    for (key, value) in listener.as_object().into_iter().flatten() {
        let header = value.get("client_ip").and_then(Json::as_str);
        let source = value.get("source").and_then(Json::as_array);
        if let ("forwarded", Some("X-Forwarded-For"), Some(source)) = (key.as_str(), header, source) {
            plan.set(name::TRUSTED, Value::list(source.iter().filter_map(Json::as_str)), place);
        } else if !matches!(key.as_str(), "pass" | "tls") {
            plan.left_out(place, &format!("{key} = {value}: write proxy.trusted if a proxy is in front"));
        }
    }
    for step in steps.into_iter().flatten() {
        add_route(step, place, plan);
    }
}

fn is_python(app: &Json) -> bool {
    app.get("type").and_then(Json::as_str).is_some_and(|kind| kind.starts_with("python"))
}

fn object<'a>(json: &'a Json, key: &str) -> Option<&'a Map<String, Json>> {
    json.get(key).and_then(Json::as_object)
}

fn add(key: &str, value: &Json, settings: &Map<String, Json>, origin: &str, plan: &mut Plan) {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match key {
        "type" | "callable" | "factory" => {}
        "module" => {
            let callable = settings.get("callable").and_then(Json::as_str).unwrap_or("application");
            let call = if settings.get("factory") == Some(&Json::Bool(true)) { "()" } else { "" };
            plan.set(name::TARGET, Value::text(format!("{text}:{callable}{call}")), origin);
        }
        "home" => {
            let base = ["working_directory", "path"].iter().find_map(|key| settings.get(*key)?.as_str());
            let prefix = interpreter::below(
                base.map(str::to_owned),
                format!("{}/bin/python", text.trim_end_matches('/')),
            );
            plan.set(name::PYTHON, Value::text(prefix), origin);
        }
        "path" => {
            let paths: Vec<String> = match value {
                Json::Array(items) => items.iter().filter_map(Json::as_str).map(str::to_owned).collect(),
                _ => vec![text],
            };
            if let (Some(first), false) = (paths.first(), settings.contains_key("working_directory")) {
                plan.set(name::DIRECTORY, Value::text(first), origin);
            }
            let rest = usize::from(!settings.contains_key("working_directory"));
            if paths.len() > rest {
                plan.set(name::PYTHONPATH, Value::list(paths[rest..].iter().cloned()), origin);
            }
        }
        "working_directory" => plan.set(name::DIRECTORY, Value::text(text), origin),
        "protocol" => plan.set(name::INTERFACE, Value::text(text), origin),
        "prefix" => plan.set(name::ROOT_PATH, Value::text(text), origin),
        "threads" => plan.set(name::THREADS, Value::text(text), origin),
        "user" => plan.directive(DropIn::Service, "User", &text),
        "group" => plan.directive(DropIn::Service, "SupplementaryGroups", &text),
        "environment" => {
            for (name, value) in value.as_object().into_iter().flatten() {
                plan.export(name, value.as_str().unwrap_or_default(), origin, EnvPlace::DropIn);
            }
        }
        "processes" => add_processes(value, origin, plan),
        "limits" => {
            if let Some(timeout) = value.get("timeout").and_then(Json::as_u64) {
                plan.set(name::REQUEST, Value::text(format!("{timeout}s")), origin);
            }
            if let Some(requests) = value.get("requests").and_then(Json::as_u64) {
                plan.set(name::MAX_REQUESTS, Value::Integer(requests.into()), origin);
            }
        }
        _ => plan.left_out(origin, &format!("{key} = {text}: rgun.toml has no such key")),
    }
}

fn add_processes(value: &Json, origin: &str, plan: &mut Plan) {
    let number = |key: &str| value.get(key).and_then(Json::as_u64);
    match (value.as_u64(), number("max")) {
        (Some(count), _) => plan.set(name::COUNT, Value::Integer(count.into()), origin),
        (None, Some(max)) => {
            let min = number("spare").unwrap_or(1).max(1);
            plan.set(name::COUNT, Value::text(format!("{min}-{max}")), origin);
            plan.changed.push(format!(
                "{origin}: processes.spare = {min} became the minimum number of workers; Unit counts only idle processes"
            ));
        }
        (None, None) => {
            plan.left_out(
                origin,
                &format!("processes = {value}: is neither a number nor an object with max"),
            );
        }
    }
    if let Some(seconds) = number("idle_timeout") {
        plan.left_out(
            origin,
            &format!("processes.idle_timeout = {seconds}: workers.count follows the load by itself"),
        );
    }
}

/// Returns the steps of `routes` or `routes/NAME`.
fn route_steps<'a>(root: &'a Json, pass: &str) -> Option<&'a Vec<Json>> {
    match (root.get("routes"), pass.split_once('/')) {
        (Some(Json::Array(steps)), None) => Some(steps),
        (Some(routes), Some((_, name))) => routes.get(name).and_then(Json::as_array),
        _ => None,
    }
}

/// Adds a mount for a route with the action `share` (static files). Other routes are left out, with
/// a note, except one that passes everything to an application.
fn add_route(step: &Json, origin: &str, plan: &mut Plan) {
    let share = step.pointer("/action/share");
    let shares: Vec<&str> = match share {
        Some(Json::Array(items)) => items.iter().filter_map(Json::as_str).collect(),
        Some(Json::String(path)) => vec![path],
        _ => Vec::new(),
    };
    let uris: Vec<&str> = match step.pointer("/match/uri") {
        Some(Json::Array(items)) => items.iter().filter_map(Json::as_str).collect(),
        Some(Json::String(uri)) => vec![uri],
        _ => Vec::new(),
    };
    let only_uri = step.get("match").and_then(Json::as_object).is_some_and(|rules| rules.len() == 1);
    let prefix = |uri: &str| uri.strip_suffix('*').filter(|prefix| prefix.ends_with('/')).map(str::to_owned);
    let prefixes: Option<Vec<String>> = uris.iter().map(|uri| prefix(uri)).collect();
    match (shares.as_slice(), prefixes) {
        ([share], Some(prefixes)) if !prefixes.is_empty() && only_uri => {
            for prefix in prefixes {
                // `$uri` is the whole path; without it, every request gets the same file.
                match share.strip_suffix("$uri") {
                    Some(root) => {
                        let directory =
                            format!("{}{}", root.trim_end_matches('/'), prefix.trim_end_matches('/'));
                        plan.mounts.push((prefix, directory));
                    }
                    None => plan.left_out(
                        origin,
                        &format!("the route {step}: write [[static]], or a rule in the proxy"),
                    ),
                }
            }
        }
        _ if step.pointer("/action/pass").is_some() && step.get("match").is_none() => {}
        _ => {
            plan.left_out(origin, &format!("the route {step}: write [[static]], or a rule in the proxy"));
        }
    }
}
