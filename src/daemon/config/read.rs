//! Readers: one kind of value each, from a [`Setting`] to what is meant or a [`Complaint`].
//!
//! `check` calls them and adds key and place. What a value may be is said here and nowhere else.

use std::num::{NonZeroU16, NonZeroU32, NonZeroU64};
use std::path::Path;
use std::time::Duration;

use super::value::{Setting, Source};
use super::{
    Bind, Complaint, Count, Interface, Level, Lifespan, Listen, Loop, Retry, Target, Underscores, Value, fs,
    units,
};

/// Less than a bare interpreter with its extension takes; a worker so limited would be replaced for ever.
const MEMORY_MIN: u64 = 16 << 20;

pub(super) fn text(setting: &Setting) -> Result<&str, Complaint> {
    match &setting.value {
        Value::Text(text) => Ok(text),
        Value::Bytes(_) => Err(Complaint::new("is not UTF-8")),
        other => Err(Complaint::new(format!("must be a string, not {}", other.kind()))),
    }
}

/// A whole number within bounds; the environment and the command line write it as text, the file must not.
pub(super) fn whole(setting: &Setting, min: u32, max: u32) -> Result<u32, Complaint> {
    let n = match &setting.value {
        Value::Integer(n) => *n,
        Value::Text(text) if setting.source != Source::File => {
            // `i128::from_str` also takes "+3".
            let n = if text.starts_with('+') { None } else { text.parse().ok() };
            n.ok_or_else(|| Complaint::new("is not a whole number"))?
        }
        Value::Text(text) if text.parse::<i128>().is_ok() => {
            return Err(
                Complaint::new("must be a number, not a string").hint(format!("write {text} without quotes"))
            );
        }
        other => return Err(Complaint::new(format!("must be a whole number, not {}", other.kind()))),
    };
    match u32::try_from(n) {
        Ok(n) if (min..=max).contains(&n) => Ok(n),
        _ if n < 0 => Err(Complaint::new("is negative").hint(format!("write a number from {min} to {max}"))),
        _ => Err(Complaint::new(format!("is out of bounds: the least is {min}, the most {max}"))),
    }
}

pub(super) fn boolean(setting: &Setting) -> Result<bool, Complaint> {
    match (&setting.value, setting.source) {
        (Value::Boolean(yes), _) => Ok(*yes),
        // The words of systemd's booleans, for variables.
        (Value::Text(text), Source::Environment | Source::CommandLine) => {
            match text.to_ascii_lowercase().as_str() {
                "1" | "true" | "yes" | "on" => Ok(true),
                "0" | "false" | "no" | "off" => Ok(false),
                _ => Err(Complaint::new("is neither true nor false")),
            }
        }
        (other, _) => Err(Complaint::new(format!("must be true or false, not {}", other.kind()))
            .hint("write true or false without quotes")),
    }
}

pub(super) fn is_auto(setting: &Setting) -> bool {
    matches!(&setting.value, Value::Text(text) if text == "auto")
}

const COUNTS: &str = "write \"auto\", a number, or { min = 1, max = 9 } (outside the file: 1-9)";

pub(super) fn count(setting: &Setting) -> Result<Count, Complaint> {
    if is_auto(setting) {
        return Ok(Count::Auto);
    }
    match &setting.value {
        Value::Table(entries) => return range(setting, entries),
        Value::Text(text) => {
            if let Some((min, max)) =
                text.split_once('-').filter(|(min, max)| !min.is_empty() && !max.is_empty())
            {
                let end = |text: &str| Setting { value: Value::text(text), ..setting.clone() };
                if setting.source != Source::File {
                    return bounds(&end(min), &end(max));
                }
                if let (Ok(min), Ok(max)) = (min.trim().parse::<u16>(), max.trim().parse::<u16>()) {
                    return Err(Complaint::new("must be a table, not a string")
                        .hint(format!("write {{ min = {min}, max = {max} }}")));
                }
            }
        }
        _ => {}
    }
    whole(setting, 1, u16::MAX.into()).map(|n| Count::Fixed(non_zero_u16(n))).map_err(|complaint| Complaint {
        hint: complaint.hint.or_else(|| Some(COUNTS.to_owned())),
        ..complaint
    })
}

