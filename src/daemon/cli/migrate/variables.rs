//! The variables in which servers read flags: `GUNICORN_CMD_ARGS`, `UVICORN_<OPTION>`,
//! `GRANIAN_<OPTION>`, `WEB_CONCURRENCY`, `FORWARDED_ALLOW_IPS`, `SCRIPT_NAME`, `PORT`.
//!
//! They are applied as the server applies them: weaker than its command line. The drop-in lacks the
//! variables that rgun would read too, because they would override `rgun.toml`.

use std::ffi::OsString;

use super::flags::{self, FlagSet};
use super::plan::{EnvPlace, EnvVariable, Plan};
use super::server::ReplacedServer;
use crate::cli::foreign::{FlagSource, ForeignFlags};
use crate::cli::peer_variables;
use crate::config::{Value, forwarded_allow_ips, name};

/// Applies the variables that `server` reads. `stronger` has the flags of the command line.
pub(super) fn apply(server: ReplacedServer, stronger: &FlagSet, plan: &mut Plan) {
    let environment = plan.process_environment();
    match server {
        ReplacedServer::Gunicorn => apply_arguments(stronger, plan),
        ReplacedServer::Uvicorn => {
            apply_foreign(peer_variables::read_uvicorn(&environment), stronger, plan);
        }
        ReplacedServer::Granian => {
            apply_foreign(peer_variables::read_granian(&environment), stronger, plan);
        }
        ReplacedServer::FastApi
        | ReplacedServer::Hypercorn
        | ReplacedServer::Daphne
        | ReplacedServer::Uwsgi => {}
    }
    if server.reads_common_variables() {
        apply_default("WEB_CONCURRENCY", name::COUNT, |count| Value::text(count), plan);
        apply_default("FORWARDED_ALLOW_IPS", name::TRUSTED, forwarded_allow_ips, plan);
    }
    if server == ReplacedServer::Gunicorn {
        apply_default("SCRIPT_NAME", name::ROOT_PATH, |path| Value::text(path), plan);
        apply_default("PORT", name::BIND, |port| Value::list([format!("0.0.0.0:{port}")]), plan);
    }
    let is_read = |name: &str| match server {
        ReplacedServer::Gunicorn => is_common(name) || matches!(name, "GUNICORN_CMD_ARGS" | "SCRIPT_NAME"),
        ReplacedServer::Uvicorn => is_common(name) || name.starts_with("UVICORN_"),
        ReplacedServer::Granian => name.starts_with("GRANIAN_"),
        _ => server.reads_common_variables() && is_common(name),
    };
    remove(server.name(), &is_read, plan);
}

/// Removes the variables that rgun reads, for a server that reads none of them.
pub(super) fn remove_unread(server: &str, plan: &mut Plan) {
    remove(server, &|_| false, plan);
}

fn is_common(name: &str) -> bool {
    matches!(name, "WEB_CONCURRENCY" | "FORWARDED_ALLOW_IPS")
}

/// Returns the last value of a variable, with its origin. An empty variable counts as unset, except
/// one with a list of trusted peers.
fn find(variable: &str, plan: &Plan) -> Option<EnvVariable> {
    let is_set = |each: &&EnvVariable| {
        each.name == variable && (variable == "FORWARDED_ALLOW_IPS" || !each.value.is_empty())
    };
    plan.environment.iter().rev().find(is_set).cloned()
}

/// Applies `GUNICORN_CMD_ARGS`.
fn apply_arguments(stronger: &FlagSet, plan: &mut Plan) {
    let Some(EnvVariable { name, value, origin, .. }) = find("GUNICORN_CMD_ARGS", plan) else { return };
    let origin = format!("{origin}: {name}");
    let Some(words) = shlex::split(&value) else {
        return plan.left_out(&origin, "cannot be split into flags: a quotation is open");
    };
    let mut args: Vec<OsString> = vec!["rgun".into()];
    args.extend(words.into_iter().map(OsString::from));
    // As in gunicorn, an application in the variable has no effect.
    let mut stronger = stronger.clone();
    stronger.insert(name::TARGET);
    flags::add_arguments(&args, FlagSource::Place(&origin), &origin, &stronger, plan);
}

/// Applies the flags of `UVICORN_<OPTION>` or `GRANIAN_<OPTION>`.
fn apply_foreign(parsed: ForeignFlags, stronger: &FlagSet, plan: &mut Plan) {
    let ForeignFlags { layer, warnings, errors, .. } = parsed;
    for (key, setting) in layer {
        if !stronger.contains(key) {
            let origin = find(&setting.origin, plan).map_or(setting.origin.clone(), |variable| {
                format!("{}: {}", variable.origin, setting.origin)
            });
            let directory = plan.directory();
            plan.set(key, flags::absolute(key, setting.value, directory.as_deref()), &origin);
        }
    }
    plan.left_out.extend(warnings);
    for error in errors {
        let hint = error.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
        plan.left_out(&error.origin, &format!("{}{hint}", error.reason));
    }
}

/// Sets a key to the value of a variable, unless something else sets the key.
fn apply_default(variable: &str, key: &'static str, convert: impl Fn(&str) -> Value, plan: &mut Plan) {
    if let Some(EnvVariable { value, origin, .. }) =
        find(variable, plan).filter(|_| !plan.settings.contains_key(key))
    {
        plan.set(key, convert(&value), &format!("{origin}: {variable}"));
    }
}

/// Removes the variables that rgun reads too, or that were applied, from those of the drop-in. A
/// variable in a file stays there, with a note.
fn remove(server: &str, is_read: &dyn Fn(&str) -> bool, plan: &mut Plan) {
    for variable in plan.environment.clone() {
        let EnvVariable { name, origin, place, .. } = &variable;
        // Without APP on the command line, rgun ignores the variables of the other servers.
        let is_rguns = is_common(name) || name == "GUNICORN_CMD_ARGS";
        if !is_rguns && !is_read(name) {
            continue;
        }
        match (is_read(name), *place == EnvPlace::File) {
            (true, false) => plan.changed.push(format!("{origin}: {name}: rgun.toml has its values, or those of stronger flags; the drop-in does not set it")),
            (false, false) => plan.changed.push(format!("{origin}: {name}: {server} does not read it, but rgun does; the drop-in does not set it")),
            (true, true) if is_common(name) => plan.left_out(origin, &format!("{name}: remove it: it would override rgun.toml, which has its value or that of a stronger flag")),
            (true, true) => plan.left_out(origin, &format!("{name}: remove it: rgun.toml has its values")),
            (false, true) => plan.left_out(origin, &format!("{name}: remove it: {server} does not read it, but rgun does")),
        }
        if *place != EnvPlace::File {
            plan.environment.retain(|each| each.name != *name || each.place == EnvPlace::File);
        }
    }
}
