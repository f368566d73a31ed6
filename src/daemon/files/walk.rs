//! Opens a path below a directory without `openat2(2)`, which seccomp filters (`RestrictSUIDSGID=`
//! of systemd, old container runtimes) and kernels before 5.6 refuse.
//!
//! The path is walked name by name, each from the descriptor of the directory before it, and no
//! call follows a symlink. Links are read and walked by hand. `..` returns to the descriptor from
//! which the walk came, so renamed directories lead nowhere that the walk has not been. A walk may
//! wait for the disk.

use std::borrow::Cow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::LazyLock;

use rustix::fs::{
    CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, fstatfs, openat, openat2, readlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::links::Links;

/// Maximum number of symlinks in one walk, as in the kernel (`MAXSYMLINKS`).
const MAX_LINKS: u32 = 40;

/// Number of bytes from which on a path is too long, as in the kernel (`PATH_MAX`).
const PATH_MAX: usize = 4096;

/// The file systems with links that name no path (proc(5), AppArmor's below securityfs): the number
/// in `statfs(2)`. None of their links is followed.
const MAGIC_LINKS: [u64; 2] = [0x9fa0, 0x5a3c_69f0];

/// The mount option `nosymfollow` in `statfs(2)`.
const NO_SYMLINK_IS_FOLLOWED: u64 = 0x2000;

/// Flags for the directories on the way. A file system that `autofs` provides is mounted.
const STEP: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Returns whether this process must walk, because it cannot call `openat2(2)`.
pub(super) fn is_needed() -> bool {
    static IS_NEEDED: LazyLock<bool> = LazyLock::new(|| {
        let probe = openat2(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::empty());
        // EPERM and EACCES: a seccomp filter.
        matches!(probe, Err(Errno::NOSYS | Errno::PERM | Errno::ACCESS))
    });
    *IS_NEEDED
}

/// Opens the entry at `path` below `directory`, as `openat2(2)` does with the flags of these
/// [`Links`].
pub(super) fn open(
    directory: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    links: Links,
) -> Result<OwnedFd, Errno> {
    if path.len() >= PATH_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    let pending = names(path).map(Cow::Borrowed).collect();
    let mut walk = Walk { directory, entered: Vec::new(), pending, links, links_left: MAX_LINKS };
    while let Some(name) = walk.pending.pop() {
        if !walk.pending.is_empty() {
            walk.enter(name)?;
        } else if let Some(entry) = walk.open_last(name, flags)? {
            return Ok(entry);
        }
    }
    Err(Errno::NOENT)
}

/// Returns the names of a path, the last first. A slash at the end is the name `.`: it requires a
/// directory.
fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let last = path.ends_with(b"/").then_some(b".".as_slice());
    last.into_iter().chain(path.rsplit(|byte| *byte == b'/').filter(|name| !name.is_empty()))
}

/// One walk.
struct Walk<'w> {
    directory: BorrowedFd<'w>,
    /// The directories between `directory` and the current one, which is the last.
    entered: Vec<OwnedFd>,
    /// The names that are left, the last first.
    pending: Vec<Cow<'w, [u8]>>,
    links: Links,
    links_left: u32,
}

