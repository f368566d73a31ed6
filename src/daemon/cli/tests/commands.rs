//! Tests of words in the place of the application: commands of other programs, and misspellings.

use super::*;

#[test]
fn second_application_is_named_with_a_hint() {
    let shell = Shell::new();
    for (line, text) in [
        ("run app:app", "'app:app' follows 'run'; rgun serves without a command: write rgun app:app"),
        (
            "uvicorn -w 2 app:app",
            "'app:app' follows 'uvicorn'; rgun serves without a command: write rgun app:app",
        ),
        ("chekc app:app", "'app:app' follows 'chekc'; did you mean rgun check?"),
        ("bind app:app", "'app:app' follows 'bind'; did you mean --bind?"),
        ("a b -w 2", "'b' follows 'a'; remove one of them"),
    ] {
        let refused = shell.refused(line);
        assert!(refused.contains(&format!("one application is expected, but {text}\n")), "{line}: {refused}");
    }
    assert!(
        shell
            .refused("chekc")
            .starts_with("APP: \"chekc\" is not a command of rgun\n    hint: write rgun check")
    );
    assert!(shell.refused("a bind 0:8000").contains("'bind' follows 'a'; did you mean --bind?"));
}

#[test]
fn command_of_another_program_is_refused_with_the_remedy() {
    let shell = Shell::new();
    for (line, text) in [
        ("help", "\"help\" is not a command of rgun\n    hint: write rgun --help\n"),
        ("stop", "\"stop\" is not a command of rgun\n    hint: write systemctl stop rgun\n"),
        ("run", "\"run\" is not a command of rgun\n    hint: write rgun APP"),
        ("check app.toml", "app.toml is a configuration file\n    hint: write --config app.toml\n"),
    ] {
        assert!(shell.refused(line).contains(text), "{line}");
    }
    shell.place.file("run.py", b"", 0o644);
    assert_eq!(shell.kind("run"), "serve", "a module of this name is an application");
    assert_eq!(shell.kind("serve --pythonpath /lib"), "serve");
}

#[test]
fn failure_of_a_start_has_a_summary_without_values() {
    let shell = Shell::new();
    shell.default_file(&format!("{SITE}[workers]\ncount = \"s3cret\"\n"));
    let failure = shell.run("").unwrap_err();
    assert!(failure.is_start && failure.text.contains("s3cret"), "{failure:?}");
    assert!(failure.summary.ends_with("rgun.toml:5: workers.count is wrong; see the log"), "{failure:?}");
    shell.default_file(&format!("{SITE}[workers]\ncuont = 1\n[timeouts]\nreqest = 1\nbody = 2\n"));
    let summary = shell.run("").unwrap_err().summary;
    assert!(summary.ends_with(" is wrong, and there are 2 more errors; see the log"), "{summary}");
    assert!(shell.run("-w 0 a").unwrap_err().is_start);
    assert!(shell.run("--no-such-flag a").unwrap_err().is_start);
    for line in ["check -w 0 a", "--check-config -w 0 a", "status --no-such-flag", "reload A", "--help"] {
        assert!(!shell.run(line).unwrap_err().is_start, "{line}");
    }
}

#[test]
fn word_that_is_no_module_is_refused_as_a_command() {
    let shell = Shell::new();
    // The interpreter finds no module.
    shell.place.file(".venv/bin/python", b"#!/bin/sh\necho missing\n", 0o755);
    for (line, hint) in [
        ("frob", "rgun --help lists the commands; correct the application"),
        ("frob -w 4", "rgun --help lists the commands; correct the application"),
        ("statsu", "write rgun status"),
        ("reloda", "write rgun reload"),
        ("requets", "write rgun requests"),
        ("worksr", "did you mean rgun workers?"),
    ] {
        let failure = shell.run(line).unwrap_err();
        assert_eq!((failure.status, failure.is_start), (EX_USAGE, true), "{line}");
        assert!(failure.text.contains(hint), "{line}: {failure}");
    }
    assert!(
        shell.refused("frob").starts_with("APP: \"frob\" is neither a command of rgun nor an application: ")
    );
    shell.place.file("main.py", b"", 0o644);
    assert!(shell.refused("mian").contains("did you mean rgun main?"));
    for line in ["main", "main:app", "frob:app", "frob.wsgi", "check frob"] {
        assert!(shell.run(line).is_ok(), "{line}: the worker or the check says what is wrong");
    }
    let supervised = shell.command(&[("NOTIFY_SOCKET", "/run/systemd/notify")], &["frob"]);
    assert!(supervised.is_ok(), "a deployment may be in progress: {supervised:?}");
}
