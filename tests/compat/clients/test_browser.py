"""Headless Chromium opens a page that posts its findings, over HTTP/1.1 and over HTTP/2."""

import time

import httpx
import pytest
from chromium import Chromium
from support.waiting import DEADLINE


@pytest.fixture(scope="module", params=["http", "https"])
def server(request, start, certificate):
    return start("browser:app", *(certificate if request.param == "https" else ()))


@pytest.fixture(scope="module")
def findings(server, tmp_path_factory):
    """A function that waits for a finding of the page."""
    with (
        Chromium(tmp_path_factory.mktemp("chromium"), f"{server.url}/page") as chromium,
        httpx.Client(base_url=server.url, timeout=DEADLINE, verify=False) as client,
    ):

        def findings(name, is_enough=bool):
            deadline = time.monotonic() + 2 * DEADLINE
            while True:
                found = client.get("/findings").json()
                assert "error" not in found, found
                if name in found and is_enough(found[name]):
                    return found[name]
                if not chromium.is_running() or time.monotonic() > deadline:
                    pytest.fail(f"no {name} in {found}\n{chromium.output()}\n{server.log()}")
                time.sleep(0.05)

        yield findings


def test_text_and_binary_messages_are_echoed(findings):
    result = findings("messages")
    assert result["protocol"] == "v2.chat"
    assert result["extensions"].startswith("permessage-deflate")
    assert result["text"] == "grüß"
    assert result["bytes"] == [0, 1, 254, 255]
    assert result["large"] is True
    assert result["order"] is True


def test_close_code_of_the_page_reaches_both_sides(findings):
    result = findings("messages")
    assert result["closed"] == {"code": 4002, "reason": "bye", "wasClean": True}
    assert result["disconnects"] == [[4002, "bye"]]


def test_page_over_https_is_loaded_over_http2(server, findings):
    assert findings("protocol") == ("h2" if server.url.startswith("https") else "http/1.1")


def test_rejected_handshake_closes_with_1006(findings):
    assert findings("rejection") == {"errors": 1, "code": 1006}


def test_event_source_reconnects_with_its_last_event_id(findings):
    assert findings("events") == list(range(7))


def test_streamed_response_is_read_in_parts(findings):
    assert findings("streamed") == ["first\n", "second\n"]


def test_form_uploads_a_file(findings):
    assert findings("upload") == {"note": "grüß", "size": 3 << 20}


def test_reload_reconnects_the_page_to_the_new_worker(server, findings):
    (old,) = findings("pids")
    server.reload()
    assert findings("pids", lambda pids: len(pids) == 2)[1] != old
    assert findings("closes") == [1012]
