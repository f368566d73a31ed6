//! Reads `[tls]`: certificates, protocol versions and client certificates. Only names and paths are
//! checked here.

use std::path::{Path, PathBuf};

use super::checker::{Checker, Layers};
use super::environment::CREDENTIALS_DIRECTORY;
use super::keys::name;
use super::listen::METRICS_SOCKET;
use super::paths::path;
use super::read::{text, unknown_choice};
use super::tls::UNKNOWN_CREDENTIALS;
use super::value::{Setting, Source};
use super::{
    CertificateFiles, ClientAuth, Environment, Listen, Tls, TlsOrigins, TlsVersion, Value, ValueError, fs,
};

/// Beginning of a path in the directory with the unit's credentials.
const CREDENTIAL_PREFIX: &str = "$CREDENTIALS_DIRECTORY/";

/// Credentials that are used without `tls.cert`: certificate and key.
const DEFAULT_CREDENTIALS: [&str; 2] = ["tls.crt", "tls.key"];

/// Checks the section.
pub(super) fn check(checker: &mut Checker<'_>) -> Tls {
    let Layers { environment, cwd, .. } = checker.layers;
    let files = |setting: &Setting| files(setting, cwd, environment);
    let certs = checker.read(name::CERT, Vec::new(), files);
    let keys = checker.read(name::KEY, Vec::new(), files);
    check_keys(checker, certs.len(), keys.len());
    // Without `tls.key`, each certificate's file also contains its key, as in gunicorn and uvicorn.
    let keys = if keys.is_empty() { certs.clone() } else { keys };
    let client_ca = checker.read(name::CLIENT_CA, None, |setting| file(setting, cwd, environment).map(Some));
    let client_auth = checker.read(name::CLIENT_AUTH, ClientAuth::Off, read_client_auth);
    if client_auth == ClientAuth::Off {
        let hint = remedy(
            checker.setting(name::CLIENT_CA),
            &[
                "add --cert-reqs 2 (required) or --cert-reqs 1 (optional)",
                "set RGUN_TLS_CLIENT_AUTH=required or =optional",
                "add client_auth = \"required\" or \"optional\" to [tls], or remove client_ca",
            ],
        );
        checker.require(name::CLIENT_CA, name::CLIENT_AUTH, "has no effect without tls.client_auth", hint);
    } else if checker.setting(name::CLIENT_CA).is_none() {
        let hint = remedy(
            checker.setting(name::CLIENT_AUTH),
            &[
                "add --ca-certs with the file of the authorities that issue the clients' certificates",
                "set RGUN_TLS_CLIENT_CA to the file of the authorities that issue the clients' certificates",
                "add client_ca = \"/etc/ssl/mysite/clients.pem\" to [tls]: the authorities that issue the clients' certificates",
            ],
        );
        checker.require(name::CLIENT_AUTH, name::CLIENT_CA, "needs tls.client_ca", hint);
    }
    let origin = |key| checker.setting(key).map(|setting| setting.origin.clone());
    let origins = TlsOrigins {
        cert: origin(name::CERT).unwrap_or_default(),
        key: origin(name::KEY),
        client_ca: origin(name::CLIENT_CA).unwrap_or_default(),
    };
    let pairs = certs.into_iter().zip(keys);
    Tls {
        certificates: pairs.map(|(cert, key)| CertificateFiles { cert, key }).collect(),
        min_version: checker.read(name::MIN_VERSION, TlsVersion::default(), read_min_version),
        client_auth,
        client_ca,
        origins,
    }
}

/// Reports keys without certificates. `certs` and `keys` are the numbers of files.
fn check_keys(checker: &mut Checker<'_>, certs: usize, keys: usize) {
    if keys == 0 || certs == keys {
        return;
    }
    let (reason, hint) = if certs == 0 {
        let hint = remedy(
            checker.setting(name::KEY),
            &[
                "add --certfile with the certificate's file",
                "set RGUN_TLS_CERT to the certificate's file",
                "add cert to [tls]",
            ],
        );
        ("has no effect without tls.cert".to_owned(), hint.to_owned())
    } else {
        (
            format!("names {keys} files, tls.cert {certs}"),
            "write both as lists in the same order, a key for each certificate".to_owned(),
        )
    };
    checker.require(name::KEY, name::CERT, &reason, &hint);
}

