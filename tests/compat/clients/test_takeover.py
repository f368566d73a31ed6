"""WSGI applications that take over a connection: flask-sock, simple-websocket, Flask-SocketIO."""

import contextlib
import hashlib
import os
import secrets
import signal
import socket
import threading

import pytest
import socketio
from support.http_client import Connection
from support.waiting import DEADLINE, wait_until
from support.websocket_client import WebSocket
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

MIB = 1 << 20
HANDSHAKE = [
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Version", "13"),
]


@pytest.fixture(scope="module")
def server(start):
    return start("with_flask_sock", "--threads", "8", "--access-logfile", "-")


@pytest.fixture
def private_server(start):
    """A daemon for one test, which may kill its worker or reload the daemon."""
    return start("with_flask_sock", "--threads", "8")


def close_code(ws):
    """Waits for the end of a connection and returns the close code that the client has received."""
    with pytest.raises(ConnectionClosed) as closed:
        ws.recv(DEADLINE)
    return closed.value.rcvd.code if closed.value.rcvd else None


def wait_for(server, marker, expected):
    wait_until(
        f"{expected} of {marker}\n{server.log()}", lambda: server.get(f"/seen/{marker}").json() == expected
    )


# ------------------------------------------------ frameworks


@pytest.mark.parametrize("compression", ["deflate", None])
def test_flask_sock_echoes_messages_of_any_size(server, compression):
    with connect(f"{server.ws}/echo", compression=compression, max_size=None) as ws:
        for size in (0, 1, 125, 126, 65_535, 65_536, 3 * MIB):
            for message in (secrets.token_bytes(size), "æ" * size):
                ws.send(message)
                assert ws.recv(DEADLINE) == message, size


