"""Files: PEP 3333, "Optional Platform-Specific File Handling"."""

import io
import os
import tempfile

from .registry import (
    BYTES,
    MIB,
    TEXT,
    answer,
    case,
    event,
    query,
)


class Recording:
    """A mixin for files that records close(), and distinguishes it from garbage collection."""

    def close(self):
        """Records only the first call; IOBase calls close() again at garbage collection."""
        if not self.closed:
            event(self.environ, "collected" if self.forgotten else "close")
        super().close()

    def __del__(self):
        """A file that is still open here was never closed by the server."""
        self.forgotten = True
        super().__del__()

    environ = None
    forgotten = False


class RecordingFile(Recording, io.FileIO):
    """An unbuffered file over a descriptor, which it owns."""

    def __init__(self, environ, descriptor):
        """Opens for reading, at the descriptor's position."""
        super().__init__(descriptor, "rb")
        self.environ = environ


class RecordingBytes(Recording, io.BytesIO):
    """A file without a descriptor: its fileno() raises."""

    def __init__(self, environ, data):
        """Holds `data`, positioned at its start."""
        super().__init__(data)
        self.environ = environ


def temporary(data):
    """Returns a descriptor of an unnamed file with `data`, at its start."""
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(data)
        file.seek(0)
        return os.dup(file.fileno())


def numbered(size):
    """Returns `size` bytes that encode their offsets."""
    return b"".join(index.to_bytes(8, "big") for index in range(size // 8 + 1))[:size]


@case("file")
def file(environ, start_response):
    """A file of `?size=` bytes by file_wrapper with Content-Length; close() once, at the end."""
    size = query(environ, "size", MIB)
    start_response("200 OK", [BYTES, ("Content-Length", str(size))])
    return environ["wsgi.file_wrapper"](RecordingFile(environ, temporary(numbered(size))), 8192)


@case("file/no-length")
def file_no_length(environ, start_response):
    """A file without Content-Length: framed by the server, complete."""
    start_response("200 OK", [BYTES])
    data = numbered(query(environ, "size", MIB))
    return environ["wsgi.file_wrapper"](RecordingFile(environ, temporary(data)))


@case("file/offset")
def file_offset(environ, start_response):
    """A file that was read up to `?offset=`: sent from there, as PEP 3333 says."""
    size, offset = query(environ, "size", MIB), query(environ, "offset", 1000)
    opened = RecordingFile(environ, temporary(numbered(size)))
    opened.read(offset)
    start_response("200 OK", [BYTES, ("Content-Length", str(size - offset))])
    return environ["wsgi.file_wrapper"](opened)


@case("file/part")
def file_part(environ, start_response):
    """A file longer than Content-Length (a range response): only Content-Length bytes are sent."""
    start_response("206 Partial Content", [BYTES, ("Content-Length", "1000")])
    return environ["wsgi.file_wrapper"](RecordingFile(environ, temporary(numbered(5000))))


@case("file/truncated", conforming=False)
def file_truncated(environ, start_response):
    """A file shorter than Content-Length: the response must not look complete."""
    start_response("200 OK", [BYTES, ("Content-Length", "5000")])
    return environ["wsgi.file_wrapper"](RecordingFile(environ, temporary(numbered(1000))))


@case("file/no-descriptor")
def file_no_descriptor(environ, start_response):
    """file_wrapper over an object that has read() and close() but no fileno(): read in blocks."""
    data = numbered(query(environ, "size", MIB))
    start_response("200 OK", [BYTES, ("Content-Length", str(len(data)))])
    return environ["wsgi.file_wrapper"](RecordingBytes(environ, data), 8192)


@case("file/buffered")
def file_buffered(environ, start_response):
    """A buffered file whose first line was read: sent from the object's own position."""
    opened = open(temporary(b"first line\n" + numbered(100_000)), "rb")  # noqa: SIM115 (the server closes it)
    opened.readline()
    start_response("200 OK", [BYTES, ("Content-Length", "100000")])
    return environ["wsgi.file_wrapper"](opened)


@case("file/pipe")
def file_pipe(environ, start_response):
    """The read end of a pipe: a descriptor without a position."""
    reading, writing = os.pipe()
    os.write(writing, b"through a pipe\n")
    os.close(writing)
    start_response("200 OK", [TEXT])
    return environ["wsgi.file_wrapper"](RecordingFile(environ, reading))


@case("file/iterated")
def file_iterated(environ, start_response):
    """The wrapper iterated by the application itself, as middleware does."""
    wrapper = environ["wsgi.file_wrapper"](RecordingFile(environ, temporary(numbered(20_000))), 4096)
    try:
        body = b"".join(wrapper)
    finally:
        wrapper.close()
    return answer(start_response, body, headers=[BYTES])
