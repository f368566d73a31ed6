//! The screen of a daemon that runs on a terminal.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::binaries::fake_worker;
use crate::support::client::Address;
use crate::support::{Client, Rgun, wait_until};

/// Replaces the facts that differ from run to run with their names. Leaves out the fake worker's
/// own lines, whose place among the daemon's lines differs, too.
fn normalized(screen: &str, facts: &[(&str, &str)]) -> String {
    let mut text = screen.to_owned();
    for (fact, name) in facts {
        text = text.replace(fact, name);
    }
    let lines = text.lines().filter(|line| !line.starts_with("fake worker "));
    lines.map(|line| normalized_line(line) + "\n").collect()
}

/// Replaces the time at the start of a line, and each number before a unit of time.
fn normalized_line(line: &str) -> String {
    let is_time = |word: &str| word.len() == 8 && word.bytes().filter(|byte| *byte == b':').count() == 2;
    let words: Vec<&str> = line.split(' ').collect();
    let shown = words.iter().enumerate().map(|(idx, word)| {
        let next = words.get(idx + 1).map_or("", |next| next.trim_end_matches(':'));
        let is_number = word.parse::<f64>().is_ok();
        match word {
            _ if idx == 0 && is_time(word) => "TIME",
            _ if is_number && (next == "ms" || next == "s") => "N",
            word => word,
        }
    });
    shown.collect::<Vec<_>>().join(" ")
}

#[test]
fn screen_from_start_to_stop() {
    let rgun = Rgun::fake().flags(["--bind", "127.0.0.1:0"]).variable("NO_COLOR", "1");
    let behaviour = rgun.scratch().join("behaviour");
    let mut terminal = rgun.fake_behaviour(&format!("@{}", behaviour.display())).start_on_terminal(200);
    let (address, pid) = terminal.wait_ready();
    let mut client = Client::connect(&address).expect("it listens");
    assert_eq!(client.get("/hello?tab=a").status, 200);
    terminal.screen.wait_for("/hello?tab=a 200");
    let failed = client.get("/raise");
    let id = failed.assert_error(500).field("x-request-id").to_owned();
    terminal.screen.wait_for("Fake: boom");
    kill(Pid::from_raw(pid), Signal::SIGHUP).expect("it runs");
    terminal.screen.wait_for("reloaded in ");
    terminal.scratch().write("behaviour", "failed");
    kill(Pid::from_raw(pid), Signal::SIGHUP).expect("it runs");
    terminal.screen.wait_for("reload failed: ");
    // The worker's own line must not follow the ^C in one line.
    terminal.screen.wait_for("failed, as RGUN_FAKE requests");
    terminal.interrupt();
    assert_eq!(terminal.wait_exit().code(), Some(0));
    let worker = fake_worker().display().to_string();
    let (start, end) = (&id[..4], &id[id.len() - 4..]);
    let (id, pid) = (format!("{start}…{end}"), pid.to_string());
    let address = match address {
        Address::Tcp(address) => address.to_string(),
        Address::Unix(_) => unreachable!("it listens on TCP"),
    };
    let facts = [(&*worker, "WORKER"), (&*id, "ID"), (&*address, "ADDRESS"), (&*pid, "PID")];
    assert_eq!(normalized(&terminal.screen.text(), &facts), include_str!("terminal.txt"));
}

#[test]
fn status_has_a_colour_unless_no_color_is_set() {
    for (no_color, text) in [("", "GET /hello \x1b[32m200\x1b[0m"), ("1", "GET /hello 200")] {
        let rgun = Rgun::fake().flags(["--bind", "127.0.0.1:0"]).variable("NO_COLOR", no_color);
        let terminal = rgun.start_on_terminal(100);
        let (address, _) = terminal.wait_ready();
        assert_eq!(Client::connect(&address).expect("it listens").get("/hello").status, 200);
        terminal.screen.wait_for(text);
    }
}

