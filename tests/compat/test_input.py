"""wsgi.input: PEP 3333, "Input and Error Streams", for bodies in memory, spooled and chunked."""

import hashlib
import io
import random

import pytest

LINES = b"first\n\nthird line\r\n" + b"x" * 300 + b"\nlast without end"


def large(size):
    """Returns reproducible bytes with lines of various lengths."""
    source = random.Random(size)
    data = bytearray(source.randbytes(size))
    for _ in range(size // 500):
        data[source.randrange(size)] = 10
    return bytes(data)


BODIES = {
    "short": b"hello",
    "lines": LINES,
    "64 KiB": large(65536),
    "64 KiB and one": large(65537),
    "300 KB": large(300_000),
    "one long line": b"y" * 200_000,
    "only newlines": b"\n" * 70_000,
}


@pytest.fixture(params=BODIES)
def body(request):
    return BODIES[request.param]


def digest(data):
    return hashlib.sha256(data).hexdigest()


def post(server, target, body, chunked=False):
    """Posts a body, optionally in chunks; returns the JSON of the response."""
    if not chunked:
        return server.request("POST", target, body=body).json()
    with server.connect() as connection:
        connection.send(f"POST {target} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for start in range(0, len(body), 7001):
            piece = body[start : start + 7001]
            connection.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        connection.send(b"0\r\n\r\n")
        return connection.response().json()


@pytest.mark.parametrize("chunked", [False, True], ids=["sized", "chunked"])
def test_read_returns_the_whole_body_once(server, body, chunked):
    result = post(server, "/input/read", body, chunked)
    assert result["sha256"] == digest(body)
    assert result["calls"] == 1
    assert result["after_end"] == 0


def test_read_without_an_argument_returns_all(server, body):
    assert post(server, "/input/read-all", body)["sha256"] == digest(body)


@pytest.mark.parametrize("size", [1, 7, 4096, 65536, 1_000_000])
def test_read_with_a_size_returns_that_much_until_the_end(server, size):
    body = BODIES["64 KiB and one"] if size > 1 else LINES
    result = post(server, f"/input/read?n={size}", body)
    assert result["sha256"] == digest(body)
    assert result["longest"] == min(size, len(body))
    assert result["calls"] == -(-len(body) // size)


@pytest.mark.parametrize("chunked", [False, True], ids=["sized", "chunked"])
def test_readline_returns_lines_with_their_ends(server, body, chunked):
    result = post(server, "/input/readline", body, chunked)
    assert result["sha256"] == digest(body)
    assert result["lengths"] == lengths(body)


def lengths(body, size=None):
    """Returns the lengths of the lines that a Python file object returns."""
    file = io.BytesIO(body)
    return [len(line) for line in iter(lambda: file.readline(-1 if size is None else size), b"")]


@pytest.mark.parametrize("size", [1, 5, 100, 70_000])
def test_readline_with_a_size_returns_no_more(server, size):
    for name in ("lines",) if size < 100 else ("lines", "300 KB", "one long line"):
        result = post(server, f"/input/readline?n={size}", BODIES[name])
        assert result["sha256"] == digest(BODIES[name])
        assert result["lengths"] == lengths(BODIES[name], size)


def test_readlines_returns_all_lines(server, body):
    assert post(server, "/input/readlines", body)["lengths"] == lengths(body)


def test_readlines_stops_after_its_hint(server):
    result = post(server, "/input/readlines?hint=10", LINES)
    assert result["lengths"] == lengths(LINES)[:3]
    assert post(server, "/input/readlines?hint=0", LINES)["lengths"] == lengths(LINES)


def test_iteration_yields_lines(server, body):
    result = post(server, "/input/iter", body)
    assert result["sha256"] == digest(body)
    assert result["lengths"] == lengths(body)


@pytest.mark.parametrize("size", [30, 70_000])
def test_all_read_methods_share_one_position(server, size):
    body = b"abcdef\nghi" + b"j" * size
    result = post(server, "/input/mixed", body)
    assert result["lengths"] == [3, 4, 2, size + 1]
    assert result["sha256"] == digest(body)


@pytest.mark.parametrize("size", [3, 70_000])
def test_reading_zero_bytes_consumes_nothing(server, size):
    result = post(server, "/input/zero", b"z" * size)
    assert result["nothing"] == 0
    assert result["length"] == size


def test_size_none_means_no_limit(probe):
    assert post(probe, "/read_none", b"one\ntwo\nthree") == ["one\n", ["two\n", "three"], 0]


def test_sizes_must_be_integers_and_results_are_bytes(probe):
    assert post(probe, "/read_types", b"ab\n") == [["'3'", "1.5", "b'1'"], "bytes", "bytes"]


@pytest.mark.parametrize("size", [0, 10, 70_000])
def test_read_at_the_end_returns_empty_bytes(probe, size):
    assert post(probe, "/read_twice", b"e" * size) == [size, 0, 0]


def test_request_without_a_body_has_an_empty_stream(server):
    assert server.get("/input/read").json()["length"] == 0
    assert server.get("/input/readline").json()["lengths"] == []
    assert server.get("/input/iter").json()["lengths"] == []


def test_body_is_echoed_unchanged(server):
    body = BODIES["300 KB"]
    response = server.request("PUT", "/echo", body=body, headers=[("Content-Type", "x/y")])
    assert response.body == body
    assert response["content-type"] == "x/y"


@pytest.mark.parametrize("size", [10, 500_000])
def test_unread_body_does_not_disturb_the_next_request(server, size):
    with server.connect() as connection:
        assert connection.request("POST", "/input/ignored", b"i" * size).body == b"not read\n"
        assert connection.request("POST", "/input/partial?n=5", b"p" * size).json()["length"] == 5
        assert connection.is_open()


def test_input_is_readable_in_a_thread_and_after_a_chunk(server):
    body = BODIES["64 KiB and one"]
    assert post(server, "/input/thread", body)["sha256"] == digest(body)
    result = server.request("POST", "/input/late", body=body).body.split()
    assert result == [b"first", str(len(body)).encode(), digest(body).encode()]


def test_input_kept_after_its_request_reads_its_own_body(probe):
    for size in (5, 70_000):
        assert probe.request("POST", "/keep_input", body=b"k" * size).status == 200
        assert post(probe, "/read_kept", b"own") == [size, 3]


def test_two_hundred_uploads_leave_no_descriptor_open(probe):
    before = probe.get("/descriptors").json()
    for _ in range(100):
        assert post(probe, "/read_twice", b"d" * 70_000)[0] == 70_000
        # The application does not read this body.
        assert probe.request("POST", "/pid", body=b"d" * 70_000).status == 200
    assert probe.get("/descriptors").json() == before
