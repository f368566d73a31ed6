"""Response bodies: lists, iterables, write(), close()."""

import os
import time

from .registry import EVENTS, TEXT, case, query


@case
def write_beyond_length(environ, start_response):
    """Sends more than Content-Length with write() and an iterable together."""
    start_response("200 OK", [TEXT, ("Content-Length", "6")])(b"1234")
    return [b"5678", b"9"]


@case
def write_long(environ, start_response):
    """Sends `?mib=` MiB with write(), 1 MiB at a time."""
    send = start_response("200 OK", [TEXT])
    for _ in range(int(query(environ, "mib", "1"))):
        send(b"w" * 1048576)
    return []


class Subclass(list):
    """A list with its own iterator and close(), both of which must be called."""

    def __iter__(self):
        yield b"from the iterator\n"

    def close(self):
        EVENTS.append("subclass closed")


@case
def list_subclass(environ, start_response):
    """Returns a Subclass."""
    start_response("200 OK", [TEXT])
    return Subclass([b"from the list\n"])


@case
def big_list(environ, start_response):
    """Returns a list of `?n=` chunks of `?size=` bytes."""
    start_response("200 OK", [TEXT])
    return [b"%07d" % index * (int(query(environ, "size")) // 7) for index in range(int(query(environ, "n")))]


@case
def big_list_short(environ, start_response):
    """Returns a large list with fewer bytes than its Content-Length."""
    start_response("200 OK", [TEXT, ("Content-Length", "300000")])
    return [b"x" * 100_000, b"y" * 100_000]


@case
def empty_list(environ, start_response):
    """Returns an empty list."""
    start_response("200 OK", [TEXT])
    return []


@case
def bytes_result(environ, start_response):
    """Returns bytes, which is an iterable of int."""
    start_response("200 OK", [TEXT])
    return b"ok"


@case
def old_iteration(environ, start_response):
    """Returns an object with only __getitem__."""

    class Old:
        def __getitem__(self, index):
            return [b"one\n", b"two\n"][index]

    start_response("200 OK", [TEXT])
    return Old()


@case
def after_last_chunk(environ, start_response):
    """Records an event after the generator's last yield, when Content-Length is already reached."""

    def body():
        yield b"ok\n"
        EVENTS.append("after the last chunk of " + environ["REQUEST_METHOD"])

    start_response("200 OK", [TEXT, ("Content-Length", "3")])
    return body()


@case
def slow_close(environ, start_response):
    """Returns a body whose close() waits until `?path=` exists. The client need not wait."""

    class Body:
        def __iter__(self):
            return iter([b"complete\n"])

        def close(self):
            while not os.path.exists(query(environ, "path")):
                time.sleep(0.005)
            EVENTS.append("closed slowly")

    start_response("200 OK", [TEXT, ("Content-Length", "9")])
    return Body()


@case
def raise_and_close(environ, start_response):
    """Returns an iterable that raises, and whose close() raises."""

    class Body:
        def __iter__(self):
            raise ValueError("first fault")

        def close(self):
            raise ValueError("second fault")

    start_response("200 OK", [TEXT])
    return Body()


@case
def odd_close(environ, start_response):
    """Returns an iterable whose attribute `close` raises on access."""

    class Body:
        def __iter__(self):
            return iter([b"x"])

        @property
        def close(self):
            raise ValueError("no close for you")

    start_response("200 OK", [TEXT])
    return Body()
