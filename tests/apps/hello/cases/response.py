"""Ways to return a response body: write(), iterables, generators, large bodies."""

import hashlib
import time

from .registry import (
    BYTES,
    MIB,
    TEXT,
    CaseError,
    Closing,
    answer,
    case,
    event,
    query,
)


@case("write")
def write(environ, start_response):
    """Sends `?n=` pieces with write(), `?delay=` seconds apart; each is sent immediately."""
    send = start_response("200 OK", [TEXT])
    for index in range(query(environ, "n", 3)):
        if index:
            time.sleep(query(environ, "delay", 0.0))
        send(f"written {index}\n".encode())
    return []


@case("write/then-iterate")
def write_then_iterate(environ, start_response):
    """write() first, an iterable after: the written part comes first."""
    send = start_response("200 OK", [TEXT])
    send(b"written\n")
    return [b"iterated\n"]


@case("write/raise")
def write_raise(environ, start_response):
    """write(), then raises: the head is sent, so the connection is reset."""
    start_response("200 OK", [TEXT])(b"written\n")
    raise CaseError("write/raise")


@case("iterate")
def iterate(environ, start_response):
    """`?n=` chunks of `?size=` bytes, `?delay=` seconds apart: each is sent as it comes."""
    start_response("200 OK", [TEXT])
    count, size, delay = query(environ, "n", 3), query(environ, "size", 16), query(environ, "delay", 0.0)

    def chunks():
        for index in range(count):
            if index and delay:
                time.sleep(delay)
            yield f"chunk {index} ".ljust(size - 1, ".").encode()[: size - 1] + b"\n"

    return Closing(environ, chunks())


@case("iterate/generator")
def iterate_generator(environ, start_response):
    """The application is a generator: start_response at the first next(), finally at close()."""
    event(environ, "entered")
    try:
        start_response("200 OK", [TEXT])
        yield b"one\n"
        yield b"two\n"
    finally:
        event(environ, "finally")


@case("iterate/empty")
def iterate_empty(environ, start_response):
    """An iterable without a chunk: the head, an empty body, close() once."""
    start_response("200 OK", [TEXT])
    return Closing(environ, [])


@case("iterate/empty-chunks")
def iterate_empty_chunks(environ, start_response):
    """b"" between the chunks: none of them ends the body."""
    start_response("200 OK", [TEXT])
    return Closing(environ, [b"", b"one\n", b"", b"two\n", b""])


@case("iterate/list")
def iterate_list(environ, start_response):
    """A list of two without Content-Length."""
    start_response("200 OK", [TEXT])
    return [b"one\n", b"two\n"]


@case("iterate/tuple")
def iterate_tuple(environ, start_response):
    """A tuple of one without Content-Length."""
    start_response("200 OK", [TEXT])
    return (b"one\n",)


@case("iterate/endless")
def iterate_endless(environ, start_response):
    """Never ends: memory stays bounded; close() is called soon after the client disconnects."""
    start_response("200 OK", [BYTES])
    block = b"x" * query(environ, "size", 65536)
    delay = query(environ, "delay", 0.0)

    def chunks():
        while True:
            yield block
            if delay:
                time.sleep(delay)

    return Closing(environ, chunks())


@case("big")
def big(environ, start_response):
    """`?mib=` MiB in one bytes object."""
    return answer(start_response, b"x" * (query(environ, "mib", 1) * MIB), headers=[BYTES])


@case("big/chunks")
def big_chunks(environ, start_response):
    """`?mib=` MiB in chunks of `?size=` bytes, no Content-Length; X-SHA256 has the digest."""
    size = query(environ, "size", 65536)
    total = query(environ, "mib", 1) * MIB
    data = b"".join(index.to_bytes(8, "big") for index in range(total // 8))
    start_response("200 OK", [BYTES, ("X-SHA256", hashlib.sha256(data).hexdigest())])
    return Closing(environ, (data[start : start + size] for start in range(0, total, size)))
