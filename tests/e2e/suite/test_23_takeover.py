"""A WSGI application that takes over WebSockets, served by the package: close, reload and stop."""

import host
import pytest
from support.waiting import wait_until
from support.websocket_client import WebSocket, collect_close_codes


@pytest.fixture(scope="module", autouse=True)
def app(takeover_app):
    """Two workers with four threads."""
    host.configure("takeover", takeover_app, threads=4)
    host.restart()
    return takeover_app


def errors(since):
    """The messages of the service at level error or worse since a cursor."""
    entries = host.journal_of_service(since)
    return host.messages([entry for entry in entries if int(entry.get("PRIORITY", 6)) <= 3])


def opened(release, count=4):
    """Opens WebSockets that the release has greeted."""
    sockets = [WebSocket(host.ADDRESS, "/ws") for _ in range(count)]
    assert [socket.read_text() for socket in sockets] == [str(release)] * count
    for socket in sockets:
        socket.send("still there?")
        assert socket.read_text() == "still there?"
    return sockets


def test_close_by_the_client_leaves_no_error_in_the_journal(app):
    since = host.journal_cursor()
    for socket in opened(1):
        with socket:
            socket.send(b"\x03\xe8", 8)
            assert socket.wait_for_close() == 1000
    wait_until("the application has seen it", lambda: host.service_log(since).count("ended with 1000") == 4)
    # The request is logged after the sockets before it.
    assert host.get("/").text == "1"
    assert errors(since) == []


def test_reload_finishes_requests_and_closes_sockets_1012(app):
    host.deploy(app, 1)
    host.restart()
    since = host.journal_cursor()
    sockets = opened(1)
    running, _ = host.start_request("/slow/2")
    codes = collect_close_codes(sockets)
    host.deploy(app, 2)
    host.reload()
    assert running.result().text == "1", "the request began before the reload"
    assert codes(30) == [1012] * 4
    assert host.get("/").text == "2"
    wait_until(
        "the old release has ended", lambda: host.service_log(since).count("release 1 ended with 1012") == 4
    )
    assert errors(since) == []
    for socket in opened(2):
        socket.close()


def test_stop_closes_sockets_1012_after_running_requests(app):
    since = host.journal_cursor()
    release = int(host.get("/").text)
    sockets = opened(release)
    running, _ = host.start_request("/slow/2")
    codes = collect_close_codes(sockets)
    host.systemctl("stop", host.SERVICE)
    assert running.result().status == 200
    assert codes(30) == [1012] * 4
    assert host.show("Result") == "success"
    assert errors(since) == []
    host.systemctl("start", host.SERVICE)
    assert host.get("/").text == str(release)