impl<'w> Walk<'w> {
    fn current(&self) -> BorrowedFd<'_> {
        self.entered.last().map_or(self.directory, AsFd::as_fd)
    }

    /// Enters the directory with this name, or prepares the walk of a link with this name.
    fn enter(&mut self, name: Cow<'w, [u8]>) -> Result<(), Errno> {
        match &*name {
            b"." => return Ok(()),
            b".." => return self.leave(),
            _ => {}
        }
        match openat(self.current(), &*name, STEP, Mode::empty()) {
            Ok(entered) => self.entered.push(entered),
            Err(Errno::NOTDIR) => {
                let entry = openat(self.current(), &*name, STEP - OFlags::DIRECTORY, Mode::empty())?;
                let stat = fstat(&entry)?;
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Symlink => self.follow(&entry, &stat)?,
                    // A link was replaced between the two calls.
                    FileType::Directory => self.repeat(name)?,
                    _ => return Err(Errno::NOTDIR),
                }
            }
            Err(errno) => return Err(errno),
        }
        Ok(())
    }

    /// Opens the last entry. Returns `None` if it is a link, whose walk is prepared.
    fn open_last(&mut self, name: Cow<'w, [u8]>, flags: OFlags) -> Result<Option<OwnedFd>, Errno> {
        if &*name == b".." {
            self.leave()?;
            self.pending.push(Cow::Borrowed(b"."));
            return Ok(None);
        }
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(self.current(), &*name, flags, Mode::empty()) {
            Ok(entry) if flags.contains(OFlags::PATH) => {
                let stat = fstat(&entry)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
                    return Ok(Some(entry));
                }
                self.follow(&entry, &stat)?;
            }
            Ok(entry) => return Ok(Some(entry)),
            Err(Errno::LOOP) => {
                let entry = openat(self.current(), &*name, STEP - OFlags::DIRECTORY, Mode::empty())?;
                let stat = fstat(&entry)?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
                    self.follow(&entry, &stat)?;
                } else {
                    self.repeat(name)?;
                }
            }
            Err(errno) => return Err(errno),
        }
        Ok(None)
    }

    /// Returns to the directory above the current one.
    fn leave(&mut self) -> Result<(), Errno> {
        if self.links == Links::Followed {
            self.entered = vec![openat(self.current(), "..", STEP, Mode::empty())?];
            return Ok(());
        }
        self.entered.pop().map(drop).ok_or(Errno::XDEV)
    }

    /// Prepares the walk of the target of a link in the current directory.
    fn follow(&mut self, link: &OwnedFd, stat: &Stat) -> Result<(), Errno> {
        if self.links == Links::Refused {
            return Err(Errno::LOOP);
        }
        self.count()?;
        let place = fstatfs(link)?;
        if MAGIC_LINKS.contains(&bits(place.f_type)) || bits(place.f_flags) & NO_SYMLINK_IS_FOLLOWED != 0 {
            return Err(Errno::LOOP);
        }
        if is_protected(stat, &fstat(self.current())?) {
            return Err(Errno::ACCESS);
        }
        let target = readlinkat(link, "", Vec::new())?.into_bytes();
        if target.starts_with(b"/") {
            if self.links != Links::Followed {
                return Err(Errno::XDEV);
            }
            self.entered = vec![openat(CWD, "/", STEP, Mode::empty())?];
        }
        self.pending.extend(names(&target).map(|name| Cow::Owned(name.to_vec())));
        Ok(())
    }

    /// Walks a name again that was replaced meanwhile.
    fn repeat(&mut self, name: Cow<'w, [u8]>) -> Result<(), Errno> {
        self.count()?;
        self.pending.push(name);
        Ok(())
    }

    fn count(&mut self) -> Result<(), Errno> {
        self.links_left = self.links_left.checked_sub(1).ok_or(Errno::LOOP)?;
        Ok(())
    }
}

/// Converts a word of `statfs(2)`, whose type depends on the architecture.
fn bits<T: TryInto<u64>>(word: T) -> u64 {
    word.try_into().unwrap_or_default()
}

