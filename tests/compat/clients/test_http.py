"""Each framework over HTTP, with httpx as the client."""

import asyncio
import contextlib
import hashlib
import secrets

import httpx
import pytest
from frameworks import FRAMEWORKS
from support.records import wait_for_records
from support.waiting import DEADLINE

MIB = 1 << 20


def test_json_is_answered(framework, client):
    response = client.get("/json")
    assert response.json() == {"framework": framework.name}
    assert response.headers["content-type"].startswith("application/json")
    assert response.http_version == "HTTP/1.1"


def test_paths_and_queries_are_decoded_once(framework, client):
    # BlackSheep decodes twice.
    query = "a/ä +&=" if framework.name == "blacksheep" else "a/ä %26+&="
    assert client.get("/items/7", params={"q": query}).json() == {"n": 7, "q": query}
    assert client.get("/items/7").json() == {"n": 7, "q": None}


def test_redirects_lead_to_the_same_host(framework, client):
    response = client.get("/redirect", follow_redirects=True)
    assert response.json() == {"framework": framework.name}
    assert response.url == f"{framework.url}/json"
    assert [answer.status_code for answer in response.history] == [307]


def test_unknown_path_is_404(client):
    assert client.get("/nothing").status_code == 404
    assert client.delete("/nothing").status_code == 404
    assert client.get("/json").status_code == 200


def test_exception_in_a_view_is_500_and_logged(framework, client):
    assert client.get("/fail").status_code == 500
    # Litestar logs no exceptions by default.
    if framework.name != "litestar":
        framework.wait_for_log("ValueError: the view fails")
    assert client.get("/json").status_code == 200


@pytest.mark.parametrize("name", [name for name in FRAMEWORKS if name != "django"])
def test_lifespan_runs_before_first_request_and_at_stop(start, name):
    server = start(FRAMEWORKS[name])
    server.wait_for_log(f"{name}: startup")
    assert httpx.get(f"{server.url}/state").json() == {"pool": "a pool"}
    assert f"{name}: shutdown" not in server.log()
    assert server.stop() == 0
    assert server.log().count(f"{name}: shutdown") == 1


def test_application_without_lifespan_logs_no_traceback(serving):
    log = serving("django").log()
    assert "Traceback" not in log.split("is ready")[0], log


def test_streams_arrive_whole(client):
    assert client.get("/lines/5000").text == "".join(f"{number}\n" for number in range(5000))
    assert client.get("/lines/0").text == ""


def test_stream_parts_arrive_before_the_stream_ends(framework, client, marker):
    with client.stream("GET", f"/stream/{marker}") as response:
        parts = response.iter_text()
        assert next(parts) == "first\n"
        httpx.post(f"{framework.url}/open/{marker}")
        assert "".join(parts) == "second\n"


def test_server_sent_events_stream_until_client_disconnects(framework, client, marker):
    with client.stream("GET", f"/sse/{marker}") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.iter_lines()
        for number in range(20):
            assert [next(lines) for _ in range(3)] == [f"id: {number}", f"data: tick {number}", ""]
    assert wait_for_records(framework, marker) == ["stream closed"]


def test_long_poll_after_an_abandoned_one_is_answered(framework, client, marker):
    with contextlib.ExitStack() as stack:
        waiting = []
        for _ in range(5):
            poller = stack.enter_context(httpx.Client(base_url=framework.url, timeout=0.3))
            with pytest.raises(httpx.ReadTimeout):
                poller.get(f"/poll/{marker}")
            poller.timeout = DEADLINE
            waiting.append(poller)
        client.post(f"/open/{marker}")
        assert [poller.get(f"/poll/{marker}").json() for poller in waiting] == ["news"] * 5


def test_multipart_uploads_arrive_whole(client):
    data = secrets.token_bytes(5 * MIB)
    files = {"file": ("ünï.bin", data, "application/octet-stream")}
    result = client.post("/upload", data={"note": "ein Grüß"}, files=files).json()
    digest = hashlib.sha256(data).hexdigest()
    assert result == {"note": "ein Grüß", "name": "ünï.bin", "size": len(data), "sha256": digest}


@pytest.mark.parametrize("size", [0, 1, 65_536, 4 * MIB + 7])
def test_uploads_of_unknown_length_arrive_whole(client, size):
    data = secrets.token_bytes(size)
    parts = (data[start : start + 50_000] for start in range(0, size, 50_000))
    response = client.post("/raw", content=parts)
    assert response.request.headers["transfer-encoding"] == "chunked"
    assert response.json() == {"size": size, "sha256": hashlib.sha256(data).hexdigest()}


def test_concurrent_uploads_do_not_mix(framework):
    bodies = [bytes([number]) * (MIB + number) for number in range(8)]

    async def upload_all():
        async with httpx.AsyncClient(base_url=framework.url, timeout=DEADLINE) as client:
            return await asyncio.gather(*(client.post("/raw", content=body) for body in bodies))

    for body, response in zip(bodies, asyncio.run(upload_all())):
        assert response.json() == {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}


def test_background_task_runs_after_the_response(framework, client, marker):
    assert client.post(f"/background/{marker}").json() == "accepted"
    assert httpx.get(f"{framework.url}/seen/{marker}").json() == []
    httpx.post(f"{framework.url}/open/{marker}")
    assert wait_for_records(framework, marker) == ["worked"]


def test_connections_are_kept_alive(framework, client):
    ports = set()
    for _ in range(20):
        with client.stream("GET", "/json") as response:
            ports.add(response.extensions["network_stream"].get_extra_info("client_addr"))
            assert response.read()
    assert len(ports) == 1
