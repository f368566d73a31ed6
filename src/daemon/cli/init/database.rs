//! The SQLite database that Django's settings name, which may not exist yet.

use std::path::PathBuf;

/// Returns the directory of the SQLite database, relative to `BASE_DIR`, that these settings name as
/// Django's project template does: `"NAME": BASE_DIR / "data" / "db.sqlite3"`, or with
/// `os.path.join(BASE_DIR, ...)`.
pub(super) fn sqlite_directory(settings: &str) -> Option<PathBuf> {
    let lines: Vec<&str> = settings.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    if !lines.iter().any(|line| line.contains("django.db.backends.sqlite3")) {
        return None;
    }
    let mut path: PathBuf = lines.iter().find_map(|line| parts_of_name(line))?.into_iter().collect();
    // A path that leaves the project, or nothing but BASE_DIR, is not known.
    (path.is_relative() && !path.starts_with("..") && path.pop()).then_some(path)
}

/// Returns the parts of the path below `BASE_DIR` in a line with the key `NAME`.
fn parts_of_name(line: &str) -> Option<Vec<&str>> {
    let (key, value) = line.split_once(':')?;
    let (_, parts) = value.split_once("BASE_DIR")?;
    (key.trim().trim_matches(['"', '\'']) == "NAME").then(|| quoted(parts))
}

/// Returns the texts between quotation marks of either kind.
fn quoted(text: &str) -> Vec<&str> {
    text.split(['"', '\'']).skip(1).step_by(2).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> Option<PathBuf> {
        sqlite_directory(&format!(
            "DATABASES = {{\n  'default': {{\n    'ENGINE': 'django.db.backends.sqlite3',\n    {name},\n  }}\n}}\n"
        ))
    }

    #[test]
    fn database_of_the_project_template_is_found() {
        for (name, expected) in [
            ("'NAME': BASE_DIR / 'db.sqlite3'", ""),
            ("\"NAME\": BASE_DIR / \"data\" / \"shop.db\"", "data"),
            ("'NAME': os.path.join(BASE_DIR, 'data', 'db.sqlite3')", "data"),
            ("'NAME': str(BASE_DIR / 'var/db.sqlite3')", "var"),
        ] {
            assert_eq!(directory(name), Some(expected.into()), "{name}");
        }
    }

    #[test]
    fn other_databases_have_no_directory() {
        for name in [
            "'NAME': '/var/lib/shop/db.sqlite3'",
            "'NAME': os.environ['DATABASE']",
            "'NAME': BASE_DIR",
            "'NAME': BASE_DIR / '../db.sqlite3'",
            "# 'NAME': BASE_DIR / 'db.sqlite3'",
            "'USER': BASE_DIR / 'db.sqlite3'",
        ] {
            assert_eq!(directory(name), None, "{name}");
        }
        assert_eq!(
            sqlite_directory("'ENGINE': 'django.db.backends.postgresql',\n'NAME': BASE_DIR / 'x'"),
            None
        );
    }
}
