//! Reads `[listen]`, `[listen.NAME]` and `[metrics]`: the addresses to listen on, and the protocol
//! of each socket.

use std::path::Path;

use super::bind;
use super::certificates::{check_effect, use_credentials};
use super::checker::Checker;
use super::entry::EntryReader;
use super::keys::name;
use super::listen::{MAX_LISTENERS, METRICS_SOCKET};
use super::read::{boolean, strings};
use super::value::{Setting, Source, TableEntry};
use super::{Bind, ConfigError, Listen, NamedListener, Tls, Value, ValueError, environment, fs};

const BIND: &str = "bind";
const TLS: &str = "tls";
const PROXY_PROTOCOL: &str = "proxy_protocol";
pub(super) const KEYS: [&str; 3] = [BIND, TLS, PROXY_PROTOCOL];

/// Maximum length of a name: that of `FileDescriptorName=` (systemd.socket(5)).
const MAX_NAME_BYTES: usize = 255;

/// Checks the sockets, and decides which of them have TLS. The unit's credentials are used if a
/// table asks for TLS and `tls.cert` is not set.
pub(super) fn check(checker: &mut Checker<'_>, base: &Path, tls: &mut Tls) -> Listen {
    let unnamed = Listen {
        proxy_protocol: checker.read(name::PROXY_PROTOCOL, false, boolean),
        ..unnamed_sockets(checker, base)
    };
    let tables = match checker.setting(name::LISTENERS) {
        None => Vec::new(),
        Some(setting) => tables(setting, base, &mut checker.errors).unwrap_or_else(|error| {
            checker.push_error(name::LISTENERS, setting, error);
            Vec::new()
        }),
    };
    if tls.certificates.is_empty() && tables.iter().any(ListenerTable::wants_tls) {
        use_credentials(tls, checker.layers.environment);
    }
    // An invalid `tls.cert` has been reported.
    let has_certificate = !tls.certificates.is_empty() || checker.setting(name::CERT).is_some();
    let listen = resolve(unnamed, tables, has_certificate, &mut checker.errors);
    check_count(checker, &listen);
    check_effect(checker, tls, &listen);
    let metrics = checker.read(name::METRICS_BIND, Vec::new(), |setting| metrics(setting, base, &listen));
    Listen { metrics, ..listen }
}

/// Reports more addresses than a daemon can have.
fn check_count(checker: &mut Checker<'_>, listen: &Listen) {
    let count = listen.addresses().len();
    let keys = [name::BIND, name::LISTENERS];
    if count > MAX_LISTENERS
        && let Some((key, setting)) = keys.iter().find_map(|key| Some((*key, checker.setting(key)?)))
    {
        let error = ValueError::new(format!(
            "there are {count} addresses to listen on; the maximum is {MAX_LISTENERS}"
        ));
        checker.push_error(key, setting, error.with_hint("remove addresses, or run several instances"));
    }
}

/// Returns the addresses of `metrics.bind`.
fn metrics(setting: &Setting, base: &Path, listen: &Listen) -> Result<Vec<Bind>, ValueError> {
    if setting.value == Value::text("off") {
        return Ok(Vec::new());
    }
    let bind = addresses(setting, base, "write \"off\" to serve no metrics")?;
    // The default port is that of the application.
    if let Some(text) = strings(setting)?.into_iter().find(|text| !bind::names_port(text)) {
        return Err(ValueError::new(format!("{text:?} names no port"))
            .with_hint(format!("write \"{text}:9797\", or \"off\" to serve no metrics")));
    }
    match find_conflict(&bind, listen) {
        Some(error) => Err(error.with_hint("metrics need an address of their own, e.g. \"127.0.0.1:9797\"")),
        None => Ok(bind),
    }
}

/// Finds an address of `bind` that cannot be bound beside one of `listen`.
fn find_conflict(bind: &[Bind], listen: &Listen) -> Option<ValueError> {
    listen.addresses().into_iter().find_map(|(name, theirs)| {
        let own = bind.iter().find(|own| own.conflicts_with(theirs))?;
        let owner = name.map_or_else(|| name::BIND.to_owned(), |name| format!("[listen.{name}]"));
        Some(ValueError::new(if own == theirs {
            format!("has {own}, which {owner} has too")
        } else {
            format!("has {own}, and {owner} has {theirs}, of which one includes the other")
        }))
    })
}

/// Returns the addresses of `listen.bind`. `PORT`, which some platforms set, is used if there is no
/// setting and systemd passes no sockets.
fn unnamed_sockets(checker: &mut Checker<'_>, base: &Path) -> Listen {
    let environment = checker.layers.environment;
    if checker.setting(name::BIND).is_some() || environment.value("LISTEN_FDS").is_some() {
        return checker.read(name::BIND, Listen::default(), |setting| {
            let bind = addresses(setting, base, "remove the key for 127.0.0.1:8000")?;
            Ok(Listen { bind, explicit: true, ..Listen::default() })
        });
    }
    let Some(port) = environment.value(environment::PORT) else { return Listen::default() };
    let port = port.to_string_lossy();
    match bind::port(&port) {
        Ok(port) => Listen { bind: vec![Bind::any(port)], ..Listen::default() },
        Err(error) => {
            let hint = "set PORT to a number from 0 to 65535, or name an address with --bind";
            checker.errors.push(ConfigError {
                origin: environment::PORT.to_owned(),
                key: name::BIND.to_owned(),
                value: Some(format!("{port:?}")),
                reason: error.reason,
                hint: Some(hint.to_owned()),
            });
            Listen::default()
        }
    }
}

