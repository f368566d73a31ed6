"""Slow responses: when their head is sent, and the deadline."""

import pytest
from support.interpreters import require_module
from support.paths import COMPAT_APPS

ONE = ("--workers", "1")
SHORT = (*ONE, "--timeout", "1")


@pytest.fixture(scope="module")
def starlette(start_shared, python):
    require_module(python, "starlette")
    return start_shared("streams_asgi:application", COMPAT_APPS, ONE).wait_ready()


@pytest.fixture(scope="module")
def flask(start_shared, python):
    require_module(python, "flask")
    return start_shared("streams_wsgi:application", COMPAT_APPS, (*ONE, "--threads", "3")).wait_ready()


def begin(connection, target, method="GET"):
    """Sends a request and reads the head of the response."""
    connection.send(f"{method} {target} HTTP/1.1\r\nHost: example.org\r\n\r\n".encode())
    status, headers = connection.head()
    return status, dict(headers)


@pytest.mark.parametrize("path", ["/events", "/wrapped/events", "/package", "/wrapped/package"])
def test_event_source_opens_before_the_first_event(starlette, python, path):
    if "package" in path:
        require_module(python, "sse_starlette")
    with starlette.connect() as connection:
        status, headers = begin(connection, f"{path}?id={path}")
        assert (status, headers["content-type"].split(";")[0]) == (200, "text/event-stream")
        assert starlette.get(f"/open?id={path}").body == b"open"
        assert connection.chunks() == (b"data: late\n\n", True)


def test_head_request_for_a_stream_is_answered_at_once(starlette):
    with starlette.connect() as connection:
        assert begin(connection, "/events?id=head", "HEAD")[0] == 200
        assert connection.request("GET", "/open?id=head").body == b"open"


def test_silent_asgi_stream_is_cut_at_its_deadline(start, python):
    require_module(python, "starlette")
    server = start("streams_asgi:application", COMPAT_APPS, SHORT).wait_ready()
    with server.connect() as connection:
        assert begin(connection, "/events?id=silent")[0] == 200
        assert connection.chunks() == (b"", False)
    assert "ERROR" in server.wait_for_log("GET /events aborted within the body")
    assert "events 504" not in server.log()


def test_wsgi_stream_sends_its_head_with_the_first_part(flask):
    with flask.connect() as connection:
        status, headers = begin(connection, "/events?id=first&first=:%0A%0A")
        assert (status, headers["transfer-encoding"]) == (200, "chunked")
        assert connection.chunk() == b":\n\n"
        assert flask.get("/open?id=first").body == b"open"
        assert connection.chunks() == (b"data: late\n\n", True)


def test_write_sends_the_head_immediately(flask):
    with flask.connect() as connection:
        assert begin(connection, "/write?write")[0] == 200
        assert connection.chunk() == b": open\n\n"
        assert flask.get("/open?id=write").body == b"open"
        assert connection.chunks() == (b"data: late\n\n", True)


def test_wsgi_stream_at_its_deadline_is_504_or_cut(start, python):
    require_module(python, "flask")
    for target, cut in [
        ("/events?id=silent&first=", False),
        ("/events?id=silent&first=:%0A%0A", True),
        ("/write?silent", True),
    ]:
        server = start("streams_wsgi:application", COMPAT_APPS, SHORT).wait_ready()
        with server.connect() as connection:
            status, _ = begin(connection, target)
            if not cut:
                assert status == 504
                continue
            assert status == 200
            assert connection.chunk().startswith(b":")
            assert connection.chunks() == (b"", False)
        assert "ERROR" in server.wait_for_log("aborted within the body")
        assert f"{target.partition('?')[0]} 504" not in server.log()


def test_file_can_follow_a_head_without_body(start, project):
    server = start(
        "late_file:application",
        project(
            late_file="""
            import asyncio

            gate = None

            async def application(scope, receive, send):
                global gate
                if scope["type"] == "lifespan":
                    raise RuntimeError("no lifespan")
                # Before Python 3.10 an Event belongs to the loop that runs at its creation.
                gate = gate or asyncio.Event()
                await send({"type": "http.response.start", "status": 200, "headers": []})
                if scope["path"] == "/open":
                    gate.set()
                    return await send({"type": "http.response.body"})
                await gate.wait()
                await send({"type": "http.response.pathsend", "path": __file__})
            """
        ),
        ONE,
    ).wait_ready()
    with server.connect() as connection:
        assert begin(connection, "/")[0] == 200
        assert server.get("/open").status == 200
        body, is_complete = connection.chunks()
        assert (b"http.response.pathsend" in body, is_complete) == (True, True)
        assert connection.request("GET", "/open").status == 200
    assert "ERROR" not in server.log()
