"""wsgi.file_wrapper and wsgi.input."""

import bz2
import gzip
import io
import os
import tempfile

from .registry import TEXT, case, kept, plain, respond_json


@case
def gzip_file(environ, start_response):
    """Wraps a GzipFile, whose fileno() is that of the compressed file."""
    return compressed(environ, start_response, gzip.open)


@case
def bz2_file(environ, start_response):
    """Wraps a BZ2File."""
    return compressed(environ, start_response, bz2.open)


def compressed(environ, start_response, opener):
    """Writes a compressed file and wraps it in file_wrapper."""
    handle, path = tempfile.mkstemp()
    os.close(handle)
    with opener(path, "wb") as file:
        file.write(b"plain text\n" * 1000)
    opened = opener(path, "rb")
    os.unlink(path)
    start_response("200 OK", [TEXT])
    return environ["wsgi.file_wrapper"](opened)


@case
def named_temporary(environ, start_response):
    """Wraps a NamedTemporaryFile that is positioned after its beginning."""
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115 (the server closes it)
    file.write(b"0123456789" * 10_000)
    file.seek(5)
    start_response("200 OK", [TEXT])
    return environ["wsgi.file_wrapper"](file)


@case
def file_after_write(environ, start_response):
    """Calls write(), then returns a file."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 (the server closes it)
    file.write(b"from the file\n")
    file.seek(0)
    start_response("200 OK", [TEXT])(b"written\n")
    return environ["wsgi.file_wrapper"](file)


@case
def file_at_end(environ, start_response):
    """Wraps a file that is positioned at its end."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 (the server closes it)
    file.write(b"nothing left")
    start_response("200 OK", [TEXT])
    return environ["wsgi.file_wrapper"](file)


@case
def closed_file(environ, start_response):
    """Wraps a closed file."""
    file = io.BytesIO(b"x")
    file.close()
    start_response("200 OK", [TEXT])
    return environ["wsgi.file_wrapper"](file)


@case
def descriptors(environ, start_response):
    """Counts the worker's open descriptors."""
    return respond_json(start_response, len(os.listdir("/proc/self/fd")))


@case
def read_twice(environ, start_response):
    """Reads the body with one read(), then reads again at its end."""
    stream = environ["wsgi.input"]
    return respond_json(start_response, [len(stream.read()), len(stream.read()), len(stream.readline())])


@case
def read_none(environ, start_response):
    """Calls read(), readline() and readlines() with None."""
    stream = environ["wsgi.input"]
    return respond_json(
        start_response,
        [
            stream.readline(None).decode(),
            [line.decode() for line in stream.readlines(None)],
            len(stream.read(None)),
        ],
    )


@case
def read_types(environ, start_response):
    """Calls read() with invalid sizes, and returns the types of results."""
    stream = environ["wsgi.input"]
    refused = []
    for size in ("3", 1.5, b"1"):
        try:
            stream.read(size)
        except TypeError:
            refused.append(repr(size))
    return respond_json(
        start_response, [refused, type(stream.read(1)).__name__, type(stream.readline()).__name__]
    )


@case
def keep_input(environ, start_response):
    """Keeps the input stream for a later request."""
    kept[:] = [environ["wsgi.input"]]
    return plain(start_response)


@case
def read_kept(environ, start_response):
    """Reads the input stream of an earlier request."""
    return respond_json(start_response, [len(kept[0].read()), len(environ["wsgi.input"].read())])
