//! The environment as a source of settings: `RGUN_<SECTION>_<KEY>`, and `WEB_CONCURRENCY` for
//! `workers.count`.
//!
//! `main` reads the process's environment once, before it starts threads, and passes it in. An
//! unknown variable with the prefix of a section, or one that is a likely typo, is an error like an
//! unknown key of the file, because it would have no effect. `cli` warns about other variables
//! `RGUN_…` that rgun does not read.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use super::keys::{self, name};
use super::tls::UNKNOWN_CREDENTIALS;
use super::value::Setting;
use super::{ConfigError, Layer, Value, trusted};

/// The variable for `--config`. It is not a setting, because it has no key.
pub(crate) const CONFIG_VARIABLE: &str = "RGUN_CONFIG";

/// The variable that keeps the daemon dumpable, so that a debugger of the same user may attach. It is
/// not a setting, because it is for debugging rgun itself.
pub(crate) const DUMPABLE_VARIABLE: &str = "RGUN_DUMPABLE";

/// The variable with the value of `FileDescriptorStoreMax=`, which the units set for systemd before
/// 254. It is not a setting, because it repeats a line of the unit.
pub(crate) const FDSTORE_VARIABLE: &str = "RGUN_FDSTORE";

/// Variables that rgun reads, but not as settings.
const NOT_SETTINGS: [&str; 3] = [CONFIG_VARIABLE, DUMPABLE_VARIABLE, FDSTORE_VARIABLE];

/// The variable of Heroku and gunicorn for the number of workers.
const WEB_CONCURRENCY: &str = "WEB_CONCURRENCY";

/// Variables that rgun sets for its workers. An rgun that an application starts inherits them.
const SET_BY_RGUN: [&str; 1] = ["RGUN_BOOTSTRAP"];

/// The variable of gunicorn and uvicorn for the trusted peers.
const FORWARDED_ALLOW_IPS: &str = "FORWARDED_ALLOW_IPS";

/// The variable of gunicorn for the path under which the application is published.
pub(super) const SCRIPT_NAME: &str = "SCRIPT_NAME";

/// The variable for the port to listen on, on platforms that run a Procfile.
pub(super) const PORT: &str = "PORT";

/// The environment of the start: the variables, and whether the access log is on by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    variables: BTreeMap<OsString, OsString>,
    logs_access: bool,
}

/// systemd's variable for the directory with a unit's credentials (systemd.exec(5)).
pub(super) const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

impl Environment {
    /// The value of a variable; `None` if it is unset or empty.
    pub fn value(&self, variable: &str) -> Option<&OsStr> {
        self.variables.get(OsStr::new(variable)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }
}

impl Environment {
    /// Sets `CREDENTIALS_DIRECTORY` to [`UNKNOWN_CREDENTIALS`] if it is not set: a check outside of
    /// the unit has no access to the unit's credentials.
    #[must_use]
    pub fn allowing_unknown_credentials(mut self) -> Self {
        if self.value(CREDENTIALS_DIRECTORY).is_none() {
            self.variables.insert(CREDENTIALS_DIRECTORY.into(), UNKNOWN_CREDENTIALS.into());
        }
        self
    }
}

impl Environment {
    /// Makes `"stdout"` the default of `log.access` if the command line names the application.
    /// Called on a terminal, and for flags of uvicorn, which logs requests by default.
    #[must_use]
    pub fn logging_access(mut self) -> Self {
        self.logs_access = true;
        self
    }

    /// Returns whether [`Environment::logging_access`] was called.
    pub(super) fn logs_access(&self) -> bool {
        self.logs_access
    }
}

impl<N: Into<OsString>, V: Into<OsString>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self { variables, logs_access: false }
    }
}

/// Returns whether a setting comes from a variable that gunicorn reads too.
pub(crate) fn is_gunicorns(setting: &Setting) -> bool {
    [WEB_CONCURRENCY, FORWARDED_ALLOW_IPS].contains(&setting.origin.as_str())
}

