//! Reads `app.env_from_credentials`: variables of the application whose values are credentials of
//! the unit (`LoadCredential=`, systemd.exec(5)).

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::checker::{Checker, Layers};
use super::environment::CREDENTIALS_DIRECTORY;
use super::keys::name;
use super::tls::UNKNOWN_CREDENTIALS;
use super::{ValueError, read};

/// The variables from credentials.
#[derive(Debug, Default)]
pub(super) struct CredentialVariables {
    /// Names and values; the values are secrets.
    pub(super) known: BTreeMap<String, String>,
    /// Names of the credentials that a check outside of the unit cannot read.
    pub(super) unknown: Vec<String>,
}

/// Reads the credentials that the key names. `env`: the variables of `app.env`.
pub(super) fn read_variables(
    checker: &mut Checker<'_>,
    env: &BTreeMap<String, String>,
) -> CredentialVariables {
    let mut variables = CredentialVariables::default();
    let Some(setting) = checker.setting(name::ENV_FROM_CREDENTIALS) else { return variables };
    let mut errors = Vec::new();
    let pairs = read::env(&setting.value, &mut errors);
    let Layers { environment, .. } = checker.layers;
    let directory = environment.value(CREDENTIALS_DIRECTORY).map(Path::new);
    for (variable, credential) in pairs {
        if env.contains_key(&variable) {
            let error = ValueError::new(format!("{variable} is also in app.env"));
            errors.push(error.with_hint("remove one of the two"));
        } else if directory == Some(Path::new(UNKNOWN_CREDENTIALS)) {
            variables.unknown.push(credential);
        } else {
            match read_credential(directory, &variable, &credential) {
                Ok(value) => drop(variables.known.insert(variable, value)),
                Err(error) => errors.push(error),
            }
        }
    }
    for error in errors {
        checker.push_secret(name::ENV_FROM_CREDENTIALS, setting, error);
    }
    variables
}

/// The hint about a wrong name.
const EXAMPLE: &str =
    "write env_from_credentials = { SECRET_KEY = \"NAME\" }, and LoadCredential=NAME:/path in the unit";

/// Returns the value of a credential, without the newline at its end, which editors add.
fn read_credential(directory: Option<&Path>, variable: &str, credential: &str) -> Result<String, ValueError> {
    if credential.is_empty() || credential.contains('/') || credential == ".." || credential == "." {
        let error = ValueError::new(format!("{variable}: {credential:?} is not the name of a credential"));
        return Err(error.with_hint(EXAMPLE));
    }
    let unit = format!("write LoadCredential={credential}:/path in the unit");
    let Some(directory) = directory else {
        let error = ValueError::new(format!(
            "{variable}: {credential} is a credential, and $CREDENTIALS_DIRECTORY is not set"
        ));
        return Err(error.with_hint(unit));
    };
    let path = directory.join(credential);
    let bytes = std::fs::read(&path).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => unit,
            _ => format!("the service's user must be able to read {}", path.display()),
        };
        ValueError::new(format!("{variable}: cannot read {}: {error}", path.display())).with_hint(hint)
    })?;
    let text = String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
    let text = text.ok_or_else(|| {
        ValueError::new(format!("{variable}: the credential {credential} is not text")).with_hint(
            "a variable must be UTF-8 without zero bytes; let the application read the file instead",
        )
    })?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}
