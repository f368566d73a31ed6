//! `rgun check`: exit status and messages.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::binaries::python;
use crate::support::{Rgun, report_skipped};

const GOOD: &str =
    "def application(environ, start_response):\n    start_response('200 OK', [])\n    return [b'']\n";

fn check(rgun: Rgun) -> (i32, String, String) {
    rgun.run()
}

fn check_fake(what: &str) -> Rgun {
    Rgun::fake().fake_behaviour(what).check_as_self()
}

#[test]
fn sound_application_exits_0_and_names_the_interpreter() {
    let (code, log, printed) = check(Rgun::python(GOOD).check_as_self());
    assert_eq!(code, 0, "{log}");
    assert!(
        printed.starts_with("app:application is ready to serve: ") && printed.contains("CPython 3."),
        "{printed}"
    );
    assert_eq!(log, "");
}

#[test]
fn undeclared_factory_passes_with_a_warning() {
    let source = format!("{GOOD}def make():\n    return application\n");
    let (code, log, printed) = check(Rgun::python(&source).target("app:make").check_as_self());
    assert_eq!(code, 0, "{log}");
    let (warning, verdict) = printed.split_once('\n').expect("two lines");
    assert!(warning.starts_with("warning: app:make takes no arguments"), "{printed}");
    assert!(warning.contains("write app:make() (or --factory)"), "{printed}");
    assert!(verdict.starts_with("app:make is ready to serve"), "{printed}");
}

#[test]
fn import_that_raises_exits_78_with_one_traceback() {
    let (code, log, printed) =
        check(Rgun::python("import json\nraise RuntimeError('no database')\n").check_as_self());
    assert_eq!((code, printed.as_str()), (78, ""), "{log}");
    assert!(log.starts_with("error: "), "{log}");
    assert_eq!(log.matches("Traceback (most recent call last)").count(), 1, "{log}");
    assert!(log.contains("app.py\", line 2") && log.contains("RuntimeError: no database"), "{log}");
}

#[test]
fn hook_that_does_not_exist_exits_78_with_its_key() {
    let source = format!("{GOOD}number = 1\ndef fork(server, worker):\n    raise RuntimeError('called')\n");
    for key in ["post_fork", "post_worker_init", "worker_exit", "worker_abort", "child_exit"] {
        for (value, reason) in [
            ("nosuch:fork", "there is no module nosuch"),
            ("app:frok", "has no attribute frok (is it fork?)"),
            ("app:number", "which cannot be called; name a function"),
        ] {
            let rgun = Rgun::python(&source).set(&format!("hooks.{key}"), value).check_as_self();
            let (code, log, printed) = check(rgun);
            assert_eq!((code, printed.as_str()), (78, ""), "hooks.{key} = {value}: {log}");
            assert!(
                log.starts_with(&format!("error: hooks.{key}: ")) && log.contains(reason),
                "{value}: {log}"
            );
        }
        let rgun = Rgun::python(&source).set(&format!("hooks.{key}"), "app:fork").check_as_self();
        let (code, log, _) = check(rgun);
        assert_eq!(code, 0, "the check calls no hook: {log}");
    }
}

#[test]
fn worker_that_dies_at_boot_is_reported_by_its_exit() {
    let (code, log, _) = check(check_fake("exit-booting:7"));
    assert_eq!(code, 78, "{log}");
    assert!(log.contains("exited with status 7"), "{log}");
    let (code, log, _) = check(check_fake("abort"));
    assert_eq!(code, 78, "{log}");
    assert!(log.contains("SIGABRT"), "{log}");
}

#[test]
fn worker_that_is_never_ready_exceeds_timeouts_boot() {
    let (code, log, _) = check(check_fake("never").set("timeouts.boot", "300ms"));
    assert_eq!(code, 78, "{log}");
    assert!(log.contains("timeouts.boot"), "{log}");
}

#[test]
fn failure_reported_by_the_worker_is_the_verdict() {
    for (what, expected) in [
        ("failed", "Traceback (most recent call last)"),
        ("failed-config", "the fake application does not load"),
        ("refused", "this fake runs no Python"),
        ("garbage", "error: the worker "),
    ] {
        let (code, log, printed) = check(check_fake(what));
        assert_eq!((code, printed.as_str()), (78, ""), "{what}: {log}");
        assert!(log.contains(expected), "{what}: {log}");
    }
}

#[test]
fn wrong_configuration_is_refused_before_a_start() {
    let rgun = Rgun::python(GOOD).check_as_self().flags(["--workers", "-3"]);
    let (code, log, _) = check(rgun);
    assert_eq!(code, 64, "{log}");
    assert!(log.contains("workers") && log.contains("-3"), "{log}");
}

/// Returns true if the tests run as root. Otherwise reports the test as skipped.
fn require_root(what: &str) -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        report_skipped(&format!("{what}: needs root"));
    }
    is_root
}

