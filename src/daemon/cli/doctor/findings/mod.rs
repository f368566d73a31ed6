//! What `rgun doctor` concludes from the facts: each finding with its remedy.

use super::exec_failures::EXEC_FAILURES;
use super::facts::{CheckOutcome, ControlState, Facts, OomKills, REPLY_TIMEOUT};
use crate::cli::service::Service;
use crate::control::NO_METRICS;
use crate::exit_status::EX_CONFIG;

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
        findings.check_ignored_lines();
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

    fn check_ignored_lines(&mut self) {
        for line in &self.facts.ignored_lines {
            self.warning(
                format!("systemd ignores a line: {line}"),
                format!(
                    "correct it, then run: systemctl daemon-reload; systemctl restart {}",
                    self.names.service_unit()
                ),
            );
        }
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
                "limit the workers (set workers.max_memory, or lower it), use fewer workers, or raise MemoryMax= of the \
                 unit",
            ),
            // rgun asks for more time (EXTEND_TIMEOUT_USEC=) while the first boot, a reload or a stop is in
            // progress; timeouts.boot and timeouts.drain thus may be longer than the unit's timeouts.
            "timeout" => self.problem(
                format!(
                    "{unit} was not ready within TimeoutStartSec=, because its application did not boot, or its processes \
                     had not ended within TimeoutStopSec={}",
                    self.last_error_text()
                ),
                format!("journalctl -u {unit} names the cause; repair it, then run: systemctl restart {unit}"),
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
                    // The check has found the same, with the place.
                    None if status.parse() == Ok(EX_CONFIG)
                        && matches!(facts.check, CheckOutcome::Wrong(_)) => {}
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
        if matches!(state.get("ActiveState"), "active" | "reloading" | "activating")
            && let Some(reason) = self.find_outage()
        {
            self.problem(
                format!("{unit} answers 503, because no worker is ready: {reason}"),
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

    /// Returns why requests are answered 503; `None` if they are served, or wait for a worker that boots.
    fn find_outage(&self) -> Option<String> {
        let facts = self.facts;
        if let ControlState::Answers(status) = &facts.control {
            return status.unavailable.clone();
        }
        // Without a reply, only the status line is left.
        let line = facts.service.get("StatusText");
        // The reason follows the numbers; notes follow after a semicolon.
        let has_reason = line.split("; ").next().is_some_and(|workers| workers.contains(": "));
        (line.starts_with("0/") && has_reason).then(|| line.to_owned())
    }

    /// Returns the last error as an addition to a sentence.
    fn last_error_text(&self) -> String {
        self.facts.last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default()
    }

    fn check_control_socket(&mut self) {
        let (unit, path) = (self.names.service_unit(), self.facts.control_path.display());
        if self.facts.control == ControlState::Silent {
            let seconds = REPLY_TIMEOUT.as_secs();
            self.problem(
                format!("the daemon has not answered on {path} for {seconds} s, so its main thread hangs"),
                format!("report it with: journalctl -u {unit}; then run: systemctl restart {unit}"),
            );
        }
        if self.facts.control == ControlState::Absent && self.facts.service.is_active() {
            self.problem(
                format!("the daemon runs without {path}, so rgun reload, rgun status and others cannot reach it"),
                format!(
                    "write RuntimeDirectory={} into the unit (systemctl edit {unit}), then run: systemctl restart {unit}",
                    self.names.user()
                ),
            );
        }
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
            let again = format!("systemctl reset-failed {unit}; systemctl restart {service}");
            match state.get("Result") {
                "resources" => self.warning(
                    format!("{unit} cannot listen at {address}, so there are no metrics"),
                    format!(
                        "journalctl -u {unit} has the reason; ss -ltnp names a program that uses the address; then run: \
                         {again}"
                    ),
                ),
                "service-start-limit-hit" | "trigger-limit-hit" | "start-limit-hit" => self.warning(
                    format!(
                        "{unit} was closed, because the service failed to start several times in a short time; there are \
                         no metrics"
                    ),
                    format!("repair the cause, then run: {again}"),
                ),
                result => self.warning(
                    format!("{unit} has failed ({result}), so there are no metrics"),
                    format!("journalctl -u {unit} has the reason; then run: {again}"),
                ),
            }
        } else if state.is_loaded() && state.is_enabled() && facts.service.is_active() && !state.is_active() {
            self.warning(
                format!("{unit} is enabled but not open, because {service} was already running"),
                format!("systemctl restart {service}"),
            );
        }
        if facts.service.is_active() && facts.service.get("StatusText").contains(NO_METRICS) {
            self.warning(
                "no metrics are served at some of the addresses of metrics.bind; the status line has the reason",
                format!("free the address, or correct metrics.bind; then run: systemctl restart {service}"),
            );
        }
    }

    fn check_memory(&mut self) {
        let OomKills { killed, reached_unit_limit, has_worker_limit } = self.facts.oom;
        if killed == 0 {
            return;
        }
        let unit = self.names.service_unit();
        let processes = if killed == 1 { "a process" } else { &format!("{killed} processes") };
        let what = format!("the kernel has killed {processes} of {unit} for lack of memory");
        match (reached_unit_limit, has_worker_limit) {
            (true, _) => self.warning(
                format!("{what}; the service has reached the limit of the unit"),
                format!("raise MemoryMax= (systemctl edit {unit}), lower workers.max_memory, or use fewer workers"),
            ),
            (false, true) => self.warning(
                format!("{what}; workers are limited by workers.max_memory, which one may have exceeded by half"),
                format!(
                    "journalctl -u {unit} -p warning names the worker, its requests and the limit: repair the request, \
                     or raise workers.max_memory"
                ),
            ),
            (false, false) => self.warning(
                what,
                "set workers.max_memory, so that a worker is replaced before it is killed, or use fewer workers",
            ),
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
mod tests;
