//! `packaging/etc/rgun.toml` has every key, with its default.

use super::*;

/// The packaged file, for a machine without the package: its directory and interpreter are replaced.
fn packaged(case: &Case) -> String {
    let python = case.place.python("python3");
    let text = include_str!("../../../../packaging/etc/rgun.toml");
    assert_eq!(text.matches("\"/usr/share/rgun/welcome\"").count(), 1);
    assert_eq!(text.matches("\"/usr/bin/python3\"").count(), 1);
    text.replace("\"/usr/share/rgun/welcome\"", "\"{app}\"")
        .replace("\"/usr/bin/python3\"", &format!("{:?}", python.display().to_string()))
}

/// A commented key: `#key = value`, as against prose, which has a space after the `#`.
fn commented(line: &str) -> Option<&str> {
    line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
}

/// The commented example of an array of tables, which has no default, and the text without it.
fn without_example(text: &str) -> (String, String) {
    let (before, rest) = text.split_once("#[[timeouts.path]]\n").expect("an example of [[timeouts.path]]");
    let (example, after) = rest.split_once("\n\n").expect("a blank line after it");
    (format!("{before}\n{after}"), format!("#[[timeouts.path]]\n{example}\n"))
}

#[test]
fn commented_keys_of_the_packaged_file_are_the_defaults() {
    let case = Case::new();
    let text = packaged(&case);
    let plain = case.load(&text, &[], Layer::new()).unwrap().config;
    assert_eq!(plain.app.target.to_string(), "welcome:application");
    let mut n_keys = 0;
    for line in without_example(&text).0.lines() {
        let Some(key) = commented(line) else { continue };
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
    let array_of_tables = 1;
    assert_eq!(n_keys + active + array_of_tables, keys::KEYS.len());
}

#[test]
fn packaged_path_rule_example_is_valid_and_complete() {
    let (_, example) = without_example(&packaged(&Case::new()));
    let lines = example.lines().map(|line| line.strip_prefix('#').unwrap().trim_start_matches(' '));
    let written = lines.filter(|line| line.contains(['[', '='])).collect::<Vec<_>>().join("\n");
    let rules = Case::new().with(&written).unwrap().timeouts.paths;
    let [PathRule { request: Some(Some(_)), concurrency: Some(_), .. }] = rules.as_slice() else {
        panic!("{written}{rules:?}")
    };
}

#[test]
fn packaged_file_has_every_key_with_a_comment() {
    let text = packaged(&Case::new());
    let uncommented = |line: &str| match line {
        "#[[timeouts.path]]" => "[[timeouts.path]]".to_owned(),
        line => commented(line).unwrap_or(line).to_owned(),
    };
    let all: String = text.lines().map(|line| uncommented(line) + "\n").collect();
    let mut errors = Vec::new();
    let layer = file::parse(Path::new("rgun.toml"), &all, &mut errors).unwrap();
    assert_eq!(errors, []);
    for key in keys::KEYS {
        assert!(layer.contains_key(key), "{key}");
    }
    let lines: Vec<_> = text.lines().collect();
    for (idx, line) in lines.iter().enumerate().filter(|(_, line)| commented(line).is_some()) {
        assert!(lines[idx - 1].starts_with("# "), "no meaning above {line}");
    }
}
