//! `rgun check`: the verdict before the deployment.

use crate::support::Rgun;

const GOOD: &str =
    "def application(environ, start_response):\n    start_response('200 OK', [])\n    return [b'']\n";

fn check(rgun: Rgun) -> (i32, String, String) {
    rgun.run()
}

fn of_the_fake(what: &str) -> Rgun {
    Rgun::fake().fake_does(what).checking()
}

#[test]
fn a_sound_application_is_0_and_says_with_which_interpreter() {
    let (code, log, printed) = check(Rgun::python(GOOD).checking());
    assert_eq!(code, 0, "{log}");
    assert!(printed.starts_with("app:application is sound: ") && printed.contains("CPython 3."), "{printed}");
    assert_eq!(log, "");
}

#[test]
fn a_factory_that_was_not_named_as_one_is_sound_with_a_warning() {
    let source = format!("{GOOD}def make():\n    return application\n");
    let (code, log, printed) = check(Rgun::python(&source).target("app:make").checking());
    assert_eq!(code, 0, "{log}");
    let (warning, verdict) = printed.split_once('\n').expect("two lines");
    assert!(warning.starts_with("warning: app:make takes no arguments"), "{printed}");
    assert!(warning.contains("write app:make() (or --factory)"), "{printed}");
    assert!(verdict.starts_with("app:make is sound"), "{printed}");
}

#[test]
fn an_import_that_raises_is_78_with_its_traceback_once() {
    let (code, log, printed) =
        check(Rgun::python("import json\nraise RuntimeError('no database')\n").checking());
    assert_eq!((code, printed.as_str()), (78, ""), "{log}");
    assert!(log.starts_with("error: "), "{log}");
    assert_eq!(log.matches("Traceback (most recent call last)").count(), 1, "{log}");
    assert!(log.contains("app.py\", line 2") && log.contains("RuntimeError: no database"), "{log}");
}

#[test]
fn a_worker_that_dies_while_it_boots_is_told_by_its_exit() {
    let (code, log, _) = check(of_the_fake("exit-booting:7"));
    assert_eq!(code, 78, "{log}");
    assert!(log.contains("exited with status 7"), "{log}");
    let (code, log, _) = check(of_the_fake("abort"));
    assert_eq!(code, 78, "{log}");
    assert!(log.contains("SIGABRT"), "{log}");
}

#[test]
fn a_worker_that_never_gets_ready_is_a_matter_of_time() {
    let (code, log, _) = check(of_the_fake("never").set("timeouts.boot", "300ms"));
    assert_eq!(code, 78, "{log}");
    assert!(log.contains("timeouts.boot"), "{log}");
}

#[test]
fn what_the_worker_says_about_itself_is_the_verdict() {
    for (what, said) in [
        ("failed", "Traceback (most recent call last)"),
        ("failed-config", "the fake application does not load"),
        ("refused", "this fake runs no Python"),
        ("garbage", "error: the worker "),
    ] {
        let (code, log, printed) = check(of_the_fake(what));
        assert_eq!((code, printed.as_str()), (78, ""), "{what}: {log}");
        assert!(log.contains(said), "{what}: {log}");
    }
}

#[test]
fn a_wrong_configuration_is_told_before_anything_is_started() {
    let rgun = Rgun::python(GOOD).checking().flags(["--workers", "-3"]);
    let (code, log, _) = check(rgun);
    assert_eq!(code, 64, "{log}");
    assert!(log.contains("workers") && log.contains("-3"), "{log}");
}
