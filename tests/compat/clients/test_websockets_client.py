"""The websockets library: compression, fragments, limits, keepalive."""

import asyncio
import contextlib
import secrets

import pytest
from support.records import wait_for_records
from support.waiting import DEADLINE
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, ConnectionClosedError
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.sync.client import connect

MIB = 1 << 20


@pytest.fixture(scope="module")
def server(serving):
    return serving("starlette")


def extensions(socket):
    """Returns the extensions that the server has accepted."""
    return socket.response.headers.get("Sec-WebSocket-Extensions", "")


def echo_fragments(socket, parts):
    """Sends a fragmented message and returns the echo."""
    socket.send(parts)
    return socket.recv(DEADLINE)


def test_compression_is_used_if_offered(server):
    with connect(f"{server.ws}/ws/echo") as socket:
        assert "permessage-deflate" in extensions(socket)
        for size in (0, 1, 125, 126, 65_535, 65_536, 300_000):
            for message in ("a" * size, secrets.token_bytes(size), b"\0" * size):
                socket.send(message)
                assert socket.recv(DEADLINE) == message, size
    with connect(f"{server.ws}/ws/echo", compression=None) as socket:
        assert extensions(socket) == ""
        socket.send("plain")
        assert socket.recv(DEADLINE) == "plain"


@pytest.mark.parametrize(
    "offer",
    [
        {"server_no_context_takeover": True},
        {"client_no_context_takeover": True},
        {"server_max_window_bits": 9},
        {"client_max_window_bits": 10},
        {
            "server_no_context_takeover": True,
            "client_no_context_takeover": True,
            "server_max_window_bits": 12,
            "client_max_window_bits": 12,
        },
    ],
    ids=lambda offer: "+".join(offer),
)
def test_compression_parameters_follow_the_offer(server, offer):
    factory = ClientPerMessageDeflateFactory(**offer)
    with connect(f"{server.ws}/ws/echo", extensions=[factory], compression=None) as socket:
        for _ in range(5):
            message = "the same words again and again " * 3000
            socket.send(message)
            assert socket.recv(DEADLINE) == message


@pytest.mark.parametrize("compression", ["deflate", None])
def test_fragmented_messages_are_joined(server, compression):
    with connect(f"{server.ws}/ws/echo", compression=compression) as socket:
        for parts in (["a", "b", "c"], ["", "x", ""], [b"\x00", b"", b"\xff" * 70_000]):
            socket.send(parts)
            assert socket.recv(DEADLINE) == type(parts[0])().join(parts)
        # The fragments split characters of two bytes.
        letters = "grüße".encode()
        socket.send((letters[start : start + 1] for start in range(len(letters))), text=True)
        assert socket.recv(DEADLINE) == "grüße"


def test_pings_between_fragments_are_answered(server):
    async def work():
        async with connect_async(f"{server.ws}/ws/echo") as socket:
            answered = asyncio.Event()

            async def parts():
                yield "first "
                await asyncio.wait_for(await socket.ping(), DEADLINE)
                answered.set()
                yield "second"

            await socket.send(parts())
            assert answered.is_set()
            return await asyncio.wait_for(socket.recv(), DEADLINE)

    assert asyncio.run(work()) == "first second"


def test_message_over_the_limit_closes_with_1009(start):
    server = start("with_starlette:app", "--ws-max-size", "65536")
    with connect(f"{server.ws}/ws/echo", compression=None) as socket:
        socket.send(b"x" * 65_536)
        assert len(socket.recv(DEADLINE)) == 65_536
        socket.send(b"x" * 65_537)
        with pytest.raises(ConnectionClosedError) as caught:
            socket.recv(DEADLINE)
        assert caught.value.rcvd.code == 1009
    # The decompressed size counts.
    with connect(f"{server.ws}/ws/echo") as socket:
        socket.send("a" * MIB)
        with pytest.raises(ConnectionClosedError) as caught:
            socket.recv(DEADLINE)
        assert caught.value.rcvd.code == 1009
    # The size of all fragments counts.
    with connect(f"{server.ws}/ws/echo", compression=None) as socket:
        with pytest.raises(ConnectionClosedError) as caught:
            echo_fragments(socket, ["x" * 40_000, "y" * 40_000])
        assert caught.value.rcvd.code == 1009


def test_clients_message_limit_closes_with_1009(server):
    with connect(f"{server.ws}/ws/echo", max_size=1000, compression=None) as socket:
        socket.send("x" * 1001)
        with pytest.raises(ConnectionClosed) as caught:
            socket.recv(DEADLINE)
        assert caught.value.sent.code == 1009


def test_silent_client_that_answers_pings_stays_connected(start):
    server = start("with_starlette:app", "--ws-ping-interval", "200ms", "--ws-ping-timeout", "5")

    async def work():
        pings = []
        async with connect_async(f"{server.ws}/ws/echo", ping_interval=None) as socket:
            protocol, pinged = socket.protocol, asyncio.Event()
            received = protocol.recv_frame

            def recv_frame(frame):
                if frame.opcode.name == "PING":
                    pings.append(frame.data)
                    if len(pings) >= 3:
                        pinged.set()
                return received(frame)

            protocol.recv_frame = recv_frame
            await asyncio.wait_for(pinged.wait(), DEADLINE)
            await socket.send("still here")
            return await asyncio.wait_for(socket.recv(), DEADLINE)

    assert asyncio.run(work()) == "still here"


def test_client_that_answers_no_pings_is_disconnected(start, marker):
    server = start("with_starlette:app", "--ws-ping-interval", "200ms", "--ws-ping-timeout", "500ms")
    with connect(f"{server.ws}/ws/watch/{marker}", ping_interval=None) as socket:
        # The client answers no more pings.
        socket.protocol.send_pong = lambda data: None
        socket.protocol.recv_frame = lambda frame: None
        assert wait_for_records(server, marker) in ([1006], [1011])


def test_reload_closes_websockets_with_1012(start, marker):
    server = start("with_starlette:app")
    with connect(f"{server.ws}/ws/watch/{marker}") as socket:
        server.reload()
        with pytest.raises(ConnectionClosed) as caught:
            socket.recv(DEADLINE)
        assert caught.value.rcvd.code == 1012
    with connect(f"{server.ws}/ws/echo") as socket:
        socket.send("the new code")
        assert socket.recv(DEADLINE) == "the new code"


def test_stop_closes_websockets_with_1012(start):
    server = start("with_starlette:app", "--graceful-timeout", "3")
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(connect(f"{server.ws}/ws/echo")) for _ in range(10)]
        server.terminate()
        for socket in sockets:
            with pytest.raises(ConnectionClosed) as caught:
                socket.recv(DEADLINE)
            assert caught.value.rcvd.code == 1012
    assert server.stop() == 0
    assert "Task was destroyed" not in server.log()


def test_thousand_short_websockets_are_served(server):
    async def one(number):
        async with connect_async(f"{server.ws}/ws/echo") as socket:
            await socket.send(str(number))
            assert await socket.recv() == str(number)

    async def work():
        for begin in range(0, 1000, 50):
            await asyncio.gather(*(one(number) for number in range(begin, begin + 50)))

    asyncio.run(work())
