"""Headless Chromium opens a page, which posts its findings."""

import os
import shutil
import signal
import subprocess
import time

import httpx
import pytest
from support.waiting import DEADLINE

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def server(start):
    return start("browser:app")


@pytest.fixture(scope="module")
def findings(server, tmp_path_factory):
    """A function that waits for a finding of the page."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    home = tmp_path_factory.mktemp("chromium")
    # Chromium's log is shown if the page posts nothing.
    with (home / "log").open("w+") as log:
        browser = subprocess.Popen(
            [
                *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
                *("--no-first-run", f"--user-data-dir={home}/profile", "--remote-debugging-port=0"),
                f"{server.url}/page",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "HOME": str(home)},
        )

        def findings(name, enough=bool):
            deadline = time.monotonic() + 2 * DEADLINE
            while True:
                found = httpx.get(f"{server.url}/findings", timeout=DEADLINE).json()
                assert "error" not in found, found
                if name in found and enough(found[name]):
                    return found[name]
                if browser.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    pytest.fail(f"no {name} in {found}\n{log.read()}\n{server.log()}")
                time.sleep(0.05)

        try:
            yield findings
        finally:
            os.killpg(browser.pid, signal.SIGKILL)
            browser.wait()


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
    assert result["heard"] == [[4002, "bye"]]


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
