"""A wrong configuration ends the service; an application that cannot boot is retried."""

import re

import host
import pytest
from support.waiting import assert_stays, wait_until

EX_USAGE, EX_CONFIG = 64, 78
START_FAILED = "c1b1de68c54042a4a4eaad12df34e232"


@pytest.fixture(autouse=True)
def repaired(probe_app):
    """Restores the configuration after each test and checks that a restart serves again."""
    yield
    host.configure("probe", probe_app)
    host.restart()
    assert host.get("/").status == 200


def fail_to_start():
    """Restarts the service, which must fail with 78; returns its log."""
    host.systemctl("reset-failed", host.SERVICE, host.SOCKET, check=False)
    since = host.journal_cursor()
    assert host.systemctl("restart", host.SERVICE, check=False).returncode != 0
    # If systemd were to restart it, the state would be "activating" (auto-restart).
    assert host.show("ActiveState") == "failed"
    assert host.show("Result") == "exit-code"
    assert host.show("ExecMainStatus") == str(EX_CONFIG)
    return host.service_log(since)


def restart_unbootable(words, headline):
    """Restarts with an application that cannot boot, until the journal has `words` and STATUS= `headline`.

    Checks that clients see neither. Returns the journal's cursor before the restart.
    """
    host.systemctl("reset-failed", host.SERVICE, host.SOCKET, check=False)
    since = host.journal_cursor()
    host.systemctl("--no-block", "restart", host.SERVICE)

    def unavailable():
        answer = host.get("/")
        return answer.status == 503 and "is not available" in answer.text and answer

    answer = wait_until("503", unavailable)
    assert int(answer["retry-after"]) > 0
    assert answer["x-request-id"] in answer.text
    assert words not in answer.text
    assert host.show("ActiveState") == "activating", "READY=1 was sent before the service can serve"
    wait_until(f"{headline} in STATUS=", lambda: headline in host.status_text())
    assert words == headline or words not in host.status_text(), host.status_text()
    wait_until("the journal has the reason", lambda: words in host.service_log(since))
    return since


def test_unknown_key_is_named_with_the_closest_known_key(probe_app):
    host.configure("probe", probe_app, extra='[timeouts]\nreqest = "30s"\n')
    output = fail_to_start()
    assert "reqest" in output
    assert "request" in output
    assert str(host.CONFIG) in output


def test_wrong_configuration_is_an_error_in_journal_and_status(probe_app):
    host.configure("probe", probe_app, extra='[timeouts]\nrequest = "30 parsecs"\n')
    since = host.journal_cursor()
    fail_to_start()
    (entry,) = host.journal(since, MESSAGE_ID=START_FAILED)
    assert entry["PRIORITY"] == "3"
    assert entry["_SYSTEMD_UNIT"] == host.SERVICE
    assert "timeouts.request" in entry["MESSAGE"]
    assert "parsecs" in entry["MESSAGE"]
    plain = [text for text in host.messages(host.journal(since, _TRANSPORT="stdout")) if "parsecs" in text]
    assert plain == []
    status = host.status_text()
    assert "timeouts.request is wrong" in status
    assert "parsecs" not in status, "every user may read it"
    explained = host.run("journalctl", "-x", "-q", "--no-pager", f"MESSAGE_ID={START_FAILED}").stdout
    assert "rgun could not start" in explained


def test_reason_of_each_failed_start_is_in_the_units_journal(probe_app):
    """The daemon logs it as its last act, and journald looks up the unit of the process that has sent it."""
    host.configure("probe", probe_app, workers=0)
    host.systemctl("stop", host.SERVICE)
    since = host.journal_cursor()
    for _ in range(20):
        host.systemctl("start", host.SERVICE, check=False)
    reasons = [entry for entry in host.journal_of_service(since) if entry.get("MESSAGE_ID") == START_FAILED]
    assert len(reasons) == 20


def test_wrong_configuration_is_not_retried(probe_app):
    host.configure("probe", probe_app, workers=0)
    fail_to_start()
    # RestartSec= is one second, so a retry would have started.
    assert_stays("failed", lambda: host.show("ActiveState") == "failed", 1.5)
    assert host.show("NRestarts") == "0"


