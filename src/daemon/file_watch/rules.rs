//! Decides whether a changed file requires a reload. Pure: looks at paths, not at files.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use glob::{MatchOptions, Pattern};

/// Directories that contain no source and no template: caches, environments, and files that clients
/// get as they are. An imported module in one of them is watched nevertheless.
const SKIPPED_DIRECTORIES: [&str; 10] = [
    "__pycache__",
    "htmlcov",
    "media",
    "node_modules",
    "site-packages",
    "dist-packages",
    "static",
    "staticfiles",
    "venv",
    "virtualenv",
];

/// Extensions of templates. Below a directory `templates`, all files are templates.
const TEMPLATE_EXTENSIONS: [&str; 6] = ["html", "htm", "jinja", "jinja2", "j2", "mako"];

/// Suffixes of the backup and swap files of editors.
const BACKUP_SUFFIXES: [&str; 7] = ["~", ".swp", ".swo", ".swx", ".tmp", ".bak", ".orig"];

/// A separator is matched only by a separator and by `**`; hidden files are matched like others.
const GLOB: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// The files that require a reload when they change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatchRules {
    /// The application's directories. Templates and environment files below them count. The first
    /// one is the base of relative patterns.
    pub roots: Vec<PathBuf>,
    /// Directories in which every Python file is watched, imported or not (`reload.dirs`).
    pub python_roots: Vec<PathBuf>,
    /// Files that always count: those of the configuration.
    pub files: Vec<PathBuf>,
    /// Patterns of further files (`reload.include`).
    pub include: Vec<Pattern>,
    /// Patterns of files and directories that never count (`reload.exclude`).
    pub exclude: Vec<Pattern>,
}

/// The meaning of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relevance {
    /// The change requires a reload.
    Reload,
    /// The change requires a reload if a worker has imported the file, or could not import it.
    IfImported,
    /// The change has no effect on the application.
    None,
}

/// The rules, and the files and directories that workers have reported.
#[derive(Debug, Default)]
pub(super) struct WatchedFiles {
    rules: WatchRules,
    sources: HashSet<PathBuf>,
    template_directories: HashSet<PathBuf>,
}

impl WatchedFiles {
    /// Replaces the rules. The paths that workers have reported stay.
    pub(super) fn set_rules(&mut self, rules: WatchRules) {
        self.rules = rules;
    }

    /// Returns the application's directory, for messages.
    pub(super) fn base(&self) -> &Path {
        self.rules.roots.first().map_or(Path::new("/"), PathBuf::as_path)
    }

    /// Adds a path that a worker has reported: a directory of templates if it ends with a slash,
    /// else a source. Returns whether it is new.
    pub(super) fn add(&mut self, path: &Path) -> bool {
        if path.as_os_str().as_bytes().ends_with(b"/") {
            // Collecting the components removes the slash.
            self.template_directories.insert(path.components().collect())
        } else {
            if let Some(parent) = path.parent()
                && !self.rules.roots.iter().any(|root| is_below(root, path))
            {
                // Flask and Django look for an application's templates there.
                self.template_directories.insert(parent.join("templates"));
            }
            self.sources.insert(path.to_owned())
        }
    }

    /// Returns whether a worker has reported the file, or the configuration names it.
    pub(super) fn is_source(&self, path: &Path) -> bool {
        self.sources.contains(path) || self.rules.files.iter().any(|file| file == path)
    }

    /// Returns the directories to watch with all directories below them.
    pub(super) fn trees(&self) -> impl Iterator<Item = &Path> {
        let WatchRules { roots, python_roots, .. } = &self.rules;
        let included = self.rules.include.iter().filter_map(tree_of);
        roots
            .iter()
            .chain(python_roots)
            .chain(&self.template_directories)
            .map(PathBuf::as_path)
            .chain(included)
    }

    /// Returns the directories to watch without those below them.
    pub(super) fn directories(&self) -> impl Iterator<Item = &Path> {
        let included = self.rules.include.iter().filter_map(directory_of);
        self.sources.iter().chain(&self.rules.files).filter_map(|file| file.parent()).chain(included)
    }

    /// Returns whether the walk of a tree skips a directory and everything below it.
    pub(super) fn skips(&self, directory: &Path) -> bool {
        directory.file_name().is_some_and(is_skipped_directory) || self.is_excluded(directory)
    }

