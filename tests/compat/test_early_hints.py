"""wsgi.early_hints: interim responses on the wire."""

import pytest


@pytest.fixture(scope="module")
def hinting(start_shared):
    return start_shared("early_hints", flags=("--workers", "1", "--threads", "2")).wait_ready()


def exchange(connection, path, version="1.1", on_hints=lambda: None):
    """Returns the Link lines of the 103 responses, and the final response."""
    connection.send(f"GET {path} HTTP/{version}\r\nHost: x\r\n\r\n".encode())
    data = connection.read_until(b"\r\n\r\n") + b"\r\n\r\n"
    links = []
    while data.startswith(b"HTTP/1.1 103 Early Hints\r\n"):
        lines = data.decode().split("\r\n")[1:-2]
        assert all(line.lower().startswith("link: ") for line in lines), lines
        links += lines
        if len(links) == 2:
            on_hints()
        data = connection.read_until(b"\r\n\r\n") + b"\r\n\r\n"
    connection.buffer = data + connection.buffer
    return links, connection.response()


def test_hints_precede_the_response(hinting):
    with hinting.connect() as connection:
        for _ in range(3):
            links, response = exchange(connection, "/two", on_hints=lambda: hinting.get("/release"))
            assert links == ["link: </style.css>; rel=preload; as=style", "link: </app.js>; rel=preload"]
            assert (response.status, response.body) == (200, b"done")
        assert exchange(connection, "/none")[0] == []


def test_hints_between_head_and_body_keep_the_head(hinting):
    with hinting.connect() as connection:
        _, response = exchange(connection, "/prepared")
        assert (response["x-own"], response.body) == ("yes", b"prepared")


@pytest.mark.parametrize("path", ["/late", "/thread"])
def test_hints_out_of_place_are_ignored(hinting, path):
    with hinting.connect() as connection:
        links, response = exchange(connection, path)
        assert (links, response.status) == ([], 200)


def test_http_1_0_gets_no_hints(hinting):
    with hinting.connect() as connection:
        hinting.get("/release")
        links, response = exchange(connection, "/two", "1.0")
        assert (links, response.body) == ([], b"done")


@pytest.mark.parametrize("path", ["/split", "/name", "/length", "/large"])
def test_malformed_hints_raise_and_send_nothing(hinting, path):
    with hinting.connect() as connection:
        links, response = exchange(connection, path)
        assert (links, response.body) == ([], b"ValueError")
        assert exchange(connection, "/type")[1].body == b"TypeError"
