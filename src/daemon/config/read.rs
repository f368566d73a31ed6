//! Readers: each converts a [`Setting`] into one type of value, or a [`ValueError`].
//!
//! The readers define which values are valid. `check` calls them and adds key and origin to their
//! errors.

use std::num::{NonZeroU16, NonZeroU32, NonZeroU64};
use std::time::Duration;

use super::value::{HUGE_NUMBER, Setting, Source};
use super::{
    AccessLog, Count, Interface, Level, Lifespan, LogFormat, Loop, Retry, Target, Underscores, Value,
    ValueError, units,
};

/// Minimum of `workers.max_memory`. The bare interpreter with the extension uses more, so a lower
/// limit would replace workers endlessly.
const MIN_WORKER_MEMORY: u64 = 16 << 20;

pub(super) fn text(setting: &Setting) -> Result<&str, ValueError> {
    match &setting.value {
        Value::Text(text) => Ok(text),
        Value::Bytes(_) => Err(ValueError::new("is not UTF-8")),
        other => Err(ValueError::new(format!("must be a string, not {}", other.kind()))),
    }
}

/// Reads a whole number from `min` to `max`. The number is text in the environment and on the
/// command line, but not in the file.
pub(super) fn whole(setting: &Setting, min: u32, max: u32) -> Result<u32, ValueError> {
    let n = match &setting.value {
        Value::Integer(n) => *n,
        Value::Text(text) if setting.source != Source::File => {
            // `i128::from_str` also accepts "+3".
            let n = if text.starts_with('+') { None } else { text.parse().ok() };
            n.ok_or_else(|| ValueError::new("is not a whole number"))?
        }
        Value::Other { kind: HUGE_NUMBER, text } if text.starts_with('-') => i128::MIN,
        Value::Other { kind: HUGE_NUMBER, .. } => i128::MAX,
        Value::Text(text) if text.parse::<i128>().is_ok() => {
            return Err(ValueError::new("must be a number, not a string")
                .with_hint(format!("write {text} without quotes")));
        }
        other => return Err(ValueError::new(format!("must be a whole number, not {}", other.kind()))),
    };
    match u32::try_from(n) {
        Ok(n) if (min..=max).contains(&n) => Ok(n),
        _ if n < 0 => {
            Err(ValueError::new("is negative").with_hint(format!("write a number from {min} to {max}")))
        }
        _ => Err(ValueError::new(format!("is out of range: write a number from {min} to {max}"))),
    }
}

pub(super) fn boolean(setting: &Setting) -> Result<bool, ValueError> {
    match (&setting.value, setting.source) {
        (Value::Boolean(yes), _) => Ok(*yes),
        // The words that systemd accepts for booleans.
        (Value::Text(text), Source::Environment | Source::CommandLine | Source::Implied) => {
            match text.to_ascii_lowercase().as_str() {
                "1" | "true" | "yes" | "on" => Ok(true),
                "0" | "false" | "no" | "off" => Ok(false),
                _ => Err(ValueError::new("is neither true nor false")),
            }
        }
        (other, _) => Err(ValueError::new(format!("must be true or false, not {}", other.kind()))
            .with_hint("write true or false without quotes")),
    }
}

pub(super) fn is_auto(setting: &Setting) -> bool {
    matches!(&setting.value, Value::Text(text) if text == "auto")
}

/// Returns the forms of `workers.count` that the setting's source accepts.
fn count_examples(setting: &Setting) -> &'static str {
    match setting.source {
        Source::File => "write \"auto\", a number, or { min = 1, max = 9 }",
        _ => "write auto, a number, or a range such as 1-9",
    }
}

pub(super) fn count(setting: &Setting) -> Result<Count, ValueError> {
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
                    return Err(ValueError::new("must be a table, not a string")
                        .with_hint(format!("write {{ min = {min}, max = {max} }}")));
                }
            }
        }
        _ => {}
    }
    whole(setting, 1, u16::MAX.into()).map(|n| Count::Fixed(non_zero_u16(n))).map_err(|error| ValueError {
        hint: error.hint.or_else(|| Some(count_examples(setting).to_owned())),
        ..error
    })
}

