//! The user, groups, environment and directory in which `rgun check` runs the application.
//!
//! A check as root would run the application as root, and root can read everything. The check
//! therefore runs as the user of the unit that reads the same configuration file.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid};

use crate::cli::{CheckIdentity, Invocation, UnreadInvocation};
use crate::config::{Config, ConfigError, ConfigErrors, DEFAULT_FILE, Environment, WorkerUser, name};
use crate::pool::{
    Credentials, UserAccount, UserIdentity, WORKER_USER_CAPABILITIES, find_group, find_worker_identity,
    look_up_worker_identity,
};
use crate::run::{StartupError, check_group};

use super::unit::Unit;

/// The invocation to check, and the user to check it as.
#[derive(Debug)]
pub(super) struct CheckContext {
    /// The invocation, read in the unit's environment if there is a unit.
    pub(super) invocation: Invocation,
    /// The user. `None`: the calling user, which is not root.
    pub(super) identity: Option<UserIdentity>,
    /// The unit, whose sandbox restricts the application.
    pub(super) unit: Option<Unit>,
}

impl CheckContext {
    /// Returns the user that workers run as (`workers.user`); `None` if it is that of the daemon.
    ///
    /// # Errors
    /// The user does not exist, or the daemon may not run workers as this user.
    pub(super) fn find_worker_identity(&self, config: &Config) -> Result<Option<UserIdentity>, StartupError> {
        let settings = &config.workers.user;
        let config_error = |error: ConfigError| StartupError::config_reason(error.to_string());
        let Some(daemon) = &self.identity else {
            return find_worker_identity(settings, std::env::vars_os()).map_err(config_error);
        };
        let Credentials { uid, gid, .. } = daemon.credentials;
        let found = look_up_worker_identity(settings, uid, gid, daemon.environment.iter().cloned())
            .map_err(config_error)?;
        let Some(workers) = found else { return Ok(None) };
        // For root outside of a unit, nothing is known about the daemon's rights.
        if let Some(unit) = &self.unit {
            let mut missing: Vec<String> = Vec::new();
            missing.extend(
                unit.missing_capabilities(uid.is_root(), workers.credentials.uid != uid)
                    .into_iter()
                    .map(str::to_owned),
            );
            let calls = unit.refused_calls(&WORKER_USER_CALLS);
            if !calls.is_empty() {
                missing.push(format!("the system calls {} (SystemCallFilter=)", calls.join(" ")));
            }
            if !missing.is_empty() {
                return Err(config_error(lacks_capabilities(settings, unit, &missing)));
            }
        }
        Ok(Some(workers))
    }

    /// Checks `control.group`.
    ///
    /// # Errors
    /// The group does not exist, or the daemon of the unit may not give it the control socket: it is not
    /// in the group, or its system calls are filtered.
    pub(super) fn check_control_group(&self) -> Result<(), StartupError> {
        let found = check_group(&self.invocation)
            .map_err(|errors| StartupError::config_reason(errors.to_string()))?;
        let (Some(gid), Some(daemon), Some(unit)) = (found, &self.identity, &self.unit) else {
            return Ok(());
        };
        let Credentials { uid, gid: own, groups } = &daemon.credentials;
        let group = self.invocation.config.control.group.as_deref().unwrap_or_default();
        let mut needed = Vec::new();
        if !uid.is_root() && *own != gid && !groups.contains(&gid) {
            needed.push(format!("SupplementaryGroups={group}"));
        }
        if !unit.refused_calls(&["chown", "fchownat"]).is_empty() {
            needed.push("SystemCallFilter=@chown".to_owned());
        }
        if needed.is_empty() {
            return Ok(());
        }
        Err(StartupError::config_reason(format!(
            "{} = \"{group}\": {} may not give its control socket to this group: write {} into a drop-in (systemctl \
             edit)",
            name::CONTROL_GROUP,
            unit.name,
            needed.join(" and ")
        )))
    }
}

/// The system calls of a process that becomes a worker of another user.
const WORKER_USER_CALLS: [&str; 4] = ["setgroups", "setresgid", "setresuid", "capset"];

/// Returns the error of a unit whose daemon may not run workers as another user.
fn lacks_capabilities(settings: &WorkerUser, unit: &Unit, missing: &[String]) -> ConfigError {
    let (key, account) = match (&settings.user, &settings.group) {
        (Some(user), _) => (name::WORKER_USER, Some(user)),
        (None, group) => (name::WORKER_GROUP, group.as_ref()),
    };
    ConfigError {
        origin: account.map(|account| account.origin.clone()).unwrap_or_default(),
        key: key.to_owned(),
        value: account.map(|account| format!("\"{}\"", account.text)),
        reason: format!(
            "{} may not run its workers as another user: it lacks {}",
            unit.name,
            missing.join(", ")
        ),
        hint: Some(format!(
            "write AmbientCapabilities={WORKER_USER_CAPABILITIES}, CapabilityBoundingSet={WORKER_USER_CAPABILITIES} and \
             SystemCallFilter=@setuid capset into a drop-in of {}, see rgun.units(7)",
            unit.name
        )),
    }
}

