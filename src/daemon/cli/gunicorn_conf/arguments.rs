//! Turns the settings of `gunicorn.conf.py` into flags, which are then parsed as if they had been
//! typed.
//!
//! A setting and its flag therefore accept the same values, and have the same warnings and errors.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde_json::Value;

use super::helper::ConfNames;
use crate::cli::compat::flag::{ArgKind, CompatFlag, Handling};
use crate::cli::compat::gunicorn::TABLE;
use crate::cli::error::flag_error;
use crate::config::{ConfigError, nearest};

/// The arguments that have the effect of a file.
#[derive(Debug, Default)]
pub(in crate::cli) struct Arguments {
    /// Flags, and after `--` the application.
    pub(in crate::cli) args: Vec<OsString>,
    /// Environment variables that the file sets in its process: `NAME=value`.
    pub(in crate::cli) environ: Vec<OsString>,
    /// Directories that the file adds to `sys.path`.
    pub(in crate::cli) directories: Vec<OsString>,
    /// The functions that workers call.
    pub(in crate::cli) hooks: Vec<HookFunction>,
    /// Settings that workers apply when they run the file.
    pub(in crate::cli) worker_settings: Vec<String>,
    /// The functions that the hook process calls.
    pub(in crate::cli) daemon_hooks: Vec<String>,
    pub(in crate::cli) warnings: Vec<String>,
    pub(in crate::cli) errors: Vec<ConfigError>,
}

/// A function that workers call.
#[derive(Debug)]
pub(in crate::cli) struct HookFunction {
    /// The setting's name, which is also that of the function.
    pub(in crate::cli) setting: String,
    /// The key in `[hooks]`.
    pub(in crate::cli) key: &'static str,
    /// `module:function` if the setting is a text with the function's name; `None` for a function
    /// of the file.
    pub(in crate::cli) target: Option<String>,
}

/// Converts the names of a file. `origin` is the file, in messages.
pub(super) fn convert(names: &ConfNames, origin: &str) -> Arguments {
    let mut arguments = Arguments::default();
    let mut application = Vec::new();
    for row in TABLE {
        let name = row.setting_name();
        let Some(value) = names.values.get(&*name) else { continue };
        if is_unset(row, value) {
            continue;
        }
        if row.is_applied_by_worker {
            arguments.worker_settings.push(name.into_owned());
            continue;
        }
        match row.arg_kind {
            ArgKind::Function => arguments.add_function(row, value, origin),
            _ => match argument(row, value) {
                Ok(values) if row.long.is_empty() => {
                    arguments.add_setting(row, &values, &mut application, origin);
                }
                Ok(_) if matches!(row.handling, Handling::FlagOnly(_)) => {
                    if let Handling::FlagOnly(reason) = row.handling {
                        arguments.warnings.push(format!("{origin}: {name}: ignored; {reason}"));
                    }
                }
                Ok(values) => arguments.add_flags(row, values),
                Err(reason) => {
                    arguments.errors.push(flag_error(&format!("{origin}: {name}"), &reason, expected(row)));
                }
            },
        }
    }
    for other in &names.others {
        let settings: Vec<_> = TABLE.iter().map(CompatFlag::setting_name).collect();
        if let Some(near) = nearest(other, settings.iter().map(AsRef::as_ref)) {
            arguments
                .warnings
                .push(format!("{origin}: {other}: is not a setting of gunicorn; did you mean {near}?"));
        }
    }
    arguments.args.extend(application);
    // `plain` makes text and bytes only.
    arguments.environ.extend(names.environ.iter().filter_map(|variable| scalar(variable).ok()));
    arguments.directories.extend(names.directories.iter().filter_map(|directory| scalar(directory).ok()));
    arguments
}

impl Arguments {
    /// Removes the environment variables and returns their names; `None` if there are none.
    pub(in crate::cli) fn take_variable_names(&mut self) -> Option<String> {
        let variables = std::mem::take(&mut self.environ);
        let names = variables.iter().map(|variable| {
            let text = variable.to_string_lossy();
            text.split_once('=').map_or_else(|| text.to_string(), |(name, _)| name.to_owned())
        });
        (!variables.is_empty()).then(|| names.collect::<Vec<_>>().join(", "))
    }

