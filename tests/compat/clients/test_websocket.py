"""Each framework's WebSockets, with the websockets library as the client."""

import contextlib
import json

import pytest
from support.records import wait_for_records
from support.waiting import DEADLINE
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync import client

MIB = 1 << 20


def connect(url, **more):
    """Connects with an Origin, as browsers do; Channels requires one."""
    return client.connect(url, origin=url.split("/ws/")[0].replace("ws:", "http:"), **more)


def read_close(socket):
    """Waits for the close frame, which must be the next one; returns its code and reason."""
    with pytest.raises(ConnectionClosed) as caught:
        socket.recv(DEADLINE)
    return caught.value.rcvd.code, caught.value.rcvd.reason


def test_text_and_binary_messages_keep_their_type(framework):
    messages = ["hello", "grüß\N{SNOWMAN}\N{GRINNING FACE}", b"\x00\xff", "", b"", "last"]
    if framework.name == "quart":
        messages.remove(b"")  # Quart mistakes it for a missing text
    with connect(f"{framework.ws}/ws/echo") as socket:
        for message in messages:
            socket.send(message)
            assert socket.recv(DEADLINE) == message


def test_json_comes_back(framework):
    with connect(f"{framework.ws}/ws/json") as socket:
        for number in range(3):
            socket.send(json.dumps({"n": number, "s": "ä"}))
            assert json.loads(socket.recv(DEADLINE)) == {"got": {"n": number, "s": "ä"}}


def test_scope_has_path_query_and_headers_of_the_handshake(framework):
    with connect(f"{framework.ws}/ws/about/lobby?q=a%20b", additional_headers={"X-Token": "t"}) as socket:
        assert json.loads(socket.recv(DEADLINE)) == {"room": "lobby", "query": {"q": "a b"}, "token": "t"}
        assert read_close(socket)[0] == 1000


@pytest.mark.parametrize(("offered", "chosen"), [(["v1.chat", "v2.chat"], "v2.chat"), (["v1.chat"], None)])
def test_the_application_chooses_the_subprotocol(framework, offered, chosen):
    with connect(f"{framework.ws}/ws/protocol", subprotocols=offered) as socket:
        assert socket.subprotocol == chosen
        assert json.loads(socket.recv(DEADLINE)) == offered


@pytest.mark.parametrize("code", [1000, 1008, 3000, 4001])
def test_the_application_closes_with_a_code_and_a_reason(framework, code):
    with connect(f"{framework.ws}/ws/close") as socket:
        socket.send(str(code))
        assert read_close(socket) == (code, "as requested")


def test_rejected_handshake_is_403(framework):
    with pytest.raises(InvalidStatus) as caught, connect(f"{framework.ws}/ws/reject"):
        pass
    assert caught.value.response.status_code == 403


def test_handshake_for_an_unknown_path_is_refused(framework):
    with pytest.raises(InvalidStatus) as caught, connect(f"{framework.ws}/ws/nothing"):
        pass
    assert caught.value.response.status_code in (403, 404, 500)


@pytest.mark.parametrize("code", [1000, 1001, 4321])
def test_close_code_of_the_client_reaches_the_application(framework, marker, code):
    with connect(f"{framework.ws}/ws/watch/{marker}") as socket:
        socket.close(code)
    assert wait_for_records(framework, marker) == ["cancelled" if framework.name == "quart" else code]


def test_lost_client_is_a_disconnect_with_1006(framework, marker):
    with connect(f"{framework.ws}/ws/watch/{marker}") as socket:
        socket.socket.shutdown(2)
    assert wait_for_records(framework, marker) == ["cancelled" if framework.name == "quart" else 1006]


def test_exception_closes_the_websocket_and_is_logged(framework):
    with connect(f"{framework.ws}/ws/fail") as socket:
        # Some frameworks close with their own codes.
        assert read_close(socket)[0] == {"litestar": 4500, "quart": 1000}.get(framework.name, 1011)
    if framework.name != "litestar":
        framework.wait_for_log("ValueError: the socket fails")


@pytest.mark.parametrize("compression", ["deflate", None])
def test_messages_of_a_mebibyte_and_more_come_back(framework, compression):
    with connect(f"{framework.ws}/ws/echo", max_size=8 * MIB, compression=compression) as socket:
        for message in ("ä" * MIB, bytes(range(256)) * (3 * MIB // 256)):
            socket.send(message)
            assert socket.recv(DEADLINE) == message


def test_pushed_messages_arrive_in_order_before_the_close(framework):
    with connect(f"{framework.ws}/ws/push/2000") as socket:
        assert [socket.recv(DEADLINE) for _ in range(2000)] == [str(number) for number in range(2000)]
        assert read_close(socket)[0] == 1000


def test_pings_are_answered_while_the_application_waits(framework, marker):
    with connect(f"{framework.ws}/ws/watch/{marker}") as socket:
        for _ in range(3):
            assert socket.ping().wait(DEADLINE)
        assert socket.latency < DEADLINE


def test_concurrent_websockets_do_not_mix(framework):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(connect(f"{framework.ws}/ws/echo")) for _ in range(50)]
        for number, socket in enumerate(sockets):
            socket.send(f"for {number}")
        assert [socket.recv(DEADLINE) for socket in sockets] == [f"for {number}" for number in range(50)]


@pytest.mark.parametrize("name", ["starlette", "quart"])
def test_denial_response_reaches_the_client(serving, name):
    with pytest.raises(InvalidStatus) as caught, connect(f"{serving(name).ws}/ws/deny"):
        pass
    response = caught.value.response
    assert response.status_code == 401
    assert response.headers["x-why"] == "ticket"
    assert json.loads(response.body) == {"why": "no ticket"}