fn range(setting: &Setting, entries: &[(String, Value)]) -> Result<Count, Complaint> {
    if let Some((name, _)) = entries.iter().find(|(name, _)| name != "min" && name != "max") {
        return Err(Complaint::new(format!("has a \"{name}\"; a range has \"min\" and \"max\"")).hint(COUNTS));
    }
    let end = |wanted: &str| {
        let found = entries.iter().find(|(name, _)| name == wanted);
        let (_, value) = found.ok_or_else(|| Complaint::new(format!("has no \"{wanted}\"")).hint(COUNTS))?;
        Ok(Setting { value: value.clone(), ..setting.clone() })
    };
    bounds(&end("min")?, &end("max")?)
}

fn bounds(min: &Setting, max: &Setting) -> Result<Count, Complaint> {
    let end = |which: &str, setting: &Setting| {
        whole(setting, 1, u16::MAX.into()).map(non_zero_u16).map_err(|complaint| {
            let none = matches!(&setting.value, Value::Integer(0)) || setting.value == Value::text("0");
            let hint = if none && which == "min" {
                Some("write min = 1, and idle_exit = \"10m\" for no worker while nothing is asked".to_owned())
            } else {
                complaint.hint.or_else(|| Some(COUNTS.to_owned()))
            };
            Complaint { reason: format!("its {which}, {}, {}", setting.value, complaint.reason), hint }
        })
    };
    let (min, max) = (end("min", min)?, end("max", max)?);
    if min > max {
        return Err(Complaint::new(format!("its min, {min}, is more than its max, {max}"))
            .hint(format!("write {{ min = {max}, max = {min} }} (outside the file: {max}-{min})")));
    }
    Ok(Count::Range { min, max })
}

/// A number of which there is at least one; "off" is no limit.
pub(super) fn count_or_off(setting: &Setting) -> Result<Option<NonZeroU32>, Complaint> {
    if setting.value == Value::text("off") {
        return Ok(None);
    }
    let count = whole(setting, 1, u32::MAX);
    count.map(NonZeroU32::new).map_err(|complaint| complaint.hint("write a number, or \"off\" for no limit"))
}

/// A number of requests; 0, as in gunicorn, and "off" are none.
pub(super) fn requests_or_off(setting: &Setting) -> Result<Option<NonZeroU64>, Complaint> {
    if setting.value == Value::text("off") {
        return Ok(None);
    }
    whole(setting, 0, u32::MAX).map(|n| NonZeroU64::new(n.into())).map_err(|complaint| Complaint {
        hint: complaint.hint.or_else(|| Some("write a number of requests, or 0 for no limit".to_owned())),
        ..complaint
    })
}

pub(super) fn memory_or_off(setting: &Setting) -> Result<Option<u64>, Complaint> {
    let size = bytes_or_off(setting)?;
    match size {
        Some(bytes) if bytes < MEMORY_MIN => {
            let complaint = Complaint::new(format!(
                "is less than {}, which is about what Python takes alone",
                units::show_size(MEMORY_MIN)
            ));
            // Who writes 512 means MiB.
            let bare = match &setting.value {
                Value::Integer(_) => true,
                Value::Text(text) => text.bytes().all(|byte| byte.is_ascii_digit()),
                _ => false,
            };
            Err(if bare && (16..=1 << 20).contains(&bytes) {
                complaint.hint(format!("a number alone is bytes: write \"{bytes}MiB\""))
            } else {
                complaint.hint("write what a worker may grow to, e.g. \"512MiB\"")
            })
        }
        size => Ok(size),
    }
}

pub(super) fn retry(setting: &Setting) -> Result<Retry, Complaint> {
    match text(setting)? {
        "off" => Ok(Retry::Off),
        "idempotent" => Ok(Retry::Idempotent),
        other => Err(choice(other, &["off", "idempotent"])),
    }
}