/// Returns the settings in the environment. Errors in names go to `errors`.
pub(crate) fn read(environment: &Environment, errors: &mut Vec<ConfigError>) -> Layer {
    let mut layer = Layer::new();
    if let Some(count) = environment.value(WEB_CONCURRENCY) {
        insert(&mut layer, name::COUNT, WEB_CONCURRENCY, count, errors);
    }
    // An empty list is not the same as an unset variable: in gunicorn and uvicorn it means "trust
    // no peer".
    if let Some(list) = environment.variables.get(OsStr::new(FORWARDED_ALLOW_IPS)) {
        insert(&mut layer, name::TRUSTED, FORWARDED_ALLOW_IPS, list, errors);
    }
    if let Some(Setting { value, .. }) = layer.get_mut(name::TRUSTED)
        && let Value::Text(list) = value
    {
        *value = trusted::forwarded_allow_ips(list);
    }
    for (variable, value) in &environment.variables {
        let Some(variable) = variable.to_str().filter(|variable| variable.starts_with("RGUN_")) else {
            continue;
        };
        if NOT_SETTINGS.contains(&variable) {
            continue;
        }
        match keys::KEYS.iter().find(|key| keys::variable_name(key) == variable) {
            Some(key) if TABLES.iter().any(|table| table.key == *key) => {
                errors.extend(unknown_variable(variable));
            }
            Some(key) => insert(&mut layer, key, variable, value, errors),
            None if is_service_link(variable, value) => {}
            None => errors.extend(unknown_variable(variable)),
        }
    }
    layer
}

/// A key that only the file can set, because it is a table.
struct TableKey {
    key: &'static str,
    /// The beginning of the variables by which an operator might try to set the table.
    variable: &'static str,
    /// The keys of the table. Empty: any.
    keys: &'static [&'static str],
    /// The remedy: a full sentence without a period.
    hint: &'static str,
}

const TABLES: [TableKey; 6] = [
    TableKey {
        key: name::ENV,
        variable: "RGUN_APP_ENV",
        keys: &[],
        hint: "set the application's variables themselves: workers inherit the daemon's environment (Environment= of \
               the unit)",
    },
    TableKey {
        key: name::ENV_FROM_CREDENTIALS,
        variable: "RGUN_APP_ENV_FROM_CREDENTIALS",
        keys: &[],
        hint: "write env_from_credentials in [app] of the file",
    },
    TableKey {
        key: name::PATH_RULES,
        variable: "RGUN_TIMEOUTS_PATH",
        keys: &[],
        hint: "write [[timeouts.path]] in the file, once for each pattern",
    },
    TableKey {
        key: name::ERROR_PAGES,
        variable: "RGUN_ERRORS",
        keys: &[],
        hint: "write [errors] in the file, with a line for each status",
    },
    TableKey {
        key: name::STATIC,
        variable: "RGUN_STATIC",
        keys: &[],
        hint: "write [[static]] in the file, once for each directory",
    },
    TableKey {
        key: name::LISTENERS,
        variable: "RGUN_LISTEN",
        keys: &["NAME", "BIND", "TLS", "PROXY_PROTOCOL"],
        hint: "write [listen.NAME] in the file, once for each socket",
    },
];

/// Returns the table that a variable would set: `RGUN_STATIC`, `RGUN_STATIC_URL`,
/// `RGUN_LISTEN_HTTPS_TLS`.
fn table_of(variable: &str) -> Option<&'static TableKey> {
    let is_of = |table: &&TableKey| {
        let Some(rest) = variable.strip_prefix(table.variable) else { return false };
        match (rest.strip_prefix('_'), table.keys) {
            (None, keys) => rest.is_empty() && keys.is_empty(),
            (Some(_), []) => true,
            // A key alone, as in RGUN_LISTEN_TLS, or after a name, as in RGUN_LISTEN_HTTPS_TLS.
            (Some(rest), keys) => keys.iter().any(|key| {
                rest == *key
                    || rest.strip_suffix(key).is_some_and(|name| name.ends_with('_') && name.len() > 1)
            }),
        }
    };
    TABLES.iter().find(is_of)
}

fn insert(
    layer: &mut Layer,
    key: &'static str,
    variable: &str,
    value: &OsStr,
    errors: &mut Vec<ConfigError>,
) {
    match value.to_str() {
        // RGUN_WORKERS_COUNT comes after WEB_CONCURRENCY and replaces it.
        Some(text) => {
            layer.insert(key, Setting::variable(variable, text.to_owned()));
        }
        None if matches!(
            key,
            name::DIRECTORY
                | name::PYTHON
                | name::PYTHONPATH
                | name::RELOAD_DIRS
                | name::CERT
                | name::KEY
                | name::CLIENT_CA
                | name::LOG_CONFIG
        ) =>
        {
            let setting = Setting { value: Value::os(value), ..Setting::variable(variable, String::new()) };
            layer.insert(key, setting);
        }
        None => errors.push(ConfigError {
            origin: variable.to_owned(),
            key: key.to_owned(),
            value: Some(format!("\"{}\"", value.as_encoded_bytes().escape_ascii())),
            reason: "is not UTF-8".to_owned(),
            hint: None,
        }),
    }
}

