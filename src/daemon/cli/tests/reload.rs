//! `rgun reload`, and how a daemon reads its configuration again.

use crate::cli::control::ControlAction;

use super::*;

#[test]
fn reload_reads_no_configuration_itself() {
    let shell = Shell { place: TestDir::new() };
    shell.default_file("this is not TOML");
    let reload = |args: &[&str]| shell.command(&[("RGUN_WORKERS_COUNT", "nonsense")], args);
    let expected =
        |socket| Ok(Command::Control(ControlRequest { socket, action: ControlAction::Reload, json: false }));
    assert_eq!(reload(&["reload"]), expected(None));
    for (typed, socket) in
        [("ctl", shell.place.join("ctl")), ("/run/shop/control", "/run/shop/control".into())]
    {
        assert_eq!(reload(&["reload", "--socket", typed]), expected(Some(socket.clone())));
        assert_eq!(reload(&["reload", &format!("--socket={typed}")]), expected(Some(socket)));
    }
    assert_eq!(reload(&["reload", "shop"]), expected(Some("/run/rgun-shop/control".into())));
    assert_eq!(shell.kind("init shop --yes"), "init");
    assert_eq!(shell.kind("doctor shop --json"), "doctor");
}

#[test]
fn reload_refuses_the_flags_of_a_start() {
    let shell = Shell::new();
    for (line, what) in [
        ("reload mysite.wsgi", "NAME: \"mysite.wsgi\""),
        ("reload shop --socket /run/x", "'--socket <PATH>'"),
        ("reload --workers 3", "'--workers'"),
        ("reload --preload", "'--preload'"),
        ("reload --daemon", "'--daemon'"),
        ("reload --socket", "a value is required"),
        ("a --socket /run/x", "'--socket'"),
        ("--workers 2 reload", "the command \"reload\" must come first"),
    ] {
        let text = shell.refused(line);
        assert!(text.contains(what), "{line}: {text}");
    }
    assert_eq!(shell.kind("reload:application"), "serve", "a module may be called reload");
}

#[test]
fn reread_keeps_flags_and_variables_and_reads_the_new_file() {
    let shell = Shell::new();
    shell.place.python("app/py/bin/python");
    shell.default_file(&format!("{SITE}[workers]\ncount = 2\nthreads = 2\n[timeouts]\nrequest = \"5s\"\n"));
    let start = shell
        .run_with(
            &[("RGUN_WORKERS_THREADS", "4")],
            &["--workers", "3", "--chdir", "app", "--python", "py/bin/python"],
        )
        .unwrap();
    assert_eq!(start.reread().unwrap(), start, "nothing has changed");

    shell.default_file(&format!("{SITE}[workers]\ncount = 7\nthreads = 7\n[timeouts]\nrequest = \"9s\"\n"));
    let again = start.reread().unwrap();
    assert_eq!(
        again.config.workers.count, start.config.workers.count,
        "the command line still takes precedence"
    );
    assert_eq!(again.config.workers.threads.get(), 4, "so does the environment");
    assert_eq!(again.config.timeouts.request, Some(Duration::from_secs(9)));
    assert_eq!(again.config.app.directory, shell.place.join("app"));
    assert_eq!(again.config.app.python.path, shell.place.join("app/py/bin/python"));
    assert_eq!(again.warnings, [""; 0]);

    shell.default_file(&format!("{SITE}[workers]\nthreads = 1\n"));
    let third = again.reread().unwrap();
    assert_eq!(third.config.timeouts.request, Some(Duration::from_secs(30)), "a reread can be reread");
}

#[test]
fn failed_reread_reports_all_errors_and_changes_nothing() {
    let shell = Shell::new();
    shell.default_file(SITE);
    let start = shell.accepted("--chdir .");
    shell.default_file("[app]\ntarget = \"my-site\"\n[workers]\ncount = 0\n[timeouts]\nrequest = 30\n");
    let errors = start.reread().unwrap_err().to_string();
    let errors = errors.replace(&shell.place.path().display().to_string(), "@");
    assert_eq!(
        errors.lines().filter(|line| !line.starts_with(' ')).collect::<Vec<_>>(),
        [
            "@/etc/rgun.toml:2: app.target = \"my-site\": \"my-site\" cannot be a module's name",
            "@/etc/rgun.toml:4: workers.count = 0: is out of range: write a number from 1 to 65535",
            "@/etc/rgun.toml:6: timeouts.request = 30: has no unit",
        ]
    );
    std::fs::remove_file(shell.place.join("etc/rgun.toml")).unwrap();
    let errors = start.reread().unwrap_err().to_string();
    assert!(errors.contains("etc/rgun.toml: cannot be read: No such file"), "{errors}");
    shell.default_file(SITE);
    assert_eq!(start.reread().unwrap(), start, "the file is valid again");
}

#[test]
fn reread_searches_for_the_interpreter_again() {
    let shell = Shell::new();
    let start = shell.accepted("a");
    std::fs::remove_dir_all(shell.place.join(".venv")).unwrap();
    assert!(start.reread().unwrap_err().to_string().starts_with("rgun: app.python: no interpreter found: "));
    let python = shell.place.python("venv/bin/python");
    assert_eq!(start.reread().unwrap().config.app.python.path, python);
}
