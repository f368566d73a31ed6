//! Keeps the table of `lib.rs`: what a module may use. Reads the sources, because the compiler does not mind.

use std::fs;
use std::path::{Path, PathBuf};

/// Module, what of the daemon it may use, and what of other crates (or std) it may not.
const LAYERS: [(&str, &[&str], &[&str]); 14] = [
    ("escape", &[], &["tokio", "hyper", "tracing"]),
    ("report", &[], &["tokio", "hyper", "tracing"]),
    ("spare", &[], &["tokio", "hyper", "tracing"]),
    ("config", &[], &["tokio", "hyper", "tracing", "rgun_channel"]),
    ("cli", &["config", "report"], &["tokio", "hyper", "tracing", "rgun_channel"]),
    ("supervise", &[], &["tokio", "hyper", "nix", "tracing", "std::fs", "Instant::now(", "SystemTime"]),
    ("systemd", &["escape", "report"], &["tokio", "hyper", "rgun_channel"]),
    ("journal", &["config", "escape", "supervise"], &["tokio", "hyper", "rgun_channel"]),
    ("net", &["config", "systemd", "report"], &["hyper", "rgun_channel::ring"]),
    ("dispatch", &["escape", "spare", "supervise"], &["hyper"]),
    ("websocket", &["dispatch", "net", "journal", "supervise"], &["hyper", "http", "nix"]),
    (
        "http",
        &["websocket", "dispatch", "net", "journal", "escape", "report", "spare", "supervise"],
        &["nix::sys::signal"],
    ),
    ("pool", &["config", "dispatch", "journal", "supervise", "systemd", "report"], &["hyper", "tokio"]),
    ("edge", &["dispatch", "http", "journal", "net", "report"], &["hyper"]),
];

fn sources(module: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = root.join(format!("{module}.rs"));
    if file.exists() {
        return vec![file];
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(root.join(module)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The code of a file: without comments, and without the tests at its end.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let body = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    body.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_module_uses_only_what_the_table_allows() {
    let mut breaches = Vec::new();
    for (module, allowed, forbidden) in LAYERS {
        let files = sources(module);
        assert!(!files.is_empty(), "there is no module {module}");
        for path in files {
            let is_test = path
                .file_stem()
                .is_some_and(|stem| ["tests", "testing", "simulation"].iter().any(|name| stem == *name));
            if is_test {
                continue;
            }
            let code = code(&path);
            for used in code.split("crate::").skip(1) {
                let used: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if !used.is_empty() && used != module && !allowed.contains(&used.as_str()) {
                    breaches.push(format!("{}: crate::{used}", path.display()));
                }
            }
            for name in forbidden {
                let is_path = |rest: &str| name.contains([':', '(']) || rest.starts_with("::");
                let is_used = code.match_indices(name).any(|(at, _)| {
                    let before = code[..at].chars().next_back();
                    let starts = before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':');
                    starts && is_path(&code[at + name.len()..])
                });
                if is_used {
                    breaches.push(format!("{}: {name}", path.display()));
                }
            }
        }
    }
    assert!(breaches.is_empty(), "{breaches:#?}");
}