/// The target of a request that rgun makes itself; "off" is none.
pub(super) fn probe(setting: &Setting) -> Result<Option<String>, Complaint> {
    const EXAMPLE: &str = "write a path the application answers, e.g. \"/healthz\", or \"off\"";
    let text = text(setting)?;
    if text == "off" {
        return Ok(None);
    }
    if text.contains("://") {
        let path = text.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..]));
        return Err(Complaint::new("is a URL; the request goes to the new worker itself")
            .hint(format!("write the path alone: \"{}\"", path.unwrap_or("/"))));
    }
    if !text.starts_with('/') {
        return Err(Complaint::new("is not a path").hint(EXAMPLE));
    }
    match text.chars().find(|c| !c.is_ascii_graphic() || *c == '#') {
        Some(c) => Err(Complaint::new(format!("has {c:?} in it, which no request has"))
            .hint("write it percent-encoded, as in a URL")),
        None => Ok(Some(text.to_owned())),
    }
}

/// `module:function`; "off" is none.
pub(super) fn hook(setting: &Setting) -> Result<Option<Target>, Complaint> {
    let text = text(setting)?;
    if text == "off" {
        return Ok(None);
    }
    let complaint = |reason: &str, hint: &str| Err(Complaint::new(reason).hint(hint));
    if let Some((name, _)) = text.split_once('(') {
        return complaint(
            "calls the function; rgun does that",
            &format!("write \"{}\": its arguments are gunicorn's", name.trim_end()),
        );
    }
    if text.ends_with("gunicorn.conf.py") || text.ends_with("gunicorn_conf.py") {
        return complaint(
            "is a file's path; a function in a module is expected",
            "move the function into a module of the application, and write \"mysite.hooks:post_fork\"",
        );
    }
    let target: Target = text.parse().map_err(|complaint: Complaint| Complaint {
        // Its examples are of applications.
        hint: complaint.hint.map(|hint| hint.replace("mysite.wsgi:application", "mysite.hooks:post_fork")),
        ..complaint
    })?;
    if !text.contains(':') {
        return complaint(
            "names no function",
            &format!("write \"{text}:post_fork\", or what it is called there"),
        );
    }
    Ok(Some(target))
}

pub(super) fn underscores(setting: &Setting) -> Result<Underscores, Complaint> {
    match text(setting)? {
        "drop" => Ok(Underscores::Drop),
        "refuse" => Ok(Underscores::Refuse),
        "allow" => Ok(Underscores::Allow),
        // Gunicorn's --header-map.
        "dangerous" => Err(Complaint::new("is not one of the choices").hint("write \"allow\"")),
        other => Err(choice(other, &["drop", "refuse", "allow"])),
    }
}

pub(super) fn interface(setting: &Setting) -> Result<Interface, Complaint> {
    match text(setting)? {
        "auto" => Ok(Interface::Auto),
        "wsgi" => Ok(Interface::Wsgi),
        "asgi" => Ok(Interface::Asgi),
        other => Err(choice(other, &["auto", "wsgi", "asgi"])),
    }
}

pub(super) fn lifespan(setting: &Setting) -> Result<Lifespan, Complaint> {
    match text(setting)? {
        "auto" => Ok(Lifespan::Auto),
        "on" => Ok(Lifespan::On),
        "off" => Ok(Lifespan::Off),
        other => Err(choice(other, &["auto", "on", "off"])),
    }
}

pub(super) fn event_loop(setting: &Setting) -> Result<Loop, Complaint> {
    match text(setting)? {
        "auto" => Ok(Loop::Auto),
        "asyncio" => Ok(Loop::Asyncio),
        "uvloop" => Ok(Loop::Uvloop),
        other => Err(choice(other, &["auto", "asyncio", "uvloop"])),
    }
}

pub(super) fn level(setting: &Setting) -> Result<Level, Complaint> {
    match text(setting)? {
        "error" => Ok(Level::Error),
        "warn" => Ok(Level::Warn),
        "info" => Ok(Level::Info),
        "debug" => Ok(Level::Debug),
        "trace" => Ok(Level::Trace),
        "warning" => Err(Complaint::new("is not a level").hint("write \"warn\"")),
        "critical" => Err(Complaint::new("is not a level").hint("write \"error\"")),
        other => Err(choice(other, &["error", "warn", "info", "debug", "trace"])),
    }
}