fn range(setting: &Setting, entries: &[(String, Value)]) -> Result<Count, ValueError> {
    if let Some((name, _)) = entries.iter().find(|(name, _)| name != "min" && name != "max") {
        return Err(ValueError::new(format!("has a \"{name}\"; a range has \"min\" and \"max\""))
            .with_hint(count_examples(setting)));
    }
    let end = |wanted: &str| {
        let found = entries.iter().find(|(name, _)| name == wanted);
        let (_, value) = found.ok_or_else(|| {
            ValueError::new(format!("has no \"{wanted}\"")).with_hint(count_examples(setting))
        })?;
        Ok(Setting { value: value.clone(), ..setting.clone() })
    };
    bounds(&end("min")?, &end("max")?)
}

fn bounds(min: &Setting, max: &Setting) -> Result<Count, ValueError> {
    let end = |which: &str, setting: &Setting| {
        whole(setting, 1, u16::MAX.into()).map(non_zero_u16).map_err(|error| {
            let none = matches!(&setting.value, Value::Integer(0)) || setting.value == Value::text("0");
            let hint = if none && which == "min" {
                Some("write min = 1, and idle_exit = \"10m\" to stop all workers without requests".to_owned())
            } else {
                error.hint.or_else(|| Some(count_examples(setting).to_owned()))
            };
            ValueError { reason: format!("its {which}, {}, {}", setting.value, error.reason), hint }
        })
    };
    let (min, max) = (end("min", min)?, end("max", max)?);
    if min > max {
        return Err(ValueError::new(format!("its min, {min}, is more than its max, {max}"))
            .with_hint(format!("write {{ min = {max}, max = {min} }} (outside the file: {max}-{min})")));
    }
    Ok(Count::Range { min, max })
}

/// A number from 1; "off" is `None`.
pub(super) fn count_or_off(setting: &Setting) -> Result<Option<NonZeroU32>, ValueError> {
    if setting.value == Value::text("off") {
        return Ok(None);
    }
    let count = whole(setting, 1, u32::MAX);
    count.map(NonZeroU32::new).map_err(|error| error.with_hint("write a number, or \"off\" for no limit"))
}

/// A number of requests; 0, as in gunicorn, and "off" are `None`.
pub(super) fn requests_or_off(setting: &Setting) -> Result<Option<NonZeroU64>, ValueError> {
    if setting.value == Value::text("off") {
        return Ok(None);
    }
    whole(setting, 0, u32::MAX).map(|n| NonZeroU64::new(n.into())).map_err(|error| ValueError {
        hint: error.hint.or_else(|| Some("write a number of requests, or 0 for no limit".to_owned())),
        ..error
    })
}

pub(super) fn memory_or_off(setting: &Setting) -> Result<Option<u64>, ValueError> {
    let size = bytes_or_off(setting)?;
    match size {
        Some(bytes) if bytes < MIN_WORKER_MEMORY => {
            let error = ValueError::new(format!(
                "is less than {}, about what the interpreter alone needs",
                units::format_size(MIN_WORKER_MEMORY)
            ));
            // A plain 512 probably means MiB.
            let bare = match &setting.value {
                Value::Integer(_) => true,
                Value::Text(text) => text.bytes().all(|byte| byte.is_ascii_digit()),
                _ => false,
            };
            Err(if bare && (16..=1 << 20).contains(&bytes) {
                error.with_hint(format!("a number without a unit is bytes: write \"{bytes}MiB\""))
            } else {
                error.with_hint("write a larger size, e.g. \"512MiB\"")
            })
        }
        size => Ok(size),
    }
}

pub(super) fn retry(setting: &Setting) -> Result<Retry, ValueError> {
    match text(setting)? {
        "off" => Ok(Retry::Off),
        "idempotent" => Ok(Retry::Idempotent),
        other => Err(unknown_choice(other, &["off", "idempotent"])),
    }
}

/// The target of the probe request; "off" is `None`.
pub(super) fn probe(setting: &Setting) -> Result<Option<String>, ValueError> {
    const EXAMPLE: &str = "write a path the application answers, e.g. \"/healthz\", or \"off\"";
    let text = text(setting)?;
    if text == "off" {
        return Ok(None);
    }
    if text.contains("://") {
        let path = text.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..]));
        return Err(ValueError::new("is a URL; the probe goes directly to the new worker")
            .with_hint(format!("write the path alone: \"{}\"", path.unwrap_or("/"))));
    }
    if !text.starts_with('/') {
        return Err(ValueError::new("is not a path").with_hint(EXAMPLE));
    }
    match text.chars().find(|c| !c.is_ascii_graphic() || *c == '#') {
        Some(c) => Err(ValueError::new(format!("contains {c:?}, which is not valid in a URL"))
            .with_hint("write it percent-encoded, as in a URL")),
        None => Ok(Some(text.to_owned())),
    }
}

