"""Files that the daemon makes, reads and watches under the packaged unit: spools, pages, `on_change`."""

import contextlib
import hashlib
import os
import pathlib
import shutil

import host
import pytest
from support import http_client
from support.waiting import wait_until

APP = pathlib.Path("/srv/files")
PAGE = APP / "404.html"
SIZE = 64 << 20
EXTRA = f"""
[errors]
"404" = "{PAGE}"
[limits]
response_memory = "1MiB"
[reload]
on_change = true
[[static]]
url = "/static/"
directory = "{APP}"
"""


@pytest.fixture(autouse=True, scope="module")
def app(enabled):
    """An application that receives and sends large bodies; one worker, little memory for responses."""
    APP.mkdir(exist_ok=True)
    shutil.copy(host.HERE / "files_app.py", APP)
    PAGE.write_text("<p>the operator's page")
    host.configure("files_app", APP, workers=1, extra=EXTRA)
    host.restart()


def spooled_files():
    """Returns the unnamed files in the cache directory that the daemon has open."""
    found = []
    for link in pathlib.Path(f"/proc/{host.main_pid()}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(link))
    return [name for name in found if name.startswith("/var/cache/rgun/") and name.endswith(" (deleted)")]


def test_large_request_body_is_kept_in_a_file():
    body = os.urandom(1 << 20) * 32
    with http_client.Connection(host.ADDRESS) as client:
        client.send(f"POST /digest HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        client.send(body[:-1])
        wait_until("the body is in a file", spooled_files)
        client.send(body[-1:])
        assert client.response().text == hashlib.sha256(body).hexdigest()
    wait_until("the file is closed", lambda: not spooled_files())


def test_response_to_a_slow_client_is_kept_in_a_file():
    with http_client.Connection(host.ADDRESS) as slow:
        slow.send(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until("the response is in a file", spooled_files)
        assert host.get("/version").text == "1"
        response = slow.response()
        assert (response.complete, len(response.body)) == (True, SIZE)
    wait_until("the file is closed", lambda: not spooled_files())


def test_error_page_is_read():
    response = host.get("/static/none", headers=[("Accept", "text/html")])
    assert (response.status, response.text) == (404, "<p>the operator's page")


def test_file_wrapper_sends_a_file():
    assert host.get(f"/wrapped?{PAGE}").text == "<p>the operator's page"


def test_changed_code_is_loaded():
    new = APP / "new"
    new.write_text((APP / "files_app.py").read_text().replace("VERSION = 1", "VERSION = 2"))
    new.rename(APP / "files_app.py")
    wait_until("the new code serves", lambda: host.get("/version").text == "2")