/// Reports settings that have no effect because no certificate, or no socket, makes clients speak TLS.
///
/// Client authentication without a certificate is an error: the service would answer everybody.
pub(super) fn check_effect(checker: &mut Checker<'_>, tls: &Tls, listen: &Listen) {
    // An invalid `tls.cert`, and a socket with `tls = true` without a certificate, have been reported.
    let has_certificate = !tls.certificates.is_empty() || checker.setting(name::CERT).is_some();
    if !has_certificate && !listen.has_tls() {
        if tls.client_auth != ClientAuth::Off {
            let hint = remedy(
                checker.setting(name::CLIENT_AUTH),
                &[
                    "add --certfile (and --keyfile) with the server's certificate, or remove --cert-reqs",
                    "set RGUN_TLS_CERT to the file of the server's certificate, or remove the variable",
                    "add cert (and key) to [tls]: the server's certificate; or remove client_auth",
                ],
            );
            let reason =
                "has no effect without tls.cert: clients would not use TLS, and none would be authenticated";
            checker.require(name::CLIENT_AUTH, name::CERT, reason, hint);
        }
        checker.warn_without_effect(name::MIN_VERSION, "tls.cert is not set, so no client uses TLS");
    } else if has_certificate && speaks_tls(listen, checker.layers.environment) == Some(false) {
        let reason = "no socket has TLS, because each [listen.NAME] has tls = false";
        checker.warn_without_effect(name::CERT, reason);
        if tls.client_auth != ClientAuth::Off {
            checker.warn_without_effect(name::CLIENT_AUTH, &format!("{reason}: no client is authenticated"));
        }
    }
}

/// Returns whether clients speak TLS on any socket. `None` if systemd passes the sockets, which a
/// check outside of the unit does not know.
fn speaks_tls(listen: &Listen, environment: &Environment) -> Option<bool> {
    if environment.value("LISTEN_FDS").is_some() {
        let names = environment.value("LISTEN_FDNAMES")?.to_str()?;
        return Some(names.split(':').any(|name| name != METRICS_SOCKET && listen.speaks_tls(name)));
    }
    let addresses = listen.addresses();
    let mut tls = addresses.iter().map(|(name, _)| name.map_or(listen.tls, |name| listen.speaks_tls(name)));
    (!addresses.is_empty()).then(|| tls.any(|tls| tls))
}

/// Chooses the remedy that fits the place of a setting: the command line, the environment, or the
/// file.
fn remedy<'h>(setting: Option<&Setting>, [flag, variable, key]: &[&'h str; 3]) -> &'h str {
    match setting.map(|setting| setting.source) {
        Some(Source::CommandLine) => flag,
        Some(Source::Environment) => variable,
        _ => key,
    }
}

/// Uses the unit's credentials with the default names, if there are any, as certificate and key.
pub(super) fn use_credentials(tls: &mut Tls, environment: &Environment) {
    let Some(directory) = environment.value(CREDENTIALS_DIRECTORY) else { return };
    let [cert, key] = DEFAULT_CREDENTIALS.map(|name| Path::new(directory).join(name));
    if directory == UNKNOWN_CREDENTIALS || cert.exists() || key.exists() {
        tls.certificates = vec![CertificateFiles { cert, key }];
        let origin = "the unit's credentials".to_owned();
        tls.origins =
            TlsOrigins { key: Some(origin.clone()), cert: origin, ..std::mem::take(&mut tls.origins) };
    }
}