fn choice(word: &str, choices: &[&str]) -> Complaint {
    let all = choices.iter().map(|choice| format!("\"{choice}\"")).collect::<Vec<_>>().join(", ");
    let complaint = Complaint::new("is not one of the choices");
    match super::keys::nearest(word, choices.iter().copied()) {
        Some(near) => complaint.hint(format!("did you mean \"{near}\"? ({all})")),
        None => complaint.hint(format!("write one of {all}")),
    }
}

pub(super) fn root_path(setting: &Setting) -> Result<String, Complaint> {
    let path = text(setting)?;
    if path.is_empty() {
        return Ok(String::new());
    }
    if path.contains(|c: char| c.is_control() || c.is_whitespace() || matches!(c, '?' | '#')) {
        return Err(Complaint::new("is not the path of a URL").hint("write e.g. \"/shop\""));
    }
    let trimmed = path.trim_matches('/');
    let canonical = if trimmed.is_empty() { String::new() } else { format!("/{trimmed}") };
    if canonical == path {
        Ok(canonical)
    } else {
        // PEP 3333: SCRIPT_NAME is empty for the root, and PATH_INFO brings the "/" that follows it.
        Err(Complaint::new("must be empty, or begin with one \"/\" and not end with one")
            .hint(format!("write \"{canonical}\"")))
    }
}

/// A list of strings, one string, or (outside the file) strings with commas between.
pub(super) fn strings(setting: &Setting) -> Result<Vec<&str>, Complaint> {
    let of =
        |item: &'_ Value| Complaint::new(format!("must be a list of strings, but has {} in it", item.kind()));
    match &setting.value {
        Value::Text(text) if setting.source == Source::File => Ok(vec![text]),
        Value::Text(text) => Ok(text.split(',').map(str::trim).collect()),
        Value::List(items) => items
            .iter()
            .map(|item| match item {
                Value::Text(text) => Ok(text.as_str()),
                other => Err(of(other)),
            })
            .collect(),
        other => Err(Complaint::new(format!("must be a string or a list of strings, not {}", other.kind()))),
    }
}

pub(super) fn listen(setting: &Setting, base: &Path) -> Result<Listen, Complaint> {
    let mut bind: Vec<Bind> = Vec::new();
    for text in strings(setting)? {
        let mut address = text.parse().map_err(|complaint: Complaint| Complaint {
            reason: format!("{text:?} {}", complaint.reason),
            ..complaint
        })?;
        if let Bind::Unix { path } = &mut address
            && path.is_relative()
        {
            if setting.source != Source::CommandLine {
                return Err(Complaint::new(format!("{text:?} is relative, and nothing says to what"))
                    .hint(format!("write the full path, e.g. \"unix:/run/{}\"", path.display())));
            }
            *path = fs::absolute(base, path);
        }
        if bind.contains(&address) {
            return Err(Complaint::new(format!("has {address} twice")));
        }
        bind.push(address);
    }
    if bind.is_empty() {
        return Err(Complaint::new("names no address").hint("leave the key out for 127.0.0.1:8000"));
    }
    Ok(Listen { bind, explicit: true })
}

/// The variables of one source: a table from the file, `NAME=value` from the command line.
pub(super) fn env(value: &Value, complaints: &mut Vec<Complaint>) -> Vec<(String, String)> {
    let pairs: Vec<Result<(&str, &str), Complaint>> = match value {
        Value::Table(entries) => entries
            .iter()
            .map(|(name, value)| match value {
                Value::Text(text) => Ok((name.as_str(), text.as_str())),
                other => Err(Complaint::new(format!("{name} must be a string, not {}", other.kind()))
                    .hint("an environment has text only: put quotes around the value")),
            })
            .collect(),
        Value::List(items) => items
            .iter()
            .map(|item| match item {
                Value::Text(text) => text
                    .split_once('=')
                    .ok_or_else(|| Complaint::new(format!("{text:?} has no \"=\"")).hint("write NAME=value")),
                other => Err(Complaint::new(format!("must be NAME=value, not {}", other.kind()))),
            })
            .collect(),
        other => vec![Err(Complaint::new(format!("must be a table of strings, not {}", other.kind()))
            .hint("write env = { NAME = \"value\" }"))],
    };
    let mut checked = Vec::new();
    for pair in pairs {
        match pair {
            Ok((name, _)) if name.is_empty() || name.contains(['=', '\0']) => {
                complaints.push(Complaint::new(format!("{name:?} cannot be a variable's name")));
            }
            Ok((name, value)) if value.contains('\0') => {
                complaints.push(Complaint::new(format!("the value of {name} has a zero byte")));
            }
            Ok((name, value)) => checked.push((name.to_owned(), value.to_owned())),
            Err(complaint) => complaints.push(complaint),
        }
    }
    checked
}