/// Returns whether the kernel refuses to follow a link because someone else may have put it into
/// this directory (`fs.protected_symlinks`, which Debian sets).
fn is_protected(link: &Stat, directory: &Stat) -> bool {
    let mode = Mode::from_raw_mode(directory.st_mode);
    mode.contains(Mode::SVTX | Mode::WOTH)
        && link.st_uid != directory.st_uid
        && link.st_uid != geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;

    /// A directory `root` with files and links, and a secret beside it. Dropping it removes both.
    struct Site(PathBuf);

    impl Site {
        fn new(name: &str) -> Self {
            let top = std::env::temp_dir().join(format!("rgun-walk-{name}-{}", std::process::id()));
            drop(fs::remove_dir_all(&top));
            fs::create_dir_all(top.join("root/a/b")).unwrap();
            fs::create_dir_all(top.join("outside/b")).unwrap();
            for (path, text) in [
                ("root/file", "file"),
                ("root/a/file", "a"),
                ("root/a/b/file", "b"),
                ("outside/file", "secret"),
                ("outside/b/file", "moved"),
            ] {
                fs::write(top.join(path), text).unwrap();
            }
            Self(top)
        }

        fn link(&self, path: &str, target: impl AsRef<Path>) {
            symlink(target, self.0.join("root").join(path)).unwrap();
        }

        fn root(&self) -> OwnedFd {
            openat(CWD, self.0.join("root"), STEP, Mode::empty()).unwrap()
        }
    }

    impl Drop for Site {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn by_kernel(root: &OwnedFd, path: &str, flags: OFlags, links: Links) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::NO_MAGICLINKS
            | match links {
                Links::Refused => ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
                Links::Inside => ResolveFlags::BENEATH,
                Links::Followed => ResolveFlags::empty(),
            };
        loop {
            match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN) => {}
                opened => return opened,
            }
        }
    }

    /// Returns the text of an opened file, or `/` for a directory.
    fn content(fd: OwnedFd) -> String {
        let stat = fstat(&fd).unwrap();
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return "/".to_owned();
        }
        assert_ne!(FileType::from_raw_mode(stat.st_mode), FileType::Symlink);
        std::io::read_to_string(fs::File::from(fd)).unwrap()
    }

    /// Checks both ways to open a path. An entry of the result is a content, or the error for this
    /// [`Links`]: refused, inside, followed.
    fn assert_opens(site: &Site, path: &str, expected: [Result<&str, Errno>; 3]) {
        let root = site.root();
        for (links, expected) in [Links::Refused, Links::Inside, Links::Followed].into_iter().zip(expected) {
            let expected = expected.map(str::to_owned);
            let walked = open(root.as_fd(), path.as_bytes(), OFlags::RDONLY, links).map(content);
            assert_eq!(walked, expected, "{path} {links:?}");
            let probed = open(root.as_fd(), path.as_bytes(), OFlags::PATH, links);
            let inode = |fd: &OwnedFd| fstat(fd).map(|stat| (stat.st_dev, stat.st_ino, stat.st_mode));
            if !is_needed() {
                let opened = by_kernel(&root, path, OFlags::RDONLY, links).map(content);
                assert_eq!(opened, expected, "{path} {links:?} by the kernel");
                let opened = by_kernel(&root, path, OFlags::PATH, links);
                assert_eq!(
                    opened.and_then(|fd| inode(&fd)),
                    probed.as_ref().map_err(|errno| *errno).and_then(inode)
                );
            }
            assert_eq!(probed.is_ok(), expected.is_ok(), "{path} {links:?}");
        }
    }

    #[test]
    fn paths_lead_where_the_kernel_leads() {
        let site = Site::new("paths");
        let outside = site.0.join("outside");
        site.link("in", "a/file");
        site.link("in-slash", "a/file/");
        site.link("dir", "a/b");
        site.link("dir-slash", "a/b//");
        site.link("here", ".");
        site.link("a/up", "..");
        site.link("a/b/up-up", "../../a/../file");
        site.link("a/b/far-up", "../../../outside/file");
        site.link("out", "../outside/file");
        site.link("out-and-in", "../root/file");
        site.link("absolute", outside.join("file"));
        site.link("absolute-in", site.0.join("root/file"));
        site.link("outside", &outside);
        site.link("top", "/");
        site.link("loop", "loop");
        site.link("gone", "nowhere");
        let (gone, no_dir, looped, left) =
            (Err(Errno::NOENT), Err(Errno::NOTDIR), Err(Errno::LOOP), Err(Errno::XDEV));
        for (path, expected) in [
            ("file", [Ok("file"), Ok("file"), Ok("file")]),
            ("a/b/file", [Ok("b"), Ok("b"), Ok("b")]),
            (".", [Ok("/"), Ok("/"), Ok("/")]),
            ("a/b", [Ok("/"), Ok("/"), Ok("/")]),
            ("none", [gone; 3]),
            ("none/file", [gone; 3]),
            ("file/file", [no_dir; 3]),
            ("file/", [no_dir; 3]),
            ("in", [looped, Ok("a"), Ok("a")]),
            ("in-slash", [looped, no_dir, no_dir]),
            ("in/file", [looped, no_dir, no_dir]),
            ("dir/file", [looped, Ok("b"), Ok("b")]),
            ("dir", [looped, Ok("/"), Ok("/")]),
            ("dir-slash/file", [looped, Ok("b"), Ok("b")]),
            ("dir-slash", [looped, Ok("/"), Ok("/")]),
            ("here/here/file", [looped, Ok("file"), Ok("file")]),
            ("a/up/file", [looped, Ok("file"), Ok("file")]),
            ("a/up", [looped, Ok("/"), Ok("/")]),
            ("a/up/dir/up-up", [looped, Ok("file"), Ok("file")]),
            ("a/b/far-up", [looped, left, Ok("secret")]),
            ("out", [looped, left, Ok("secret")]),
            ("out-and-in", [looped, left, Ok("file")]),
            ("absolute", [looped, left, Ok("secret")]),
            ("absolute-in", [looped, left, Ok("file")]),
            ("outside/b/file", [looped, left, Ok("moved")]),
            ("top", [looped, left, Ok("/")]),
            ("loop", [looped; 3]),
            ("loop/file", [looped; 3]),
            ("gone", [looped, gone, gone]),
            ("a/../file", [Ok("file"), Ok("file"), Ok("file")]),
            ("a/..", [Ok("/"), Ok("/"), Ok("/")]),
            ("../outside/file", [left, left, Ok("secret")]),
            ("..", [left, left, Ok("/")]),
        ] {
            assert_opens(&site, path, expected);
        }
    }

    #[test]
    fn forty_links_are_followed_and_no_more() {
        let site = Site::new("forty");
        site.link("1", "file");
        for number in 2..=41 {
            site.link(&number.to_string(), (number - 1).to_string());
        }
        assert_opens(&site, "40", [Err(Errno::LOOP), Ok("file"), Ok("file")]);
        assert_opens(&site, "41", [Err(Errno::LOOP); 3]);
        let long = "a/../".repeat(900) + "file";
        assert_opens(&site, &long, [Err(Errno::NAMETOOLONG); 3]);
    }

    #[test]
    fn links_that_the_kernel_makes_up_are_not_followed() {
        let site = Site::new("magic");
        site.link("process", "/proc/self/cwd");
        site.link("proc", "/proc");
        assert_opens(&site, "process", [Err(Errno::LOOP), Err(Errno::XDEV), Err(Errno::LOOP)]);
        let process = std::process::id();
        for name in ["cwd", "exe", "root/etc/passwd"] {
            assert_opens(
                &site,
                &format!("proc/{process}/{name}"),
                [Err(Errno::LOOP), Err(Errno::XDEV), Err(Errno::LOOP)],
            );
        }
    }

    #[test]
    fn links_of_others_in_a_shared_directory_are_protected() {
        let stat = |mode: u32, uid: u32| {
            let mut stat = fstat(Site::new("protected").root()).unwrap();
            (stat.st_mode, stat.st_uid) = (mode, uid);
            stat
        };
        let (own, other, another) = (geteuid().as_raw(), 4711, 4712);
        assert!(is_protected(&stat(0, other), &stat(0o1777, another)));
        assert!(!is_protected(&stat(0, other), &stat(0o1777, other)), "the directory's owner");
        assert!(!is_protected(&stat(0, own), &stat(0o1777, another)), "the daemon's user");
        assert!(!is_protected(&stat(0, other), &stat(0o777, another)), "not sticky");
        assert!(!is_protected(&stat(0, other), &stat(0o1775, another)), "not for all");
    }

    #[test]
    fn directory_that_may_not_be_searched_is_refused() {
        let site = Site::new("mode");
        fs::set_permissions(site.0.join("root/a"), fs::Permissions::from_mode(0o600)).unwrap();
        let opened = open(site.root().as_fd(), b"a/file", OFlags::RDONLY, Links::Refused);
        if !geteuid().is_root() {
            assert_eq!(opened.map(content), Err(Errno::ACCESS));
        }
        fs::set_permissions(site.0.join("root/a"), fs::Permissions::from_mode(0o700)).unwrap();
    }

    /// Sets a flag when it is dropped.
    struct OnDrop<'f>(&'f AtomicBool);

    impl Drop for OnDrop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// Swaps entries while paths are opened: no lookup reaches the secret, and a path that always
    /// leads to a file is always found.
    #[test]
    fn swapped_links_and_directories_never_lead_outside() {
        let site = Site::new("race");
        let root = site.0.join("root");
        site.link("swapped", "a/b");
        site.link("a/b/climb", "../file");
        symlink("../outside", root.join("bad")).unwrap();
        symlink("a/b", root.join("good")).unwrap();
        fs::create_dir(root.join("real")).unwrap();
        fs::write(root.join("real/file"), "b").unwrap();
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let swap = |first: &Path, second: &Path| {
                    let flags = rustix::fs::RenameFlags::EXCHANGE;
                    rustix::fs::renameat_with(CWD, first, CWD, second, flags).unwrap();
                };
                while !is_over.load(Ordering::Relaxed) {
                    // A link inside, a link outside, a directory.
                    swap(&root.join("swapped"), &root.join("bad"));
                    swap(&root.join("swapped"), &root.join("real"));
                    // A directory that moves out of the root while the walk is below it.
                    swap(&root.join("a/b"), &site.0.join("outside/b"));
                    swap(&root.join("a/b"), &site.0.join("outside/b"));
                    // Two names that always lead inside.
                    swap(&root.join("good"), &root.join("a"));
                    swap(&root.join("good"), &root.join("a"));
                }
            });
            // Also if an assertion fails.
            let _end = OnDrop(&is_over);
            let fd = site.root();
            let mut found = [0_u32; 2];
            for round in 0..20_000 {
                let links = if round % 2 == 0 { Links::Inside } else { Links::Refused };
                for path in ["swapped/file", "a/b/climb", "swapped"] {
                    match open(fd.as_fd(), path.as_bytes(), OFlags::RDONLY, links) {
                        Ok(opened) => {
                            let text = content(opened);
                            assert_ne!(text, "secret", "{path} {links:?}");
                            found[usize::from(links == Links::Refused)] += 1;
                        }
                        Err(errno) => assert!(
                            matches!(errno, Errno::LOOP | Errno::XDEV | Errno::NOENT | Errno::NOTDIR),
                            "{path} {links:?}: {errno}"
                        ),
                    }
                }
            }
            assert!(found.iter().all(|count| *count > 100), "{found:?}");
        });
    }
}
