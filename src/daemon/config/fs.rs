//! Makes paths absolute, checks access to files, and says why a path cannot be reached.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, User, faccessat, geteuid};

use super::ValueError;

/// Maximum number of symlinks that are followed on the way to a file.
const MAX_SYMLINKS: u32 = 16;

/// Joins `path` to `base` and removes `.` components; keeps `..` and symlinks.
pub(crate) fn absolute(base: &Path, path: &Path) -> PathBuf {
    base.join(path).components().collect()
}

/// Checks that this process's effective user has `what` access to `path`, following symlinks.
pub(crate) fn check_access(path: &Path, what: AccessFlags) -> nix::Result<()> {
    faccessat(AT_FDCWD, path, what, AtFlags::AT_EACCESS)
}

/// Names the first directory on the way to `path` that this process's effective user may not enter:
/// `user rgun cannot enter /home/x (drwx------)`. `None` if there is none.
pub(super) fn closed_directory(path: &Path) -> Option<String> {
    closed_on_the_way(path, MAX_SYMLINKS)
}

/// Returns the error about a path that cannot be reached.
pub(super) fn unreachable(path: &Path, error: &std::io::Error) -> ValueError {
    match closed_directory(path) {
        Some(closed) => ValueError::new(format!("cannot be reached: {closed}")).with_hint(
            "let that user enter (setfacl -m u:USER:x DIRECTORY), or move the files, e.g. to /srv; ProtectHome= of the \
             unit may hide /home",
        ),
        None => ValueError::new(format!("cannot be reached: {error}"))
            .with_hint(format!("each directory above must be accessible: namei -l {}", path.display())),
    }
}

fn closed_on_the_way(path: &Path, symlinks: u32) -> Option<String> {
    let mut steps: Vec<&Path> = path.ancestors().collect();
    steps.reverse();
    for step in steps {
        if let Ok(target) = step.read_link() {
            let target = step.parent().unwrap_or(step).join(target);
            if let Some(closed) = symlinks.checked_sub(1).and_then(|left| closed_on_the_way(&target, left)) {
                return Some(closed);
            }
        }
        let Ok(metadata) = step.metadata() else { continue };
        if step != path && metadata.is_dir() && check_access(step, AccessFlags::X_OK).is_err() {
            return Some(format!(
                "user {} cannot enter {} ({})",
                user_name(),
                step.display(),
                mode_of(metadata.permissions().mode())
            ));
        }
    }
    None
}

/// Returns the name of this process's effective user, or its number.
fn user_name() -> String {
    let uid = geteuid();
    User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

/// `drwx------`, as ls(1) writes the mode of a directory.
fn mode_of(mode: u32) -> String {
    let bit = |shift: u32, letter: char| if mode >> shift & 1 == 1 { letter } else { '-' };
    let bits = (0..9).rev().zip("rwxrwxrwx".chars()).map(|(shift, letter)| bit(shift, letter));
    std::iter::once('d').chain(bits).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::testing::{TestDir, as_nobody};
    use super::*;

    #[test]
    fn modes_are_written_like_ls() {
        assert_eq!(mode_of(0o40700), "drwx------");
        assert_eq!(mode_of(0o40751), "drwxr-x--x");
    }

    #[test]
    fn first_closed_directory_is_named() {
        let place = TestDir::new();
        place.file("open/closed/inner/python", b"", 0o755);
        std::fs::set_permissions(place.join("open/closed"), std::fs::Permissions::from_mode(0o600)).unwrap();
        symlink(place.join("open/closed/inner/python"), place.join("link")).unwrap();
        let closed = place.join("open/closed").display().to_string();
        let base = place.path().to_owned();
        as_nobody(move || {
            for path in ["open/closed/inner/python", "open/closed/inner", "link"] {
                let text = closed_directory(&base.join(path)).unwrap_or_else(|| panic!("{path}"));
                assert!(text.ends_with(&format!("cannot enter {closed} (drw-------)")), "{text}");
            }
            assert_eq!(closed_directory(&base.join("open/closed")), None);
            assert_eq!(closed_directory(&base.join("none/of/these")), None);
        });
        std::fs::set_permissions(place.join("open/closed"), std::fs::Permissions::from_mode(0o700)).unwrap();
    }
}
