"""An ASGI application under systemd: lifespan, deadlines, a blocked event loop, streams, WebSockets."""

import threading
import time

import host
import pytest
from support.processes import children, exists
from support.waiting import wait_until
from support.websocket_client import WebSocket, collect_close_codes


@pytest.fixture(scope="module", autouse=True)
def app(live_app):
    """Two workers; timeouts of one second for a request and two for a blocked event loop."""
    deploy(live_app)
    host.restart()
    return live_app


def deploy(directory, **options):
    extra = '[timeouts]\nrequest = "1s"\nstall = "2s"\ndrain = "20s"\n'
    host.configure("live", directory, extra=extra, **options)


def test_lifespan_starts_before_requests_and_ends_at_restart(app):
    since = host.journal_cursor()
    host.restart()

    def log_since_start():
        # A worker of the stopped daemon may have become ready after the cursor, too.
        return host.service_log(since).rpartition(" starts: ")[2]

    wait_until("both workers are ready", lambda: log_since_start().count("is ready after") == 2)
    assert host.get("/").text == "1"
    since = host.journal_cursor()
    host.restart()
    assert host.service_log(since).count("the application has shut down") == 2, "once for each worker"
    assert host.get("/").text == "1"


def test_task_past_its_deadline_is_504_and_worker_is_kept(app):
    workers, since = children(host.main_pid()), host.journal_cursor()
    began = time.monotonic()
    answer = host.get("/never")
    assert answer.status == 504
    assert 0.9 < time.monotonic() - began < 2.5
    request = answer["x-request-id"]
    entries = wait_until(
        "the request is in the journal", lambda: host.journal(since, RGUN_REQUEST_ID=request)
    )
    wait_until("its stack is logged", lambda: "in forgotten" in host.service_log(since))
    assert any(entry.get("RGUN_STATUS") == "504" for entry in entries), host.messages(entries)
    assert children(host.main_pid()) == workers
    assert host.get("/").status == 200


def test_blocked_event_loop_is_logged_and_worker_replaced(app):
    since = host.journal_cursor()
    running, worker = host.start_request("/block")
    assert running.result().status == 504
    wait_until("the view that blocks is named", lambda: "in block" in host.service_log(since))
    wait_until("the worker has exited", lambda: not exists(worker), 30)
    assert host.get("/").status == 200
    wait_until("there are two workers", lambda: len(children(host.main_pid())) == 2)


def test_failed_startup_keeps_the_old_release(app):
    since = host.journal_cursor()
    with WebSocket(host.ADDRESS, "/ws") as socket:
        assert socket.read_text().startswith("1 ")
        host.deploy(app, 2, 'STARTUP = "the database is not there"')
        assert host.reload(check=False).returncode != 0
        assert "the database is not there" in host.service_log(since)
        assert host.get("/").text == "1"
        socket.send("still there?")
        assert socket.read_text() == "still there?"
    host.deploy(app, 1)


def test_reload_finishes_streams_and_closes_websockets_1012(app):
    host.deploy(app, 1)
    since = host.journal_cursor()
    host.restart()
    sockets = [WebSocket(host.ADDRESS, "/ws") for _ in range(20)]
    assert all(socket.read_text().startswith("1 ") for socket in sockets)
    stream = host.in_background("GET", "/events")
    codes, greetings = [], []

    def client(socket):
        codes.append(socket.wait_for_close())
        with WebSocket(host.ADDRESS, "/ws") as again:
            greetings.append(again.read_text())

    clients = [threading.Thread(target=client, args=(socket,), daemon=True) for socket in sockets]
    for thread in clients:
        thread.start()
    host.deploy(app, 2)
    with host.load(clients=4) as load:
        host.reload()
        for thread in clients:
            thread.join(30)
    assert not load.faults, load
    assert codes == [1012] * 20, codes
    assert len(greetings) == 20
    assert all(greeting.startswith("2 ") for greeting in greetings), greetings
    text = stream.result().text
    assert text.endswith("data: 1 39\n\n"), text[-200:]
    ended = host.service_log(since).count("a socket of release 1 ended with 1012")
    assert ended == 20
    host.deploy(app, 1)
    host.reload()


def test_stop_closes_websockets_with_1012(app):
    since = host.journal_cursor()
    sockets = [WebSocket(host.ADDRESS, "/ws") for _ in range(5)]
    for socket in sockets:
        socket.read_text()
    codes = collect_close_codes(sockets)
    began = time.monotonic()
    host.systemctl("stop", host.SERVICE)
    assert time.monotonic() - began < 10
    assert codes(10) == [1012] * 5
    assert host.service_log(since).count("ended with 1012") == 5
    host.restart()


def test_thousand_idle_websockets_do_not_block_requests(app):
    sockets = [WebSocket(host.ADDRESS, "/ws") for _ in range(1000)]
    for socket in sockets:
        socket.read_text()
    with host.load(clients=4) as load:
        load.wait_for_more(500)
    assert not load.faults, load
    sockets[500].send("you?")
    assert sockets[500].read_text() == "you?"
    for socket in sockets:
        socket.close()
