"""HTTP/2 heads that are served, answered by the daemon, or refused by h2: as strict as HTTP/1.1.

A malformed request is an error of its stream (RFC 9113 §8.1.1). For errors in its HPACK decoder, the h2
crate ends the whole connection, which RFC 9113 §5.4.1 allows.
"""

import json

import pytest
from support.http2_client import Http2Connection
from support.http2_frames import END_HEADERS, END_STREAM, Error, FrameClient, Kind, block, frame, request


@pytest.fixture(scope="module")
def server(start):
    return start("streams:application")


# `pseudo` replaces or removes pseudo-header fields. `outcome` is the status, or the scope of the
# error; a tuple allows several.
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
        ("path without slash", {":path": "scope"}, [], (400, "stream")),
        ("empty path", {":path": ""}, [], "stream"),
        ("star", {":path": "*"}, [], 400),
        ("connect", {":method": "CONNECT", ":scheme": None, ":path": None}, [], 405),
        ("space in the method", {":method": "G T"}, [], "connection"),
        ("empty method", {":method": ""}, [], "connection"),
        ("path that is not UTF-8", {":path": b"/scope\xe9"}, [], "connection"),
        # h2's type for the path drops the fragment, before rgun sees the path.
        ("fragment in the path", {":path": "/scope#top"}, [], 200),
        ("invalid scheme", {":scheme": "h t"}, [], "stream"),
        ("invalid authority", {":authority": "a b"}, [], "stream"),
        ("empty authority", {":authority": ""}, [], "stream"),
        ("path in the authority", {":authority": "test/x"}, [], "stream"),
        ("backslash in the authority", {":authority": "test\\x"}, [], "stream"),
        ("null in the authority", {":authority": "te\0st"}, [], "stream"),
        ("line feed in the authority", {":authority": "test\n"}, [], "stream"),
        ("repeated authority", {}, [(":authority", "test")], "stream"),
        ("repeated method", {}, [(":method", "GET")], "stream"),
        ("absolute path", {":path": "http://test/scope"}, [], "stream"),
        ("connect with a path", {":method": "CONNECT"}, [], "stream"),
        ("line feed in the method", {":method": "GET\n"}, [], "connection"),
        ("path over limits.request_line", {":path": "/scope?" + "x" * 8190}, [], 414),
        ("no method", {":method": None}, [], "stream"),
        ("no scheme", {":scheme": None}, [], "stream"),
        ("no path", {":path": None}, [], (400, "stream")),
        ("unknown pseudo-header", {":x": "y"}, [], "connection"),
        ("pseudo-header of responses", {":status": "200"}, [], "stream"),
        ("pseudo-header after a field", {}, [("x", "y"), (":path", "/scope")], "stream"),
        ("repeated pseudo-header", {}, [(":path", "/scope")], "stream"),
        ("protocol without connect", {":protocol": "websocket"}, [], "stream"),
        ("other protocol", {":method": "CONNECT", ":protocol": "connect-udp"}, [], 501),
        ("connection", {}, [("connection", "close")], "stream"),
        ("keep-alive", {}, [("keep-alive", "5")], "stream"),
        ("proxy-connection", {}, [("proxy-connection", "close")], "stream"),
        ("upgrade", {}, [("upgrade", "websocket")], "stream"),
        ("transfer-encoding", {}, [("transfer-encoding", "chunked")], "stream"),
        ("te", {}, [("te", "gzip")], "stream"),
        ("te of trailers", {}, [("te", "trailers")], 200),
        ("uppercase", {}, [("X-Upper", "a")], "connection"),
        ("empty name", {}, [("", "a")], "connection"),
        ("space in a name", {}, [("x y", "a")], "connection"),
        ("colon in a name", {}, [("x:y", "a")], "connection"),
        ("line feed in a value", {}, [("x", "a\nb")], "connection"),
        ("return in a value", {}, [("x", "a\rb")], "connection"),
        ("null in a value", {}, [("x", "a\0b")], "connection"),
        ("delete in a value", {}, [("x", "a\x7fb")], "connection"),
        ("byte above ASCII in a name", {}, [(b"x\xe9", "a")], "connection"),
        ("line feed in the path", {":path": "/scope\n"}, [], "stream"),
        ("return in the path", {":path": "/sc\rope"}, [], "stream"),
        ("null in the path", {":path": "/sc\0ope"}, [], "stream"),
        ("space in the path", {":path": "/sc ope"}, [], "stream"),
        ("leading space in a value", {}, [("x", " a")], 400),
        ("trailing tab in a value", {}, [("x", "a\t")], 400),
        ("length without a body", {}, [("content-length", "1")], "stream"),
        ("two equal lengths", {}, [("content-length", "0"), ("content-length", "0")], 400),
        ("two lengths", {}, [("content-length", "0"), ("content-length", "1")], "stream"),
        ("length with a sign", {}, [("content-length", "+0")], (400, "stream")),
        ("empty length", {}, [("content-length", "")], 400),
        ("lengths in a list", {}, [("content-length", "0, 0")], "stream"),
        ("length over 2^64", {}, [("content-length", "18446744073709551616")], "stream"),
        ("field over limits.header", {}, [("x", "y" * 16400)], 431),
        ("fields over limits.headers", {}, [("x", "y")] * 101, 431),
        ("underscore", {}, [("x_real_ip", "1")], 200),
    ],
)
def test_head_is_served_refused_or_reset(server, what, pseudo, fields, outcome):
    """A refused request gets an error status, or its stream or connection ends."""
    head = {":method": "GET", ":scheme": "http", ":authority": "test", ":path": "/scope"} | pseudo
    head = [(name, value) for name, value in head.items() if value is not None]
    with Http2Connection(server.tcp_address) as connection:
        begun = connection.get("/counts").json()["begun"]
        number = connection.begin("GET", "/", fields, pseudo=head)
        stream = connection.streams[number]
        while not stream.is_over and connection.pump():
            pass
        result = stream.status if stream.ended else "stream" if stream.reset else "connection"
        assert result in (outcome if isinstance(outcome, tuple) else (outcome,)), (what, stream)
        # PROTOCOL_ERROR
        assert (stream.reset, connection.goaway) in [(None, None), (1, None), (None, 1)], what
        if result != "connection":
            assert connection.get("/counts").status == 200, what
    with Http2Connection(server.tcp_address) as connection:
        # The requests to /counts are counted too.
        served = 1 if result == 200 else 0
        counting = 1 if result == "connection" else 2
        assert connection.get("/counts").json()["begun"] == begun + served + counting, what


