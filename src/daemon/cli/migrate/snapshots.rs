//! Each directory of `tests/` is a deployment. `expected.txt` has the text that `rgun migrate`
//! prints about the other files of the directory; UPDATE_DOCS=1 writes it.

use super::*;

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/cli/migrate/tests");

/// Returns the text about the deployment in this directory.
fn printed(directory: &Path) -> String {
    let mut files: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| !path.ends_with("expected.txt"));
    files.sort();
    let request = MigrateRequest { files, write: None, yes: false, python: None };
    let text = match migrate(&request, &Environment::default(), Path::new("/srv")) {
        Ok(migration) => migration.text,
        Err((text, status)) => format!("{status}: {text}"),
    };
    text.replace(&directory.display().to_string(), "/deployment")
}

#[test]
fn deployments_become_the_expected_files_and_notes() {
    let mut differing = Vec::new();
    for entry in std::fs::read_dir(DIRECTORY).unwrap() {
        let directory = entry.unwrap().path();
        let (printed, expected) = (printed(&directory), directory.join("expected.txt"));
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&expected, &printed).unwrap();
        } else if std::fs::read_to_string(&expected).unwrap_or_default() != printed {
            differing.push(printed);
        }
    }
    assert_eq!(differing, [""; 0]);
}

#[test]
fn settings_of_every_deployment_are_a_valid_file() {
    for entry in std::fs::read_dir(DIRECTORY).unwrap() {
        let directory = entry.unwrap().path();
        let text = printed(&directory);
        for file in text
            .split("\n+++ ")
            .skip(1)
            .filter(|file| file.split('\n').next().is_some_and(|name| name.contains(".toml")))
        {
            let lines = file.lines().skip(2).take_while(|line| line.starts_with('+'));
            let toml: String = lines.flat_map(|line| [&line[1..], "\n"]).collect();
            assert_eq!(config::errors_of_file(&toml), "", "{}:\n{toml}", directory.display());
        }
    }
}

#[test]
fn written_files_replace_nothing() {
    let place = config::testing::TestDir::new();
    let unit = place.file("a.service", b"[Service]\nExecStart=/srv/a/bin/gunicorn a --bind :80\n", 0o644);
    let request = MigrateRequest { files: vec![unit], write: None, yes: false, python: None };
    let Ok(Migration { outputs, .. }) = migrate(&request, &Environment::default(), place.path()) else {
        panic!()
    };
    let text = write(&place.join("out"), &outputs).unwrap();
    assert!(text.contains("out/rgun.toml\n"), "{text}");
    let socket = std::fs::read_to_string(place.join("out/rgun.socket.d/migrated.conf")).unwrap();
    assert_eq!(socket, "[Socket]\nListenStream=\nListenStream=0.0.0.0:80\n");
    let reason = write(&place.join("out"), &outputs).unwrap_err();
    assert!(reason.contains("rgun.toml: exists; remove it"), "{reason}");
}

#[test]
fn configuration_runs_with_the_variables_of_the_unit() {
    let place = config::testing::TestDir::new();
    let shown = place.path().display();
    let unit = format!(
        "[Service]\nEnvironment=APP_PORT=8123\nWorkingDirectory={shown}\nExecStart=/srv/a/bin/gunicorn a\n"
    );
    let text =
        "import os\nbind = f\"127.0.0.1:{os.environ['APP_PORT']}\"\nraw_env = ['HERE=' + os.getcwd()]\n";
    let files = vec![
        place.file("a.service", unit.as_bytes(), 0o644),
        place.file("gunicorn.conf.py", text.as_bytes(), 0o644),
    ];
    let python = Some("/usr/bin/python3".into());
    let request = MigrateRequest { files, write: None, yes: false, python };
    let text = match migrate(&request, &Environment::default(), Path::new("/")) {
        Ok(migration) => migration.text,
        Err((text, status)) => format!("{status}: {text}"),
    };
    assert!(text.contains("+ListenStream=127.0.0.1:8123\n"), "{text}");
    assert!(text.contains(&format!("HERE\" = \"{shown}\"")), "{text}");
}

/// Returns what is printed about a `gunicorn.conf.py` with this text, and the path of the file.
fn printed_for_configuration(text: &str) -> (String, String) {
    let place = config::testing::TestDir::new();
    let file = place.file("gunicorn.conf.py", text.as_bytes(), 0o644);
    let path = file.display().to_string();
    let python = Some("/usr/bin/python3".into());
    let request = MigrateRequest { files: vec![file], write: None, yes: false, python };
    match migrate(&request, &Environment::default(), place.path()) {
        Ok(migration) => (migration.text, path),
        Err((text, status)) => panic!("{status}: {text}"),
    }
}

#[test]
fn workers_run_a_configuration_with_functions_for_requests() {
    let pre_request = "def pre_request(worker, req): pass\n";
    let (text, path) = printed_for_configuration(pre_request);
    assert!(text.contains(&format!("+post_fork = \"{path}:\"\n")), "{text}");
    let post_fork = format!("{pre_request}def post_fork(server, worker): pass\n");
    let (text, path) = printed_for_configuration(&post_fork);
    assert!(text.contains(&format!("+post_fork = \"{path}:post_fork\"\n")), "{text}");
    assert!(!text.contains(&format!("\"{path}:\"")), "the function stays: {text}");
}

#[test]
fn file_of_an_unknown_kind_is_a_usage_error() {
    let place = config::testing::TestDir::new();
    let file = place.file("notes.txt", b"hello", 0o644);
    let request = MigrateRequest { files: vec![file], write: None, yes: false, python: None };
    let Err((reason, status)) = migrate(&request, &Environment::default(), place.path()) else { panic!() };
    assert!(
        reason.contains("notes.txt: is none of gunicorn.conf.py, a unit") && status == EX_USAGE,
        "{reason}"
    );
}
