//! Flags from places other than the command line: `GUNICORN_CMD_ARGS`, and the settings of
//! `gunicorn.conf.py`.
//!
//! These flags are parsed like those of the command line. Messages name the place of each flag.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::compat;
use super::compat::gunicorn::TABLE;
use super::error::flag_error;
use super::flags::{APP, ParsedFlags};
use super::matches::{from_clap_error, parse_matches};
use crate::config::{ConfigError, Environment, Layer, name};

/// The variable that gunicorn reads flags from.
const VARIABLE: &str = "GUNICORN_CMD_ARGS";

/// The place that flags come from.
#[derive(Debug, Clone, Copy)]
pub(super) enum FlagSource<'a> {
    /// `GUNICORN_CMD_ARGS`.
    Variable,
    /// The settings of this `gunicorn.conf.py`.
    File(&'a str),
    /// A command line at this place.
    Place(&'a str),
    /// Variables of another server: each flag with its variable.
    Variables(&'a [(String, String)]),
}

/// Parsed flags. Messages name their place.
#[derive(Debug, Default)]
pub(super) struct ForeignFlags {
    pub(super) layer: Layer,
    /// The value of `--config`.
    pub(super) config: Option<OsString>,
    pub(super) warnings: Vec<String>,
    pub(super) errors: Vec<ConfigError>,
    /// Whether some of the flags are uvicorn's own, which turn the access log on by default.
    pub(super) has_uvicorn_flags: bool,
}

/// Parses `GUNICORN_CMD_ARGS`, split as a shell or Python's `shlex` splits a line. As in gunicorn,
/// an application in the variable has no effect.
pub(super) fn read_variable(environment: &Environment) -> ForeignFlags {
    let Some(text) = environment.value(VARIABLE) else { return ForeignFlags::default() };
    let Some(words) = shlex::bytes::split(text.as_bytes()) else {
        let hint = "close the quotation, or remove the backslash at the end";
        let error = flag_error(VARIABLE, "cannot be split into flags", hint);
        return ForeignFlags { errors: vec![error], ..ForeignFlags::default() };
    };
    let args: Vec<OsString> = words.into_iter().map(OsString::from_vec).collect();
    let mut flags = parse(&args, FlagSource::Variable);
    flags.layer.remove(name::TARGET);
    flags
}

/// Parses flags from `source`.
pub(super) fn parse(args: &[OsString], source: FlagSource<'_>) -> ForeignFlags {
    let args: Vec<OsString> = std::iter::once("rgun".into()).chain(args.iter().cloned()).collect();
    let mut parsed = ForeignFlags::default();
    let (cli, matches) = match parse_matches(&args) {
        Ok(parsed) => parsed,
        Err(error) => {
            let text = from_clap_error(&error, &args).text;
            let reason = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
            let hint = "write it as for gunicorn's command line; rgun --help has the flags";
            parsed.errors.push(flag_error(source.name(), reason, hint));
            return parsed;
        }
    };
    if cli.command.is_some() {
        let hint = "write flags only, and the command on the command line";
        parsed.errors.push(flag_error(source.name(), "has a command of rgun", hint));
        return parsed;
    }
    compat::evaluate(&matches, &[], &mut parsed.warnings, &mut parsed.errors);
    let ParsedFlags { layer, config, .. } = cli.flags.parse(&mut parsed.warnings, &mut parsed.errors);
    parsed.layer = layer;
    parsed.config = config;
    parsed.has_uvicorn_flags = compat::uvicorn::UvicornFlags::is_used(&matches);
    for setting in parsed.layer.values_mut() {
        setting.origin = source.rename(&setting.origin);
    }
    for error in &mut parsed.errors {
        error.origin = source.rename(&error.origin);
    }
    for warning in &mut parsed.warnings {
        *warning = source.rename(warning);
    }
    parsed
}

impl FlagSource<'_> {
    fn name(&self) -> &str {
        match self {
            Self::Variable => VARIABLE,
            Self::File(name) | Self::Place(name) => name,
            Self::Variables(names) => names.first().map_or("environment", |(_, variable)| variable),
        }
    }

    /// Replaces a flag at the beginning of a message with the setting in the file: `--user www`
    /// with `user = www`.
    pub(super) fn rename(&self, text: &str) -> String {
        let name = self.name();
        match self {
            Self::Variable | Self::Place(_) => return format!("{name}: {text}"),
            Self::Variables(names) => return name_variables(text, names),
            Self::File(_) => {}
        }
        if let Some(rest) = text.strip_prefix(APP) {
            return format!("{name}: wsgi_app{rest}");
        }
        let Some(flag) = text.strip_prefix("--") else { return format!("{name}: {text}") };
        let end = flag.find([' ', ':', '=']).unwrap_or(flag.len());
        let (flag, rest) = flag.split_at(end);
        let Some(row) = TABLE.iter().find(|row| row.is_called(flag)) else {
            return format!("{name}: {text}");
        };
        let equals = if rest.starts_with(' ') { " =" } else { "" };
        format!("{name}: {}{equals}{rest}", row.setting_name())
    }
}

/// Replaces the flags in the first part of a message with the variables that they come from.
fn name_variables(text: &str, names: &[(String, String)]) -> String {
    let (flags, rest) = text.split_once(": ").map_or((text, None), |(flags, rest)| (flags, Some(rest)));
    let variable = |word: &str| {
        let flag = word.strip_prefix("--")?;
        names.iter().find(|(name, _)| name == flag).map(|(_, variable)| variable.clone())
    };
    let words: Vec<String> =
        flags.split(' ').map(|word| variable(word).unwrap_or_else(|| word.to_owned())).collect();
    let rest = rest.map(|rest| format!(": {rest}")).unwrap_or_default();
    format!("{}{rest}", words.join(" "))
}
