//! Finds the files of the application in a traceback: a module that failed to import is in no
//! worker's list.

use std::path::PathBuf;

/// Parts of the paths of the standard library and of installed packages.
const INSTALLED: [&str; 3] = ["/site-packages/", "/dist-packages/", "/lib/python3"];

/// Returns the files that a traceback of CPython names, without those of the standard library and
/// of installed packages.
pub fn sources_of_traceback(traceback: &str) -> Vec<PathBuf> {
    let named = |line: &str| {
        let (file, rest) = line.trim_start().strip_prefix("File \"")?.rsplit_once('"')?;
        let is_own = file.starts_with('/') && !INSTALLED.iter().any(|part| file.contains(part));
        (is_own && rest.starts_with(", line ")).then(|| PathBuf::from(file))
    };
    traceback.lines().filter_map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traceback_names_the_files_of_the_application() {
        let traceback = "Traceback (most recent call last):\n  File \"/usr/lib/python3.13/importlib/__init__.py\", line 88\n  \
                         File \"<frozen importlib._bootstrap>\", line 1387, in _gcd_import\n  \
                         File \"/v/lib/python3.13/site-packages/a.py\", line 1, in <module>\n  \
                         File \"/srv/site/main.py\", line 1, in <module>\n    import views\n  \
                         File \"/srv/site/views.py\", line 2\n    not python\nSyntaxError: invalid syntax\n";
        let files = ["/srv/site/main.py", "/srv/site/views.py"].map(PathBuf::from);
        assert_eq!(sources_of_traceback(traceback), files);
        assert!(sources_of_traceback("").is_empty());
    }
}
