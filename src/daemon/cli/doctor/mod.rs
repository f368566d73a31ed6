//! `rgun doctor [NAME]`: looks at a service, and says what is wrong and what to do.
//!
//! `facts` reads systemd's state of the units, the journal, the control socket and the result of
//! `rgun check`; `findings` judges them, with the table `exec_failures`. Nothing is changed.

mod exec_failures;
mod facts;
mod findings;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

use super::service::Service;
use super::unit_state::describe_sleep;
use crate::exit_status::EX_UNAVAILABLE;
use facts::Facts;
use findings::{Finding, Severity, judge};

/// The arguments of `rgun doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoctorRequest {
    /// The service to look at.
    pub(super) service: Service,
    /// Whether to print JSON.
    pub(super) json: bool,
}

/// Prints the findings. Returns the exit status: 0 without a problem, 1 with one, 69 if no systemd
/// answers.
pub fn run(request: &DoctorRequest) -> ExitCode {
    let facts = match Facts::read(&request.service) {
        Ok(facts) => facts,
        Err(reason) => {
            // Fails only if stderr is closed.
            let _ = writeln!(
                io::stderr(),
                "error: {reason}\n    hint: rgun doctor looks at a service of systemd"
            );
            return ExitCode::from(EX_UNAVAILABLE);
        }
    };
    let findings = judge(&request.service, &facts);
    let is_well = !findings.iter().any(|finding| finding.severity == Severity::Problem);
    let unit = request.service.service_unit();
    // systemd keeps the daemon's last STATUS= after the exit.
    let is_stopped = facts.service.get("ActiveState") == "inactive";
    let last_line = if is_stopped { "" } else { facts.service.get("StatusText") };
    let status = describe_sleep(&facts.service, &facts.socket).unwrap_or(last_line);
    let text =
        if request.json { json(&unit, is_well, status, &findings) } else { text(&unit, status, &findings) };
    let printed = io::stdout().write_all(text.as_bytes());
    if is_well && printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Formats the findings for reading. `status` is the daemon's own line about its state, or the
/// description of a service that sleeps.
fn text(unit: &str, status: &str, findings: &[Finding]) -> String {
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let mut text = match (count(Severity::Problem), count(Severity::Warning)) {
        (0, 0) => format!("{unit}: no problem found"),
        (problems, warnings) => format!("{unit}: problems: {problems}, warnings: {warnings}"),
    };
    if !status.is_empty() {
        // Writing to a String cannot fail.
        let _ = write!(text, "\nstatus: {status}");
    }
    text.push('\n');
    for Finding { severity, what, remedy } in findings {
        let _ = writeln!(text, "\n{}: {what}\n    remedy: {remedy}", word(*severity));
    }
    text
}

/// Formats the findings as one JSON object.
fn json(unit: &str, is_well: bool, status: &str, findings: &[Finding]) -> String {
    let findings: Vec<_> = findings
        .iter()
        .map(|Finding { severity, what, remedy }| {
            serde_json::json!({ "severity": word(*severity), "what": what, "remedy": remedy })
        })
        .collect();
    format!(
        "{}\n",
        serde_json::json!({ "unit": unit, "ok": is_well, "status": status, "findings": findings })
    )
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Problem => "problem",
        Severity::Warning => "warning",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding() -> Finding {
        Finding { severity: Severity::Problem, what: "A \"b\"".into(), remedy: "c".into() }
    }

    #[test]
    fn text_has_each_finding_with_its_remedy() {
        assert_eq!(text("rgun.service", "", &[]), "rgun.service: no problem found\n");
        assert_eq!(
            text("rgun.service", "ready", &[finding()]),
            "rgun.service: problems: 1, warnings: 0\nstatus: ready\n\nproblem: A \"b\"\n    remedy: c\n"
        );
    }

    #[test]
    fn json_is_one_object() {
        let parsed: serde_json::Value =
            serde_json::from_str(&json("rgun.service", false, "ready", &[finding()])).unwrap();
        assert_eq!((&parsed["ok"], &parsed["status"]), (&false.into(), &"ready".into()));
        assert_eq!(parsed["findings"][0]["what"], "A \"b\"");
        assert_eq!(parsed["findings"][0]["severity"], "problem");
    }
}
