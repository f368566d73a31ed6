"""Compressed responses, decoded by real clients, with a Starlette application."""

import subprocess
import uuid

import httpx
import pytest
from frameworks import FRAMEWORKS
from support.waiting import DEADLINE

LINES = "".join(f"{number}\n" for number in range(5000))

CONFIG = """
[compression]
algorithms = ["zstd", "br", "gzip"]
min_size = "100"
"""


@pytest.fixture(scope="module")
def server(start, tmp_path_factory):
    config = tmp_path_factory.mktemp("compression") / "rgun.toml"
    config.write_text(CONFIG)
    return start(FRAMEWORKS["starlette"], "--config", config)


def test_curl_decodes_compressed_responses(server):
    command = ["curl", "--silent", "--show-error", "--fail", "--max-time", str(DEADLINE)]
    url = f"{server.url}/lines/5000"
    done = subprocess.run([*command, "--compressed", "-i", url], capture_output=True, text=True, check=True)
    head, _, body = done.stdout.partition("\n\n")
    assert "content-encoding: " in head.lower()
    assert body == LINES
    plain = subprocess.run([*command, "-i", url], capture_output=True, text=True, check=True).stdout
    assert "content-encoding" not in plain.lower()
    assert plain.partition("\n\n")[2] == LINES


def test_httpx_decodes_gzip(server):
    with httpx.Client(base_url=server.url, timeout=DEADLINE) as client:
        answer = client.get("/lines/5000", headers={"Accept-Encoding": "gzip"})
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.headers["vary"] == "accept-encoding"
        assert answer.text == LINES
        default = client.get("/lines/5000")
        assert default.text == LINES
        small = client.get("/json")
        assert "content-encoding" not in small.headers
        assert small.json() == {"framework": "starlette"}


def test_types_that_are_not_listed_are_not_compressed(server):
    with httpx.Client(base_url=server.url, timeout=DEADLINE) as client:
        answer = client.get("/blocks/2")
        assert "content-encoding" not in answer.headers
        assert len(answer.content) == 2 * 65_536


def test_compressed_events_arrive_one_by_one(server):
    """The stream has no end, so an event that the daemon does not flush would never arrive."""
    marker = uuid.uuid4().hex
    headers = {"Accept": "text/event-stream", "Accept-Encoding": "gzip"}
    with (
        httpx.Client(base_url=server.url, timeout=DEADLINE) as client,
        client.stream("GET", f"/sse/{marker}", headers=headers) as answer,
    ):
        assert answer.headers["content-encoding"] == "gzip"
        events = []
        for line in answer.iter_lines():
            if line.startswith("data: "):
                events.append(line)
            if len(events) == 5:
                break
    assert events == [f"data: tick {number}" for number in range(5)]