/// Puts a `systemctl` on PATH that knows one unit with these properties.
fn with_systemctl(rgun: Rgun, unit: &str, properties: &str) -> Rgun {
    let directory = rgun.scratch().join("bin");
    fs::create_dir(&directory).expect("a new directory");
    let text = format!(
        "#!/bin/sh\nfor unit; do :; done\nif [ \"$unit\" = {unit} ]; then cat <<'END'\nLoadState=loaded\n{properties}\nEND\n\
         else echo LoadState=not-found; fi\n"
    );
    let path = rgun.scratch().write("bin/systemctl", &text);
    set_mode(&path, 0o755);
    rgun.variable("PATH", &format!("{}:/usr/bin:/bin", directory.display()))
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a file of the test");
}

#[test]
fn root_without_a_unit_has_to_name_a_user() {
    if !require_root("a check by root") {
        return;
    }
    let rgun = with_systemctl(Rgun::fake().check(), "other.service", "User=nobody");
    let (code, log, printed) = check(rgun);
    assert_eq!((code, printed.as_str()), (64, ""), "{log}");
    assert!(log.contains("as root") && log.contains("--user") && log.contains("--unit"), "{log}");
    for flags in [["--user", "no-such-user"], ["--unit", "no-such-unit"]] {
        let rgun = with_systemctl(Rgun::fake().check(), "other.service", "User=nobody");
        let (code, log, _) = check(rgun.flags(flags));
        assert_eq!(code, 64, "{log}");
        assert!(log.contains(flags[0]) && log.contains(flags[1]), "{log}");
    }
}

#[test]
fn directory_closed_to_the_units_user_is_named() {
    if !require_root("a check as another user") {
        return;
    }
    let rgun = with_systemctl(Rgun::fake().check(), "shop.service", "User=nobody");
    set_mode(rgun.scratch().path(), 0o700);
    let home = rgun.scratch().path().display().to_string();
    let (code, log, printed) = check(rgun.flags(["--unit", "shop"]));
    assert_eq!((code, printed.as_str()), (78, ""), "{log}");
    assert!(log.contains("error: nobody cannot read") && log.contains(&home), "{log}");
    assert!(log.contains("mode 700, root:root") && log.contains("app.directory"), "{log}");
}

#[test]
fn unreadable_configuration_and_parent_are_named() {
    if !require_root("a check as another user") {
        return;
    }
    let rgun = with_systemctl(Rgun::fake().check(), "shop.service", "User=nobody");
    let site = rgun.scratch().join("home/site");
    fs::create_dir_all(&site).unwrap();
    set_mode(&rgun.scratch().join("home"), 0o700);
    let config =
        rgun.scratch().write("rgun.toml", &format!("[app]\ntarget = \"fake\"\ndirectory = {site:?}\n"));
    set_mode(&config, 0o600);
    let home = rgun.scratch().join("home").display().to_string();
    let flags = ["check", "--unit", "shop", "--config", "rgun.toml"];
    let (code, log, _) = check(rgun.without_flags().flags(flags));
    assert_eq!(code, 78, "{log}");
    assert!(log.contains("nobody cannot read") && log.contains("the configuration"), "{log}");
    let on_the_way = format!("on the way to app.directory = {}", site.display());
    assert!(log.contains(&format!("nobody cannot enter {home}, {on_the_way} (mode 700")), "{log}");
}

#[test]
fn environment_and_directory_come_from_the_unit() {
    if !require_root("a check as another user") {
        return;
    }
    let rgun = Rgun::python(GOOD).check();
    let directory = rgun.scratch().path().display().to_string();
    rgun.scratch().write(
        "unit.py",
        "import os\nraise RuntimeError(sorted(os.environ.items()), os.getcwd(), os.getgid())\n",
    );
    let properties = format!(
        "User=root\nGroup=65534\nWorkingDirectory={directory}\nEnvironment=RGUN_APP_TARGET=unit \"A=two words\""
    );
    let python = format!("RGUN_APP_PYTHON={}", python_path());
    let rgun = with_systemctl(rgun, "shop.service", &format!("{properties} {python}"));
    let config = rgun.scratch().write("rgun.toml", "[app]\ninterface = \"wsgi\"\n");
    let flags = ["check", "--unit", "shop", "--config"];
    let rgun = rgun.without_flags().flags(flags).flags([config.to_str().unwrap()]).variable("MINE", "1");
    let rgun = rgun.variable("RGUN_APP_TARGET", "app").variable("RGUN_APP_PYTHON", &python_path());
    let (code, log, _) = check(rgun);
    assert_eq!(code, 78, "{log}");
    assert!(log.contains("RuntimeError") && log.contains("('A', 'two words')"), "{log}");
    assert!(log.contains(&directory) && log.contains("65534") && !log.contains("MINE"), "{log}");
}

/// Returns the absolute path of the tests' interpreter.
fn python_path() -> String {
    let name = python();
    if name.contains('/') {
        return name.to_owned();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.is_file());
    found.expect("python3 is on PATH").display().to_string()
}
