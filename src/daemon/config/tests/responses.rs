//! `[errors]` and `[health]`: the daemon's own answers.

use super::*;

#[test]
fn error_pages_are_read_by_status_and_class() {
    let case = Case::new();
    let page = case.place.file("503.html", "<p>später</p>".as_bytes(), 0o644);
    let page = page.display();
    let config = case.with(&format!("[errors]\n\"503\" = \"{page}\"\n\"4xx\" = \"{page}\"\n")).unwrap();
    let pages: Vec<_> = config.errors.iter().map(|page| (page.status, page.html.as_str())).collect();
    assert_eq!(
        pages,
        [(ErrorStatus::ClientErrors, "<p>später</p>"), (ErrorStatus::Status(503), "<p>später</p>")]
    );
}

#[test]
fn too_large_or_binary_error_page_is_refused() {
    let case = Case::new();
    for (name, content, reason) in [
        ("large.html", vec![b'x'; (256 << 10) + 1], "is larger than 256KiB"),
        ("latin1.html", b"sp\xe4ter".to_vec(), "is not UTF-8"),
    ] {
        let page = case.place.file(name, &content, 0o644);
        let errors = case.with(&format!("[errors]\n\"5xx\" = \"{}\"\n", page.display())).unwrap_err();
        assert!(errors.contains(reason) && errors.contains("errors.5xx"), "{errors}");
    }
}

#[test]
fn invalid_error_page_is_refused_with_its_line() {
    let case = Case::new();
    for (line, error) in [
        ("\"404\" = \"404.html\"", "errors.404 = \"404.html\": is not a full path"),
        ("\"503\" = \"/no/such.html\"", "errors.503 = \"/no/such.html\": cannot be read: No such"),
        ("\"503\" = \"/dev/zero\"", "errors.503 = \"/dev/zero\": is not a file"),
        ("\"200\" = \"/etc/hostname\"", "errors.200 = \"/etc/hostname\": is not the status of an error"),
        ("\"6xx\" = \"/etc/hostname\"", "errors.6xx = \"/etc/hostname\": is not the status of an error"),
        ("503 = 1", "errors.503 = 1: must be a string, not a number"),
    ] {
        let errors = case.with(&format!("[errors]\n{line}\n")).unwrap_err();
        assert!(errors.starts_with(&format!("@/rgun.toml:5: {error}")), "{errors}");
    }
    let errors = case.load(VALID_APP, &[("RGUN_ERRORS_STATUS", "/x")], Layer::new()).unwrap_err();
    assert!(errors.contains("errors.STATUS: cannot be set by a variable"), "{errors}");
}

#[test]
fn control_group_is_a_name_or_off() {
    let case = Case::new();
    let group = |value: &str| case.with(&format!("[control]\ngroup = {value}\n")).unwrap().control.group;
    assert_eq!(group("\"adm\""), Some("adm".to_owned()));
    assert_eq!(group("\"off\""), None);
    assert_eq!(case.with("").unwrap().control.group, None);
}

#[test]
fn liveness_must_have_a_path_of_its_own() {
    let case = Case::new();
    let config = case.with("[health]\npath = \"/a\"\nlive_path = \"/b\"\n").unwrap();
    assert_eq!(config.health, Health { path: Some("/a".to_owned()), live_path: Some("/b".to_owned()) });
    let errors = case.with("[health]\npath = \"/a\"\nlive_path = \"/a\"\n").unwrap_err();
    assert!(errors.starts_with("@/rgun.toml:6: health.live_path = \"/a\": is the same path"), "{errors}");
}
