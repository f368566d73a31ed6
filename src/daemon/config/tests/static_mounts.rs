//! Invalid `[[static]]` and `app.sendfile_roots`.

use super::*;

#[test]
fn invalid_static_mount_is_reported_with_index_and_key() {
    let case = Case::new();
    let directory = case.place.path().display().to_string();
    let url = "url = \"/static/\"";
    let file = case.place.file("file", b"", 0o644).display().to_string();
    let place = format!("directory = \"{directory}\"");
    for (lines, reason, hint) in [
        (place.clone(), "static[0].url: is not set", "url = \"/static/\""),
        (url.to_owned(), "static[0].directory: is not set", "directory = \"/srv/mysite/static\""),
        (
            format!("url = \"static/\"\n{place}"),
            "static[0].url = \"static/\": does not begin with",
            "\"/static/\"",
        ),
        (format!("url = \"/static\"\n{place}"), "does not end with \"/\"", "\"/static/\""),
        (format!("url = \"https://a.example/s/\"\n{place}"), "is a URL", "\"/s/\""),
        (format!("url = \"/a b/\"\n{place}"), "contains ' '", "percent-encoded"),
        (format!("url = \"/a/*/\"\n{place}"), "contains '*'", "percent-encoded"),
        (format!("url = \"/a/../\"\n{place}"), "matches no path", "\"..\""),
        (format!("{url}\ndirectory = \"static\""), "is not a full path", "/srv/mysite/static"),
        (format!("{url}\ndirectory = \"{directory}/no\""), "does not exist", "mkdir -p"),
        (format!("{url}\ndirectory = \"{file}\""), "is not a directory", "name the directory"),
        (format!("{url}\n{place}\nindex = \"a/b\""), "is not the name of a file", "\"off\""),
        (format!("{url}\n{place}\nfallback = \"ap\""), "is neither a choice nor a file", "\"app\""),
        (format!("{url}\n{place}\nfallback = \"../x.html\""), "is neither a choice nor a file", "\"404\""),
        (format!("{url}\n{place}\nfallback = 405"), "is not one of the choices", "\"404\""),
        (format!("{url}\n{place}\nfollow_links = \"yes\""), "is not one of the choices", "\"inside\""),
        (format!("{url}\n{place}\nmax_age = 60"), "has no unit", "\"60s\""),
        (format!("{url}\n{place}\nimmutable = \"all\""), "is not one of the choices", "\"hashed\""),
        (format!("{url}\n{place}\nprecompressed = 1"), "must be true or false", "without quotes"),
        (format!("{url}\n{place}\nindexes = \"a\""), "static[0].indexes = \"a\": is not a key", "\"index\""),
        (
            format!("{url}\n{place}\n[[static]]\n{url}\n{place}"),
            "static[1].url = \"/static/\": is the url of an earlier",
            "the longest applies",
        ),
    ] {
        let error = case.with(&format!("[[static]]\n{lines}\n")).unwrap_err();
        assert!(error.contains(reason) && error.contains(hint), "{lines}:\n{error}");
        assert_eq!(error.matches("hint: ").count(), usize::from(!hint.is_empty()), "{lines}:\n{error}");
    }
    let error = case.with(&format!("[static]\n{url}\n{place}\n")).unwrap_err();
    assert!(
        error.contains("must be a list of tables, not a table") && error.contains("[[static]]"),
        "{error}"
    );
    let error = case.with("[[statics]]\n").unwrap_err();
    assert!(error.contains("did you mean [[static]]?"), "{error}");
}

#[test]
fn invalid_sendfile_root_is_reported_with_its_name() {
    let case = Case::new();
    let directory = case.place.path().display().to_string();
    for (value, reason, hint) in [
        ("[\"media\"]".to_owned(), "\"media\" is not a full path", "/srv/mysite/static"),
        (format!("[\"{directory}/no\"]"), "does not exist", "mkdir -p"),
        (
            format!("{{ \"protected/\" = \"{directory}\" }}"),
            "\"protected/\" does not begin with",
            "\"/protected/\"",
        ),
        ("{ \"/protected/\" = 1 }".to_owned(), "must be a directory, not a number", "/srv/mysite/media"),
        ("true".to_owned(), "must be a string or a list of strings", ""),
    ] {
        let error = case.with(&format!("sendfile_roots = {value}\n")).unwrap_err();
        assert!(error.contains(reason) && error.contains(hint), "{value}:\n{error}");
    }
}

#[test]
fn missing_fallback_and_hidden_health_path_are_warnings() {
    let case = Case::new();
    case.place.file("site/page.html", b"", 0o644);
    let site = case.place.join("site").display().to_string();
    let warnings = |url: &str, rest: &str| {
        let text = format!("{VALID_APP}[[static]]\nurl = \"{url}\"\ndirectory = \"{site}\"\n{rest}");
        case.load(&text, &[], Layer::new()).unwrap().warnings
    };
    assert_eq!(warnings("/", "fallback = \"page.html\"\n"), [] as [&str; 0]);
    let [missing] = &*warnings("/", "fallback = \"pgae.html\"\n") else { panic!() };
    assert!(missing.contains("fallback = \"pgae.html\" is not a file in"), "{missing}");
    let [hidden] = &*warnings("/a/", "[health]\npath = \"/a/healthz\"\n") else { panic!() };
    assert!(hidden.contains("health.path = \"/a/healthz\" is below [[static]] url = \"/a/\""), "{hidden}");
    let [hidden] = &*warnings("/", "[health]\nlive_path = \"/page.html\"\n") else { panic!() };
    assert!(hidden.starts_with("health.live_path = "), "{hidden}");
    assert_eq!(warnings("/", "[health]\npath = \"/healthz\"\n"), [] as [&str; 0]);
    assert_eq!(warnings("/a/", "[health]\npath = \"/ab\"\n"), [] as [&str; 0]);
}
