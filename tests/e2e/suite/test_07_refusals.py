"""A wrong configuration is said once and ends it; an application that cannot boot is waited for."""

import host
import pytest
from support.waiting import assert_stays, wait_until

EX_USAGE, EX_CONFIG = 64, 78


@pytest.fixture(autouse=True)
def repaired(probe_app):
    """After each test a sound configuration, and proof that a restart is all the repair it takes."""
    yield
    host.configure("probe", probe_app)
    host.restart()
    assert host.get("/").status == 200


def refused_start():
    """Restart, which must fail with 78 and stay failed; returns what the journal says about it."""
    host.systemctl("reset-failed", host.SERVICE, host.SOCKET, check=False)
    since = host.journal_cursor()
    assert host.systemctl("restart", host.SERVICE, check=False).returncode != 0
    # A service that is to be restarted would be "activating", in "auto-restart", from the same instant on.
    assert host.show("ActiveState") == "failed"
    assert host.show("Result") == "exit-code"
    assert host.show("ExecMainStatus") == str(EX_CONFIG)
    return host.service_log(since)


def unserved(words, headline):
    """Restart with an application that cannot boot, until the journal has these words, STATUS= the headline.

    Clients are told neither. Returns where the journal was before.
    """
    host.systemctl("reset-failed", host.SERVICE, host.SOCKET, check=False)
    since = host.journal_cursor()
    host.systemctl("--no-block", "restart", host.SERVICE)

    def told():
        answer = host.get("/")
        return answer.status == 503 and "is not available" in answer.text and answer

    answer = wait_until("503", told)
    assert int(answer["retry-after"]) > 0
    assert answer["x-request-id"] in answer.text
    assert words not in answer.text
    assert host.show("ActiveState") == "activating", "READY=1 is for those who can serve"
    wait_until(f"{headline} in STATUS=", lambda: headline in host.status_text())
    assert words == headline or words not in host.status_text(), host.status_text()
    wait_until("the journal has it all", lambda: words in host.service_log(since))
    return since


def test_unknown_key_is_named_with_the_closest_known_key(probe_app):
    host.configure("probe", probe_app, extra='[timeouts]\nreqest = "30s"\n')
    told = refused_start()
    assert "reqest" in told
    assert "request" in told
    assert str(host.CONFIG) in told


def test_wrong_configuration_is_not_retried(probe_app):
    host.configure("probe", probe_app, workers=0)
    refused_start()
    # RestartSec= is one second.
    assert_stays("failed", lambda: host.show("ActiveState") == "failed", 1.5)
    assert host.show("NRestarts") == "0"


def test_wrong_value_is_named_with_its_key(probe_app):
    host.configure("probe", probe_app, extra='[timeouts]\nrequest = "30 parsecs"\n')
    told = refused_start()
    assert "timeouts.request" in told
    assert "parsecs" in told


def test_all_configuration_errors_are_reported_at_once(probe_app):
    host.configure("probe", probe_app, workers=-1, python="/usr/bin/no-such-python")
    told = refused_start()
    assert "workers.count" in told
    assert "/usr/bin/no-such-python" in told


def test_missing_directory_is_named():
    host.configure("probe", "/srv/no-such-directory")
    told = refused_start()
    assert "app.directory" in told
    assert "/srv/no-such-directory" in told


def test_missing_module_is_named_in_the_journal_only(probe_app):
    host.configure("no_such_module", probe_app)
    since = unserved("no_such_module", "no_such_module")
    assert str(probe_app) in host.service_log(since)


def test_import_error_logs_its_traceback_once(probe_app):
    (probe_app / "broken.py").write_text('raise LookupError("no database today")\n')
    host.configure("broken", probe_app)
    since = unserved("LookupError: no database today", "LookupError (")
    assert "broken.py, line 1)" in host.status_text()
    wait_until("further attempts", lambda: host.service_log(since).count("did not boot") > 2)
    told = host.service_log(since)
    assert told.count("Traceback (most recent call last)") == 1, told
    assert "broken.py" in told


def test_attribute_that_is_not_callable_is_named(probe_app):
    (probe_app / "scalar.py").write_text("application = 42\n")
    host.configure("scalar", probe_app)
    assert "cannot be called" in host.service_log(unserved("scalar", "scalar"))


def test_repaired_application_serves_without_a_restart(probe_app):
    broken = probe_app / "broken.py"
    broken.write_text('raise LookupError("no database today")\n')
    host.configure("broken", probe_app)
    unserved("LookupError: no database today", "LookupError (")
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
    """Each client that comes causes a start, until the socket gives up; then it is refused."""
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
    assert 1 <= len(exits) <= 12, f"{len(exits)} starts"
    assert {entry["EXIT_STATUS"] for entry in exits} == {str(EX_CONFIG)}
    assert host.port_is_closed(), "clients hang instead of being told"
