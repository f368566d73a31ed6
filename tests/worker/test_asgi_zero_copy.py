"""The ASGI extension `http.response.zerocopysend`: open files as the body or parts of the body."""

import json
import os

import pytest

APPLICATION = "asgi_zero_copy"
CONTENT = b"0123456789"


@pytest.fixture
def file(tmp_path):
    """A file of ten bytes."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


def fetch(worker, path, *parts, method="GET", **plan):
    """Returns the answer to a request for these parts of a file."""
    query = json.dumps({"path": str(path), "parts": parts, **plan}, separators=(",", ":"))
    return worker.fetch(f"/parts?{query}", method)


def positions(worker):
    """Returns the positions of the file after each of the parts."""
    return json.loads(worker.get("/positions")[1])


@pytest.mark.parametrize(
    ("part", "position", "expected", "after"),
    [
        ({}, 0, (0, 10), 10),
        ({}, 4, (4, 6), 10),
        ({"count": 3}, 4, (4, 3), 7),
        ({"offset": 2, "count": 5}, 4, (2, 5), 4),
        ({"offset": 2}, 4, (2, 8), 4),
        ({"offset": 6, "count": 100}, 0, (6, 4), 0),
        ({"offset": None, "count": None, "more_body": None}, 0, (0, 10), 10),
        ({"count": 2**63 - 1}, 1, (1, 9), 10),
    ],
)
def test_part_that_is_the_body_is_sent_as_descriptor(worker, file, part, position, expected, after):
    answer = fetch(worker, file, part, position=position)
    assert (answer.raised, answer.file, answer.body, answer.end) == ([], expected, b"", True)
    assert answer.fields == [(b"content-length", b"%d" % expected[1])]
    assert positions(worker) == [after]


def test_descriptor_outlives_the_applications_file(worker, file):
    exchange = worker.submit(f"/by_number?{file}")
    assert worker.wait_done(exchange).file == (0, 10)
    while exchange not in worker.files:
        worker.next_report("file")
    with open(worker.files.pop(exchange), "rb") as sent:
        assert os.pread(sent.fileno(), 100, 0) == CONTENT


@pytest.mark.parametrize(
    ("part", "position"),
    [
        ({"count": 0}, 0),
        ({}, 10),
        ({"offset": 10}, 0),
        ({"offset": 50, "count": 5}, 0),
        ({"offset": 2**63 - 1}, 0),
    ],
)
def test_part_without_bytes_is_an_empty_body(worker, file, part, position):
    answer = fetch(worker, file, part, position=position)
    assert (answer.raised, answer.file, answer.body, answer.end) == ([], None, b"", True)
    assert answer.fields == [(b"content-length", b"0")]


def test_empty_file_is_an_empty_body(worker, tmp_path):
    (tmp_path / "empty").touch()
    answer = fetch(worker, tmp_path / "empty", {})
    assert (answer.raised, answer.file, answer.body, answer.end) == ([], None, b"", True)


def test_parts_are_sent_in_order_with_bytes_between_them(worker, file):
    answer = fetch(
        worker,
        file,
        {"body": "<", "more_body": True},
        {"offset": 7, "count": 2, "more_body": True},
        {"count": 3, "more_body": True},
        {"count": 3, "more_body": True},
        {"body": ">", "more_body": True},
        {"offset": 9, "count": 100},
    )
    assert (answer.raised, answer.file, answer.end) == ([], None, True)
    assert answer.body == b"<78012345>9"
    assert positions(worker) == [0, 3, 6, 6]


def test_empty_body_ends_a_response_after_a_file_part(worker, file):
    answer = fetch(worker, file, {"more_body": True}, {"body": ""})
    assert (answer.raised, answer.body, answer.end) == ([], CONTENT, True)


def test_large_part_waits_for_a_slow_client(worker, tmp_path):
    """The worker reads no further than the client does; the body arrives whole."""
    path = tmp_path / "large"
    content = bytes(range(256)) * 20_000
    path.write_bytes(content)
    worker.is_slow = True
    query = json.dumps({"path": str(path), "parts": [{"more_body": True}, {"offset": 0, "count": 3}]})
    exchange = worker.submit(f"/parts?{query}")
    worker.wait_for_response(exchange, lambda answer: len(answer.body) > 100_000, "the first blocks")
    # Another request is served meanwhile.
    assert worker.get("/positions")[0] == 200
    assert len(worker.responses[exchange].body) < len(content) // 2
    worker.is_slow = False
    worker.acknowledge()
    answer = worker.wait_done(exchange)
    assert (answer.raised, answer.end) == ([], True)
    assert answer.body == content + content[:3]


def test_pseudo_file_is_sent_up_to_its_end(worker):
    answer = fetch(worker, "/proc/version", {})
    assert (answer.raised, answer.file, answer.end) == ([], None, True)
    with open("/proc/version", "rb") as file:
        assert answer.body == file.read()


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("pipe", "ValueError: http.response.zerocopysend: the file is not a regular file"),
        ("closed", "OSError: "),
        ("negative", "OSError: "),
        ("large", "OverflowError: "),
        ("memory", "UnsupportedOperation: fileno"),
        ("text", "AttributeError: 'str' object has no attribute 'fileno'"),
    ],
)
def test_object_that_is_no_open_file_raises(worker, what, error):
    """The exception is raised in the application, which may still answer."""
    status, body = worker.get(f"/unusable?{what}")
    assert (status, body.decode()[: len(error)]) == (200, error)


@pytest.mark.parametrize(("key", "value"), [("offset", -1), ("count", -5)])
def test_negative_range_raises_before_the_head(worker, file, key, value):
    answer = fetch(worker, file, {key: value})
    assert answer.status == 0
    assert f"http.response.zerocopysend: {key} is negative: {value}" in answer.raised[0]


@pytest.mark.parametrize(
    ("length", "parts", "error"),
    [
        (5, [{"count": 6}], "Response content longer than Content-Length"),
        (11, [{}], "Response content shorter than Content-Length"),
        (5, [{"count": 4}], "Response content shorter than Content-Length"),
        (5, [{"count": 4, "more_body": True}, {"count": 2}], "Response content longer than Content-Length"),
        (5, [{"count": 4, "more_body": True}, {"body": ""}], "Response content shorter than Content-Length"),
    ],
)
def test_range_that_differs_from_content_length_raises(worker, file, length, parts, error):
    answer = fetch(worker, file, *parts, headers={"content-length": str(length)})
    assert (answer.file, answer.end) == (None, True)
    assert error in answer.raised[0]


def test_file_that_has_grown_sends_its_content_length(worker, file):
    answer = fetch(worker, file, {}, headers={"content-length": "4"})
    assert (answer.raised, answer.file) == ([], (0, 4))
    assert answer.fields == [(b"content-length", b"4")]
    assert positions(worker) == [4]


def test_response_to_head_has_the_length_and_no_file(worker, file):
    answer = fetch(worker, file, {"offset": 3}, method="HEAD")
    assert (answer.raised, answer.file, answer.body, answer.end) == ([], None, b"", True)
    assert answer.fields == [(b"content-length", b"7")]


def test_trailers_follow_a_file(worker, file):
    answer = fetch(worker, file, {"offset": 3}, trailers=True)
    assert (answer.raised, answer.file, answer.trailers) == ([], (3, 7), [(b"x-one", b"1")])
