//! `packaging/etc/rgun.toml` has every key, with its default.

use super::*;

/// The packaged file, for a machine without the package: its directory and interpreter are
/// replaced.
fn packaged(case: &Case) -> String {
    let python = case.place.python("python3");
    let text = include_str!("../../../../packaging/etc/rgun.toml");
    assert_eq!(text.matches("\"/usr/share/rgun/welcome\"").count(), 1);
    assert_eq!(text.matches("\"/usr/bin/python3\"").count(), 1);
    text.replace("\"/usr/share/rgun/welcome\"", "\"{app}\"")
        .replace("\"/usr/bin/python3\"", &format!("{:?}", python.display().to_string()))
}

/// Returns a commented key (`#key = value`). Prose has a space after the `#`.
fn commented(line: &str) -> Option<&str> {
    line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
}

/// Headers of the commented examples of tables, which have no default.
const EXAMPLES: [&str; 3] = ["#[[timeouts.path]]", "#[listen.https]", "#[[static]]"];

/// Keys whose commented value is an example, not the default.
const EXAMPLE_KEYS: [&str; 3] = ["cert = ", "key = ", "client_ca = "];

/// Returns the text without the commented example of a table, and the example.
fn without_example(text: &str, header: &str) -> (String, String) {
    let (before, rest) = text.split_once(&format!("{header}\n")).expect("an example of the table");
    let (example, after) = rest.split_once("\n\n").expect("a blank line after it");
    (format!("{before}\n{after}"), format!("{header}\n{example}\n"))
}

/// Returns the text of a commented example without the comment signs.
fn uncommented_example(example: &str) -> String {
    let lines = example.lines().filter_map(|line| line.strip_prefix('#'));
    lines
        .filter(|line| line.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()))
        .map(|line| line.to_owned() + "\n")
        .collect()
}

#[test]
fn commented_keys_of_the_packaged_file_are_the_defaults() {
    let case = Case::new();
    let text = packaged(&case);
    let plain = case.load(&text, &[], Layer::new()).unwrap().config;
    assert_eq!(plain.app.target.to_string(), "welcome:application");
    let mut n_keys = 0;
    let examples = EXAMPLES.iter().fold(text.clone(), |text, header| without_example(&text, header).0);
    for line in examples.lines() {
        let Some(key) = commented(line) else { continue };
        if EXAMPLE_KEYS.iter().any(|example| key.starts_with(example)) {
            n_keys += 1;
            continue;
        }
        let with = text.replacen(&format!("\n{line}\n"), &format!("\n{key}\n"), 1);
        assert_ne!(with, text, "{key}");
        let mut config =
            case.load(&with, &[], Layer::new()).unwrap_or_else(|errors| panic!("{key}: {errors}")).config;
        // A written address is explicit, even if it is the default one.
        config.listen.explicit = false;
        assert_eq!(config, plain, "{key}");
        n_keys += 1;
    }
    let active = 3;
    // The keys of [errors] are statuses; `[[static]]` is not a key of a section.
    let (error_pages, static_mounts) = (1, 1);
    assert_eq!(n_keys + active + EXAMPLES.len() + error_pages - static_mounts, keys::KEYS.len());
}

#[test]
fn packaged_path_rule_example_is_valid_and_complete() {
    let (_, example) = without_example(&packaged(&Case::new()), EXAMPLES[0]);
    let written = uncommented_example(&example);
    let rules = Case::new().with(&written).unwrap().timeouts.paths;
    let [PathRule { request: Some(Some(_)), concurrency: Some(_), .. }] = rules.as_slice() else {
        panic!("{written}{rules:?}")
    };
}

#[test]
fn packaged_static_example_has_the_defaults() {
    let case = Case::new();
    let (_, example) = without_example(&packaged(&case), EXAMPLES[2]);
    let directory = case.place.path().display().to_string();
    let written = uncommented_example(&example).replace("/srv/mysite/static", &directory);
    let mounts = |text: &str| case.with(text).unwrap().static_mounts;
    let plain = format!("[[static]]\nurl = \"/static/\"\ndirectory = \"{directory}\"\n");
    assert_eq!(mounts(&written), mounts(&plain));
    for key in mounts::KEYS {
        assert!(written.contains(&format!("{key} = ")), "{key}");
    }
}

#[test]
fn packaged_tls_example_is_valid_and_complete() {
    let text = packaged(&Case::new());
    let (_, listener) = without_example(&text, EXAMPLES[1]);
    let (_, rest) = text.split_once("[tls]\n").expect("a section [tls]");
    let (section, _) = rest.split_once("\n\n").expect("a blank line after it");
    let written = uncommented_example(&listener) + "[tls]\n" + &uncommented_example(section);
    let config =
        Case::new().with(&written.replace("client_auth = \"off\"", "client_auth = \"required\"")).unwrap();
    let [NamedListener { bind, tls: true, .. }] = config.listen.named.as_slice() else { panic!("{written}") };
    assert_eq!((bind.len(), config.tls.certificates.len()), (1, 1));
    assert!(config.tls.client_ca.is_some());
}

#[test]
fn packaged_file_has_every_key_with_a_comment() {
    let text = packaged(&Case::new());
    let uncommented = |line: &str| match line {
        line if EXAMPLES.contains(&line) => line.trim_start_matches('#').to_owned(),
        line => commented(line).unwrap_or(line).to_owned(),
    };
    let all: String = text.lines().map(|line| uncommented(line) + "\n").collect();
    let mut errors = Vec::new();
    let layer = file::parse(Path::new("rgun.toml"), &all, &mut errors).unwrap();
    assert_eq!(errors, []);
    for key in keys::KEYS.iter().filter(|key| **key != name::ERROR_PAGES) {
        assert!(layer.contains_key(key), "{key}");
    }
    let lines: Vec<_> = text.lines().collect();
    for (idx, line) in lines.iter().enumerate().filter(|(_, line)| commented(line).is_some()) {
        assert!(lines[idx - 1].starts_with("# "), "no meaning above {line}");
    }
}
