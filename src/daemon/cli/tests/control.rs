//! The commands for a running daemon.

use crate::cli::control::ControlAction;

use super::*;

fn request(line: &str) -> ControlRequest {
    match Shell::new().command(&[], &line.split(' ').collect::<Vec<_>>()) {
        Ok(Command::Control(request)) => request,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn each_control_command_has_its_action() {
    for (line, action) in [
        ("status", ControlAction::Status),
        ("workers", ControlAction::Workers),
        ("requests", ControlAction::Requests),
        ("top", ControlAction::Top { once: false }),
        ("top --once", ControlAction::Top { once: true }),
        ("stacks", ControlAction::Stacks(None)),
        ("stacks --worker 3", ControlAction::Stacks(Some(3))),
        ("scale 4", ControlAction::Scale(4)),
        ("drain", ControlAction::Drain(true)),
        ("drain --undo", ControlAction::Drain(false)),
    ] {
        assert_eq!(request(line), ControlRequest { socket: None, action, json: false }, "{line}");
    }
}

#[test]
fn control_command_takes_an_instance_a_socket_and_json() {
    let socket = |line| request(line).socket.unwrap();
    assert_eq!(socket("status shop"), PathBuf::from("/run/rgun-shop/control"));
    assert_eq!(socket("scale 4 shop"), PathBuf::from("/run/rgun-shop/control"));
    assert_eq!(socket("requests --socket /run/x"), PathBuf::from("/run/x"));
    assert!(request("workers shop --json").json);
}

#[test]
fn wrong_control_arguments_are_usage_errors() {
    let shell = Shell::new();
    for (line, what) in [
        ("scale", "<COUNT>"),
        ("scale 0", "0 is not in 1..=65534"),
        ("scale four", "'four'"),
        ("status mysite.wsgi", "NAME: \"mysite.wsgi\""),
        ("drain shop --socket /run/x", "'--socket <PATH>'"),
        ("stacks --workers 3", "'--workers'"),
        ("--workers 2 status", "the command \"status\" must come first"),
    ] {
        let text = shell.refused(line);
        assert!(text.contains(what), "{line}: {text}");
    }
    assert_eq!(shell.kind("status:application"), "serve", "a module may be called status");
}
