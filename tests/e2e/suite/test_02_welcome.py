"""The first minutes: enable the socket, open the page."""

import pathlib
import platform
import pwd
import re

import host
import pytest
from support.processes import children
from support.waiting import wait_until


@pytest.fixture(scope="module", autouse=True)
def fresh(enabled):
    """The enabled socket and the shipped configuration, with the service stopped."""
    host.systemctl("stop", host.SERVICE)


def test_enabled_socket_listens_and_service_is_inactive():
    assert show_state(host.SOCKET) == ("active", "listening")
    assert show_state(host.SERVICE) == ("inactive", "dead")
    assert host.systemctl("is-enabled", host.SOCKET).stdout.strip() == "enabled"


def test_first_connection_starts_service_and_shows_welcome():
    answer = host.get("/")
    assert answer.status == 200
    assert answer["content-type"].startswith("text/html")
    assert "<b>rgun</b> works" in answer.text
    assert show_state(host.SERVICE) == ("active", "running")


def test_welcome_page_runs_on_system_python_as_user_rgun():
    assert platform.python_version() in host.get("/").text
    workers = children(host.main_pid())
    assert workers, "the daemon has no worker"
    uid = pwd.getpwnam("rgun").pw_uid
    for pid in [host.main_pid(), *workers]:
        assert pathlib.Path(f"/proc/{pid}").stat().st_uid == uid


def test_head_has_the_length_and_no_body():
    whole, head = host.get("/"), host.request("HEAD", "/")
    assert (head.status, head.body) == (200, b"")
    assert head["content-length"] == str(len(whole.body))


def test_other_paths_are_404():
    assert host.get("/favicon.ico").status == 404


def test_systemctl_status_shows_the_daemons_status_line():
    complete = re.compile(r"(\d+)/\1 workers ready")
    wait_until("all workers are ready", lambda: complete.fullmatch(host.show("StatusText")))
    assert f'Status: "{host.show("StatusText")}' in host.systemctl("status", host.SERVICE).stdout


def test_next_connection_starts_a_stopped_service():
    host.systemctl("stop", host.SERVICE)
    assert show_state(host.SOCKET) == ("active", "listening")
    assert host.get("/").status == 200


def show_state(unit):
    return host.show("ActiveState", unit), host.show("SubState", unit)
