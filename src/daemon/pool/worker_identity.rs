//! `workers.user` and `workers.group`: the user that workers run as, looked up and tried.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::unistd::{Gid, Uid};

use crate::config::{AccountName, ConfigError, WorkerUser, name};

use super::account::{UserAccount, find_group};
use super::identity::{Credentials, UserIdentity};
use super::identity_trial::{TrialFault, try_credentials};

/// The capabilities that a daemon needs to run, stop and signal workers of another user.
pub const WORKER_USER_CAPABILITIES: &str = "CAP_SETUID CAP_SETGID CAP_KILL";

/// Finds the user that workers run as, and makes sure that this process may run and signal workers
/// as this user. Returns `None` if workers run with this process's user and group.
///
/// # Errors
/// The user or group does not exist, or this process may not run or signal its processes.
pub fn find_worker_identity(
    settings: &WorkerUser,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Option<UserIdentity>, ConfigError> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let Some(identity) = look_up_worker_identity(settings, uid, gid, environment)? else { return Ok(None) };
    let (reason, hint) = match try_credentials(&identity.credentials) {
        Ok(()) => return Ok(Some(identity)),
        Err(TrialFault::Switch(fault)) => (
            format!("rgun may not run its workers as another user ({fault})"),
            format!(
                "run rgun as root, or in the unit, write User={user} to run rgun itself as this user, or \
                 AmbientCapabilities={all}, CapabilityBoundingSet={all} and SystemCallFilter=@setuid capset, see \
                 rgun.units(7)",
                user = identity.user,
                all = WORKER_USER_CAPABILITIES,
            ),
        ),
        Err(TrialFault::Signal(errno)) => (
            format!("rgun may not signal workers of another user (kill(2): {})", errno.desc()),
            "add CAP_KILL to AmbientCapabilities= and CapabilityBoundingSet= in a drop-in of the unit, see \
             rgun.units(7)"
                .to_owned(),
        ),
        Err(TrialFault::System(error)) => {
            (format!("cannot start a process as this user: {error}"), "see the log of the kernel".to_owned())
        }
    };
    let named = settings.user.as_ref().map(|user| (name::WORKER_USER, user));
    let named = named.or(settings.group.as_ref().map(|group| (name::WORKER_GROUP, group)));
    match named {
        Some((key, account)) => Err(error(key, account, reason, hint)),
        None => Ok(None),
    }
}