#[test]
fn access_line_is_shortened_to_the_width() {
    let rgun = Rgun::fake().flags(["--bind", "127.0.0.1:0"]).variable("NO_COLOR", "1");
    let terminal = rgun.start_on_terminal(60);
    let (address, _) = terminal.wait_ready();
    let path = format!("/hello?{}", "a".repeat(200));
    assert_eq!(Client::connect(&address).expect("it listens").get(&path).status, 200);
    let line = terminal.screen.wait_for("GET /hello");
    assert!(line.chars().count() == 60 && line.contains('…') && line.contains(" 200  "), "{line}");
}

#[test]
fn second_interrupt_stops_at_once() {
    let rgun = Rgun::fake().flags(["--bind", "127.0.0.1:0"]).variable("NO_COLOR", "1");
    let mut terminal = rgun.start_on_terminal(200);
    let (address, _) = terminal.wait_ready();
    let mut client = Client::connect(&address).expect("it listens");
    assert_eq!(client.send_get("/raise-mid-body/60000").response_head().status, 200);
    terminal.interrupt();
    let line = terminal.screen.wait_for("stopping");
    assert_eq!(line, "^C stopping: 1 request under way, at most 30s; Ctrl-C again stops at once");
    // The daemon ignores a second signal soon after the first.
    wait_until("the daemon stops", || {
        // Fails once the daemon has stopped.
        let is_typed = terminal.try_interrupt();
        (!is_typed || terminal.screen.count("stopping now") > 0).then_some(())
    });
    terminal.screen.wait_for("stopping now");
    terminal.wait_exit();
    terminal.screen.wait_for("stopped");
}

#[test]
fn failed_start_shows_the_application_before_the_error() {
    let rgun = Rgun::fake().flags(["--bind", "127.0.0.1:0"]).variable("NO_COLOR", "1");
    let mut terminal = rgun.fake_behaviour("failed").start_on_terminal(200);
    assert_eq!(terminal.wait_exit().code(), Some(78));
    let screen = terminal.screen.text();
    let line = |text: &str| screen.lines().position(|line| line.contains(text));
    let banner = line(&format!("rgun {}  fake:app  ", env!("CARGO_PKG_VERSION")));
    assert!(banner.is_some() && banner < line("did not boot"), "{screen}");
    assert!(line(", listening on http://127.0.0.1:") == banner, "{screen}");
}

#[test]
fn signal_that_ends_top_restores_the_terminal() {
    let rgun = Rgun::fake();
    let runtime = rgun.scratch().path().display().to_string();
    let daemon = rgun.variable("RUNTIME_DIRECTORY", &runtime).start_ready();
    for (signal, status) in
        [(Signal::SIGTERM, 143), (Signal::SIGHUP, 129), (Signal::SIGINT, 130), (Signal::SIGQUIT, 131)]
    {
        let top = format!(
            "exec {} top --socket {}/control",
            env!("CARGO_BIN_EXE_rgun"),
            daemon.scratch().path().display()
        );
        // A shell that waits for the command, like the user's.
        let line = format!("ulimit -c 0; sh -c 'echo pid $$; {top}'; echo status $?; stty -a");
        let mut terminal = Rgun::fake().run_on_terminal(&line);
        let pid = terminal.screen.wait_for("pid ");
        let pid = pid.trim_start_matches("pid ").parse().expect("a number");
        let screen = terminal.screen.wait_for("\x1b[?1049h");
        assert!(screen.contains("\x1b[?25l"), "{screen:?}");
        kill(Pid::from_raw(pid), signal).expect("it runs");
        terminal.wait_exit();
        let text = terminal.screen.text();
        let (_, after) = text.split_once("\x1b[?25h\x1b[?1049l").expect("it leaves the screen");
        assert!(!after.contains("\x1b["), "it draws on: {after:?}");
        assert!(after.contains(&format!("status {status}")), "{after:?}");
        let modes: Vec<_> = after.split_whitespace().map(|word| word.trim_end_matches(';')).collect();
        assert!(["echo", "icanon", "isig"].iter().all(|mode| modes.contains(mode)), "{after:?}");
    }
}
