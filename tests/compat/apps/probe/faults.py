"""Exceptions, and how they are logged."""

import threading

from .registry import TEXT, case, plain

may_raise = threading.Event()


@case
def raise_on_request(environ, start_response):
    """Sends a chunk, then raises once another thread has answered /let_it_raise."""
    start_response("200 OK", [TEXT])
    may_raise.clear()

    def body():
        yield b"one\n"
        may_raise.wait(10)
        raise ValueError("as requested")

    return body()


@case
def let_it_raise(environ, start_response):
    """Lets the waiting request to /raise_on_request raise."""
    may_raise.set()
    return plain(start_response)


@case
def chained(environ, start_response):
    """Raises an exception with a cause."""
    try:
        raise KeyError("the cause")
    except KeyError as error:
        raise ValueError("the effect") from error


@case
def long_traceback(environ, start_response):
    """Raises an exception with a text of 100,000 characters."""
    raise ValueError("begin " + "x" * 100_000 + " end")


@case
def deep(environ, start_response):
    """Recurses without end."""
    return deep(environ, start_response)


@case
def surrogate(environ, start_response):
    """Raises an exception whose text has a lone surrogate."""
    raise ValueError("odd \udcff text")