/// `module:function`, or a configuration of gunicorn with the function, as
/// `/srv/mysite/gunicorn.conf.py:function` or `python:mysite.conf:function`; without a function, the
/// configuration is only run. "off" is `None`.
pub(super) fn hook(setting: &Setting) -> Result<Option<Target>, ValueError> {
    let text = text(setting)?;
    if text == "off" {
        return Ok(None);
    }
    let error = |reason: &str, hint: &str| Err(ValueError::new(reason).with_hint(hint));
    if let Some((name, _)) = text.split_once('(') {
        return error(
            "calls the function, which rgun itself does",
            &format!("write \"{}\"; rgun passes gunicorn's arguments", name.trim_end()),
        );
    }
    if let Some((file, function)) = text.rsplit_once(':').filter(|(file, _)| file.starts_with('/')) {
        let module = file.to_owned();
        return Ok(Some(Target { module, attribute: function.to_owned(), factory: false }));
    }
    if let Some((module, function)) = text.strip_prefix("python:").and_then(|text| text.rsplit_once(':')) {
        let Target { module, .. } = module.parse()?;
        let (module, attribute) = (format!("python:{module}"), function.to_owned());
        return Ok(Some(Target { module, attribute, factory: false }));
    }
    if text.contains('/') || text.contains(".py") {
        return error(
            "is a file's path without a function, or not a full one",
            "write \"/srv/mysite/gunicorn.conf.py:post_fork\", or \"mysite.hooks:post_fork\" for a module",
        );
    }
    let target: Target = text.parse().map_err(|error: ValueError| ValueError {
        // The parser's examples are for applications.
        hint: error.hint.map(|hint| hint.replace("mysite.wsgi:application", "mysite.hooks:post_fork")),
        ..error
    })?;
    if !text.contains(':') {
        return error("names no function", &format!("write \"{text}:post_fork\", with the function's name"));
    }
    Ok(Some(target))
}

pub(super) fn underscores(setting: &Setting) -> Result<Underscores, ValueError> {
    match text(setting)? {
        "drop" => Ok(Underscores::Drop),
        "refuse" => Ok(Underscores::Refuse),
        "allow" => Ok(Underscores::Allow),
        // Gunicorn's --header-map.
        "dangerous" => Err(ValueError::new("is not one of the choices").with_hint("write \"allow\"")),
        other => Err(unknown_choice(other, &["drop", "refuse", "allow"])),
    }
}

pub(super) fn interface(setting: &Setting) -> Result<Interface, ValueError> {
    match text(setting)? {
        "auto" => Ok(Interface::Auto),
        "wsgi" => Ok(Interface::Wsgi),
        "asgi" => Ok(Interface::Asgi),
        other => Err(unknown_choice(other, &["auto", "wsgi", "asgi"])),
    }
}

pub(super) fn lifespan(setting: &Setting) -> Result<Lifespan, ValueError> {
    match text(setting)? {
        "auto" => Ok(Lifespan::Auto),
        "on" => Ok(Lifespan::On),
        "off" => Ok(Lifespan::Off),
        other => Err(unknown_choice(other, &["auto", "on", "off"])),
    }
}

pub(super) fn event_loop(setting: &Setting) -> Result<Loop, ValueError> {
    match text(setting)? {
        "auto" => Ok(Loop::Auto),
        "asyncio" => Ok(Loop::Asyncio),
        "uvloop" => Ok(Loop::Uvloop),
        other => Err(unknown_choice(other, &["auto", "asyncio", "uvloop"])),
    }
}

