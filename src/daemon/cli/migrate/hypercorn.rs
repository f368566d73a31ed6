//! Hypercorn's configuration file in TOML: names of `hypercorn.config.Config`, most of which are
//! also options.

use super::options;
use super::plan::Plan;
use super::server::ReplacedServer;
use crate::cli::compat::peers;
use crate::config::HYPERCORN_NAMES;

/// Names whose option is spelled differently.
const NAMES: [(&str, &str); 9] = [
    ("accesslog", "access-logfile"),
    ("access_log_format", "access-logformat"),
    ("errorlog", "error-logfile"),
    ("loglevel", "log-level"),
    ("logconfig", "log-config"),
    ("keep_alive_timeout", "keep-alive"),
    ("pid_path", "pid"),
    ("use_reloader", "reload"),
    ("server_names", "server-name"),
];

/// Settings that are not options of hypercorn, with rgun's flags for them.
const FLAGS: [(&str, &str); 2] = [
    ("websocket_max_message_size", "ws-max-size"),
    ("h2_max_concurrent_streams", "http2-max-concurrent-streams"),
];

/// Returns whether the text is TOML with settings of hypercorn outside of any table.
pub(super) fn is_hypercorn(text: &str) -> bool {
    let Ok(table) = text.parse::<toml::Table>() else { return false };
    HYPERCORN_NAMES.iter().any(|name| table.get(*name).is_some_and(|value| !value.is_table()))
}

/// Adds the settings of the file.
///
/// # Errors
/// The text is not TOML.
pub(super) fn migrate(text: &str, label: &str, plan: &mut Plan) -> Result<(), String> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| error.message().to_owned())?;
    let mut flags = Vec::new();
    for (name, value) in &table {
        let option = NAMES
            .iter()
            .find(|(theirs, _)| theirs == name)
            .map_or_else(|| name.replace('_', "-"), |(_, option)| (*option).to_owned());
        for text in texts(value) {
            let flag = FLAGS.iter().find(|(theirs, _)| theirs == name);
            if name == "application_path" {
                flags.push(text);
            } else if let Some((_, flag)) = flag {
                flags.push(format!("--{flag}={text}"));
            } else if text == "false" {
                // False is the default of every boolean except one, for which rgun needs no
                // setting.
            } else if !options::add_one(peers::HYPERCORN, &option, &text, &mut flags, label, plan) {
                plan.left_out(label, &format!("{name}: has no counterpart in rgun"));
            }
        }
    }
    super::flags::add(&flags, label, plan);
    plan.is_server |= table.contains_key("application_path");
    plan.servers.push(ReplacedServer::Hypercorn);
    Ok(())
}

/// Returns the value as texts, one for each element of a list.
fn texts(value: &toml::Value) -> Vec<String> {
    match value {
        toml::Value::String(text) => vec![text.clone()],
        toml::Value::Array(items) => items.iter().flat_map(texts).collect(),
        other => vec![other.to_string()],
    }
}
