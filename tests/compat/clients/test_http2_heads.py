"""HTTP/2 heads that are served, answered by the daemon, or reset, as strictly as with HTTP/1.1."""

import pytest
from support.http2_client import Http2Connection


@pytest.fixture(scope="module")
def server(start):
    return start("streams:application")


@pytest.mark.parametrize(
    ("what", "pseudo", "fields", "outcome"),
    [
        ("no host", {":authority": None}, [], 400),
        ("host without authority", {":authority": None}, [("host", "test")], 200),
        ("host that differs", {}, [("host", "other")], 400),
        ("host that is the same", {}, [("host", "test")], 200),
        ("two hosts", {}, [("host", "test"), ("host", "test")], 400),
        ("invalid host", {":authority": None}, [("host", "a b")], 400),
        ("user information", {":authority": "me@test"}, [], 400),
        ("path without slash", {":path": "scope"}, [], (400, "reset")),
        ("empty path", {":path": ""}, [], "reset"),
        ("star", {":path": "*"}, [], 400),
        ("connect", {":method": "CONNECT", ":scheme": None, ":path": None}, [], 405),
        ("no method", {":method": None}, [], "reset"),
        ("no scheme", {":scheme": None}, [], "reset"),
        ("no path", {":path": None}, [], (400, "reset")),
        ("unknown pseudo-header", {":x": "y"}, [], "reset"),
        ("pseudo-header of responses", {":status": "200"}, [], "reset"),
        ("pseudo-header after a field", {}, [("x", "y"), (":path", "/scope")], "reset"),
        ("repeated pseudo-header", {}, [(":path", "/scope")], "reset"),
        ("protocol without connect", {":protocol": "websocket"}, [], "reset"),
        ("other protocol", {":method": "CONNECT", ":protocol": "connect-udp"}, [], 501),
        ("connection", {}, [("connection", "close")], "reset"),
        ("keep-alive", {}, [("keep-alive", "5")], "reset"),
        ("proxy-connection", {}, [("proxy-connection", "close")], "reset"),
        ("upgrade", {}, [("upgrade", "websocket")], "reset"),
        ("transfer-encoding", {}, [("transfer-encoding", "chunked")], "reset"),
        ("te", {}, [("te", "gzip")], "reset"),
        ("uppercase", {}, [("X-Upper", "a")], "reset"),
        ("empty name", {}, [("", "a")], "reset"),
        ("space in a name", {}, [("x y", "a")], "reset"),
        ("colon in a name", {}, [("x:y", "a")], "reset"),
        ("line feed in a value", {}, [("x", "a\nb")], "reset"),
        ("return in a value", {}, [("x", "a\rb")], "reset"),
        ("null in a value", {}, [("x", "a\0b")], "reset"),
        ("line feed in the path", {":path": "/scope\n"}, [], "reset"),
        ("space in the path", {":path": "/sc ope"}, [], "reset"),
        ("leading space in a value", {}, [("x", " a")], 400),
        ("trailing tab in a value", {}, [("x", "a\t")], 400),
        ("length without a body", {}, [("content-length", "1")], "reset"),
        ("two equal lengths", {}, [("content-length", "0"), ("content-length", "0")], 400),
        ("two lengths", {}, [("content-length", "0"), ("content-length", "1")], "reset"),
        ("length with a sign", {}, [("content-length", "+0")], (400, "reset")),
        ("underscore", {}, [("x_real_ip", "1")], 200),
    ],
)
def test_head_is_served_refused_or_reset(server, what, pseudo, fields, outcome):
    """The application never receives a request that the daemon answers, or whose stream it resets."""
    head = {":method": "GET", ":scheme": "http", ":authority": "test", ":path": "/scope"} | pseudo
    head = [(name, value) for name, value in head.items() if value is not None]
    with Http2Connection(server.tcp_address) as connection:
        begun = connection.get("/counts").json()["begun"]
        number = connection.begin("GET", "/", fields, pseudo=head)
        stream = connection.streams[number]
        while not stream.is_over and connection.pump():
            pass
        result = stream.status if stream.ended else "reset"
        assert result in (outcome if isinstance(outcome, tuple) else (outcome,)), (what, stream)
    with Http2Connection(server.tcp_address) as connection:
        served = 1 if result == 200 else 0
        assert connection.get("/counts").json()["begun"] == begun + served + 1, what
