"""WebSockets over TLS: in an ASGI application, and in a WSGI application that takes over."""

import secrets
import ssl

import pytest
from frameworks import FRAMEWORKS
from support.http2_client import Http2Connection, StreamWebSocket
from support.waiting import DEADLINE, wait_until
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

MIB = 1 << 20
TARGETS = {"asgi": (FRAMEWORKS["starlette"], "/ws/echo"), "wsgi": ("with_flask_sock", "/echo")}


@pytest.fixture(scope="module", params=TARGETS)
def server(request, start, certificate):
    """A server with TLS; `tls` is the context of its clients, `echo` the URL of its WebSocket."""
    target, path = TARGETS[request.param]
    server = start(target, *certificate, *(("--threads", "8") if request.param == "wsgi" else ()))
    server.interface, server.path, server.echo = request.param, path, server.ws + path
    server.tls = ssl.create_default_context(cafile=certificate[1])
    return server


@pytest.mark.parametrize("compression", ["deflate", None])
def test_messages_of_any_size_are_echoed_over_tls(server, compression):
    with connect(server.echo, ssl=server.tls, compression=compression, max_size=None) as ws:
        for size in (0, 1, 65_536, 3 * MIB):
            for message in (secrets.token_bytes(size), "æ" * size):
                ws.send(message)
                assert ws.recv(DEADLINE) == message, size
        ws.close(4321)
    assert ws.close_code == 4321


def test_reload_closes_a_websocket_over_tls_with_1012(server):
    ready = server.log().count("is ready after")
    with connect(server.echo, ssl=server.tls) as ws:
        ws.send("on")
        assert ws.recv(DEADLINE) == "on"
        server.reload()
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(DEADLINE)
        assert closed.value.rcvd.code == 1012
    wait_until("the new worker is ready", lambda: server.log().count("is ready after") > ready)
    with connect(server.echo, ssl=server.tls) as ws:
        ws.send("again")
        assert ws.recv(DEADLINE) == "again"


def test_only_asgi_has_websockets_on_http2_streams(server, certificate):
    """A takeover needs the whole connection, so WSGI gets no WebSocket on a stream."""
    context = ssl.create_default_context(cafile=certificate[1])
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    with Http2Connection(server.tcp_address, tls=context) as connection:
        assert connection.socket.selected_alpn_protocol() == "h2"
        ws = StreamWebSocket(connection, server.path)
        if server.interface == "wsgi":
            # PROTOCOL_ERROR: the daemon has not announced extended CONNECT (RFC 8441, section 3).
            assert (ws.status, ws.stream.reset) == (None, 1)
            return
        assert ws.status == 200
        ws.send("on a stream")
        assert ws.read_text() == "on a stream"
        ws.send(b"\x03\xe8", 8)
        assert ws.read_frame() == (8, b"\x03\xe8")