def test_switch_has_the_fields_of_application_and_daemon(server):
    with server.connect() as client:
        head = "".join(f"{name}: {value}\r\n" for name, value in HANDSHAKE)
        client.send(f"GET /hand/raw/x HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode())
        status, headers = client.head()
        headers = dict(headers)
        assert (status, headers["x-by"], headers["upgrade"]) == (101, "hand", "websocket")
        assert headers["x-request-id"]
        assert headers["date"]


def test_simple_websocket_negotiates_a_subprotocol(server):
    with connect(f"{server.ws}/simple", subprotocols=["other", "chat"]) as ws:
        assert (ws.subprotocol, ws.recv(DEADLINE)) == ("chat", "werkzeug chat")
        assert close_code(ws) == 1000


@pytest.mark.parametrize("code", [1000, 3999])
def test_close_of_the_app_reaches_the_client(server, code):
    with connect(f"{server.ws}/close/{code}") as ws:
        assert close_code(ws) == code
    server.wait_for_log(f"/close/{code} 101 closed with {code}")


def test_close_of_the_client_reaches_the_app(server, marker):
    with connect(f"{server.ws}/record/{marker}") as ws:
        wait_for(server, marker, ["open"])
        ws.close(4321, "enough")
    wait_for(server, marker, ["open", 4321])
    server.wait_for_log(f"/record/{marker} 101 closed with 4321")


def test_message_of_a_returning_handler_arrives(server):
    for _ in range(50):
        with connect(f"{server.ws}/immediate") as ws:
            assert ws.recv(DEADLINE) == "bye"
            assert close_code(ws) == 1000


def test_exception_after_the_switch_is_logged(server):
    with connect(f"{server.ws}/raise") as ws:
        ws.send("on")
        assert ws.recv(DEADLINE) == "on"
        assert close_code(ws) is None
    server.wait_for_log("ValueError: the handler fails")


def test_socketio_switches_from_polling_to_websocket(start):
    server = start("with_socketio:app", "--threads", "8", "--access-logfile", "-")
    for transports in (["polling", "websocket"], ["websocket"], ["polling"]):
        shouted, welcomes = threading.Event(), []
        client = socketio.Client()
        client.on("welcome", welcomes.append)
        client.on("shouted", lambda text, event=shouted: text == "HEY" and event.set())
        client.connect(server.url, transports=transports, wait_timeout=DEADLINE)
        assert client.call("shout", "hey", timeout=DEADLINE) == 3
        assert shouted.wait(DEADLINE)
        assert client.transport() == transports[-1]
        assert welcomes
        client.disconnect()
    server.wait_for_log(" 101 closed with 1000", 2)
    assert server.stop() == 0
    assert "Traceback" not in server.log(), server.log()


# ------------------------------------------------ the socket


def test_only_a_handshake_gets_a_socket_in_environ(server):
    both = {"gunicorn.socket": "socket", "werkzeug.socket": "socket"}
    with server.connect() as client:
        assert client.request("GET", "/hand/environ/x", headers=HANDSHAKE).json() == both
        # The connection can be used again.
        assert client.request("GET", "/hand/environ/x").json() == {}
        assert client.request("POST", "/hand/environ/x", headers=HANDSHAKE).json() == {}
        assert client.request("GET", "/hand/environ/x", headers=HANDSHAKE[1:]).json() == {}
        assert (
            client.request("GET", "/hand/environ/x", headers=[("Upgrade", "h2c"), *HANDSHAKE[1:]]).json()
            == {}
        )


@pytest.mark.parametrize("answer", ["length", "chunked", "close"])
def test_other_response_on_the_socket_is_served(server, answer):
    with server.connect() as client:
        response = client.request("GET", f"/hand/reject/{answer}", headers=HANDSHAKE)
        assert (response.status, response.body, response["x-why"]) == (403, b"no!!!", "no")
        assert response["x-request-id"]
        assert not response.all("transfer-encoding")
        assert client.request("GET", "/hand/ignore/me").body == b"plain me"
    with pytest.raises(InvalidStatus), connect(f"{server.ws}/hand/reject/{answer}"):
        pass


@pytest.mark.parametrize("answer", ["nonsense", "half"])
def test_invalid_response_on_the_socket_is_a_502(server, answer):
    with server.connect() as client:
        assert client.request("GET", f"/hand/reject/{answer}", headers=HANDSHAKE).status == 502
    server.wait_for_log(f"/hand/reject/{answer} 502")


def test_unused_socket_does_not_change_the_response(server):
    with server.connect() as client:
        for _ in range(3):
            response = client.request("GET", "/hand/ignore/it", headers=HANDSHAKE)
            assert (response.status, response.body) == (200, b"plain it")
        assert client.request("GET", "/hand/raise/value", headers=HANDSHAKE).status == 500
        assert client.request("GET", "/hand/raise/stop", headers=HANDSHAKE).status == 500
        assert client.request("GET", "/hand/raise/gone", headers=HANDSHAKE).status == 500
        assert client.request("GET", "/hand/silent/list", headers=HANDSHAKE).status == 500
    server.wait_for_log("a body without calling start_response()")
    server.wait_for_log("ConnectionError: by hand")


@pytest.mark.parametrize("end", ["response", "stop", "gone", "value", "list", "tuple", "generator"])
def test_response_after_the_switch_is_discarded(server, end):
    for _ in range(10):
        with WebSocket(server.tcp_address, f"/hand/accepted/{end}") as ws:
            assert ws.status == 101
            assert ws.read_text() == "hi"
            assert ws.wait_for_close() == 1000
            assert ws.connection.read_to_end() == b""
    # The log keeps the order of the requests: this entry follows those of the sockets.
    assert server.get(f"/after/{end}").status == 404
    server.wait_for_log(f"/after/{end} 404")
    is_logged = f"/hand/accepted/{end} 101: WebSocket aborted" in server.log()
    assert is_logged == (end == "value"), server.log()


def test_other_protocols_pass_unchanged_in_both_directions(server):
    """The daemon forwards bytes that are not WebSocket frames, and each side's end of input."""
    with Connection(server.tcp_address) as client:
        head = "".join(f"{name}: {value}\r\n" for name, value in HANDSHAKE)
        client.send(f"GET /hand/raw/x HTTP/1.1\r\nHost: x\r\n{head}\r\nearly ".encode())
        assert client.head()[0] == 101
        client.send(b"late")
        assert client.read_exactly(10) == b"EARLY LATE"
        client.socket.shutdown(socket.SHUT_WR)
        assert client.read_to_end() == b"END"


def test_socket_detached_and_closed_ends_the_connection(server):
    with WebSocket(server.tcp_address, "/hand/detach/x") as ws:
        assert ws.connection.read_to_end() == b""


def test_close_frame_may_follow_the_handlers_return(server):
    """simple-websocket answers the client's close frame in a thread that the handler does not await."""
    with WebSocket(server.tcp_address, "/hand/thread/x") as ws:
        assert ws.wait_for_close() == 4321
        assert ws.connection.read_to_end() == b""


def test_kept_socket_does_not_keep_the_connection(server):
    with WebSocket(server.tcp_address, "/hand/keep/x") as ws:
        assert ws.connection.read_to_end() == b""


# ------------------------------------------------ back-pressure, limits


def test_flood_to_a_slow_reader_arrives_in_order(server):
    count, size = 200, 64 * 1024
    with connect(f"{server.ws}/flood/{count}/{size}", compression=None, max_queue=1) as ws:
        for number in range(count):
            assert ws.recv(DEADLINE) == number.to_bytes(4, "big") * (size // 4)
        ws.send("enough")
        assert close_code(ws) == 1000


def test_large_upload_arrives_whole(server):
    parts = [secrets.token_bytes(256 * 1024) for _ in range(64)]
    with connect(f"{server.ws}/sum", compression=None) as ws:
        for part in parts:
            ws.send(part)
        ws.send("end")
        assert ws.recv(DEADLINE) == hashlib.sha256(b"".join(parts)).hexdigest()


def test_deadline_ends_at_the_switch(start):
    server = start("with_flask_sock", "--threads", "2", "--timeout", "1")
    with connect(f"{server.ws}/sleep/2.5") as ws:
        assert [ws.recv(DEADLINE), ws.recv(DEADLINE)] == ["asleep", "awake"]
    assert "deadline" not in server.log()


def test_200_connections_use_200_threads(start):
    server = start("with_flask_sock", "--threads", "201")
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(connect(f"{server.ws}/echo")) for _ in range(200)]
        for number, ws in enumerate(sockets):
            ws.send(str(number))
        assert [ws.recv(DEADLINE) for ws in sockets] == [str(number) for number in range(200)]
        assert server.get("/pid").status == 200
    wait_until("all threads are free", lambda: all(server.get("/pid").status == 200 for _ in range(5)))


def test_request_waits_for_a_thread_busy_with_a_websocket(start):
    server = start("with_flask_sock", "--threads", "1")
    with connect(f"{server.ws}/echo") as ws, server.connect() as client:
        client.send(b"GET /pid HTTP/1.1\r\nHost: x\r\n\r\n")
        ws.send("still")
        assert ws.recv(DEADLINE) == "still"
        ws.close()
        assert client.response().status == 200


# ------------------------------------------------ the end of a connection


def test_closed_connection_ends_the_handler(server, marker):
    with WebSocket(server.tcp_address, f"/record/{marker}"):
        wait_for(server, marker, ["open"])
    wait_for(server, marker, ["open", 1005])


def test_reset_connection_ends_the_handler(server, marker):
    with WebSocket(server.tcp_address, f"/record/{marker}") as ws:
        wait_for(server, marker, ["open"])
        linger = b"\1\0\0\0\0\0\0\0"
        ws.connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    wait_for(server, marker, ["open", 1005])


def test_killed_worker_closes_the_client(private_server):
    pid = int(private_server.get("/pid").text)
    with connect(f"{private_server.ws}/echo") as ws:
        ws.send("on")
        assert ws.recv(DEADLINE) == "on"
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ConnectionClosedError):
            ws.recv(DEADLINE)
    wait_until("another worker serves", lambda: private_server.get("/pid").text != str(pid))


def test_reload_closes_client_and_application_with_1012(private_server, marker):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(connect(f"{private_server.ws}/record/{marker}")) for _ in range(3)]
        wait_for(private_server, marker, ["open"] * 3)
        pid = private_server.get("/pid").text
        private_server.reload()
        assert [close_code(ws) for ws in sockets] == [1012] * 3
    wait_until("the new worker serves", lambda: private_server.get("/pid").text != pid)
    private_server.wait_for_log("reloaded: generation 2 serves")


def test_stop_closes_with_1012(private_server):
    with connect(f"{private_server.ws}/echo") as ws:
        ws.send("on")
        assert ws.recv(DEADLINE) == "on"
        private_server.terminate()
        assert close_code(ws) == 1012
    assert private_server.stop() == 0