    /// Decides about a changed, new, moved or deleted file.
    pub(super) fn relevance(&self, path: &Path) -> Relevance {
        let Some(name) = path.file_name() else { return Relevance::None };
        if self.rules.files.iter().any(|file| file == path) {
            return Relevance::Reload;
        }
        if self.is_excluded(path) {
            return Relevance::None;
        }
        if self.sources.contains(path) || self.is_included(path, name) {
            return Relevance::Reload;
        }
        if is_backup(name) {
            return Relevance::None;
        }
        let is_python = path.extension().is_some_and(|extension| extension == "py");
        if is_python && self.rules.python_roots.iter().any(|root| is_below(root, path)) {
            return Relevance::Reload;
        }
        let in_root =
            self.rules.roots.iter().chain(&self.rules.python_roots).any(|root| is_below(root, path));
        let in_templates = self.template_directories.iter().any(|root| is_below(root, path));
        if is_python {
            Relevance::IfImported
        } else if (in_root && (is_template(path) || is_environment_file(name)))
            || (in_templates && !is_hidden(name))
        {
            Relevance::Reload
        } else {
            Relevance::None
        }
    }

    fn is_included(&self, path: &Path, name: &OsStr) -> bool {
        self.rules.include.iter().any(|pattern| {
            if is_name(pattern) {
                let in_tree = self.trees().any(|tree| is_below(tree, path));
                in_tree && matches(pattern, Path::new(name))
            } else {
                matches(pattern, path)
            }
        })
    }

    fn is_excluded(&self, path: &Path) -> bool {
        self.rules.exclude.iter().any(|pattern| {
            if is_name(pattern) {
                let root = self.trees().find(|tree| path.starts_with(tree));
                let below = root.and_then(|root| path.strip_prefix(root).ok());
                below.is_some_and(|below| below.iter().any(|part| matches(pattern, Path::new(part))))
                    || path.file_name().is_some_and(|name| matches(pattern, Path::new(name)))
            } else {
                // A pattern of a directory excludes everything in it.
                path.ancestors().any(|ancestor| matches(pattern, ancestor))
            }
        })
    }
}

/// Returns whether a pattern matches the name of a file, in any directory.
fn is_name(pattern: &Pattern) -> bool {
    !pattern.as_str().contains('/')
}

fn matches(pattern: &Pattern, path: &Path) -> bool {
    pattern.matches_path_with(path, GLOB)
}

/// Returns the directory that directly contains a pattern's files; `None` for a pattern of names,
/// or with wildcards for directories.
fn directory_of(pattern: &Pattern) -> Option<&Path> {
    let directory = Path::new(pattern.as_str()).parent()?;
    (!is_name(pattern) && !has_wildcard(directory.as_os_str())).then_some(directory)
}

/// Returns the directory below which a pattern with wildcards for directories has its files; `None`
/// for other patterns.
fn tree_of(pattern: &Pattern) -> Option<&Path> {
    let directory = Path::new(pattern.as_str()).parent()?;
    if is_name(pattern) || !has_wildcard(directory.as_os_str()) {
        return None;
    }
    directory.ancestors().find(|ancestor| !has_wildcard(ancestor.as_os_str()))
}

fn has_wildcard(text: &OsStr) -> bool {
    text.as_bytes().iter().any(|byte| b"*?[".contains(byte))
}

/// Returns whether a file is in the directory or below it, and no directory in between is skipped.
fn is_below(root: &Path, path: &Path) -> bool {
    let Ok(below) = path.strip_prefix(root) else { return false };
    let mut directories = below.parent().into_iter().flat_map(Path::components);
    !directories.any(|part| matches!(part, Component::Normal(name) if is_skipped_directory(name)))
}

fn is_skipped_directory(name: &OsStr) -> bool {
    is_hidden(name) || SKIPPED_DIRECTORIES.iter().any(|skipped| name == *skipped)
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".")
}

fn is_backup(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(b".#") || BACKUP_SUFFIXES.iter().any(|suffix| name.ends_with(suffix.as_bytes()))
}

/// Returns whether the extension or the directory of a file marks it as a template.
fn is_template(path: &Path) -> bool {
    let is_hidden_file = path.file_name().is_some_and(is_hidden);
    let extension =
        path.extension().is_some_and(|extension| TEMPLATE_EXTENSIONS.iter().any(|it| extension == *it));
    let in_templates = path.parent().is_some_and(|parent| parent.iter().any(|part| part == "templates"));
    !is_hidden_file && (extension || in_templates)
}

