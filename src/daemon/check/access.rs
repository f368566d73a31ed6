//! Tests which paths the users of a service can read and write, and says what to do about the
//! others.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, Gid, Uid, User};

use crate::config::Config;
use crate::pool::{UserIdentity, test_access};

use super::unit::Unit;

/// Access to a path that the application needs.
#[derive(Debug, Clone)]
pub(super) struct RequiredAccess {
    /// The name in messages, such as `app.directory`.
    what: String,
    path: PathBuf,
    flags: AccessFlags,
}

impl RequiredAccess {
    pub(super) fn read(what: impl Into<String>, path: &Path) -> Self {
        Self { what: what.into(), path: path.to_owned(), flags: AccessFlags::R_OK }
    }

    fn enter(what: &str, path: &Path) -> Self {
        Self { flags: AccessFlags::R_OK | AccessFlags::X_OK, ..Self::read(what, path) }
    }

    fn run(what: &str, path: &Path) -> Self {
        Self { flags: AccessFlags::X_OK, ..Self::read(what, path) }
    }

    /// Returns the accesses that a database needs: writing to its file, and to its directory, where
    /// the database creates further files.
    pub(super) fn database(path: &Path) -> Vec<Self> {
        let write = AccessFlags::R_OK | AccessFlags::W_OK;
        let what = "the database";
        let directory = path.parent().map(|directory| Self {
            flags: AccessFlags::W_OK | AccessFlags::X_OK,
            ..Self::read("the directory of the database", directory)
        });
        // A missing file will be created.
        let file = path.exists().then(|| Self { flags: write, ..Self::read(what, path) });
        file.into_iter().chain(directory).collect()
    }

    /// Returns the accesses to test: entering each directory on the way, then the path itself.
    fn steps(&self) -> Vec<(PathBuf, AccessFlags)> {
        // The target of a symbolic link must be reachable too. The target's directories are tested
        // before the link, so that the message names the directory that blocks the access.
        let real = fs::canonicalize(&self.path).ok().filter(|real| *real != self.path);
        let ends: Vec<_> = [Some(self.path.clone()), real].into_iter().flatten().collect();
        let mut steps = Vec::new();
        for end in &ends {
            let mut above: Vec<_> = end.ancestors().skip(1).map(Path::to_owned).collect();
            above.reverse();
            steps.extend(above.into_iter().map(|path| (path, AccessFlags::X_OK)));
        }
        steps.extend(ends.into_iter().map(|end| (end, self.flags)));
        steps
    }
}

/// Returns the paths in the configuration that workers with a user of their own (`workers.user`)
/// must be able to read.
pub(super) fn required_by_workers(config: &Config) -> Vec<RequiredAccess> {
    let app = &config.app;
    let mut needs = vec![
        RequiredAccess::enter("app.directory", &app.directory),
        RequiredAccess::run("app.python", &app.python.path),
    ];
    let pythonpath = app.pythonpath.iter().filter(|path| path.exists());
    needs.extend(pythonpath.map(|path| RequiredAccess::enter("app.pythonpath", path)));
    needs.extend(app.log_config.iter().map(|path| RequiredAccess::read("app.log_config", path)));
    needs
}

/// Returns the paths in the configuration that the daemon or its workers read.
pub(super) fn required_by(config: &Config, file: Option<&Path>) -> Vec<RequiredAccess> {
    let app = &config.app;
    let mut needs: Vec<RequiredAccess> =
        file.map(|file| RequiredAccess::read("the configuration", file)).into_iter().collect();
    needs.push(RequiredAccess::enter("app.directory", &app.directory));
    needs.push(RequiredAccess::run("app.python", &app.python.path));
    let pythonpath = app.pythonpath.iter().filter(|path| path.exists());
    needs.extend(pythonpath.map(|path| RequiredAccess::enter("app.pythonpath", path)));
    needs.extend(
        config.errors.iter().map(|page| RequiredAccess::read(format!("errors.{}", page.status), &page.path)),
    );
    if config.listen.has_tls() {
        for files in &config.tls.certificates {
            needs.push(RequiredAccess::read("tls.cert", &files.cert));
            needs.push(RequiredAccess::read("tls.key", &files.key));
        }
        needs.extend(config.tls.client_ca.iter().map(|path| RequiredAccess::read("tls.client_ca", path)));
    }
    let mounts = config.static_mounts.iter().map(|mount| ("directory of [[static]]", &mount.directory));
    let roots = config.app.sendfile_roots.iter().map(|root| ("app.sendfile_roots", &root.directory));
    needs.extend(mounts.chain(roots).map(|(what, directory)| RequiredAccess::enter(what, directory)));
    needs
}