@pytest.mark.parametrize(
    ("what", "field", "outcomes"),
    [
        ("connection field", ("connection", "close"), ["stream"]),
        ("length", ("content-length", "5"), ["stream", 400]),
        ("uppercase", ("X", "y"), ["connection"]),
        ("line feed in a value", ("x", "a\nb"), ["connection"]),
    ],
)
def test_malformed_trailers_are_refused(server, what, field, outcomes):
    with FrameClient(server.tcp_address) as client:
        client.send(request(1, "/upload", "POST", end=False), frame(Kind.DATA, 0, 1, b"x"))
        client.send(frame(Kind.HEADERS, END_HEADERS | END_STREAM, 1, block(field)))
        outcome = client.read_outcome(1)
        assert outcome in [(scope, Error.PROTOCOL_ERROR) for scope in outcomes] or outcome in outcomes, what


def test_pseudo_header_field_in_trailers_changes_nothing(server):
    """The h2 crate drops the field, so the application gets the request of the head."""
    with FrameClient(server.tcp_address) as client:
        client.send(request(1, "/upload", "POST", end=False), frame(Kind.DATA, 0, 1, b"x"))
        trailers = block((":path", "/counts"), (":method", "GET"))
        client.send(frame(Kind.HEADERS, END_HEADERS | END_STREAM, 1, trailers))
        assert json.loads(client.read_kind(Kind.DATA, 1).payload)["length"] == 1


def test_only_one_request_id_enters_the_hpack_table(server):
    with Http2Connection(server.tcp_address) as connection:
        ids = {connection.get("/counts")["x-request-id"] for _ in range(100)}
        assert len(ids) == 100
        entries = [name for name, _ in connection.h2.decoder.header_table.dynamic_entries]
        assert entries.count(b"x-request-id") == 1
        assert len(entries) < 30
