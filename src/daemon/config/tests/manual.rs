//! The manual page and the guides name every key, and no key that does not exist.

use super::*;

const MANUAL: &str = include_str!("../../../../packaging/man/rgun.toml.5");

/// Texts for users that name keys, by file.
const TEXTS: [(&str, &str); 12] = [
    ("rgun.toml.5", MANUAL),
    ("rgun.1", include_str!("../../../../packaging/man/rgun.1")),
    ("rgun.8", include_str!("../../../../packaging/man/rgun.8")),
    ("rgun.toml", include_str!("../../../../packaging/etc/rgun.toml")),
    ("journal.md", include_str!("../../../../packaging/doc/journal.md")),
    ("metrics.md", include_str!("../../../../packaging/doc/metrics.md")),
    ("migrating.md", include_str!("../../../../packaging/doc/migrating.md")),
    ("nginx.md", include_str!("../../../../packaging/doc/nginx.md")),
    ("static-files.md", include_str!("../../../../packaging/doc/static-files.md")),
    ("tls.md", include_str!("../../../../packaging/doc/tls.md")),
    ("tuning.md", include_str!("../../../../packaging/doc/tuning.md")),
    ("README.md", include_str!("../../../../README.md")),
];

#[test]
fn manual_describes_every_key_and_no_other() {
    let mut section = "";
    let mut described = Vec::new();
    for line in MANUAL.lines() {
        if let Some(heading) = line.strip_prefix(".Sh ") {
            section = heading;
        } else if let Some(key) = line.strip_prefix(".It Li ")
            && section.starts_with('[')
        {
            described.push(format!("{section} {key}"));
        }
    }
    let keys = keys::KEYS.iter().filter(|key| !matches!(**key, name::PATH_RULES | name::LISTENERS));
    let keys =
        keys.map(|key| key.split_once('.').unwrap()).map(|(section, key)| format!("[{section}] {key}"));
    let rules = rules::KEYS.map(|key| format!("[[{}]] {key}", name::PATH_RULES));
    let listeners = listeners::KEYS.map(|key| format!("[{}] {key}", name::LISTENERS));
    let mounts = mounts::KEYS.map(|key| format!("[[{}]] {key}", name::STATIC));
    let mut expected: Vec<_> = keys.chain(rules).chain(listeners).chain(mounts).collect();
    described.sort();
    expected.sort();
    assert_eq!(described, expected);
}

#[test]
fn keys_named_in_user_documents_exist() {
    // Attributes of objects and files that look like a key.
    let others = [
        "http.disconnect",
        "http.response",
        "app.py",
        "log.yaml",
        "http.server",
        "tls.crt",
        "http.webroot",
        "tls.md",
        "tls.key",
        "health.md",
        "control.md",
        "metrics.md",
        "metrics.sock",
    ];
    for (file, text) in TEXTS {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '_'));
        for word in words.map(|word| word.trim_matches('.')) {
            let Some((section, rest)) = word.split_once('.') else { continue };
            let is_page = section == keys::ERRORS_SECTION;
            if is_page || !SECTIONS.contains(&section) || others.iter().any(|other| word.starts_with(other)) {
                continue;
            }
            let known = keys::KEYS.contains(&word)
                || rest.strip_prefix("path.").is_some_and(|key| rules::KEYS.contains(&key))
                || section == "listen" && ["NAME", "http", "https"].contains(&rest);
            assert!(known, "{file}: {word}");
        }
    }
}