    /// Adds the environment variables and the directories of modules as flags. As in gunicorn, the
    /// variables of the setting `raw_env` override those that the file sets itself.
    pub(in crate::cli) fn add_process_state(&mut self) {
        let flag = |name: &str, value: &OsStr| {
            let mut flag = OsString::from(format!("{name}="));
            flag.push(value);
            flag
        };
        let variables: Vec<_> = self.environ.iter().map(|variable| flag("--env", variable)).collect();
        if !self.directories.is_empty() {
            let directories = self.directories.join(OsStr::new(","));
            let is_pythonpath = |arg: &&mut OsString| arg.as_bytes().starts_with(b"--pythonpath=");
            match self.args.iter_mut().find(is_pythonpath) {
                Some(arg) => {
                    arg.push(",");
                    arg.push(&directories);
                }
                None => self.args.insert(0, flag("--pythonpath", &directories)),
            }
        }
        self.args.splice(0..0, variables);
    }

    fn add_flags(&mut self, row: &CompatFlag, values: Vec<OsString>) {
        if matches!(row.arg_kind, ArgKind::Switch | ArgKind::NegatedSwitch) {
            self.args.push(format!("--{}", row.long).into());
        }
        for value in values {
            let mut flag = OsString::from(format!("--{}=", row.long));
            flag.push(value);
            self.args.push(flag);
        }
    }

    /// Adds a setting that has no flag.
    fn add_setting(
        &mut self,
        row: &CompatFlag,
        values: &[OsString],
        application: &mut Vec<OsString>,
        origin: &str,
    ) {
        let name = row.setting_name();
        match row.handling {
            // APP, the only key without a flag.
            Handling::Key(_) => {
                application.push("--".into());
                application.extend(values.iter().cloned());
            }
            Handling::FlagOnly(now) | Handling::Ignored(now) => {
                self.warnings.push(format!("{origin}: {name}: ignored; {now}"));
            }
            Handling::Refused(reason, hint) => {
                self.errors.push(flag_error(&format!("{origin}: {name}"), reason, hint));
            }
            Handling::NotYet(hint) => {
                self.errors.push(flag_error(
                    &format!("{origin}: {name}"),
                    "is not in this version of rgun yet",
                    hint,
                ));
            }
            Handling::NoOp | Handling::BesideDaemon => {}
        }
    }

    fn add_function(&mut self, row: &CompatFlag, value: &Value, origin: &str) {
        let name = row.setting_name();
        // A class is converted to its name, too.
        let named = value.as_str().and_then(|text| text.rsplit_once('.'));
        if value.get("function").is_none() && named.is_none() {
            let error =
                flag_error(&format!("{origin}: {name}"), "is not a function", "write def, or remove it");
            return self.errors.push(error);
        }
        let target = named
            .filter(|(module, _)| *module != "__config__")
            .map(|(module, function)| format!("{module}:{function}"));
        match row.handling {
            Handling::Key(key) => self.hooks.push(HookFunction { setting: name.into_owned(), key, target }),
            Handling::BesideDaemon => self.daemon_hooks.push(name.into_owned()),
            _ => self.add_setting(row, &[], &mut Vec::new(), origin),
        }
    }
}

/// Returns whether the value has no effect: None, False, empty, or gunicorn's default of a setting
/// that rgun does not have.
fn is_unset(row: &CompatFlag, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(false) => row.arg_kind != ArgKind::NegatedSwitch,
        Value::Bool(true) => row.arg_kind == ArgKind::NegatedSwitch,
        // An empty list of proxies trusts none.
        Value::String(text) if text.is_empty() => !has_meaningful_empty(row),
        Value::String(text) => row.default == Some(text.as_str()),
        Value::Array(items) => items.is_empty() && !has_meaningful_empty(row),
        Value::Object(entries) => {
            entries.get("dict").and_then(Value::as_object).is_some_and(|dict| is_default(row, dict))
        }
        Value::Number(_) => false,
    }
}

