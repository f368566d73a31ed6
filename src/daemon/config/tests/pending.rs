//! The changes that a reload does not apply.

use super::*;

/// Returns the pending changes between two files, one line each.
fn pending(start: &str, now: &str) -> Vec<String> {
    let case = Case::new();
    let (start, now) = (case.with(start).unwrap(), case.with(now).unwrap());
    let changes = pending_changes(&start, &now).into_iter();
    changes.map(|change| change.to_string()).collect()
}

#[test]
fn change_of_a_key_read_at_the_start_is_pending() {
    for (start, now, expected) in [
        (
            "[listen]\nbind = \":81\"\n",
            "",
            "\"127.0.0.1:8000\", the default of listen.bind (in use: \"0.0.0.0:81\")",
        ),
        (
            "",
            "[listen]\nbind = \":81\"\n",
            "listen.bind = \"0.0.0.0:81\" (in use: the default, \"127.0.0.1:8000\")",
        ),
        ("", "[metrics]\nbind = \"[::1]:9797\"\n", "metrics.bind = \"[::1]:9797\" (in use: \"off\")"),
        ("[control]\ngroup = \"adm\"\n", "", "control.group = \"off\" (in use: \"adm\")"),
        ("", "[log]\nformat = \"json\"\n", "log.format = \"json\" (in use: \"auto\")"),
        ("[log]\naccess = true\n", "[log]\naccess = \"stdout\"\n", "log.access = \"stdout\" (in use: true)"),
    ] {
        assert_eq!(pending(start, now), [expected], "{now}");
        assert_eq!(pending(now, now), [""; 0], "{now}");
    }
    let tables = pending(
        "[listen.a]\nbind = [\":1\", \":2\"]\n[listen.b]\nbind = \":3\"\n",
        "[listen.b]\nbind = \":3\"\n[listen.c]\nbind = \":4\"\n",
    );
    let expected = [
        "the removal of listen.a.bind (in use: [\"0.0.0.0:1\", \"0.0.0.0:2\"])",
        "listen.c.bind = \"0.0.0.0:4\"",
    ];
    assert_eq!(tables, expected);
    // The default address is listened on only without tables.
    let first_table = pending("", "[listen.a]\nbind = \":1\"\n");
    let expected = ["the removal of the default \"127.0.0.1:8000\"", "listen.a.bind = \"0.0.0.0:1\""];
    assert_eq!(first_table, expected);
    assert_eq!(pending("", "[listen]\nbind = \"127.0.0.1:8000\"\n"), [""; 0], "the default, written out");
}

#[test]
fn change_of_another_key_is_not_pending() {
    let now = "[workers]\ncount = 9\n[log]\nlevel = \"debug\"\naccess = true\n[timeouts]\nrequest = \"9s\"\n\
               [listen]\nproxy_protocol = true\n[daemon]\nidle_exit = \"1h\"\n";
    assert_eq!(pending("", now), [""; 0]);
}

#[test]
fn manual_says_which_keys_need_a_restart() {
    let manual = include_str!("../../../../packaging/man/rgun.toml.5");
    let (mut section, mut described) = ("", Vec::new());
    for part in manual.split("\n.").collect::<Vec<_>>() {
        if let Some(heading) = part.strip_prefix("Sh ") {
            section = heading.lines().next().unwrap_or_default().trim_matches(['[', ']']);
        } else if let Some(item) = part.strip_prefix("It Li ") {
            let key = item.lines().next().unwrap_or_default();
            described.push((format!("{section}.{key}"), String::new()));
        }
        if let Some((_, text)) = described.last_mut() {
            text.push_str(part);
            text.push('\n');
        }
    }
    let mut found: Vec<_> = described
        .iter()
        .filter(|(_, text)| text.contains("needs a restart"))
        .map(|(key, _)| if key == "listen.NAME.bind" { name::LISTENERS } else { key.as_str() })
        .collect();
    let mut expected: Vec<_> = restart::restart_keys().collect();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
    assert!(expected.iter().all(|key| keys::KEYS.contains(key)));
}
