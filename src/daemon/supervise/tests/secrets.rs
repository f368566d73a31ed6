//! What STATUS= does not say: everybody on the machine may read it.

use super::*;

/// An exception with the database's URL in it, as an application says it, and what may be said of that.
fn secret() -> BootFailure {
    let summary = "importing x raised ValueError: postgres://shop:hunter2@db".to_owned();
    let traceback = Some("Traceback (most recent call last):\nValueError: hunter2".to_owned());
    let headline = "importing x raised ValueError (x.py, line 3)".to_owned();
    BootFailure { kind: BootFailureKind::App, summary, headline, traceback }
}

/// All STATUS= lines, which must have something to say.
fn statuses(actions: &[Action]) -> String {
    let lines = actions.iter().filter_map(|action| match action {
        Action::Status(line) | Action::Exit { reason: Some(line), .. } => Some(line.as_str()),
        _ => None,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_failure_in_the_status_has_nothing_of_what_the_exception_says() {
    let mut table = Table::ready(1);
    table.after(20 * SECOND).exits(worker(0, 1));
    table.spawned(worker(0, 2));
    let boot = table.tell(Event::BootFailed { worker: worker(0, 2), failure: secret() });
    assert!(statuses(&boot).contains("ValueError (x.py, line 3)"), "{boot:?}");
    assert!(!statuses(&boot).contains("hunter2"), "{boot:?}");
    assert!(
        boot.iter().any(|action| matches!(action, Action::Report(_)))
            && format!("{boot:?}").contains("hunter2")
    );

    let mut table = Table::ready(1);
    let after_ready = table.tell(Event::BootFailed { worker: worker(0, 1), failure: secret() });
    assert!(!statuses(&after_ready).is_empty() && !statuses(&after_ready).contains("hunter2"));

    let mut table = Table::ready(1);
    let why = "sent the field name \"hunter2\"".to_owned();
    let misbehaved = table.tell(Event::Misbehaved { worker: worker(0, 1), reason: why });
    assert!(!statuses(&misbehaved).is_empty() && !statuses(&misbehaved).contains("hunter2"));
}