pub(super) fn level(setting: &Setting) -> Result<Level, ValueError> {
    // Python's logging writes its levels in capitals.
    match &*text(setting)?.to_lowercase() {
        "error" => Ok(Level::Error),
        "warn" => Ok(Level::Warn),
        "info" => Ok(Level::Info),
        "debug" => Ok(Level::Debug),
        "trace" => Ok(Level::Trace),
        "warning" => Err(ValueError::new("is not a level").with_hint("write \"warn\"")),
        "critical" => Err(ValueError::new("is not a level").with_hint("write \"error\"")),
        other => Err(unknown_choice(other, &["error", "warn", "info", "debug", "trace"])),
    }
}

pub(super) fn access(setting: &Setting) -> Result<AccessLog, ValueError> {
    if matches!(&setting.value, Value::Text(text) if text == "stdout") {
        return Ok(AccessLog::Stdout);
    }
    boolean(setting).map(|is_on| if is_on { AccessLog::Log } else { AccessLog::Off })
}

pub(super) fn log_format(setting: &Setting) -> Result<LogFormat, ValueError> {
    match text(setting)? {
        "auto" => Ok(LogFormat::Auto),
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        other => Err(unknown_choice(other, &["auto", "text", "json"])),
    }
}

pub(super) fn unknown_choice(word: &str, choices: &[&str]) -> ValueError {
    let all = choices.iter().map(|choice| format!("\"{choice}\"")).collect::<Vec<_>>().join(", ");
    let error = ValueError::new("is not one of the choices");
    match super::keys::nearest(word, choices.iter().copied()) {
        Some(near) => error.with_hint(format!("did you mean \"{near}\"? ({all})")),
        None => error.with_hint(format!("write one of {all}")),
    }
}

pub(super) fn root_path(setting: &Setting) -> Result<String, ValueError> {
    let path = text(setting)?;
    if path.is_empty() {
        return Ok(String::new());
    }
    if path.contains(|c: char| c.is_control() || c.is_whitespace() || matches!(c, '?' | '#')) {
        return Err(ValueError::new("is not the path of a URL").with_hint("write e.g. \"/shop\""));
    }
    let trimmed = path.trim_matches('/');
    let canonical = if trimmed.is_empty() { String::new() } else { format!("/{trimmed}") };
    if canonical == path {
        Ok(canonical)
    } else {
        // PEP 3333: SCRIPT_NAME is empty for the root, and PATH_INFO begins with "/".
        Err(ValueError::new("must be empty, or begin with one \"/\" and not end with \"/\"")
            .with_hint(format!("write \"{canonical}\"")))
    }
}

/// A list of strings, one string, or (outside the file) strings separated by commas.
pub(super) fn strings(setting: &Setting) -> Result<Vec<&str>, ValueError> {
    let wrong_item = |item: &'_ Value| {
        ValueError::new(format!("must be a list of strings, but has {} in it", item.kind()))
    };
    match &setting.value {
        Value::Text(text) if setting.source == Source::File => Ok(vec![text]),
        Value::Text(text) => Ok(text.split(',').map(str::trim).collect()),
        Value::List(items) => items
            .iter()
            .map(|item| match item {
                Value::Text(text) => Ok(text.as_str()),
                other => Err(wrong_item(other)),
            })
            .collect(),
        other => Err(ValueError::new(format!("must be a string or a list of strings, not {}", other.kind()))),
    }
}

/// The variables of `app.env` from one source: a table in the file, `NAME=value` on the command
/// line.
pub(super) fn env(value: &Value, value_errors: &mut Vec<ValueError>) -> Vec<(String, String)> {
    let pairs: Vec<Result<(&str, &str), ValueError>> = match value {
        Value::Table(entries) => entries
            .iter()
            .map(|(name, value)| match value {
                Value::Text(text) => Ok((name.as_str(), text.as_str())),
                other => Err(ValueError::new(format!("{name} must be a string, not {}", other.kind()))
                    .with_hint("put quotes around the value: environment variables are text")),
            })
            .collect(),
        Value::List(items) => items
            .iter()
            .map(|item| match item {
                Value::Text(text) => text.split_once('=').ok_or_else(|| {
                    ValueError::new(format!("{text:?} has no \"=\"")).with_hint("write NAME=value")
                }),
                other => Err(ValueError::new(format!("must be NAME=value, not {}", other.kind()))),
            })
            .collect(),
        other => vec![Err(ValueError::new(format!("must be a table of strings, not {}", other.kind()))
            .with_hint("write env = { NAME = \"value\" }"))],
    };
    let mut checked = Vec::new();
    for pair in pairs {
        match pair {
            Ok((name, _)) if name.is_empty() || name.contains(['=', '\0']) => {
                value_errors.push(ValueError::new(format!("{name:?} cannot be a variable's name")));
            }
            Ok((name, value)) if value.contains('\0') => {
                value_errors.push(ValueError::new(format!("the value of {name} has a zero byte")));
            }
            Ok((name, value)) => checked.push((name.to_owned(), value.to_owned())),
            Err(error) => value_errors.push(error),
        }
    }
    checked
}