/// `PATH` of every service (systemd.exec(5)).
const SERVICE_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Resolves the user, the unit and the invocation of a check.
///
/// # Errors
/// When root names no user and no unit is found, when the user or unit does not exist, or when the
/// configuration is invalid in the unit's environment.
pub(super) fn resolve_context(
    invocation: &Invocation,
    wanted: &CheckIdentity,
) -> Result<CheckContext, StartupError> {
    let usage = StartupError::usage;
    if !Uid::effective().is_root() {
        let flag = wanted.user.as_ref().map(|_| "--user").or(wanted.unit.as_ref().map(|_| "--unit"));
        return match flag {
            Some(flag) => {
                Err(usage(format!("{flag}: only root can check as another user; run it with sudo")))
            }
            None => Ok(CheckContext { invocation: invocation.clone(), identity: None, unit: None }),
        };
    }
    let CheckTarget { identity, unit, directory } = find_target(invocation.file(), wanted)?;
    let mut invocation = invocation.clone();
    if let Some(unit) = &unit {
        let variables: Environment = identity.environment.iter().cloned().collect();
        let variables = variables.allowing_unknown_credentials();
        let warnings = std::mem::take(&mut invocation.warnings);
        invocation =
            invocation.reread_with(variables, directory).map_err(|errors| read_error(&errors, Some(unit)))?;
        invocation.warnings.splice(0..0, warnings);
    }
    Ok(CheckContext { invocation, identity: Some(identity), unit })
}

/// Resolves the user and the unit when root checks, and reads a configuration in Python as that
/// user.
///
/// # Errors
/// As [`resolve_context`].
pub(super) fn read_context(
    unread: &UnreadInvocation,
    wanted: &CheckIdentity,
) -> Result<CheckContext, StartupError> {
    let CheckTarget { identity, unit, directory } = find_target(unread.file(), wanted)?;
    let variables: Environment = identity.environment.iter().cloned().collect();
    let variables = variables.allowing_unknown_credentials();
    let unit_context = unit.as_ref().map(|_| (variables, directory));
    let invocation = unread
        .read(unit_context, &|command| identity.apply(command))
        .map_err(|errors| read_error(&errors, unit.as_ref()))?;
    Ok(CheckContext { invocation, identity: Some(identity), unit })
}

fn read_error(errors: &ConfigErrors, unit: Option<&Unit>) -> StartupError {
    let reason = match unit {
        Some(unit) => format!("with the environment of {}: {errors}", unit.name),
        None => errors.to_string(),
    };
    StartupError::config_reason(reason)
}

/// The user and the unit of a check by root.
struct CheckTarget {
    identity: UserIdentity,
    unit: Option<Unit>,
    /// The unit's `WorkingDirectory=`, or `/`.
    directory: PathBuf,
}

/// Finds the user, with groups and environment, and the unit.
fn find_target(file: Option<&Path>, wanted: &CheckIdentity) -> Result<CheckTarget, StartupError> {
    let usage = StartupError::usage;
    let unit = find_unit(file, wanted)?;
    let user = match (&wanted.user, &unit) {
        (Some(user), _) => user.clone(),
        (None, Some(unit)) if unit.user.is_empty() => "root".to_owned(),
        (None, Some(unit)) => unit.user.clone(),
        (None, None) => return Err(usage(explain_missing_user(file))),
    };
    let account = match UserAccount::find(&user) {
        Ok(found) => found.ok_or_else(|| format!("there is no user {user}")),
        Err(errno) => Err(format!("cannot look the user {user} up: {errno}")),
    };
    let account = account.map_err(|reason| usage(add_hint(&reason, unit.as_ref())))?;
    let (gid, groups) = match &unit {
        Some(unit) if wanted.user.is_none() => unit_groups(&account, unit).map_err(usage)?,
        _ => (account.gid, account.groups_with(account.gid)),
    };
    let environment = environment(&account, unit.as_ref()).map_err(usage)?;
    let directory = match unit.as_ref().and_then(|unit| unit.directory.clone()) {
        Some(home) if home == Path::new("~") => account.home.clone(),
        Some(directory) => directory,
        None => PathBuf::from("/"),
    };
    Ok(CheckTarget {
        identity: UserIdentity {
            user,
            credentials: Credentials { uid: account.uid, gid, groups },
            environment,
        },
        unit,
        directory,
    })
}

/// Returns the unit of `--unit`, or the unit that reads the configuration file.
fn find_unit(file: Option<&Path>, wanted: &CheckIdentity) -> Result<Option<Unit>, StartupError> {
    if let Some(name) = &wanted.unit {
        return match Unit::find(name) {
            Some(unit) => Ok(Some(unit)),
            None => Err(StartupError::usage(format!(
                "--unit {name}: there is no such unit; systemctl list-unit-files has their names"
            ))),
        };
    }
    Ok(file.and_then(unit_for_file).and_then(|name| Unit::find(&name)))
}

