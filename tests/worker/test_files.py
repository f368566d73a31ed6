"""wsgi.file_wrapper: PEP 3333, "Optional Platform-Specific File Handling"."""

import pytest
from conftest import eventually


def numbered(size, start=0):
    """What the cases put into their files."""
    return b"".join(index.to_bytes(8, "big") for index in range((start + size) // 8 + 1))[
        start : start + size
    ]


@pytest.mark.parametrize("size", [1, 8191, 65536, 3_000_001])
@pytest.mark.parametrize("case", ["file", "file/no-length", "file/no-descriptor"])
def test_a_file_arrives_whole_and_is_closed(server, marker, case, size):
    response = server.get(f"/{case}?size={size}&id={marker}")
    assert response.body == numbered(size)
    assert response["content-length"] == str(size)
    eventually(lambda: server.events(marker, "close"), "close()")
    assert len(server.events(marker)) == 1


def test_an_empty_file_is_an_empty_body(server, marker):
    response = server.get(f"/file?size=0&id={marker}")
    assert (response.status, response.body, response.complete) == (200, b"", True)
    eventually(lambda: server.events(marker, "close"), "close()")


def test_a_file_is_sent_from_its_position(server):
    response = server.get("/file/offset?size=100000&offset=999")
    assert response.body == numbered(100_000)[999:]


def test_the_position_of_a_buffered_file_is_the_objects(server):
    assert server.get("/file/buffered").body == numbered(100_000)


def test_no_more_than_content_length_is_sent(server):
    with server.connect() as connection:
        response = connection.request("GET", "/file/part")
        assert (response.status, response.body) == (206, numbered(1000))
        assert connection.is_open()


def test_a_file_shorter_than_content_length_does_not_look_complete(server):
    response = server.get("/file/truncated")
    assert (response.status, response.complete) in ((200, False), (500, True))
    server.wait_for("the application promised 5000 bytes of body and sent 1000")


def test_a_pipe_is_read(server):
    assert server.get("/file/pipe").body == b"through a pipe\n"


def test_middleware_can_iterate_the_wrapper(server):
    assert server.get("/file/iterated").body == numbered(20_000)


def test_head_of_a_file_has_its_length_and_closes_it(server, marker):
    with server.connect() as connection:
        response = connection.request("HEAD", f"/file?size=5000&id={marker}")
        assert response["content-length"] == "5000"
        assert connection.is_open()
    eventually(lambda: server.events(marker, "close"), "close()")


@pytest.mark.parametrize("case", ["gzip_file", "bz2_file"])
def test_a_compressed_file_is_sent_as_it_reads(probe, case):
    assert probe.get(f"/{case}").body == b"plain text\n" * 1000


def test_a_named_temporary_file_is_sent_from_its_position(probe):
    response = probe.get("/named_temporary")
    assert response.body == (b"0123456789" * 10_000)[5:]
    assert response["content-length"] == "99995"


def test_a_file_after_write_is_read(probe):
    assert probe.get("/file_after_write").body == b"written\nfrom the file\n"


def test_a_file_at_its_end_is_an_empty_body(probe):
    response = probe.get("/file_at_end")
    assert (response.body, response.complete) == (b"", True)


def test_a_closed_file_is_a_500(probe):
    assert probe.get("/closed_file").status == 500
    probe.wait_for("I/O operation on closed file")


def test_a_hundred_files_leave_no_descriptor_behind(probe):
    before = probe.get("/descriptors").json()
    for _ in range(100):
        assert probe.get("/named_temporary").complete
    assert probe.get("/descriptors").json() == before
