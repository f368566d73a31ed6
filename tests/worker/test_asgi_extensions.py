"""ASGI extensions for HTTP: pathsend, early hints, trailers."""

import errno
import os

import pytest
from support.asgi_exchanges import json_of
from support.fake_channel import BODY, END, HINTS, RESPOND, TO_THE_END, TRAILERS

APPLICATION = "asgi_cases"


SYSFS = "/sys/kernel/mm/transparent_hugepage/enabled"


def test_pathsend_passes_the_descriptor(worker):
    exchange = worker.submit("/file")
    answer = worker.wait_done(exchange)
    assert answer.file == (0, 11)
    assert dict(answer.fields)[b"content-length"] == b"11"
    worker.next_report("file")
    with open(worker.files.pop(exchange), "rb") as file:
        assert file.read() == b"from a file"


def test_pathsend_of_a_grown_file_sends_its_content_length(worker, tmp_path):
    file = tmp_path / "log"
    file.write_bytes(b"line\n" * 1000)
    answer = worker.fetch(f"/path?4000,{file}")
    assert (answer.raised, answer.file, answer.end) == ([], (0, 4000), True)
    assert answer.fields == [(b"content-length", b"4000")]


def test_pathsend_with_content_length_zero_sends_nothing(worker, tmp_path):
    file = tmp_path / "log"
    file.write_bytes(b"first line\n")
    answer = worker.fetch(f"/path?0,{file}")
    assert (answer.raised, answer.file, answer.body, answer.end) == ([], None, b"", True)


def test_pathsend_of_a_shrunk_file_raises_before_the_head(worker, tmp_path):
    file = tmp_path / "log"
    file.write_bytes(b"x" * 99)
    answer = worker.fetch(f"/path?100,{file}")
    assert (answer.status, answer.file) == (0, None)
    assert "Response content shorter than Content-Length" in answer.raised[0]


def test_pathsend_of_an_empty_file_is_an_empty_body(worker, tmp_path):
    file = tmp_path / "empty"
    file.write_bytes(b"")
    answer = worker.fetch(f"/path?,{file}")
    assert (answer.fields, answer.file, answer.body) == ([(b"content-length", b"0")], None, b"")


@pytest.mark.parametrize("path", ["/proc/version", SYSFS])
def test_pathsend_of_a_pseudo_file_sends_until_its_end(worker, path):
    if not os.path.exists(path):
        pytest.skip(f"SKIPPED: this machine has no {path}")
    answer = worker.fetch(f"/path?,{path}")
    assert (answer.raised, answer.file, answer.fields) == ([], (0, TO_THE_END), [])
    size = os.stat(path).st_size
    answer = worker.fetch(f"/path?{size},{path}")
    # The application has declared a wrong length.
    assert answer.status == 0
    assert "than Content-Length" in answer.raised[0]


def test_pathsend_of_a_fifo_does_not_block_the_loop(worker, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    answer = worker.fetch(f"/path?,{tmp_path}/fifo")
    assert "not a regular file" in answer.raised[0]


@pytest.mark.parametrize(
    ("path", "why"), [("/no_file", "FileNotFoundError"), ("/directory", "not a regular file")]
)
def test_pathsend_of_a_missing_file_or_directory_raises(worker, path, why):
    answer = worker.fetch(path)
    assert answer.status == 0
    assert why in answer.raised[0]


def test_pathsend_of_a_missing_file_raises_the_error_of_open(worker):
    path = "/nowhere/at/all"
    error = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    attributes = json_of(worker.fetch(f"/file_error?{path}"))
    assert attributes == ["FileNotFoundError", error.errno, error.strerror, path]
    assert str(error) in worker.fetch("/no_file").raised[0]


def test_pathsend_for_head_sends_no_file(worker):
    answer = worker.fetch("/file", "HEAD")
    assert (answer.file, answer.body, dict(answer.fields)[b"content-length"]) == (None, b"", b"11")


def test_early_hints_are_sent_before_the_head(worker):
    answer = worker.fetch("/hints")
    assert answer.hints == [[(b"link", b"</a.css>; rel=preload"), (b"link", b"</b.js>")]]
    assert [kind for kind, _, _ in answer.frames] == [HINTS, RESPOND, BODY]


def test_trailers_end_the_response(worker):
    answer = worker.fetch("/trailers")
    assert (answer.body, answer.trailers) == (b"body", [(b"x-one", b"1"), (b"x-two", b"2")])
    assert [(kind, bool(flags & END)) for kind, flags, _ in answer.frames] == [
        *((RESPOND, False), (TRAILERS, True), (BODY, True))
    ]


def test_trailers_wait_for_credit(worker):
    worker.is_slow = True
    try:
        exchange = worker.submit("/large_trailers")
        answer = worker.wait_for_response(
            exchange, lambda answer: len(answer.body) >= 1024 * 1024, "window is full"
        )
        assert answer.trailers is None
    finally:
        worker.is_slow = False
        worker.acknowledge()
    answer = worker.wait_done(exchange)
    assert (len(answer.body), answer.trailers) == (6_000_000, [(b"x-one", b"1")])