/// Reads a list of addresses. Relative paths of unix sockets are relative to `base`. `if_empty` is the
/// hint for a list without addresses.
fn addresses(setting: &Setting, base: &Path, if_empty: &str) -> Result<Vec<Bind>, ValueError> {
    let mut bind: Vec<Bind> = Vec::new();
    let texts = strings(setting)?;
    for text in &texts {
        let mut address =
            text.parse().map_err(|error| if texts.len() > 1 { name_address(text, error) } else { error })?;
        if let Bind::Unix { path } = &mut address
            && path.is_relative()
        {
            if setting.source != Source::CommandLine {
                return Err(ValueError::new(format!(
                    "{text:?} is relative, which only the command line allows"
                ))
                .with_hint(format!("write the full path, e.g. \"unix:/run/{}\"", path.display())));
            }
            *path = fs::absolute(base, path);
        }
        if bind.contains(&address) {
            return Err(ValueError::new(format!("has {address} twice")));
        }
        if let Some(other) = bind.iter().find(|other| other.conflicts_with(&address)) {
            let reason = format!("has {address} and {other}, of which one includes the other");
            return Err(ValueError::new(reason).with_hint("remove one of them"));
        }
        bind.push(address);
    }
    if bind.is_empty() {
        return Err(ValueError::new("names no address").with_hint(if_empty));
    }
    Ok(bind)
}

/// Adds the wrong address of a list to the reason.
fn name_address(text: &str, error: ValueError) -> ValueError {
    let colon = if error.reason.starts_with('"') { ":" } else { "" };
    ValueError { reason: format!("{text:?}{colon} {}", error.reason), ..error }
}

/// A table before the defaults are known.
struct ListenerTable<'a> {
    entry: &'a TableEntry,
    name: &'a str,
    bind: Vec<Bind>,
    tls: Option<bool>,
    proxy_protocol: Option<bool>,
}

impl ListenerTable<'_> {
    /// True if the table has `tls = true`.
    fn wants_tls(&self) -> bool {
        self.tls == Some(true)
    }
}

/// Reads the tables `[listen.NAME]`. Errors in tables go to `errors`.
fn tables<'a>(
    setting: &'a Setting,
    base: &Path,
    errors: &mut Vec<ConfigError>,
) -> Result<Vec<ListenerTable<'a>>, ValueError> {
    let Value::Named(entries) = &setting.value else {
        return Err(ValueError::new(format!("must be a table, not {}", setting.value.kind()))
            .with_hint("write [listen.https], with a name for the socket, and bind and tls below it"));
    };
    Ok(entries.iter().filter_map(|(name, entry)| table(name, entry, base, errors)).collect())
}

fn table<'a>(
    name: &'a str,
    entry: &'a TableEntry,
    base: &Path,
    errors: &mut Vec<ConfigError>,
) -> Option<ListenerTable<'a>> {
    let found = errors.len();
    let mut reader = reader(name, entry, errors);
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains(|c: char| c.is_control() || c == ':') {
        let hint = "use a name that FileDescriptorName= of a socket unit may have, e.g. [listen.https]";
        reader.fault("", None, ValueError::new("cannot be the name of a socket").with_hint(hint));
    }
    if name == METRICS_SOCKET {
        let hint = "choose another name; metrics.bind, or a socket unit with this name, serves metrics";
        reader.fault("", None, ValueError::new("is the name of the sockets for metrics").with_hint(hint));
    }
    reader.refuse_unknown("[listen.NAME]", &KEYS);
    let bind = reader.key(BIND, |setting| addresses(setting, base, "remove the key")).unwrap_or_default();
    let tls = reader.key(TLS, boolean);
    let proxy_protocol = reader.key(PROXY_PROTOCOL, boolean);
    (errors.len() == found).then_some(ListenerTable { entry, name, bind, tls, proxy_protocol })
}

fn reader<'a, 'f>(
    name: &str,
    entry: &'a TableEntry,
    errors: &'f mut Vec<ConfigError>,
) -> EntryReader<'a, 'f> {
    EntryReader { entry, label: format!("listen.{name}"), errors }
}

/// Completes the tables: a socket without `tls` speaks TLS if no table has `tls = true` and there
/// is a certificate.
fn resolve(
    listen: Listen,
    tables: Vec<ListenerTable<'_>>,
    has_certificate: bool,
    errors: &mut Vec<ConfigError>,
) -> Listen {
    let tls = has_certificate && !tables.iter().any(ListenerTable::wants_tls);
    let mut resolved = Listen { tls, named: Vec::new(), ..listen };
    for ListenerTable { entry, name, bind, tls, proxy_protocol } in tables {
        let mut reader = reader(name, entry, errors);
        if tls == Some(true) && !has_certificate {
            let setting = reader.setting(TLS);
            let error = ValueError::new("has no certificate").with_hint(
                "write [tls] with cert = \"/etc/ssl/mysite/fullchain.pem\" and key = \"/etc/ssl/mysite/privkey.pem\", \
                 or LoadCredential=tls.crt:… and LoadCredential=tls.key:… in the unit",
            );
            reader.fault(TLS, setting, error);
        }
        if let Some(error) = find_conflict(&bind, &resolved) {
            let setting = reader.setting(BIND);
            reader.fault(BIND, setting, error);
        }
        resolved.named.push(NamedListener {
            name: name.to_owned(),
            bind,
            tls: tls.unwrap_or(resolved.tls),
            proxy_protocol: proxy_protocol.unwrap_or(resolved.proxy_protocol),
        });
    }
    resolved
}