/// A duration as text; a bare number is told that it lacks its unit.
fn duration(setting: &Setting) -> Result<Option<Duration>, Complaint> {
    match &setting.value {
        Value::Text(text) => units::duration(text),
        Value::Integer(n) if *n >= 0 => {
            Err(Complaint::new("has no unit").hint(format!("write \"{n}s\" for seconds, or use ms, m, h")))
        }
        Value::Integer(_) => Err(Complaint::new("is negative").hint("write e.g. \"30s\"")),
        other => {
            Err(Complaint::new(format!("must be a duration, not {}", other.kind()))
                .hint("write e.g. \"30s\""))
        }
    }
}

pub(super) fn timeout_or_off(setting: &Setting) -> Result<Option<Duration>, Complaint> {
    match duration(setting)? {
        Some(Duration::ZERO) => {
            Err(Complaint::new("is no time at all").hint("write \"off\" where there shall be no limit"))
        }
        duration => Ok(duration),
    }
}

pub(super) fn timeout(setting: &Setting) -> Result<Duration, Complaint> {
    match duration(setting)? {
        None => Err(Complaint::new("cannot be off: a client that stops would hold its connection for ever")
            .hint("write a long time, e.g. \"1h\"")),
        Some(Duration::ZERO) => Err(Complaint::new("is no time at all").hint("write e.g. \"10s\"")),
        Some(duration) => Ok(duration),
    }
}

pub(super) fn timeout_or_zero(setting: &Setting, instead_of_off: &str) -> Result<Duration, Complaint> {
    duration(setting)?.ok_or_else(|| Complaint::new("cannot be off").hint(instead_of_off))
}

fn size(setting: &Setting) -> Result<Option<u64>, Complaint> {
    match &setting.value {
        Value::Text(text) => units::size(text),
        Value::Integer(n) => u64::try_from(*n).map(Some).map_err(|_| {
            Complaint::new(if *n < 0 { "is negative" } else { "is more than 64 bits of bytes" })
        }),
        other => {
            Err(Complaint::new(format!("must be a size, not {}", other.kind())).hint("write e.g. \"16MiB\""))
        }
    }
}

pub(super) fn bytes_or_off(setting: &Setting) -> Result<Option<u64>, Complaint> {
    match size(setting)? {
        Some(0) => {
            Err(Complaint::new("is no size at all").hint("write \"off\" where there shall be no limit"))
        }
        size => Ok(size),
    }
}

/// Room that may be used; `None` is `"auto"`. None at all is 0, and not "off", which could be read as no limit.
pub(super) fn room_or_auto(setting: &Setting) -> Result<Option<u64>, Complaint> {
    if is_auto(setting) {
        return Ok(None);
    }
    match size(setting)? {
        None => Err(Complaint::new("cannot be off")
            .hint("write 0 for no room at all, a size, or \"auto\" for what the machine has")),
        room => Ok(room),
    }
}

pub(super) fn bytes(setting: &Setting, max: u64) -> Result<usize, Complaint> {
    let most = || format!("write a size from 1 byte to {}", units::show_size(max));
    match size(setting)? {
        None => Err(Complaint::new("cannot be off").hint(most())),
        Some(0) => Err(Complaint::new("is no size at all").hint(most())),
        Some(size) if size > max => Err(Complaint::new("is too large").hint(most())),
        Some(size) => usize::try_from(size).map_err(|_| Complaint::new("is too large").hint(most())),
    }
}

pub(super) fn to_usize(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// Of a number already known to be from 1 to 65535.
pub(super) fn non_zero_u16(n: u32) -> NonZeroU16 {
    u16::try_from(n).ok().and_then(NonZeroU16::new).unwrap_or(NonZeroU16::MIN)
}