/// Returns the packaged unit that reads this file: `rgun@shop.service` for `/etc/rgun/shop.toml`.
fn unit_for_file(file: &Path) -> Option<String> {
    let default = Path::new(DEFAULT_FILE);
    if file == default {
        return Some("rgun.service".to_owned());
    }
    let is_instance =
        file.parent() == default.parent() && file.extension().is_some_and(|kind| kind == "toml");
    let instance = file.file_stem().filter(|_| is_instance)?.to_str()?;
    Some(format!("rgun@{instance}.service"))
}

fn explain_missing_user(file: Option<&Path>) -> String {
    let why = match file {
        Some(file) => match unit_for_file(file) {
            Some(unit) => format!("there is no unit {unit} to take the user from"),
            None => format!("no unit is known to read {}", file.display()),
        },
        None => "no unit belongs to an application that is named on the command line".to_owned(),
    };
    format!(
        "the check would run the application as root, and {why}; name the user with --user, the unit with --unit, or run it as \
         the application's user"
    )
}

fn add_hint(reason: &str, unit: Option<&Unit>) -> String {
    match unit {
        Some(unit) if unit.dynamic_user => format!(
            "{reason} while {} does not run, because of DynamicUser=; start it, or name another with --user",
            unit.name
        ),
        Some(unit) => {
            format!("User= of {}: {reason}; create it (systemd-sysusers), or name one with --user", unit.name)
        }
        None => format!("--user: {reason}"),
    }
}

/// Returns the primary group of the unit, and all its groups: those of the user, `Group=` and
/// `SupplementaryGroups=`.
fn unit_groups(account: &UserAccount, unit: &Unit) -> Result<(Gid, Vec<Gid>), String> {
    let find = |setting: &str, name: &str| {
        let known = find_group(name).map_err(|errno| format!("cannot look the group {name} up: {errno}"))?;
        known.ok_or_else(|| format!("{setting}= of {}: there is no group {name}; create it", unit.name))
    };
    let gid = if unit.group.is_empty() { account.gid } else { find("Group", &unit.group)? };
    let mut groups = account.groups_with(account.gid);
    groups.push(gid);
    for name in &unit.supplementary {
        groups.push(find("SupplementaryGroups", name)?);
    }
    groups.sort_unstable_by_key(|gid| gid.as_raw());
    groups.dedup();
    Ok((gid, groups))
}

/// Returns the environment of the unit or, without a unit, of the caller, plus the variables that
/// depend on the user.
fn environment(account: &UserAccount, unit: Option<&Unit>) -> Result<Vec<(OsString, OsString)>, String> {
    let mut variables: Vec<(OsString, OsString)> = match unit {
        Some(_) => vec![("PATH".into(), SERVICE_PATH.into())],
        None => std::env::vars_os().collect(),
    };
    let mut set = |name: OsString, value: OsString| {
        variables.retain(|(other, _)| *other != name);
        variables.push((name, value));
    };
    set("HOME".into(), account.home.clone().into());
    set("SHELL".into(), account.shell.clone().into());
    for name in ["USER", "LOGNAME"] {
        set(name.into(), account.name.clone().into());
    }
    for (name, value) in unit.map(Unit::variables).transpose()?.into_iter().flatten() {
        set(name, value);
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_is_derived_from_the_configuration_file() {
        for (file, unit) in [
            ("/etc/rgun/rgun.toml", Some("rgun.service")),
            ("/etc/rgun/shop.toml", Some("rgun@shop.service")),
            ("/etc/rgun/shop.conf", None),
            ("/srv/shop/rgun.toml", None),
        ] {
            assert_eq!(unit_for_file(Path::new(file)).as_deref(), unit, "{file}");
        }
    }

    #[test]
    fn groups_of_the_unit_are_added_to_those_of_the_user() {
        let account = UserAccount::find("0").unwrap().unwrap();
        let unit = Unit { group: "1".into(), supplementary: vec!["2".into()], ..Unit::default() };
        let (gid, groups) = unit_groups(&account, &unit).unwrap();
        assert_eq!(gid, Gid::from_raw(1));
        assert!([0, 1, 2].iter().all(|group| groups.contains(&Gid::from_raw(*group))), "{groups:?}");
    }

    #[test]
    fn environment_of_a_unit_omits_the_callers_variables() {
        let account = UserAccount::find("0").unwrap().unwrap();
        let unit = Unit { environment: vec!["HOME=/srv".into(), "A=1".into()], ..Unit::default() };
        let variables = environment(&account, Some(&unit)).unwrap();
        let names: Vec<_> = variables.iter().map(|(name, _)| name.to_str().unwrap()).collect();
        assert_eq!(names, ["PATH", "SHELL", "USER", "LOGNAME", "HOME", "A"]);
    }
}
