"""`http.response.zerocopysend` as clients see it, over HTTP/1.1 and HTTP/2."""

import json
import os
from urllib.parse import quote

import pytest
from support.http2_client import Http2Connection

SIZE = 10_000_000


@pytest.fixture(scope="module")
def content():
    """The bytes of the file, random so that a wrong range is detected."""
    return os.urandom(SIZE)


@pytest.fixture(scope="module")
def server(start, content, tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "file"
    path.write_bytes(content)
    return start("zero_copy:application", env={"ZERO_COPY_FILE": str(path)})


@pytest.fixture(params=["1.1", "2"])
def fetch(request, server):
    """A function that fetches parts of the file, over each version of HTTP."""

    def fetch(*parts):
        path = "/?" + quote(json.dumps(parts))
        if request.param == "1.1":
            return server.get(path)
        with Http2Connection(server.tcp_address) as connection:
            return connection.get(path)

    return fetch


def test_whole_file_arrives_with_its_length(fetch, content):
    response = fetch({})
    assert response["content-length"] == str(SIZE)
    assert response.body == content


def test_range_of_a_file_arrives_with_its_length(fetch, content):
    response = fetch({"offset": 5_000_001, "count": 1_000_003})
    assert response["content-length"] == "1000003"
    assert response.body == content[5_000_001:6_000_004]


def test_ranges_and_bytes_arrive_in_order(fetch, content):
    response = fetch("<", {"offset": 9_000_000}, "-", {"offset": 0, "count": 3_000_000}, ">")
    assert not response.all("content-length")
    assert response.body == b"<" + content[9_000_000:] + b"-" + content[:3_000_000] + b">"
