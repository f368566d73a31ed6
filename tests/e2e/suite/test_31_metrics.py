"""rgun-metrics.socket: it opens and closes with the service, and never starts it."""

import pathlib
import re
import socket

import host
import pytest
from support.http_client import Connection
from support.waiting import wait_until

ADDRESS = ("127.0.0.1", 9797)
SOCKET = "rgun-metrics.socket"
METRICS_FAILED = "b6edeedca16b4069ab041a25170ef3e5"


@pytest.fixture(scope="module")
def metrics(probe):
    """The enabled socket of the service, after the restart that the manual describes."""
    host.systemctl("enable", SOCKET)
    with host.load() as load:
        host.systemctl("restart", host.SERVICE)
    assert not load.faults, load
    yield ADDRESS
    host.systemctl("disable", "--now", SOCKET)
    host.restart()


def scrape(address, path="/metrics"):
    """Returns the response to a request for the metrics."""
    with Connection(address) as connection:
        return connection.request("GET", path)


def value(text, name):
    """Returns the value of a sample."""
    return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)[1])


def is_open(unit=SOCKET):
    """Returns whether systemd holds the socket."""
    return host.show("ActiveState", unit) == "active"


def test_socket_is_off_by_default(installed):
    assert host.run("systemctl", "is-enabled", SOCKET, check=False).stdout.strip() == "disabled"
    assert not is_open()


def test_systemd_analyze_verify_reports_nothing():
    units = [SOCKET, "rgun-metrics@verify.socket"]
    done = host.run("systemd-analyze", "verify", "--man=no", *units, check=False)
    assert "metrics" not in done.stdout + done.stderr, done.stderr


def test_metrics_are_served_after_a_restart(metrics):
    before = scrape(metrics).body.decode()
    assert host.get("/").status == 200
    after = scrape(metrics).body.decode()
    counted = [value(text, 'rgun_http_responses_total{class="2xx"}') for text in (before, after)]
    assert counted[1] == counted[0] + 1
    ready = 'rgun_workers{state="ready"}'
    wait_until("both workers are ready", lambda: value(scrape(metrics).body.decode(), ready) == 2)
    assert scrape(metrics, "/").status == 404
    assert host.show("Triggers", SOCKET) == host.SERVICE


def test_scrape_does_not_start_a_stopped_service(metrics):
    host.systemctl("stop", host.SERVICE)
    wait_until("the socket for metrics is closed", lambda: not is_open())
    with pytest.raises(ConnectionRefusedError):
        scrape(metrics)
    assert host.show("ActiveState") == "inactive"
    # The socket of the application starts the service, which opens the other socket.
    assert host.get("/").status == 200
    assert is_open()
    assert scrape(metrics).status == 200


def test_scrapes_wait_during_a_restart(metrics):
    pid = host.main_pid()
    host.systemctl("restart", "--no-block", host.SERVICE)
    while host.main_pid() in (0, pid):
        assert scrape(metrics).status in (200, 503)
    assert scrape(metrics).status == 200
    assert is_open()


def test_killed_daemon_does_not_close_the_socket(metrics):
    pid = host.main_pid()
    host.run("kill", "-KILL", str(pid))
    wait_until("systemd starts the service again", lambda: host.main_pid() not in (0, pid))
    assert is_open()
    assert scrape(metrics).status == 200


def test_instance_has_a_unix_socket_for_metrics(probe_app):
    instance = host.Instance("measured")
    instance.create("probe", probe_app, workers=1)
    unit = f"rgun-metrics@{instance.name}.socket"
    host.systemctl("enable", unit)
    host.systemctl("enable", "--now", instance.socket)
    try:
        assert instance.get("/").status == 200
        path = pathlib.Path(f"/run/rgun-{instance.name}.metrics.sock")
        assert path.stat().st_mode & 0o777 == 0o660
        assert value(scrape(str(path)).body.decode(), "rgun_workers_ready") == 1
        host.systemctl("stop", instance.service)
        wait_until("the socket for metrics is removed", lambda: not path.exists())
    finally:
        host.systemctl("disable", "--now", unit)
        instance.remove()


def test_bind_in_use_leaves_the_application_served(metrics, probe_app):
    host.systemctl("disable", "--now", SOCKET)
    # The running service has the socket open.
    host.systemctl("stop", host.SERVICE)
    host.configure("probe", probe_app, extra='[metrics]\nbind = "127.0.0.1:9797"\n')
    since = host.journal_cursor()
    with socket.create_server(metrics):
        host.restart()
    try:
        assert host.get("/").status == 200
        (entry,) = host.journal(since, MESSAGE_ID=METRICS_FAILED)
        assert entry["PRIORITY"] == "3"
        assert "metrics.bind: 127.0.0.1:9797 is in use" in entry["MESSAGE"]
        assert "`systemctl restart rgun`" in entry["MESSAGE"]
        assert "no metrics are served at 127.0.0.1:9797: metrics.bind: " in host.status_text()
        doctor = host.run("rgun", "doctor")
        assert "no metrics are served at some of the addresses of metrics.bind" in doctor.stdout
    finally:
        host.configure("probe", probe_app)
        host.restart()


def test_doctor_names_a_socket_that_is_not_open(metrics, probe_app):
    host.systemctl("disable", "--now", SOCKET)
    host.restart()
    host.systemctl("enable", SOCKET)
    doctor = host.run("rgun", "doctor")
    assert f"{SOCKET} is enabled but not open" in doctor.stdout
    host.systemctl("stop", host.SERVICE)
    with socket.create_server(metrics):
        host.restart()
        doctor = host.run("rgun", "doctor")
        assert f"{SOCKET} cannot listen at 127.0.0.1:9797" in doctor.stdout
        assert host.get("/").status == 200
    host.systemctl("reset-failed", SOCKET)
    host.restart()
    assert SOCKET not in host.run("rgun", "doctor").stdout


def test_bind_needs_no_socket_unit(metrics, probe_app):
    host.systemctl("disable", "--now", SOCKET)
    host.configure("probe", probe_app, extra='[metrics]\nbind = "127.0.0.1:9797"\n')
    try:
        host.restart()
        assert value(scrape(metrics).body.decode(), "rgun_workers_ready") >= 1
        assert not is_open()
    finally:
        host.configure("probe", probe_app)
        host.restart()
