"""Starlette and FastAPI on each event loop, with and without middleware."""

import contextlib

import pytest
from forms import FORM, MULTIPART, source_of
from support.interpreters import require_module
from support.paths import COMPAT_APPS
from support.waiting import wait_until

JSON = [("Content-Type", "application/json")]


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def loop(request, python):
    if request.param == "uvloop":
        require_module(python, "uvloop")
    return request.param


@pytest.fixture(scope="module", params=["application", "tagged"])
def starlette(request, start_shared, python, loop):
    require_module(python, "fastapi")
    flags = ("--workers", "1", "--loop", loop)
    server = start_shared(f"with_starlette:{request.param}", COMPAT_APPS, flags).wait_ready()
    yield server
    assert server.stop() == 0
    server.wait_for_log("starlette: shutdown")
    assert "Task was destroyed" not in server.log()


def test_starlette_requests_have_the_lifespan_state(starlette):
    assert starlette.get("/").body == b"GET / a pool"
    assert starlette.get("/nothing").status == 404
    assert starlette.request("HEAD", "/").body == b""
    starlette.wait_for_log("starlette: startup")


def test_starlette_streams(starlette):
    assert starlette.get("/stream").body == b"0\n1\n2\n"


def test_starlette_reads_uploads_of_any_size(starlette):
    for size in (0, 10, 65_536, 65_537, 3_000_000):
        response = starlette.request("POST", "/upload", body=b"u" * size)
        assert response.json() == {"size": size}, size


def test_starlette_runs_background_tasks_and_threads(starlette):
    assert starlette.get("/background").json() == "accepted"
    wait_until("background task", lambda: "worked" in starlette.get("/seen").json())
    assert starlette.get("/blocking").json() == "from a thread"


def test_starlette_sends_files(starlette):
    response = starlette.get("/file")
    assert response.body == source_of("with_starlette")
    assert response["content-length"] == str(len(response.body))


def test_growing_file_is_sent_with_its_announced_length(starlette):
    for _ in range(20):
        response = starlette.get("/growing")
        assert (response.status, response.complete, response.body) == (200, True, b"line\n" * 10_000)


def test_starlette_answers_500_and_logs_an_exception(starlette):
    assert starlette.get("/fail").status == 500
    starlette.wait_for_log("ValueError: starlette view")
    assert starlette.get("/blocking").status == 200


def test_disconnect_closes_the_stream(starlette):
    with starlette.connect() as connection:
        connection.send(b"GET /stream?n=1000000 HTTP/1.1\r\nHost: h\r\n\r\n")
        assert connection.head()[0] == 200
    wait_until("the generator is closed", lambda: "stream closed" in starlette.get("/seen").json())


def test_fastapi_validates_and_injects(starlette):
    assert starlette.get("/api/double?n=21").json() == {"doubled": 42}
    assert starlette.get("/api/double?n=x").status == 422
    assert starlette.get("/api/sync").json() == {"sync": True}
    wait_until("background task of a sync view", lambda: "later" in starlette.get("/seen").json())
    item = b'{"name": "\xc3\xa6", "price": 1.5}'
    assert starlette.request("POST", "/api/items", body=item, headers=JSON).json() == {
        "name": "æ",
        "price": 1.5,
    }
    assert starlette.request("POST", "/api/items", body=b"{", headers=JSON).status == 422


def test_fastapi_receives_files(starlette):
    result = starlette.request("POST", "/api/files", body=FORM, headers=MULTIPART).json()
    assert result == {"name": "f.bin", "size": 300_000}


def test_hundred_requests_of_ten_clients_are_answered(starlette):
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(starlette.connect()) for _ in range(10)]
        for _ in range(10):
            for connection in connections:
                connection.send(b"GET /api/double?n=4 HTTP/1.1\r\nHost: h\r\n\r\n")
            for connection in connections:
                status, headers = connection.head()
                assert status == 200
                assert connection.read_exactly(int(dict(headers)["content-length"])) == b'{"doubled":8}'
