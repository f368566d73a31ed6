//! The tables of `packaging/doc/migrating.md` about the options of uvicorn, granian, hypercorn and
//! daphne. UPDATE_DOCS=1 writes them.

use clap::CommandFactory as _;

use super::*;
use crate::cli::compat::flag::{CompatFlag, Handling};
use crate::cli::compat::gunicorn::TABLE;
use crate::cli::compat::peers::{Becomes, DropIn, ForeignOption};
use crate::cli::compat::uvicorn;
use crate::cli::flags::Cli;
use crate::cli::matches::parse_matches;
use crate::config::name;

const GUIDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/doc/migrating.md");
const START: &str = "<!-- A test writes this table: UPDATE_DOCS=1 make unit; options of ";
const END: &str = "<!-- end of the options -->";

/// Returns the keys that a flag sets, found by parsing the flag with a value that it accepts.
/// `None` if the flag sets none.
fn keys(flag: &str) -> Option<Vec<&'static str>> {
    let command = Cli::command();
    let is_flag = |arg: &&clap::Arg| {
        arg.get_long() == Some(flag) || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&flag))
    };
    let takes_value = command.get_arguments().find(is_flag)?.get_action().takes_values();
    let typed = format!("--{flag}");
    let values = if takes_value { &["1", "asgi", "info", "true"][..] } else { &[""] };
    let layer = |more: &[&str]| {
        let args: Vec<OsString> = ["rgun", "a:b"].iter().chain(more).map(Into::into).collect();
        let (cli, _) = parse_matches(&args).ok()?;
        Some(cli.flags.parse(&mut Vec::new(), &mut Vec::new()).layer)
    };
    let without = layer(&[])?;
    values.iter().find_map(|value| {
        let with = if takes_value { layer(&[&typed, value])? } else { layer(&[&typed])? };
        let is_new = |key: &&'static str| {
            without.get(*key).map(|setting| &setting.value) != with.get(*key).map(|setting| &setting.value)
        };
        let keys: Vec<_> = with.keys().copied().filter(is_new).collect();
        (!keys.is_empty()).then_some(keys)
    })
}

fn listed(keys: &[&str]) -> String {
    keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
}

/// Describes the handling of a flag of gunicorn's or uvicorn's table. `None` for a supported flag.
fn handled(row: &CompatFlag) -> Option<String> {
    let text = match row.handling {
        Handling::Key(_) | Handling::FlagOnly(_) | Handling::BesideDaemon => return None,
        Handling::NoOp => "accepted".to_owned(),
        Handling::Ignored(reason) => format!("ignored: {reason}"),
        Handling::Refused(reason, hint) => format!("refused: {reason}; {hint}"),
        Handling::NotYet(hint) => format!("refused in this version: {hint}"),
    };
    let values: Vec<_> = row.accepted.iter().filter(|value| !value.is_empty()).copied().collect();
    let accepted =
        if values.is_empty() { String::new() } else { format!(" (accepted: {})", listed(&values)) };
    Some(format!("{text}{accepted}").replace("{}", "…"))
}

/// Describes the effect of a flag of rgun with this name.
fn outcome(flag: &str) -> String {
    if flag == "proxy-headers" {
        return format!("the default: `{}`", name::TRUSTED);
    }
    let rows = TABLE.iter().chain(uvicorn::FLAGS);
    let unsupported = rows.filter(|row| row.is_called(flag)).find_map(handled);
    unsupported.or_else(|| keys(flag).map(|keys| listed(&keys))).unwrap_or_else(|| "the same".to_owned())
}

fn row_of_uvicorn(option: &&str) -> String {
    match *option {
        "app" => "| `APP` | `app.target` |\n".to_owned(),
        flag => format!("| `--{flag}` | {} |\n", outcome(flag)),
    }
}

fn row_of_peer(option: &ForeignOption) -> String {
    let dashed = |name: &&str| if name.len() == 1 { format!("`-{name}`") } else { format!("`--{name}`") };
    let names: Vec<_> = option.names.iter().map(dashed).collect();
    let text = match option.becomes {
        Becomes::Flag(flag) => format!("`--{flag}`: {}", outcome(flag)),
        Becomes::Changed(flag, how) => format!("`--{flag}`: {}; {how}", outcome(flag)),
        Becomes::Key(key, "") => format!("`{key}`"),
        Becomes::Key(key, unit) => format!("`{key}`, in {unit}"),
        Becomes::Fixed(key, value) => format!("`{key} = \"{value}\"`"),
        Becomes::Directive(DropIn::Socket, directive) => format!("`{directive}=` of the socket unit"),
        Becomes::Directive(_, directive) => format!("`{directive}=` of the service unit"),
        Becomes::SocketMask => {
            "`SocketMode=` of the socket unit: the permissions that the mask leaves".to_owned()
        }
        Becomes::Nothing => "accepted".to_owned(),
        Becomes::Ignored(reason) => format!("ignored: {reason}"),
        Becomes::Refused(reason) => format!("refused: {reason}"),
    };
    format!("| {} | {text} |\n", names.join(", "))
}

#[test]
fn options_of_the_manual_are_those_of_the_code() {
    let peer = |table: &[ForeignOption]| table.iter().map(row_of_peer).collect::<String>();
    let tables = [
        ("uvicorn", uvicorn::OPTIONS.iter().map(row_of_uvicorn).collect()),
        ("granian", peer(GRANIAN)),
        ("hypercorn", peer(HYPERCORN)),
        ("daphne", peer(DAPHNE)),
    ];
    let mut text = std::fs::read_to_string(GUIDE).unwrap();
    let mut differing = Vec::new();
    for (server, rows) in tables {
        let start = format!("{START}{server} -->\n");
        let (before, rest) = text.split_once(&start).unwrap_or_else(|| panic!("no table of {server}"));
        let (table, after) = rest.split_once(END).unwrap();
        let expected = format!("\n| {server} | rgun |\n|---|---|\n{rows}\n");
        if table != expected {
            differing.push(server);
        }
        text = format!("{before}{start}{expected}{END}{after}");
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(GUIDE, text).unwrap();
    } else {
        assert_eq!(differing, [""; 0], "write the tables with UPDATE_DOCS=1");
    }
}

#[test]
fn every_option_of_uvicorn_sets_a_key_or_has_a_reason() {
    let accepted: Vec<_> = uvicorn::OPTIONS.iter().filter(|option| outcome(option) == "the same").collect();
    assert_eq!(accepted, [&"app"], "these options set no key, and no row says what becomes of them");
}