/// `.env`, `.env.local`, `.flaskenv`.
fn is_environment_file(name: &OsStr) -> bool {
    name == ".env" || name == ".flaskenv" || name.as_bytes().starts_with(b".env.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::new(text).unwrap()
    }

    fn site() -> WatchedFiles {
        let mut files = WatchedFiles::default();
        files.set_rules(WatchRules {
            roots: vec!["/srv/site".into()],
            python_roots: vec!["/srv/lib".into()],
            files: vec!["/etc/rgun.toml".into()],
            include: vec![pattern("*.css"), pattern("/srv/conf/app.yaml"), pattern("/srv/data/**/*.json")],
            exclude: vec![pattern("test_*"), pattern("generated"), pattern("/srv/site/docs")],
        });
        for path in ["/srv/site/views.py", "/opt/editable/mod.py", "/srv/site/.hidden/mod.py", "/srv/pages/"]
        {
            assert!(files.add(Path::new(path)) && !files.add(Path::new(path)), "{path}");
        }
        files
    }

    #[test]
    fn imported_and_named_files_require_a_reload() {
        for path in [
            "/srv/site/views.py",
            "/opt/editable/mod.py",
            "/srv/site/.hidden/mod.py",
            "/etc/rgun.toml",
            "/srv/lib/a/unused.py",
            "/srv/site/a/style.css",
            "/srv/conf/app.yaml",
            "/srv/data/a/b/c.json",
            "/srv/data/c.json",
        ] {
            assert_eq!(site().relevance(Path::new(path)), Relevance::Reload, "{path}");
        }
    }

    #[test]
    fn templates_and_environment_files_require_a_reload() {
        for path in [
            "/srv/site/a/page.html",
            "/srv/site/a/page.jinja2",
            "/srv/site/templates/mail/body.txt",
            "/srv/pages/mail.txt",
            "/opt/editable/templates/mail.txt",
            "/srv/site/.env",
            "/srv/site/.env.local",
            "/srv/site/.flaskenv",
        ] {
            assert_eq!(site().relevance(Path::new(path)), Relevance::Reload, "{path}");
        }
    }

    #[test]
    fn other_python_files_require_a_reload_if_imported() {
        for path in ["/srv/site/manage.py", "/opt/editable/other.py"] {
            assert_eq!(site().relevance(Path::new(path)), Relevance::IfImported, "{path}");
        }
    }

    #[test]
    fn files_without_effect_are_ignored() {
        for path in [
            "/",
            "/srv/site/db.sqlite3",
            "/srv/site/notes.txt",
            "/srv/site/views.py~",
            "/srv/site/.views.py.swp",
            "/srv/site/.#views.py",
            "/srv/site/.env.swp",
            "/srv/site/.page.html",
            "/srv/site/static/page.html",
            "/srv/site/a/node_modules/b/page.html",
            "/srv/site/.venv/lib/page.html",
            "/srv/site/test_views.py",
            "/srv/site/generated/a/page.html",
            "/srv/site/docs/a/page.html",
            "/srv/pages/.mail.txt",
            "/elsewhere/page.html",
            "/elsewhere/style.css",
            "/srv/conf/other.yaml",
        ] {
            assert_eq!(site().relevance(Path::new(path)), Relevance::None, "{path}");
        }
    }

    #[test]
    fn patterns_determine_the_watched_directories() {
        let files = site();
        let trees: HashSet<_> = files.trees().map(Path::to_owned).collect();
        let expected = [
            "/srv/site",
            "/srv/lib",
            "/srv/pages",
            "/srv/data",
            "/opt/editable/templates",
            "/srv/site/.hidden/templates",
        ];
        assert_eq!(trees, expected.map(PathBuf::from).into());
        let directories: HashSet<_> = files.directories().map(Path::to_owned).collect();
        let expected = ["/srv/site", "/opt/editable", "/srv/site/.hidden", "/etc", "/srv/conf"];
        assert_eq!(directories, expected.map(PathBuf::from).into());
        assert!(files.skips(Path::new("/srv/site/.git")) && files.skips(Path::new("/srv/site/generated")));
        assert!(files.skips(Path::new("/srv/site/docs")) && !files.skips(Path::new("/srv/site/shop")));
    }
}