/// Returns the names of variables that begin with `RGUN_` and that rgun does not read. The caller
/// warns about them, because they have no effect.
pub(crate) fn unread_variables(environment: &Environment) -> Vec<&str> {
    let is_unread = |(variable, value): &(&str, &OsStr)| {
        variable.starts_with("RGUN_")
            && !NOT_SETTINGS.contains(variable)
            && !SET_BY_RGUN.contains(variable)
            && !keys::KEYS.iter().any(|key| keys::variable_name(key) == *variable)
            && !is_service_link(variable, value)
            && unknown_variable(variable).is_none()
    };
    let variables =
        environment.variables.iter().filter_map(|(name, value)| Some((name.to_str()?, value.as_os_str())));
    variables.filter(is_unread).map(|(variable, _)| variable).collect()
}

/// Returns whether Kubernetes set the variable for a Service whose name begins with `rgun-` (or a
/// container runtime for a linked container). Such variables are not settings. Their forms:
///
/// - `<NAME>_SERVICE_HOST`, `<NAME>_SERVICE_PORT`, `<NAME>_SERVICE_PORT_<PORT NAME>`
/// - `<NAME>_PORT`, with a URL as its value
/// - `<NAME>_PORT_<NUMBER>_<PROTOCOL>`, alone or followed by `_PROTO`, `_PORT` or `_ADDR`
fn is_service_link(variable: &str, value: &OsStr) -> bool {
    let is_url = || value.as_encoded_bytes().windows(3).any(|bytes| bytes == b"://");
    if variable.ends_with("_SERVICE_HOST") || variable.contains("_SERVICE_PORT") {
        return true;
    }
    if variable.ends_with("_PORT") && is_url() {
        return true;
    }
    let without = ["_PROTO", "_PORT", "_ADDR"].into_iter().find_map(|part| variable.strip_suffix(part));
    let port = without.unwrap_or(variable);
    let port = ["_TCP", "_UDP", "_SCTP"].into_iter().find_map(|protocol| port.strip_suffix(protocol));
    let number = port.and_then(|port| port.rsplit_once("_PORT_")).map(|(_, number)| number);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Returns the error for a variable that would set a table, has the prefix of a section, or
/// resembles the variable of a key. `None` for other variables.
fn unknown_variable(variable: &str) -> Option<ConfigError> {
    if let Some(table) = table_of(variable) {
        return Some(ConfigError {
            origin: variable.to_owned(),
            key: table.key.to_owned(),
            value: None,
            reason: "cannot be set by a variable".to_owned(),
            hint: Some(table.hint.to_owned()),
        });
    }
    let names: Vec<String> = keys::KEYS.iter().map(|key| keys::variable_name(key)).collect();
    let near = keys::nearest(variable, names.iter().map(String::as_str));
    let (section, key) = keys::SECTIONS
        .iter()
        .find_map(|section| Some((*section, variable.strip_prefix(&(keys::variable_name(section) + "_"))?)))
        .unzip();
    let (reason, hint) = if keys::is_planned_variable(variable) {
        ("sets a key that this version of rgun does not have yet", Some("unset it".to_owned()))
    } else if let Some(near) = near {
        ("is not a variable of rgun", Some(format!("did you mean {near}?")))
    } else {
        let hint = match keys::lookup(section?, &key?.to_lowercase()) {
            keys::Lookup::Unknown(hint) => hint,
            keys::Lookup::Known(_) => None,
        };
        ("is not a variable of rgun", hint)
    };
    Some(ConfigError {
        origin: variable.to_owned(),
        key: String::new(),
        value: None,
        reason: reason.to_owned(),
        hint,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(variables: &[(&str, &str)]) -> (Layer, Vec<ConfigError>) {
        let mut errors = Vec::new();
        let layer = read(&variables.iter().copied().collect(), &mut errors);
        (layer, errors)
    }

    #[test]
    fn every_key_has_its_variable() {
        let is_table = |key: &str| {
            matches!(
                key,
                name::ENV
                    | name::ENV_FROM_CREDENTIALS
                    | name::PATH_RULES
                    | name::LISTENERS
                    | name::ERROR_PAGES
            )
        };
        for key in keys::KEYS.iter().filter(|key| !is_table(key)) {
            let variable = keys::variable_name(key);
            let (layer, errors) = layer(&[(&variable, "x")]);
            assert_eq!(errors, [], "{variable}");
            assert_eq!(layer.keys().collect::<Vec<_>>(), [key], "{variable}");
            assert_eq!(layer[key].origin, variable);
        }
    }

    #[test]
    fn web_concurrency_yields_to_rgun_workers_count() {
        let (only, errors) = layer(&[("WEB_CONCURRENCY", "3")]);
        assert_eq!(only[name::COUNT], Setting::variable("WEB_CONCURRENCY", "3".to_owned()));
        assert_eq!(errors, []);
        let (both, _) = layer(&[("WEB_CONCURRENCY", "3"), ("RGUN_WORKERS_COUNT", "4")]);
        assert_eq!(both[name::COUNT].value, Value::text("4"));
        assert_eq!(layer(&[("WEB_CONCURRENCY", "")]).0, Layer::new(), "empty is unset");
    }

    #[test]
    fn unknown_variable_in_a_section_is_an_error_with_a_hint() {
        for (variable, reason, hint) in [
            ("RGUN_WORKERS_CUONT", "is not a variable", Some("did you mean RGUN_WORKERS_COUNT?")),
            ("RGUN_WORKER_COUNT", "is not a variable", Some("did you mean RGUN_WORKERS_COUNT?")),
            ("RGUN_TIMEOUT_REQUEST", "is not a variable", Some("did you mean RGUN_TIMEOUTS_REQUEST?")),
            ("RGUN_LISTEN_ADDRESS", "is not a variable", Some("that is \"bind\" in [listen]")),
            (
                "RGUN_LOG_COLOUR",
                "is not a variable",
                Some("the keys of [log] are level, access, access_format"),
            ),
            ("RGUN_WORKERS_PRELAOD", "is not a variable", Some("did you mean RGUN_WORKERS_PRELOAD?")),
            ("RGUN_HOOKS_PRE_FORK", "is not a variable", Some("ExecStartPre=")),
            ("RGUN_TIMEOUTS_PATH", "cannot be set", Some("[[timeouts.path]]")),
            ("RGUN_ADMIN_BIND", "does not have yet", Some("unset it")),
            ("RGUN_LISTEN_NAME", "cannot be set", Some("[listen.NAME]")),
            ("RGUN_LISTEN_HTTPS_TLS", "cannot be set", Some("[listen.NAME]")),
            ("RGUN_LISTEN_MY_SITE_BIND", "cannot be set", Some("[listen.NAME]")),
            ("RGUN_LISTEN_X_PROXY_PROTOCOL", "cannot be set", Some("[listen.NAME]")),
            ("RGUN_TIMEOUTS_PATH_REQUEST", "cannot be set", Some("[[timeouts.path]]")),
            ("RGUN_STATIC", "cannot be set", Some("[[static]]")),
            ("RGUN_STATIC_URL", "cannot be set", Some("[[static]]")),
            ("RGUN_ERRORS", "cannot be set", Some("[errors]")),
            ("RGUN_ERRORS_503", "cannot be set", Some("[errors]")),
            ("RGUN_APP_ENV_DEBUG", "cannot be set", Some("Environment=")),
            ("RGUN_TLS_CERTS", "is not a variable", Some("did you mean RGUN_TLS_CERT?")),
            ("RGUN_APP_ENV", "cannot be set", Some("Environment=")),
        ] {
            let (layer, errors) = layer(&[(variable, "1")]);
            assert_eq!(layer, Layer::new(), "{variable}");
            let [error] = errors.as_slice() else { panic!("{variable}: {errors:?}") };
            assert_eq!(error.origin, variable);
            assert!(error.reason.contains(reason), "{variable}: {error}");
            assert!(error.hint.as_deref().unwrap().contains(hint.unwrap()), "{variable}: {error}");
        }
    }

    #[test]
    fn variables_outside_the_sections_are_not_settings() {
        let variables =
            [("RGUN_CONFIG", "/x"), ("RGUN_E2E", "required"), ("RGUN_APP", "x"), ("HOME", "/home/a")];
        assert_eq!(layer(&variables), (Layer::new(), Vec::new()));
    }

    #[test]
    fn only_variables_without_an_effect_are_unread() {
        let variables = [
            ("RGUN_BIND", ":80"),
            ("RGUN_APP", "x"),
            ("RGUN_CONFIG", "/x"),
            ("RGUN_BOOTSTRAP", "x"),
            ("RGUN_LISTEN_BIND", ":80"),
            // Errors, which `read` reports.
            ("RGUN_WORKERS_CUONT", "2"),
            ("RGUN_TLS_CERT", "x"),
            // Of a Kubernetes Service named rgun.
            ("RGUN_PORT", "tcp://10.0.0.7:80"),
            ("RGUN_SERVICE_HOST", "10.0.0.7"),
            ("RGUNNER", "x"),
        ];
        let environment = variables.into_iter().collect();
        assert_eq!(unread_variables(&environment), ["RGUN_APP", "RGUN_BIND"]);
    }

    #[test]
    fn kubernetes_service_variables_are_not_settings() {
        for (variable, value) in [
            ("RGUN_APP_SERVICE_HOST", "10.0.0.7"),
            ("RGUN_APP_SERVICE_PORT", "80"),
            ("RGUN_APP_SERVICE_PORT_HTTP", "80"),
            ("RGUN_APP_SERVICE_PORT_HTTP_ALT", "8080"),
            ("RGUN_APP_PORT", "tcp://10.0.0.7:80"),
            ("RGUN_APP_PORT_80_TCP", "tcp://10.0.0.7:80"),
            ("RGUN_APP_PORT_80_TCP_PROTO", "tcp"),
            ("RGUN_APP_PORT_80_TCP_PORT", "80"),
            ("RGUN_APP_PORT_80_TCP_ADDR", "10.0.0.7"),
            ("RGUN_WORKERS_PORT", "udp://10.0.0.7:53"),
            ("RGUN_WORKERS_PORT_53_UDP", "udp://10.0.0.7:53"),
            ("RGUN_LOG_PORT_9_SCTP_ADDR", "10.0.0.7"),
            ("RGUN_LISTEN_SERVICE_HOST", "10.0.0.7"),
            ("RGUN_WORKERS_COUNT_PORT", "tcp://10.0.0.7:80"),
            ("RGUN_TLS_SERVICE_PORT", "443"),
            ("RGUN_SERVICE_HOST", "10.0.0.7"),
        ] {
            assert_eq!(layer(&[(variable, value)]), (Layer::new(), Vec::new()), "{variable}={value}");
        }
        for (variable, value) in [
            ("RGUN_APP_PORT", "8000"),
            ("RGUN_LISTEN_PORT", "8000"),
            ("RGUN_APP_PORT_X_TCP", "tcp://10.0.0.7:80"),
            ("RGUN_APP_PORT__TCP", "tcp://10.0.0.7:80"),
            ("RGUN_APP_80_TCP", "tcp://10.0.0.7:80"),
            ("RGUN_APP_TCP", "tcp://10.0.0.7:80"),
        ] {
            assert_eq!(layer(&[(variable, value)]).1.len(), 1, "{variable}={value}");
        }
    }

    #[test]
    fn forwarded_allow_ips_yields_to_rgun_proxy_trusted() {
        let value = |variables: &[(&str, &str)]| layer(variables).0[name::TRUSTED].value.clone();
        assert_eq!(value(&[("FORWARDED_ALLOW_IPS", "*")]), Value::list(["all", "unix"]));
        assert_eq!(value(&[("FORWARDED_ALLOW_IPS", "")]), Value::list::<String>([]));
        let both = [("FORWARDED_ALLOW_IPS", "*"), ("RGUN_PROXY_TRUSTED", "10.0.0.0/8")];
        assert_eq!(value(&both), Value::text("10.0.0.0/8"));
    }

    #[test]
    fn path_variables_need_not_be_utf8() {
        use std::os::unix::ffi::OsStringExt;
        let bytes = OsString::from_vec(b"/srv/caf\xe9".to_vec());
        for key in [name::DIRECTORY, name::PYTHON, name::PYTHONPATH] {
            let mut errors = Vec::new();
            let variables = [(OsString::from(keys::variable_name(key)), bytes.clone())].into_iter().collect();
            let layer = read(&variables, &mut errors);
            assert_eq!(errors, []);
            assert_eq!(layer[key].value, Value::Bytes(bytes.clone()), "{key}");
        }
    }

    #[test]
    fn other_variable_that_is_not_utf8_is_an_error() {
        use std::os::unix::ffi::OsStringExt;
        let bytes = OsString::from_vec(vec![b'a', 0xff]);
        let mut errors = Vec::new();
        let layer = read(&[(OsString::from("RGUN_APP_TARGET"), bytes)].into_iter().collect(), &mut errors);
        assert_eq!(layer, Layer::new());
        assert_eq!(errors[0].to_string(), "RGUN_APP_TARGET: app.target = \"a\\xff\": is not UTF-8");
    }
}
