"""`systemctl reload`: new code takes over once it is ready; otherwise the old code keeps serving."""

import json
import os
import pathlib
import signal
import subprocess

import host
import pytest
from support.processes import children, exists
from support.waiting import wait_until

BROKEN = 'raise LookupError("no database today")'
SLOW_IMPORT = "import time; time.sleep(3)"


@pytest.fixture
def app(trouble_app):
    """Release 1, served by two workers."""
    host.deploy(trouble_app, 1)
    configure(trouble_app)
    host.restart()
    wait_until("two workers", lambda: host.status_text().startswith("2/2 workers ready"))
    return trouble_app


def configure(directory, **options):
    """Writes the configuration for the next restart or reload."""
    host.configure("trouble", directory, **options)


def start_reload():
    """Starts `rgun reload` in the background."""
    return subprocess.Popen(["rgun", "reload"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_outcome(asked, seconds=30):
    """Waits for `rgun reload`; returns its exit status and output."""
    output, _ = asked.communicate(timeout=seconds)
    return asked.returncode, output


def served_release():
    """Returns the release that is served."""
    return host.get("/").text


def workers():
    """Returns the pids of the daemon's children."""
    return set(children(host.main_pid()))


def test_reloads_under_load_lose_no_request(app):
    daemon, first = host.main_pid(), workers()
    with host.load() as load:
        for version in (2, 3, 4):
            host.deploy(app, version)
            host.reload()
            # The reload returns after the switch, so only the new release responds.
            assert {served_release() for _ in range(20)} == {str(version)}
            load.wait_for_more(100)
    print(load)
    assert not load.faults, load
    assert load.retried == 0, f"a reload is not a reason to close a kept connection: {load}"
    assert load.bodies == {b"1", b"2", b"3", b"4"}
    assert host.main_pid() == daemon
    wait_until("the old workers have exited", lambda: not workers() & first and len(workers()) == 2)
    assert host.show("ActiveState") == "active"


def test_running_request_is_finished_by_the_old_code(app):
    running, pid = host.start_slow_request(2)
    host.deploy(app, 2)
    host.reload()
    assert served_release() == "2"
    assert exists(pid), "the old worker exited with a request running"
    assert running.result().json()["pid"] == pid
    wait_until("the old worker has exited", lambda: not exists(pid))


def test_reload_applies_a_changed_configuration(app):
    configure(app, workers=3, extra='[timeouts]\nrequest = "1s"\n', env={"GREETING": "hello"})
    host.reload()
    wait_until("three workers", lambda: len(workers()) == 3)
    assert host.get("/slow/20").status == 504
    assert host.get("/facts").json()["greeting"] == "hello"


def test_reload_switches_to_another_virtual_environment(app):
    interpreters = []
    for name in ("one", "two"):
        venv = pathlib.Path(f"/srv/venv-{name}")
        host.run("/usr/bin/python3", "-m", "venv", "--without-pip", str(venv))
        (site,) = venv.glob("lib/python3*/site-packages")
        (site / "dependency.py").write_text(f"NAME = {name!r}\n")
        interpreters.append(str(venv / "bin/python"))
    code = "import dependency"
    host.deploy(app, 1, code)
    configure(app, python=interpreters[0])
    host.reload()
    assert host.get("/facts").json()["prefix"] == "/srv/venv-one"
    configure(app, python=interpreters[1])
    host.reload()
    assert host.get("/facts").json()["prefix"] == "/srv/venv-two"
    # A missing interpreter is refused.
    configure(app, python="/srv/venv-three/bin/python")
    assert host.reload(check=False).returncode != 0
    code, output = wait_for_outcome(start_reload())
    assert code == 1
    assert "/srv/venv-three/bin/python" in output
    assert host.get("/facts").json()["prefix"] == "/srv/venv-two"


def test_broken_release_fails_the_reload_and_old_code_serves(app):
    before, since = workers(), host.journal_cursor()
    host.deploy(app, 2, BROKEN)
    with host.load() as load:
        assert host.reload(check=False).returncode != 0
        assert host.show("ActiveState") == "active"
        status = host.status_text()
        assert "importing trouble raised LookupError (/srv/trouble/release.py, line 2)" in status
        assert "no database today" not in status, "STATUS= is readable by every user"
        code, output = wait_for_outcome(start_reload())
        load.wait_for_more(100)
    assert code == 1
    assert "LookupError: no database today" in output, output
    assert "release.py" in output, "the traceback's last lines name the place"
    assert not load.faults, load
    assert load.bodies == {b"1"}
    assert before <= workers(), "the old workers are untouched"
    wait_until("only the old workers are left", lambda: workers() == before)
    lines = host.service_log(since)
    assert "rgun reload: " in lines, "the output of ExecReload= is in the journal of the unit"
    assert "Traceback (most recent call last)" in lines

    host.deploy(app, 3)
    host.reload()
    assert served_release() == "3"
    assert "LookupError" not in host.status_text()


def test_wrong_configuration_fails_the_reload_naming_the_key(app):
    configure(app, extra='[timeouts]\nreqest = "30s"\n')
    before = workers()
    assert host.reload(check=False).returncode != 0
    code, output = wait_for_outcome(start_reload())
    assert code == 1
    assert "reqest" in output
    assert workers() == before
    assert served_release() == "1"


def test_release_that_fails_its_probe_gets_no_traffic(app):
    configure(app, extra='[reload]\nprobe = "/healthz"\n')
    host.reload()
    host.deploy(app, 2, "SICK = True")
    with host.load() as load:
        code, output = wait_for_outcome(start_reload())
        load.wait_for_more(50)
    assert code == 1
    assert "/healthz" in output
    assert "503" in output
    assert not load.faults, load
    assert load.bodies == {b"1"}
    host.deploy(app, 3)
    host.reload()
    assert served_release() == "3"


def test_sighup_reloads_in_the_background(app):
    daemon, since = host.main_pid(), host.journal_cursor()
    host.deploy(app, 2)
    os.kill(daemon, signal.SIGHUP)
    wait_until("the new release", lambda: served_release() == "2")
    wait_until("the reload has finished", lambda: host.show("ActiveState") == "active")
    host.deploy(app, 3, BROKEN)
    os.kill(daemon, signal.SIGHUP)
    wait_until("the failure is logged", lambda: "LookupError: no database today" in host.service_log(since))
    assert served_release() == "2"
    assert host.main_pid() == daemon
    assert host.show("NRestarts") == "0"


def test_later_reload_supersedes_a_running_one(app):
    host.deploy(app, 2, SLOW_IMPORT)
    before = workers()
    first = start_reload()
    wait_until("the new generation boots", lambda: workers() - before)
    host.deploy(app, 3)
    assert wait_for_outcome(start_reload())[0] == 0
    assert served_release() == "3"
    code, output = wait_for_outcome(first)
    assert code == 1
    assert "superseded" in output, output


def test_reload_during_the_first_boot_replaces_the_boot(app):
    host.deploy(app, 2, "import time; time.sleep(60)")
    host.systemctl("--no-block", "restart", host.SERVICE)
    wait_until("release 2 boots", lambda: host.show("ActiveState") == "activating" and workers())
    # Until it executes rgun, systemd's own process is the main one, and may have children.
    wait_until("the daemon listens for commands", pathlib.Path("/run/rgun/control").is_socket)
    host.deploy(app, 3)
    assert wait_for_outcome(start_reload())[0] == 0
    assert served_release() == "3"
    wait_until("the service is active", lambda: host.show("ActiveState") == "active")


def test_stop_ends_a_running_reload(app):
    host.deploy(app, 2, SLOW_IMPORT)
    before = workers()
    asked = start_reload()
    wait_until("the new generation boots", lambda: workers() - before)
    host.systemctl("stop", host.SERVICE)
    code, output = wait_for_outcome(asked)
    assert code == 1
    assert "stop" in output, output
    assert host.show("Result") == "success"
    assert host.processes_of("rgun") == []


def test_reload_without_a_daemon_exits_69(app):
    host.systemctl("stop", host.SERVICE)
    code, output = wait_for_outcome(start_reload())
    assert code == 69
    assert "/run/rgun/control" in output


def status():
    """Returns the reply to `rgun status --json`."""
    return json.loads(subprocess.check_output(["rgun", "status", "--json"], timeout=40))


def generations():
    """Returns the generations of the workers, those that drain included."""
    output = subprocess.check_output(["rgun", "workers", "--json"], timeout=40)
    return {worker["generation"] for worker in json.loads(output)["workers"]}


def test_watched_release_with_more_errors_is_rolled_back(app):
    configure(app, extra='[reload]\nwatch = "20s"\n')
    host.reload()
    since = host.journal_cursor()
    with host.load() as load:
        host.deploy(app, 2, "SICK = True")
        host.reload()
        wait_until("release 1 is back", lambda: served_release() == "1", 20)
        wait_until("the workers of release 2 have exited", lambda: generations() == {status()["generation"]})
    assert load.faults, "the new release should answer 500 before the rollback"
    # The clients of the first load may still have had a response of release 2 to read.
    with host.load() as load:
        load.wait_for_more(100)
    assert not load.faults, load
    assert "back" in host.status_text(), host.status_text()
    assert any(entry["PRIORITY"] in "34" for entry in host.journal_of_service(since)), host.service_log(since)
    host.deploy(app, 3)
    host.reload()
    assert served_release() == "3"


def test_boot_and_reload_may_outlast_the_start_timeout(trouble_app):
    """rgun asks systemd for more time (EXTEND_TIMEOUT_USEC=), so that timeouts.boot may be longer."""
    host.deploy(trouble_app, 1, "import time\ntime.sleep(8)")
    host.configure("trouble", trouble_app)
    with host.drop_in("TimeoutStartSec=4s"):
        assert host.get("/").status == 200
        host.deploy(trouble_app, 2, "import time\ntime.sleep(8)")
        host.reload()
        assert host.show("ActiveState") == "active"
        host.deploy(trouble_app, 3)
