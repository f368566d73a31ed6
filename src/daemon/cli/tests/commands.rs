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
