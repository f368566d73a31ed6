"""wsgi.file_wrapper: PEP 3333, "Optional Platform-Specific File Handling"."""

import importlib.util
import os
import pathlib

import pytest
from support.paths import WORKER_APPS
from support.records import hello_events
from support.waiting import wait_until

# Objects whose read() returns the bytes of their descriptor: the daemon sends the file.
BY_DESCRIPTOR = [
    *("plain", "unbuffered", "read_only", "from_its_position", "written_but_not_flushed", "own_close"),
    *("named_temporary", "django_file", "django_file_over_named_temporary"),
]
# Objects that must be read: they return other bytes, or have no descriptor or no known length.
BY_READING = [
    *("first_hundred", "a_range", "deciphering", "buffered_with_own_read", "device", "sysfs_file"),
    *("buffered_over_raw_with_own_read", "instance_with_own_read", "named_temporary_with_own_read"),
    *("spooled_in_memory", "spooled_on_disk", "procfs_file", "procfs_file_partly_read"),
    *("django_file_that_deciphers", "django_content"),
]
SYSFS = "/sys/kernel/mm/transparent_hugepage/enabled"


@pytest.fixture(scope="module")
def file_likes(start_shared):
    """The application apps/file_likes."""
    return start_shared("file_likes").wait_ready()


@pytest.fixture(scope="module")
def asgi(start_shared):
    """The application tests/worker/apps/asgi_cases."""
    return start_shared("asgi_cases", WORKER_APPS).wait_ready()


def numbered(size, start=0):
    """Returns the bytes that the cases write into their files."""
    return b"".join(index.to_bytes(8, "big") for index in range((start + size) // 8 + 1))[
        start : start + size
    ]


@pytest.mark.parametrize("size", [1, 8191, 65536, 3_000_001])
@pytest.mark.parametrize("case", ["file", "file/no-length", "file/no-descriptor"])
def test_file_arrives_whole_and_is_closed(server, marker, case, size):
    response = server.get(f"/{case}?size={size}&id={marker}")
    assert response.body == numbered(size)
    assert response["content-length"] == str(size)
    wait_until("close()", lambda: hello_events(server, marker, "close"))
    assert len(hello_events(server, marker)) == 1


def test_empty_file_is_an_empty_body(server, marker):
    response = server.get(f"/file?size=0&id={marker}")
    assert (response.status, response.body, response.complete) == (200, b"", True)
    wait_until("close()", lambda: hello_events(server, marker, "close"))


def test_file_is_sent_from_its_position(server):
    response = server.get("/file/offset?size=100000&offset=999")
    assert response.body == numbered(100_000)[999:]


def test_buffered_file_is_sent_from_its_own_position(server):
    assert server.get("/file/buffered").body == numbered(100_000)


def test_file_is_cut_at_content_length(server):
    with server.connect() as connection:
        response = connection.request("GET", "/file/part")
        assert (response.status, response.body) == (206, numbered(1000))
        assert connection.is_open()


def test_file_shorter_than_content_length_is_500(server):
    response = server.get("/file/truncated")
    assert (response.status, response.complete) == (500, True)
    server.wait_for_log("the application promised 5000 bytes of body and sent 1000")


def test_pipe_is_read_to_its_end(server):
    assert server.get("/file/pipe").body == b"through a pipe\n"


def test_middleware_can_iterate_the_wrapper(server):
    assert server.get("/file/iterated").body == numbered(20_000)


def test_head_for_a_file_has_a_length_and_closes_the_file(server, marker):
    with server.connect() as connection:
        response = connection.request("HEAD", f"/file?size=5000&id={marker}")
        assert response["content-length"] == "5000"
        assert connection.is_open()
    wait_until("close()", lambda: hello_events(server, marker, "close"))


@pytest.mark.parametrize("case", ["gzip_file", "bz2_file"])
def test_compressed_file_is_sent_decompressed(probe, case):
    assert probe.get(f"/{case}").body == b"plain text\n" * 1000


def test_named_temporary_file_is_sent_from_its_position(probe):
    response = probe.get("/named_temporary")
    assert response.body == (b"0123456789" * 10_000)[5:]
    assert response["content-length"] == "99995"


def test_file_after_write_is_sent(probe):
    assert probe.get("/file_after_write").body == b"written\nfrom the file\n"


def test_file_at_its_end_is_an_empty_body(probe):
    response = probe.get("/file_at_end")
    assert (response.body, response.complete) == (b"", True)


def test_closed_file_is_500(probe):
    assert probe.get("/closed_file").status == 500
    probe.wait_for_log("I/O operation on closed file")


def test_hundred_files_leave_no_descriptor_open(probe):
    before = probe.get("/descriptors").json()
    for _ in range(100):
        assert probe.get("/named_temporary").complete
    assert probe.get("/descriptors").json() == before


@pytest.mark.parametrize("name", BY_DESCRIPTOR + BY_READING)
def test_file_like_object_is_sent_as_read_returns_it(file_likes, name):
    if name.startswith("django") and importlib.util.find_spec("django") is None:
        pytest.skip("SKIPPED: Django is not installed")
    if name == "sysfs_file" and not os.path.exists(SYSFS):
        pytest.skip(f"SKIPPED: this machine has no {SYSFS}")
    read, sent = file_likes.get(f"/{name}?read"), file_likes.get(f"/{name}")
    assert (sent.status, sent.complete, sent.body) == (200, True, read.body)
    assert bool(read.body) == (name != "device")
    if name in BY_DESCRIPTOR:
        # The daemon knows the length in advance.
        assert sent["content-length"] == str(len(read.body))


def test_file_that_would_block_is_500(file_likes):
    assert file_likes.get("/empty_nonblocking_pipe").status == 500
    file_likes.wait_for_log("yielded NoneType, not bytes")


@pytest.mark.parametrize("path", ["/proc/version", SYSFS])
def test_pathsend_of_a_pseudo_file_arrives_whole(asgi, path):
    if not os.path.exists(path):
        pytest.skip(f"SKIPPED: this machine has no {path}")
    read = pathlib.Path(path).read_bytes()
    for version in ("1.1", "1.0"):
        with asgi.connect() as connection:
            response = connection.request("GET", f"/path?,{path}", version=version)
        assert (response.status, response.complete, response.body) == (200, True, read)