fn has_meaningful_empty(row: &CompatFlag) -> bool {
    matches!(row.long, "forwarded-allow-ips" | "proxy-allow-from")
}

/// Returns whether a dictionary is empty, or part of gunicorn's default of `secure_scheme_headers`.
fn is_default(row: &CompatFlag, dict: &serde_json::Map<String, Value>) -> bool {
    const SCHEME_HEADERS: [(&str, &str); 3] =
        [("X-FORWARDED-PROTOCOL", "ssl"), ("X-FORWARDED-PROTO", "https"), ("X-FORWARDED-SSL", "on")];
    let is_known = |(name, value): (&String, &Value)| {
        SCHEME_HEADERS
            .iter()
            .any(|(known, its)| name.eq_ignore_ascii_case(known) && value.as_str() == Some(its))
    };
    dict.is_empty() || row.setting_name() == "secure_scheme_headers" && dict.iter().all(is_known)
}

/// Returns the values of a flag, one for each time that the flag is written.
///
/// # Errors
/// The kind of the value, if no flag can have such a value.
fn argument(row: &CompatFlag, value: &Value) -> Result<Vec<OsString>, String> {
    match row.arg_kind {
        ArgKind::Switch | ArgKind::NegatedSwitch => match value {
            Value::Bool(_) => Ok(Vec::new()),
            Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
                "true" | "1" => Ok(Vec::new()),
                _ => Err(format!("is \"{text}\"")),
            },
            other => Err(format!("is {}", kind(other))),
        },
        ArgKind::List => match value {
            Value::Array(items) => items.iter().map(scalar).collect(),
            one => Ok(vec![scalar(one)?]),
        },
        ArgKind::Value | ArgKind::Function => match value {
            Value::Array(items) => {
                let items: Vec<OsString> = items.iter().map(scalar).collect::<Result<_, _>>()?;
                Ok(vec![items.join(OsStr::new(","))])
            }
            // The text of a dictionary is not needed: no supported setting is one.
            Value::Object(entries) if entries.contains_key("dict") && row.long.is_empty() => Ok(Vec::new()),
            one => Ok(vec![scalar(one)?]),
        },
    }
}

fn scalar(value: &Value) -> Result<OsString, String> {
    match value {
        Value::String(text) if text.contains('\0') => Err("has a zero byte".to_owned()),
        Value::String(text) => Ok(text.into()),
        Value::Bool(yes) => Ok(yes.to_string().into()),
        Value::Object(entries) => match entries.get("bytes").and_then(Value::as_array) {
            Some(bytes) => {
                let bytes =
                    bytes.iter().filter_map(|byte| byte.as_u64().and_then(|byte| u8::try_from(byte).ok()));
                Ok(OsString::from_vec(bytes.collect()))
            }
            None => Err(format!("is {}", kind(value))),
        },
        other => Err(format!("is {}", kind(other))),
    }
}

fn kind(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(yes) => if *yes { "True" } else { "False" }.to_owned(),
        Value::Number(_) | Value::String(_) => "text".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(entries) if entries.contains_key("function") => "a function".to_owned(),
        Value::Object(entries) if entries.contains_key("dict") => "a dictionary".to_owned(),
        Value::Object(entries) if entries.contains_key("bytes") => "text that is not UTF-8".to_owned(),
        Value::Object(entries) => {
            entries.get("type").and_then(Value::as_str).unwrap_or("an unknown value").to_owned()
        }
    }
}

fn expected(row: &CompatFlag) -> &'static str {
    match row.arg_kind {
        ArgKind::Switch | ArgKind::NegatedSwitch => "write True or False",
        ArgKind::List => "write a list of texts",
        ArgKind::Value => "write a number or a text",
        ArgKind::Function => "write a function",
    }
}