/// A duration, which must be text; "off" is `None`.
fn duration(setting: &Setting) -> Result<Option<Duration>, ValueError> {
    match &setting.value {
        Value::Text(text) => units::parse_duration(text),
        Value::Integer(n) if *n >= 0 => {
            Err(ValueError::new("has no unit")
                .with_hint(format!("write \"{n}s\" for seconds, or use ms, m, h")))
        }
        Value::Integer(_) => Err(ValueError::new("is negative").with_hint("write e.g. \"30s\"")),
        other => Err(ValueError::new(format!("must be a duration, not {}", other.kind()))
            .with_hint("write e.g. \"30s\"")),
    }
}

pub(super) fn timeout_or_off(setting: &Setting) -> Result<Option<Duration>, ValueError> {
    match duration(setting)? {
        Some(Duration::ZERO) => Err(ValueError::new("is zero").with_hint("write \"off\" for no limit")),
        duration => Ok(duration),
    }
}

pub(super) fn timeout(setting: &Setting) -> Result<Duration, ValueError> {
    match duration(setting)? {
        None => Err(ValueError::new("cannot be off: a stalled client would hold its connection forever")
            .with_hint("write a long duration, e.g. \"1h\"")),
        Some(Duration::ZERO) => Err(ValueError::new("is zero").with_hint("write e.g. \"10s\"")),
        Some(duration) => Ok(duration),
    }
}

pub(super) fn timeout_or_zero(setting: &Setting, instead_of_off: &str) -> Result<Duration, ValueError> {
    duration(setting)?.ok_or_else(|| ValueError::new("cannot be off").with_hint(instead_of_off))
}

fn size(setting: &Setting) -> Result<Option<u64>, ValueError> {
    match &setting.value {
        Value::Text(text) => units::parse_size(text),
        Value::Integer(n) => u64::try_from(*n)
            .map(Some)
            .map_err(|_| ValueError::new(if *n < 0 { "is negative" } else { "is more than 2^64 bytes" })),
        other => Err(ValueError::new(format!("must be a size, not {}", other.kind()))
            .with_hint("write e.g. \"16MiB\"")),
    }
}

pub(super) fn bytes_or_off(setting: &Setting) -> Result<Option<u64>, ValueError> {
    match size(setting)? {
        Some(0) => Err(ValueError::new("is zero").with_hint("write \"off\" for no limit")),
        size => Ok(size),
    }
}

/// A size of a buffer; `None` is `"auto"`. To disable the buffer, write 0; "off" is rejected,
/// because it could mean "no limit".
pub(super) fn capacity_or_auto(setting: &Setting) -> Result<Option<u64>, ValueError> {
    if is_auto(setting) {
        return Ok(None);
    }
    match size(setting)? {
        None => Err(ValueError::new("cannot be off").with_hint("write 0 for no buffer, a size, or \"auto\"")),
        room => Ok(room),
    }
}

pub(super) fn bytes(setting: &Setting, max: u64) -> Result<usize, ValueError> {
    let range = || format!("write a size from 1 byte to {}", units::format_size(max));
    match size(setting)? {
        None => Err(ValueError::new("cannot be off").with_hint(range())),
        Some(0) => Err(ValueError::new("is zero").with_hint(range())),
        Some(size) if size > max => Err(ValueError::new("is too large").with_hint(range())),
        Some(size) => usize::try_from(size).map_err(|_| ValueError::new("is too large").with_hint(range())),
    }
}

pub(super) fn to_usize(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// Converts a number that is known to be from 1 to 65535.
pub(super) fn non_zero_u16(n: u32) -> NonZeroU16 {
    u16::try_from(n).ok().and_then(NonZeroU16::new).unwrap_or(NonZeroU16::MIN)
}
