//! What `rgun doctor` concludes from the facts: each finding with its remedy.

use super::exec_failures::EXEC_FAILURES;
use super::facts::{CheckOutcome, ControlState, Facts};
use crate::cli::service::Service;
use crate::control::NO_METRICS;

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Severity {
    /// The service does not serve, or will not after its next start.
    Problem,
    /// The service serves, but the operator should know.
    Warning,
}

/// A finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) severity: Severity,
    /// One sentence about the fault.
    pub(super) what: String,
    /// A command, or a sentence about what to do.
    pub(super) remedy: String,
}

/// Returns the findings, problems first.
pub(super) fn judge(names: &Service, facts: &Facts) -> Vec<Finding> {
    let mut findings = Findings { names, facts, found: Vec::new() };
    if findings.check_loaded() {
        findings.check_configuration();
        findings.check_socket();
        findings.check_service();
        findings.check_running_service();
        findings.check_control_socket();
        findings.check_metrics();
        findings.check_memory();
        findings.check_pressure();
        findings.check_enabled();
    }
    findings.found.sort_by_key(|finding| finding.severity == Severity::Warning);
    findings.found
}

struct Findings<'a> {
    names: &'a Service,
    facts: &'a Facts,
    found: Vec<Finding>,
}

impl Findings<'_> {
    fn problem(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.found.push(Finding { severity: Severity::Problem, what: what.into(), remedy: remedy.into() });
    }

    fn warning(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.found.push(Finding { severity: Severity::Warning, what: what.into(), remedy: remedy.into() });
    }

    /// Returns whether both units exist; without them there is nothing else to look at.
    fn check_loaded(&mut self) -> bool {
        let facts = self.facts;
        let units = [(self.names.service_unit(), &facts.service), (self.names.socket_unit(), &facts.socket)];
        for (unit, state) in units {
            match state.get("LoadState") {
                "loaded" => {}
                "masked" => self.problem(
                    format!("{unit} is masked, so it cannot start"),
                    format!("systemctl unmask {unit}"),
                ),
                "not-found" => self.problem(
                    format!("systemd knows no unit {unit}"),
                    "install rgun's package, or run systemctl daemon-reload after make install",
                ),
                other => self.problem(
                    format!("{unit} cannot be loaded ({other})"),
                    format!("systemd-analyze verify {unit} names the line"),
                ),
            }
            if state.get("NeedDaemonReload") == "yes" {
                self.warning(
                    format!("{unit} or one of its drop-ins has changed, and systemd has not read the change"),
                    "systemctl daemon-reload, then restart the unit",
                );
            }
        }
        facts.service.is_loaded() && facts.socket.is_loaded()
    }

    fn check_configuration(&mut self) {
        let path = self.names.configuration();
        match &self.facts.check {
            CheckOutcome::Sound(warnings) if warnings.is_empty() => {}
            CheckOutcome::Sound(warnings) => {
                self.warning(warnings.clone(), format!("rgun check --config {}", path.display()));
            }
            CheckOutcome::Wrong(errors) => self.problem(
                errors.strip_prefix("error: ").unwrap_or(errors).to_owned(),
                format!("repair it, and test it with: rgun check --config {}", path.display()),
            ),
            CheckOutcome::NotRoot => self.warning(
                "the configuration and the application were not checked, because only root can check as the service's user",
                format!("sudo rgun doctor {}", self.names.argument()).trim_end().to_owned(),
            ),
        }
    }

    fn check_socket(&mut self) {
        let (unit, facts) = (self.names.socket_unit(), self.facts);
        let restart =
            format!("systemctl reset-failed {unit} {0}; systemctl start {unit}", self.names.service_unit());
        match facts.socket.get("Result") {
            "success" | "" => {}
            "service-start-limit-hit" | "trigger-limit-hit" | "start-limit-hit" => self.problem(
                format!(
                    "{unit} was closed, because the service failed to start several times in a short time"
                ),
                // The socket alone would fail again at the next client, until systemd has forgotten the
                // attempts (TriggerLimitIntervalSec=).
                format!("repair the cause, then run: {restart} {}", self.names.service_unit()),
            ),
            "resources" if facts.socket_log.contains("Address already in use") => {
                let address = facts.socket.get("Listen").trim_end_matches(" (Stream)");
                self.problem(
                    format!("{unit} cannot listen at {address}: another program uses this address"),
                    format!("ss -ltnp names the program: stop it, or choose another address with systemctl edit {unit}; then run: {restart}"),
                );
            }
            result => self.problem(
                format!("{unit} has failed ({result})"),
                format!("journalctl -u {unit} has the reason; then run: {restart}"),
            ),
        }
        if facts.socket.get("Result") == "success" && !facts.socket.is_active() {
            self.problem(
                format!("{unit} does not listen, so no client can connect"),
                format!("systemctl enable --now {unit}"),
            );
        }
    }

    fn check_service(&mut self) {
        let (unit, facts) = (self.names.service_unit(), self.facts);
        let state = &facts.service;
        let status = state.get("ExecMainStatus");
        match state.get("Result") {
            "success" | "" => {}
            "start-limit-hit" => self.problem(
                format!("{unit} is no longer started, because it has failed several times in a short time"),
                format!("repair the cause, then run: systemctl reset-failed {unit}; systemctl start {unit}"),
            ),
            "oom-kill" => self.problem(
                format!("{unit} ended, because the kernel killed the daemon for lack of memory"),
                "set workers.max_memory, use fewer workers, or raise MemoryMax= of the unit",
            ),
            "timeout" => self.problem(
                format!("{unit} was not ready, or had not stopped, within the unit's timeout"),
                "timeouts.boot must be shorter than TimeoutStartSec=, and timeouts.drain shorter than TimeoutStopSec=",
            ),
            "watchdog" => self.problem(
                format!("{unit} was killed, because its event loop did not run for WatchdogSec="),
                format!("look for an overloaded machine, and report it: journalctl -u {unit}"),
            ),
            "exit-code" => {
                let known = EXEC_FAILURES.iter().find(|(number, ..)| *number == status);
                let fill = |text: &str| text.replace("{unit}", &unit).replace("{user}", state.get("User"));
                match known {
                    Some((_, what, remedy)) => self.problem(
                        format!("systemd could not start {unit}: {status}/{}", fill(what)),
                        fill(remedy),
                    ),
                    None => self.problem(
                        format!("{unit} exited with status {status}{}", self.last_error_text()),
                        format!("repair the cause, then run: systemctl restart {unit}"),
                    ),
                }
            }
            result => self.problem(
                format!("{unit} has failed ({result}){}", self.last_error_text()),
                format!("journalctl -u {unit}"),
            ),
        }
    }

    /// Checks a service that runs, or starts: restarts, workers, errors.
    fn check_running_service(&mut self) {
        let (unit, facts) = (self.names.service_unit(), self.facts);
        let state = &facts.service;
        let restarts: u64 = state.get("NRestarts").parse().unwrap_or(0);
        if state.is_active() && restarts > 0 {
            let times = if restarts == 1 { "once".to_owned() } else { format!("{restarts} times") };
            self.warning(
                format!("systemd has restarted {unit} {times} since it was started"),
                format!("journalctl -u {unit} -p warning has the reason"),
            );
        }
        let line = state.get("StatusText");
        if matches!(state.get("ActiveState"), "active" | "reloading" | "activating")
            && line.starts_with("0/")
            // The reason follows the numbers; notes follow after a semicolon.
            && line.split("; ").next().is_some_and(|workers| workers.contains(": "))
        {
            self.problem(
                format!("{unit} answers 503, because no worker is ready: {line}"),
                "repair the cause; rgun tries again by itself",
            );
        }
        if state.is_active()
            && let Some(error) = &facts.last_error
        {
            self.warning(
                format!("the last error in the journal is: {error}"),
                format!("journalctl -u {unit} -p err"),
            );
        }
    }

    /// Returns the last error as an addition to a sentence.
    fn last_error_text(&self) -> String {
        self.facts.last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default()
    }

    fn check_control_socket(&mut self) {
        let (unit, path) = (self.names.service_unit(), self.facts.control_path.display());
        if self.facts.control == ControlState::Refuses {
            let remedy = if self.facts.service.is_active() {
                format!("systemctl restart {unit}")
            } else {
                format!("remove the file: rm {path}")
            };
            self.problem(format!("{path} is a socket of a daemon that no longer runs"), remedy);
        }
    }

    /// Looks at the socket unit for metrics, and at the addresses of `metrics.bind`. The application is
    /// served without them.
    fn check_metrics(&mut self) {
        let (service, unit, facts) = (self.names.service_unit(), self.names.metrics_unit(), self.facts);
        let state = &facts.metrics;
        let is_failed = !matches!(state.get("Result"), "success" | "");
        if state.is_loaded() && is_failed {
            let address = state.get("Listen").trim_end_matches(" (Stream)");
            self.warning(
                format!("{unit} cannot listen at {address}, so there are no metrics ({})", state.get("Result")),
                format!(
                    "journalctl -u {unit} has the reason; ss -ltnp names a program that uses the address; then run: \
                     systemctl reset-failed {unit}; systemctl restart {service}"
                ),
            );
        } else if state.is_loaded() && state.is_enabled() && facts.service.is_active() && !state.is_active() {
            self.warning(
                format!("{unit} is enabled but not open, because {service} was already running"),
                format!("systemctl restart {service}"),
            );
        }
        if facts.service.is_active() && facts.service.get("StatusText").contains(NO_METRICS) {
            self.warning(
                "no metrics are served at an address of metrics.bind; the status line has the reason",
                format!("free the address, or correct metrics.bind; then run: systemctl restart {service}"),
            );
        }
    }

    fn check_memory(&mut self) {
        let kills = self.facts.oom_kills;
        if kills > 0 {
            self.warning(
                format!("the kernel has killed {kills} processes of {} for lack of memory", self.names.service_unit()),
                "set workers.max_memory, so that a worker is replaced before it is killed, or use fewer workers",
            );
        }
    }

    fn check_pressure(&mut self) {
        if !self.facts.has_pressure {
            self.warning(
                "the kernel does not report memory pressure (PSI) on the service, so idle workers stay when memory is \
                 short",
                "add psi=1 to the kernel's command line if there is no /proc/pressure/memory; or limit the memory with \
                 workers.max_memory and MemoryHigh=",
            );
        }
    }

    fn check_enabled(&mut self) {
        let facts = self.facts;
        if !facts.service.is_enabled() && !facts.socket.is_enabled() {
            let unit = self.names.socket_unit();
            self.warning(
                format!(
                    "neither {unit} nor {} is enabled, so the service does not start with the machine",
                    self.names.service_unit()
                ),
                format!("systemctl enable {unit}"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::unit_state::UnitState;

    const WELL: &str =
        "LoadState=loaded\nActiveState=active\nUnitFileState=enabled\nResult=success\nUser=rgun-shop\n";

    fn shop() -> Service {
        Service::new(Some("shop".into())).unwrap()
    }

    fn facts(service: &str, socket: &str) -> Facts {
        // Later lines replace earlier ones.
        let state = |more: &str| UnitState::parse(&format!("{WELL}{more}"));
        Facts {
            service: state(service),
            socket: state(socket),
            metrics: UnitState::parse("LoadState=loaded\nActiveState=inactive\nResult=success\n"),
            check: CheckOutcome::Sound(String::new()),
            control: ControlState::Answers,
            control_path: "/run/rgun-shop/control".into(),
            last_error: None,
            socket_log: String::new(),
            has_pressure: true,
            oom_kills: 0,
        }
    }

    /// Returns the severity and the text of the only finding.
    fn only(facts: &Facts) -> (Severity, String) {
        let found = judge(&shop(), facts);
        let [finding] = found.as_slice() else { panic!("{found:?}") };
        (finding.severity, format!("{} | {}", finding.what, finding.remedy))
    }

    #[test]
    fn running_service_has_no_findings() {
        assert_eq!(judge(&shop(), &facts("", "")), []);
    }

    #[test]
    fn service_that_waits_for_a_connection_has_no_findings() {
        let facts = Facts { control: ControlState::Absent, ..facts("ActiveState=inactive\n", "") };
        assert_eq!(judge(&shop(), &facts), []);
    }

    #[test]
    fn failed_start_is_named_with_its_remedy() {
        for (service, what, remedy) in [
            ("Result=exit-code\nExecMainStatus=217", "217/USER: there is no user rgun-shop", "rgun init"),
            ("Result=exit-code\nExecMainStatus=226", "226/NAMESPACE", "ReadWritePaths=-/path"),
            ("Result=exit-code\nExecMainStatus=78", "exited with status 78: no module", "systemctl restart"),
            ("Result=start-limit-hit", "no longer started", "systemctl reset-failed rgun@shop.service"),
            ("Result=oom-kill", "lack of memory", "workers.max_memory"),
            ("Result=timeout", "within the unit's timeout", "TimeoutStartSec="),
            ("Result=signal", "has failed (signal)", "journalctl -u rgun@shop.service"),
        ] {
            let failed = format!("ActiveState=failed\n{service}\n");
            let facts = Facts { last_error: Some("no module".into()), ..facts(&failed, "") };
            let (severity, text) = only(&facts);
            assert_eq!(severity, Severity::Problem);
            assert!(text.contains(what) && text.contains(remedy), "{text}");
        }
    }

    #[test]
    fn service_without_a_ready_worker_is_a_problem() {
        for numbers in ["0/2 workers ready", "0/2 workers ready, 1 booting", "0/2 workers ready, no zygote"] {
            for active in ["active", "activating"] {
                let line =
                    format!("{numbers}: hooks.post_fork: there is no module; the last reload was refused");
                let (severity, text) =
                    only(&facts(&format!("ActiveState={active}\nStatusText={line}\n"), ""));
                assert_eq!(severity, Severity::Problem);
                assert!(text.contains(&format!("no worker is ready: {line}")), "{text}");
            }
        }
        assert_eq!(judge(&shop(), &facts("StatusText=0/2 workers ready\n", "")), [], "they boot");
    }

    #[test]
    fn socket_that_cannot_listen_is_named() {
        let failed = "ActiveState=failed\nResult=resources\nListen=127.0.0.1:8000 (Stream)\n";
        let log = "Failed to create listening socket (127.0.0.1:8000): Address already in use".to_owned();
        let (_, text) = only(&Facts { socket_log: log, ..facts("", failed) });
        assert!(
            text.contains("cannot listen at 127.0.0.1:8000: another program uses")
                && text.contains("ss -ltnp"),
            "{text}"
        );
        let (_, text) = only(&facts("", "ActiveState=failed\nResult=service-start-limit-hit\n"));
        assert!(text.contains("rgun@shop.socket was closed"), "{text}");
        assert!(text.ends_with("systemctl start rgun@shop.socket rgun@shop.service"), "{text}");
        let (_, text) = only(&facts("ActiveState=inactive\n", "ActiveState=inactive\n"));
        assert!(text.contains("systemctl enable --now rgun@shop.socket"), "{text}");
    }

    #[test]
    fn missing_metrics_are_a_warning() {
        let metrics = |more: &str| {
            UnitState::parse(&format!("LoadState=loaded\nListen=127.0.0.1:9797 (Stream)\n{more}"))
        };
        for (facts, what) in [
            (
                Facts { metrics: metrics("ActiveState=failed\nResult=resources\n"), ..facts("", "") },
                "rgun-metrics@shop.socket cannot listen at 127.0.0.1:9797",
            ),
            (
                Facts {
                    metrics: metrics("ActiveState=inactive\nResult=success\nUnitFileState=enabled\n"),
                    ..facts("", "")
                },
                "rgun-metrics@shop.socket is enabled but not open",
            ),
            (
                facts("StatusText=1/1 workers ready; no metrics: metrics.bind: :1 is in use\n", ""),
                "no metrics are served at an address of metrics.bind",
            ),
        ] {
            let (severity, text) = only(&facts);
            assert_eq!(severity, Severity::Warning);
            assert!(text.contains(what) && text.contains("systemctl restart rgun@shop.service"), "{text}");
        }
        let open = Facts { metrics: metrics("ActiveState=active\nUnitFileState=enabled\n"), ..facts("", "") };
        assert_eq!(judge(&shop(), &open), []);
    }

    #[test]
    fn missing_unit_is_the_only_finding() {
        let (_, text) = only(&facts("LoadState=not-found\nActiveState=inactive\n", ""));
        assert!(text.contains("systemd knows no unit rgun@shop.service"), "{text}");
    }

    #[test]
    fn wrong_configuration_is_a_problem() {
        let wrong = CheckOutcome::Wrong("error: rgun-shop cannot enter /home/ada".into());
        let (severity, text) = only(&Facts { check: wrong, ..facts("", "") });
        assert_eq!(severity, Severity::Problem);
        assert!(text.starts_with("rgun-shop cannot enter /home/ada | repair it"), "{text}");
        let (severity, text) = only(&Facts { check: CheckOutcome::NotRoot, ..facts("", "") });
        assert_eq!(severity, Severity::Warning);
        assert!(text.ends_with("sudo rgun doctor shop"), "{text}");
    }

    #[test]
    fn socket_of_a_dead_daemon_is_a_problem() {
        let stale = Facts { control: ControlState::Refuses, ..facts("ActiveState=inactive\n", "") };
        assert!(only(&stale).1.contains("rm /run/rgun-shop/control"));
    }

    #[test]
    fn what_the_operator_should_know_is_a_warning() {
        for (facts, what) in [
            (Facts { oom_kills: 2, ..facts("", "") }, "killed 2 processes"),
            (Facts { has_pressure: false, ..facts("", "") }, "does not report memory pressure (PSI)"),
            (Facts { last_error: Some("worker 3 died".into()), ..facts("", "") }, "is: worker 3 died"),
            (facts("NRestarts=4\n", ""), "restarted rgun@shop.service 4 times"),
            (facts("NeedDaemonReload=yes\n", ""), "systemd has not read the change"),
            (
                facts("UnitFileState=disabled\n", "UnitFileState=disabled\n"),
                "does not start with the machine",
            ),
        ] {
            let (severity, text) = only(&facts);
            assert_eq!(severity, Severity::Warning);
            assert!(text.contains(what), "{text}");
        }
    }
}