def test_wrong_value_is_named_with_its_key(probe_app):
    host.configure("probe", probe_app, extra='[timeouts]\nrequest = "30 parsecs"\n')
    output = fail_to_start()
    assert "timeouts.request" in output
    assert "parsecs" in output


def test_all_configuration_errors_are_reported_at_once(probe_app):
    host.configure("probe", probe_app, workers=-1, python="/usr/bin/no-such-python")
    output = fail_to_start()
    assert "workers.count" in output
    assert "/usr/bin/no-such-python" in output


def test_missing_directory_is_named():
    host.configure("probe", "/srv/no-such-directory")
    output = fail_to_start()
    assert "app.directory" in output
    assert "/srv/no-such-directory" in output


def test_missing_module_is_named_in_the_journal_only(probe_app):
    host.configure("no_such_module", probe_app)
    since = restart_unbootable("no_such_module", "no_such_module")
    assert str(probe_app) in host.service_log(since)


def test_import_error_logs_its_traceback_once(probe_app):
    (probe_app / "broken.py").write_text('raise LookupError("no database today")\n')
    host.configure("broken", probe_app)
    since = restart_unbootable("LookupError: no database today", "LookupError (")
    assert "broken.py, line 1)" in host.status_text()
    wait_until("further attempts", lambda: host.service_log(since).count("did not boot") > 2)
    output = host.service_log(since)
    assert output.count("Traceback (most recent call last)") == 1, output
    assert "broken.py" in output


def test_attribute_that_is_not_callable_is_named(probe_app):
    (probe_app / "scalar.py").write_text("application = 42\n")
    host.configure("scalar", probe_app)
    assert "cannot be called" in host.service_log(restart_unbootable("scalar", "scalar"))


def test_repaired_application_serves_without_a_restart(probe_app):
    broken = probe_app / "broken.py"
    broken.write_text('raise LookupError("no database today")\n')
    host.configure("broken", probe_app)
    restart_unbootable("LookupError: no database today", "LookupError (")
    daemon = host.main_pid()
    repaired = broken.with_suffix(".new")
    repaired.write_text("from probe import application\n")
    repaired.rename(broken)
    wait_until("the application answers", lambda: host.get("/").status == 200, 30)
    wait_until("the service is active", lambda: host.show("ActiveState") == "active")
    assert host.main_pid() == daemon
    assert host.show("NRestarts") == "0"
    assert "LookupError" not in host.status_text()


def test_check_reports_the_error_without_starting(probe_app):
    host.configure("no_such_module", probe_app)
    done = host.run("rgun", "check", check=False)
    assert done.returncode == EX_CONFIG
    assert "no_such_module" in done.stdout + done.stderr


def test_unknown_flag_is_a_usage_error():
    assert host.run("rgun", "--no-such-flag", check=False).returncode == EX_USAGE


def test_wrong_configuration_reaches_the_sockets_start_limit(probe_app):
    """Each client causes a start until the socket reaches its limit and refuses connections."""
    host.configure("probe", probe_app, workers=0)
    host.systemctl("stop", host.SERVICE)
    host.systemctl("reset-failed", host.SERVICE, host.SOCKET, check=False)
    since = host.journal_cursor()
    for _ in range(40):
        if host.show("ActiveState", host.SOCKET) == "failed":
            break
        host.try_request("/")
    assert host.show("ActiveState", host.SOCKET) == "failed"
    exits = [entry for entry in host.journal(since, UNIT=host.SERVICE) if "EXIT_STATUS" in entry]
    # Ten in a window of TriggerLimitIntervalSec=, which may have begun earlier and may end meanwhile.
    assert 1 <= len(exits) <= 22, f"{len(exits)} starts"
    assert {entry["EXIT_STATUS"] for entry in exits} == {str(EX_CONFIG)}
    assert host.port_is_closed(), "clients wait instead of being refused"
    host.configure("probe", probe_app)
    doctor = host.run("rgun", "doctor", check=False)
    assert doctor.returncode == 1
    (commands,) = re.findall("repair the cause, then run: (systemctl reset-failed .*)", doctor.stdout)
    # Within the minute of TriggerLimitIntervalSec=, the socket alone would fail again.
    assert (
        commands
        == "systemctl reset-failed rgun.socket rgun.service; systemctl start rgun.socket rgun.service"
    )
    host.run("sh", "-c", commands)
    assert host.get("/").status == 200
