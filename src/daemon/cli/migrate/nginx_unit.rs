//! The configuration of NGINX Unit, in JSON.

use serde_json::{Map, Value as Json};

use super::plan::{DropIn, Plan};
use crate::config::{Value, name};

/// Adds the Python application, the listeners, and their routes to static files.
///
/// # Errors
/// The text is not JSON, or does not have exactly one Python application.
pub(super) fn migrate(text: &str, label: &str, plan: &mut Plan) -> Result<(), String> {
    let json: Json = serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))?;
    let root = json.get("config").unwrap_or(&json);
    let applications: Vec<_> =
        object(root, "applications").into_iter().flatten().filter(|(_, app)| is_python(app)).collect();
    let [(app_name, app)] = applications.as_slice() else {
        let names: Vec<_> = applications.iter().map(|(name, _)| name.as_str()).collect();
        return Err(format!(
            "has {} applications in Python ({}); an instance of rgun serves one: migrate a file for each",
            names.len(),
            names.join(", ")
        ));
    };
    let origin = format!("{label}: applications/{app_name}");
    for (address, listener) in object(root, "listeners").into_iter().flatten() {
        let place = format!("{label}: listeners/{address}");
        plan.listen(address, None, &place);
        if listener.get("tls").is_some() {
            plan.left_out(&place, "tls: write tls.cert and tls.key");
        }
        if let Some(pass) =
            listener.get("pass").and_then(Json::as_str).filter(|pass| !pass.starts_with("applications/"))
        {
            add_routes(root, pass, &place, plan);
        }
    }
    if let Json::Object(settings) = app {
        for (key, value) in settings {
            add(key, value, settings, &origin, plan);
        }
    }
    plan.set_default(
        name::COUNT,
        Value::Integer(1),
        "Unit's default; without this key, rgun.service uses \"auto\"",
    );
    Ok(())
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
        "home" => plan.set(name::PYTHON, Value::text(format!("{}/bin/python", text.trim_end_matches('/'))), origin),
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
            let entries = value.as_object().into_iter().flatten();
            let entries = entries.map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()));
            plan.set(name::ENV, Value::list(entries), origin);
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
        "targets" => plan.left_out(origin, "targets: an instance of rgun serves one application; dispatch in the application, or migrate each"),
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

/// Adds a mount for each route with the action `share` (static files); other routes are left out,
/// with a note.
fn add_routes(root: &Json, pass: &str, origin: &str, plan: &mut Plan) {
    let routes = root.get("routes");
    let steps = match (routes, pass.split_once('/')) {
        (Some(Json::Array(steps)), None) => Some(steps),
        (Some(routes), Some((_, name))) => routes.get(name).and_then(Json::as_array),
        _ => None,
    };
    for step in steps.into_iter().flatten() {
        let action = step.get("action");
        let share = action.and_then(|action| action.get("share")).and_then(Json::as_str);
        let uri = step.pointer("/match/uri").and_then(Json::as_str);
        match (share.and_then(|share| share.strip_suffix("$uri")), uri.and_then(|uri| uri.strip_suffix('*')))
        {
            (Some(directory), Some(prefix)) if prefix.ends_with('/') => {
                let directory =
                    format!("{}{}", directory.trim_end_matches('/'), prefix.trim_end_matches('/'));
                plan.mounts.push((prefix.to_owned(), directory));
            }
            _ if action.and_then(|action| action.get("pass")).is_some() && step.get("match").is_none() => {}
            _ => {
                plan.left_out(origin, &format!("the route {step}: write [[static]], or a rule in the proxy"));
            }
        }
    }
}