/// Reads the path of a file. [`CREDENTIAL_PREFIX`] stands for the directory with the unit's
/// credentials.
fn file(setting: &Setting, cwd: &Path, environment: &Environment) -> Result<PathBuf, ValueError> {
    let path = Path::new(path(setting)?);
    if let Some(name) = path.to_str().and_then(|text| text.strip_prefix(CREDENTIAL_PREFIX)) {
        let directory = environment.value(CREDENTIALS_DIRECTORY).ok_or_else(|| {
            ValueError::new("is a credential, and $CREDENTIALS_DIRECTORY is not set")
                .with_hint(format!("write LoadCredential={name}:/path in the unit"))
        })?;
        return Ok(Path::new(directory).join(name));
    }
    if path.as_os_str().is_empty() {
        return Err(ValueError::new("is empty").with_hint("name a file in PEM format"));
    }
    if path.is_relative() && setting.source != Source::CommandLine {
        return Err(ValueError::new(format!(
            "{} is relative, which only the command line allows",
            path.display()
        ))
        .with_hint(format!("write the full path, or {CREDENTIAL_PREFIX}NAME for a credential of the unit")));
    }
    Ok(fs::absolute(cwd, path))
}

/// Reads a list of files, or one.
fn files(setting: &Setting, cwd: &Path, environment: &Environment) -> Result<Vec<PathBuf>, ValueError> {
    let read = |value: &Value| file(&Setting { value: value.clone(), ..setting.clone() }, cwd, environment);
    let files = match &setting.value {
        Value::List(items) => items.iter().map(read).collect::<Result<Vec<_>, _>>()?,
        Value::Text(text) if setting.source == Source::Environment => {
            text.split(',').map(|part| read(&Value::text(part.trim()))).collect::<Result<Vec<_>, _>>()?
        }
        value => vec![read(value)?],
    };
    if files.is_empty() {
        return Err(ValueError::new("names no file").with_hint("remove the key for a server without TLS"));
    }
    Ok(files)
}

fn read_min_version(setting: &Setting) -> Result<TlsVersion, ValueError> {
    match text(setting)? {
        "1.2" => Ok(TlsVersion::Tls12),
        "1.3" => Ok(TlsVersion::Tls13),
        "1.0" | "1.1" => Err(ValueError::new("is an obsolete version (RFC 8996), which rgun does not speak")
            .with_hint("write \"1.2\"")),
        other => Err(unknown_choice(other, &["1.2", "1.3"])),
    }
}

fn read_client_auth(setting: &Setting) -> Result<ClientAuth, ValueError> {
    match text(setting)? {
        "off" => Ok(ClientAuth::Off),
        "optional" => Ok(ClientAuth::Optional),
        "required" => Ok(ClientAuth::Required),
        other if setting.source == Source::CommandLine => {
            Err(ValueError::new(format!("\"{other}\" is not one of the choices"))
                .with_hint("write --cert-reqs 0 (off), 1 (optional) or 2 (required)"))
        }
        other => Err(unknown_choice(other, &["off", "optional", "required"])),
    }
}

/// Reads the value of `Strict-Transport-Security` (RFC 6797 §6.1); "off" is `None`.
pub(super) fn hsts(setting: &Setting) -> Result<Option<String>, ValueError> {
    const EXAMPLE: &str = "write e.g. \"max-age=31536000; includeSubDomains\", or \"off\"";
    let value = text(setting)?;
    if value == "off" {
        return Ok(None);
    }
    let mut directives = value.split(';').map(str::trim);
    let is_number = |age: &str| !age.is_empty() && age.bytes().all(|byte| byte.is_ascii_digit());
    if !directives.any(|directive| directive.strip_prefix("max-age=").is_some_and(is_number)) {
        return Err(ValueError::new("has no max-age, the seconds for which browsers use https only")
            .with_hint(EXAMPLE));
    }
    if value.bytes().any(|byte| !(b' '..=b'~').contains(&byte)) {
        return Err(ValueError::new("has characters that no header field may have").with_hint(EXAMPLE));
    }
    Ok(Some(value.to_owned()))
}
