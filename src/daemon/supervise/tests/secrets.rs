//! STATUS= contains no text from the application, since every user of the machine may read it.

use super::*;

/// A failure whose exception text contains a password, and whose headline does not.
fn secret() -> BootFailure {
    let summary = "importing x raised ValueError: postgres://shop:hunter2@db".to_owned();
    let traceback = Some("Traceback (most recent call last):\nValueError: hunter2".to_owned());
    let headline = "importing x raised ValueError (x.py, line 3)".to_owned();
    BootFailure { kind: BootFailureKind::App, summary, headline, traceback }
}

/// All STATUS= lines and exit reasons.
fn statuses(actions: &[Action]) -> String {
    let lines = actions.iter().filter_map(|action| match action {
        Action::Status(line) | Action::Exit { reason: Some(line), .. } => Some(line.as_str()),
        _ => None,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn status_never_quotes_exception_text() {
    let mut harness = Harness::ready(1);
    harness.advance(20 * SECOND).exit(worker(0, 1));
    harness.spawned(worker(0, 2));
    let boot = harness.send(Event::BootFailed { worker: worker(0, 2), failure: secret() });
    assert!(statuses(&boot).contains("ValueError (x.py, line 3)"), "{boot:?}");
    assert!(!statuses(&boot).contains("hunter2"), "{boot:?}");
    assert!(
        boot.iter().any(|action| matches!(action, Action::Report(_)))
            && format!("{boot:?}").contains("hunter2")
    );

    let mut harness = Harness::ready(1);
    let after_ready = harness.send(Event::BootFailed { worker: worker(0, 1), failure: secret() });
    assert!(!statuses(&after_ready).is_empty() && !statuses(&after_ready).contains("hunter2"));

    let mut harness = Harness::ready(1);
    let why = "sent the field name \"hunter2\"".to_owned();
    let misbehaved = harness.send(Event::Misbehaved { worker: worker(0, 1), reason: why });
    assert!(!statuses(&misbehaved).is_empty() && !statuses(&misbehaved).contains("hunter2"));
}