/// Returns a sentence with a remedy for each access that the user lacks, or that the unit's sandbox
/// denies.
///
/// # Errors
/// When the user's process cannot be started.
pub(super) fn find_problems(
    identity: &UserIdentity,
    unit: Option<&Unit>,
    needs: &[RequiredAccess],
) -> io::Result<Vec<String>> {
    let steps: Vec<Vec<_>> = needs.iter().map(RequiredAccess::steps).collect();
    let flat: Vec<_> = steps.iter().flatten().cloned().collect();
    let mut answers = test_access(&identity.credentials, &flat)?.into_iter();
    let mut problems = Vec::new();
    for (need, steps) in needs.iter().zip(&steps) {
        let answers: Vec<_> = answers.by_ref().take(steps.len()).collect();
        let refused = steps.iter().zip(answers).find(|(_, answer)| *answer != 0);
        let problem = match refused {
            Some(((path, flags), errno)) => {
                Some(explain_denial(identity, need, path, *flags, Errno::from_raw(errno)))
            }
            None => unit.and_then(|unit| find_sandbox_problem(unit, need)),
        };
        // A directory that blocks several paths is reported once.
        problems.extend(problem.filter(|problem| !problems.contains(problem)));
    }
    Ok(problems)
}

fn explain_denial(
    identity: &UserIdentity,
    need: &RequiredAccess,
    path: &Path,
    flags: AccessFlags,
    errno: Errno,
) -> String {
    let user = &identity.user;
    let wanted = if flags.contains(AccessFlags::W_OK) {
        "write"
    } else if path != need.path && !path.is_file() {
        "enter"
    } else if flags == AccessFlags::X_OK {
        "run"
    } else {
        "read"
    };
    let shown = path.display();
    let for_what = if path == need.path {
        need.what.clone()
    } else {
        format!("on the way to {} = {}", need.what, need.path.display())
    };
    let letter = match wanted {
        "write" => "rwX",
        "enter" | "run" => "x",
        _ => "rX",
    };
    let errno = if errno == Errno::EACCES { String::new() } else { format!("{}, ", errno.desc()) };
    format!(
        "{user} cannot {wanted} {shown}, {for_what} ({errno}{}); allow it (setfacl -m u:{user}:{letter} {shown}, or \
         chown), or move it",
        describe_owner(path),
    )
}

/// Formats mode and owner of a path: `mode 750, root:www-data`.
fn describe_owner(path: &Path) -> String {
    let Ok(metadata) = fs::metadata(path) else { return "not there".to_owned() };
    let user = User::from_uid(Uid::from_raw(metadata.uid())).ok().flatten();
    let user = user.map_or_else(|| metadata.uid().to_string(), |user| user.name);
    let group = nix::unistd::Group::from_gid(Gid::from_raw(metadata.gid())).ok().flatten();
    let group = group.map_or_else(|| metadata.gid().to_string(), |group| group.name);
    format!("mode {:o}, {user}:{group}", metadata.mode() & 0o7777)
}

/// Returns a sentence if the unit's sandbox denies an access that the user has.
fn find_sandbox_problem(unit: &Unit, need: &RequiredAccess) -> Option<String> {
    let RequiredAccess { what, path, flags } = need;
    let (name, shown) = (&unit.name, path.display());
    let is_home = ["/home", "/root", "/run/user"].iter().any(|home| path.starts_with(home));
    if unit.hides_homes && is_home {
        return Some(format!(
            "ProtectHome= of {name} hides {shown}, {what}; move it, or write ProtectHome=read-only"
        ));
    }
    (flags.contains(AccessFlags::W_OK) && !unit.allows_writing(path)).then(|| {
        format!(
            "ProtectSystem=strict of {name} makes {shown}, {what}, read-only; move it below its StateDirectory=, or write \
             ReadWritePaths="
        )
    })
}