/// Finds the user that workers of a daemon with this user and group run as. The workers get
/// `environment`, the daemon's, with HOME, USER and LOGNAME of the user. Returns `None` if workers
/// run with the daemon's user and group.
///
/// # Errors
/// The user or group does not exist.
pub fn look_up_worker_identity(
    settings: &WorkerUser,
    daemon_uid: Uid,
    daemon_gid: Gid,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Option<UserIdentity>, ConfigError> {
    let group = settings.group.as_ref().map(look_up_group).transpose()?;
    let account = match &settings.user {
        Some(user) => look_up_user(user, group)?,
        None if group.is_none() => return Ok(None),
        None => own_account(daemon_uid, daemon_gid),
    };
    if account.uid == daemon_uid && group.is_none_or(|group| group == daemon_gid) {
        return Ok(None);
    }
    if let Some(user) = settings.user.as_ref().filter(|_| account.uid.is_root() && !daemon_uid.is_root()) {
        let reason = "rgun itself does not run as root, and its workers must not have more rights".to_owned();
        return Err(error(name::WORKER_USER, user, reason, "name another user".to_owned()));
    }
    let gid = group.unwrap_or(account.gid);
    // An account without a name is not in the user database, so it is in no further groups.
    let groups = if account.name.is_empty() { vec![gid] } else { account.groups_with(gid) };
    let user = if account.name.is_empty() { account.uid.to_string() } else { account.name.clone() };
    Ok(Some(UserIdentity {
        user,
        credentials: Credentials { uid: account.uid, gid, groups },
        environment: environment_of(&account, environment),
    }))
}

fn look_up_group(group: &AccountName) -> Result<Gid, ConfigError> {
    let failed = |reason, hint| error(name::WORKER_GROUP, group, reason, hint);
    match find_group(&group.text) {
        Ok(Some(gid)) => Ok(gid),
        Ok(None) => Err(failed(
            "there is no such group".to_owned(),
            format!("create it with groupadd --system {}, or name another one", group.text),
        )),
        Err(errno) => Err(failed(explain_lookup(errno), LOOKUP_HINT.to_owned())),
    }
}

fn look_up_user(user: &AccountName, group: Option<Gid>) -> Result<UserAccount, ConfigError> {
    let failed = |reason, hint| error(name::WORKER_USER, user, reason, hint);
    let number = user.text.parse().ok().map(Uid::from_raw);
    match (UserAccount::find(&user.text), number, group) {
        (Ok(Some(account)), ..) => Ok(account),
        (Ok(None), Some(uid), Some(gid)) => Ok(unnamed_account(uid, gid)),
        (Ok(None), Some(_), None) => Err(failed(
            "there is no user with this number, so its group is not known".to_owned(),
            format!("set {}, too, or name another user", name::WORKER_GROUP),
        )),
        (Ok(None), None, _) => Err(failed(
            "there is no such user".to_owned(),
            format!("create it with useradd --system {}, or name another one", user.text),
        )),
        (Err(errno), ..) => Err(failed(explain_lookup(errno), LOOKUP_HINT.to_owned())),
    }
}

const LOOKUP_HINT: &str = "check /etc/nsswitch.conf and the services that it names, or write the number";

fn explain_lookup(errno: Errno) -> String {
    format!("cannot be looked up: {}", errno.desc())
}

/// Returns the account of the daemon's user.
fn own_account(uid: Uid, gid: Gid) -> UserAccount {
    UserAccount::find(&uid.to_string()).ok().flatten().unwrap_or_else(|| unnamed_account(uid, gid))
}

/// Returns an account that is not in the user database.
fn unnamed_account(uid: Uid, gid: Gid) -> UserAccount {
    UserAccount { name: String::new(), uid, gid, home: PathBuf::from("/"), shell: PathBuf::new() }
}

/// Returns the environment with HOME, USER and LOGNAME of the account. Without a name, USER and
/// LOGNAME are removed.
fn environment_of(
    account: &UserAccount,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Vec<(OsString, OsString)> {
    let own = |name: &OsStr| ["HOME", "USER", "LOGNAME"].iter().any(|own| name == *own);
    let mut variables: Vec<_> = environment.filter(|(name, _)| !own(name)).collect();
    variables.push(("HOME".into(), account.home.clone().into()));
    if !account.name.is_empty() {
        variables.extend(["USER", "LOGNAME"].map(|name| (name.into(), account.name.clone().into())));
    }
    variables
}

fn error(key: &str, account: &AccountName, reason: String, hint: String) -> ConfigError {
    ConfigError {
        origin: account.origin.clone(),
        key: key.to_owned(),
        value: Some(format!("\"{}\"", account.text)),
        reason,
        hint: Some(hint),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(text: &str) -> AccountName {
        AccountName { text: text.to_owned(), origin: "/f:3".to_owned() }
    }

    fn look_up(user: Option<&str>, group: Option<&str>, daemon: u32) -> Result<Option<UserIdentity>, String> {
        let settings = WorkerUser { user: user.map(account), group: group.map(account) };
        let environment = [("HOME", "/root"), ("A", "1"), ("USER", "root")];
        let environment = environment.map(|(name, value)| (name.into(), value.into())).into_iter();
        look_up_worker_identity(&settings, Uid::from_raw(daemon), Gid::from_raw(daemon), environment)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn environment_follows_the_user() {
        let found = look_up(Some("nobody"), None, 0).unwrap().unwrap();
        let nobody = UserAccount::find("nobody").unwrap().unwrap();
        assert_eq!((found.user.as_str(), found.credentials.uid), ("nobody", nobody.uid));
        assert_eq!(found.credentials.groups, [nobody.gid]);
        let text = |name: &str| {
            let found = found.environment.iter().find(|(other, _)| other == name);
            found.and_then(|(_, value)| value.to_str())
        };
        assert_eq!(text("HOME"), nobody.home.to_str());
        assert_eq!((text("USER"), text("LOGNAME"), text("A")), (Some("nobody"), Some("nobody"), Some("1")));
        assert_eq!(found.environment.len(), 4);
    }

    #[test]
    fn users_of_the_daemon_itself_change_nothing() {
        assert_eq!(look_up(None, None, 0), Ok(None));
        assert_eq!(look_up(Some("root"), None, 0), Ok(None));
        assert_eq!(look_up(Some("0"), Some("0"), 0), Ok(None));
        let group = look_up(Some("root"), Some("1"), 0).unwrap().unwrap();
        assert_eq!((group.credentials.uid.as_raw(), group.credentials.gid.as_raw()), (0, 1));
        assert_eq!(look_up(None, Some("1"), 0).unwrap().unwrap().credentials.gid.as_raw(), 1);
    }

    #[test]
    fn number_without_an_account_needs_a_group() {
        let error = look_up(Some("3141592"), None, 0).unwrap_err();
        assert!(
            error.starts_with("/f:3: workers.user = \"3141592\": there is no user with this number"),
            "{error}"
        );
        assert!(error.contains("set workers.group"), "{error}");
        let found = look_up(Some("3141592"), Some("27"), 0).unwrap().unwrap();
        let Credentials { uid, gid, groups } = found.credentials;
        assert_eq!((uid.as_raw(), gid.as_raw(), groups), (3_141_592, 27, vec![Gid::from_raw(27)]));
        let names: Vec<_> = found.environment.iter().map(|(name, _)| name.to_str().unwrap()).collect();
        assert_eq!(names, ["A", "HOME"]);
    }

    #[test]
    fn unknown_names_and_more_rights_are_refused() {
        for (user, group, daemon, expected) in [
            ("no-such-user", None, 0, "workers.user = \"no-such-user\": there is no such user"),
            ("nobody", Some("no-such-group"), 0, "workers.group = \"no-such-group\": there is no such group"),
            ("root", None, 4711, "workers.user = \"root\": rgun itself does not run as root"),
        ] {
            let error = look_up(Some(user), group, daemon).unwrap_err();
            assert!(error.contains(expected) && error.contains("hint: "), "{error}");
        }
    }

    #[test]
    fn trial_fails_without_the_right_to_change_the_user() {
        let settings = WorkerUser { user: Some(account("nobody")), group: None };
        let found = find_worker_identity(&settings, std::iter::empty());
        if nix::unistd::geteuid().is_root() {
            assert_eq!(found.unwrap().unwrap().user, "nobody");
        } else {
            let error = found.unwrap_err().to_string();
            assert!(error.contains("workers.user = \"nobody\": rgun may not run its workers"), "{error}");
            assert!(error.contains("setgroups(2): Operation not permitted"), "{error}");
        }
    }
}
