"""Common uses of curl, with a Starlette application."""

import hashlib
import json
import re
import secrets
import subprocess

import pytest
from frameworks import FRAMEWORKS
from support.records import wait_for_records
from support.waiting import DEADLINE

MIB = 1 << 20
VERSION = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout
HAS_WS = re.search(r"^Protocols:.* ws( |$)", VERSION, re.M)


@pytest.fixture(scope="module")
def server(serving):
    return serving("starlette")


def curl(*words, data=None, check=True):
    """Runs curl; returns its output and its diagnostics (-v)."""
    command = ["curl", "--silent", "--show-error", "--max-time", str(DEADLINE), *words]
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    assert done.returncode == 0 or not check, f"{command}: {done.returncode}\n{done.stderr.decode()}"
    return done.stdout, done.stderr.decode(errors="replace")


def digest(data):
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_expected_body_gets_100_continue(server):
    data = secrets.token_bytes(2 * MIB)
    words = ["-v", "-H", "Expect: 100-continue", "--data-binary", "@-", f"{server.url}/raw"]
    body, output = curl(*words, data=data)
    assert json.loads(body) == digest(data)
    assert output.index("HTTP/1.1 100 Continue") < output.index("HTTP/1.1 200 OK")


def test_refused_body_gets_no_100_continue(server):
    words = ["-v", "-H", "Expect: 100-continue", "--data-binary", "@-", f"{server.url}/json"]
    _, output = curl(*words, data=bytes(2 * MIB))
    assert "HTTP/1.1 405" in output
    assert "100 Continue" not in output


def test_head_sends_the_length_and_no_body(server):
    whole, _ = curl(f"{server.url}/json")
    head, _ = curl("--head", f"{server.url}/json")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert re.search(rb"(?i)\r\ncontent-length: (\d+)\r\n", head)[1] == str(len(whole)).encode()
    assert head.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "how",
    [
        ["-H", "Transfer-Encoding: chunked", "--data-binary", "@-"],
        ["-X", "POST", "-T", "-"],
        ["-H", "Expect:", "--data-binary", "@-"],
        ["--http1.0", "--data-binary", "@-"],
    ],
    ids=["chunked", "from a pipe", "of known length", "of HTTP/1.0"],
)
def test_uploads_arrive_whole(server, how):
    data = secrets.token_bytes(3 * MIB)
    assert json.loads(curl(*how, f"{server.url}/raw", data=data)[0]) == digest(data)


def test_forms_with_files_arrive_whole(server, tmp_path):
    data = secrets.token_bytes(3 * MIB)
    (tmp_path / "picture.png").write_bytes(data)
    words = ["-F", "note=a note", "-F", f"file=@{tmp_path}/picture.png", f"{server.url}/upload"]
    assert json.loads(curl(*words)[0]) == {"note": "a note", "name": "picture.png", **digest(data)}


def test_server_sent_events_arrive_one_by_one(server, marker):
    with subprocess.Popen(
        ["curl", "--silent", "--no-buffer", f"{server.url}/sse/{marker}"], stdout=subprocess.PIPE, text=True
    ) as watching:
        for number in range(10):
            assert [watching.stdout.readline() for _ in range(3)][1] == f"data: tick {number}\n"
        watching.terminate()
    assert wait_for_records(server, marker) == ["stream closed"]


def test_streams_reach_an_http_1_0_client(server):
    body, _ = curl("--http1.0", f"{server.url}/lines/1000")
    assert body.decode() == "".join(f"{number}\n" for number in range(1000))


def test_several_urls_share_a_connection(server):
    urls = [f"{server.url}/items/{number}" for number in range(5)]
    output, _ = curl("--write-out", "\n%{num_connects}\n", *urls)
    assert output.decode().split("\n")[1::2] == ["1", "0", "0", "0", "0"]


def test_handshake_of_the_rfc_gets_its_accept_value(server):
    """Sends the key of RFC 6455 section 1.3, then two frames and a close frame."""
    fields = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    words = [word for name, value in fields.items() for word in ("-H", f"{name}: {value}")]
    # curl never answers the close frame, so the connection stays open until curl gives up.
    words += ["-i", "--no-buffer", "--http1.1", "--max-time", "3"]
    answer, _ = curl(*words, f"{server.url}/ws/push/2", check=False)
    head, frames = answer.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"s3pplmbitxaq9kygzzhzrbk+xoo=" in head.lower()
    assert frames == b"\x81\x010\x81\x011\x88\x02\x03\xe8"


def test_curl_prints_pushed_websocket_messages(server):
    if not HAS_WS:
        pytest.skip("this curl does not know ws://")
    output, _ = curl("--no-buffer", f"{server.ws}/ws/push/3", check=False)
    assert output == b"012"


@pytest.mark.parametrize(
    ("app", "path"), [(FRAMEWORKS["starlette"], "/json"), ("with_flask_sock", "/pid")], ids=["asgi", "wsgi"]
)
def test_http_1_0_over_tls_is_kept_alive_on_request(start, certificate, app, path):
    server = start(app, *certificate)
    urls = [server.url + path, server.url + path]
    for fields, connections in [([], "1 1"), (["-H", "Connection: keep-alive"], "1 0")]:
        # curl offers only "http/1.0" in the handshake.
        words = ["--http1.0", "--cacert", certificate[1], "--output", "/dev/null", "--output", "/dev/null"]
        output, _ = curl(*words, *fields, "--fail", "--write-out", "%{num_connects} ", *urls)
        assert output.decode().strip() == connections
