"""Calls of start_response(): exc_info, order, invalid arguments; and invalid results."""

import sys

from .registry import TEXT, CaseError, case, event, query


@case("exc-info/before")
def exc_info_before(environ, start_response):
    """start_response 200, then an error before any byte: with exc_info the head becomes 500."""
    start_response("200 OK", [TEXT, ("X-First", "yes")])
    try:
        raise CaseError("exc-info/before")
    except CaseError:
        start_response("500 Internal Server Error", [TEXT, ("X-Second", "yes")], sys.exc_info())
    return [b"replaced\n"]


@case("exc-info/after")
def exc_info_after(environ, start_response):
    """start_response with exc_info after a chunk: raises that exception and cuts the body."""
    start_response("200 OK", [TEXT])

    def body():
        yield b"sent\n"
        try:
            raise CaseError("exc-info/after")
        except CaseError:
            info = sys.exc_info()
        try:
            start_response("500 Internal Server Error", [TEXT], info)
        except CaseError as error:
            event(environ, "raised again", same=error is info[1])
            raise
        event(environ, "not raised")
        yield b"must not be here\n"

    return body()


@case("start-response/twice", conforming=False)
def start_response_twice(environ, start_response):
    """A second start_response without exc_info: 500, and the log has the reason."""
    start_response("200 OK", [TEXT])
    start_response("200 OK", [TEXT])
    return [b"must not be here\n"]


@case("start-response/never", conforming=False)
def start_response_never(environ, start_response):
    """A body without start_response: 500."""
    return [b"must not be here\n"]


@case("start-response/late")
def start_response_late(environ, start_response):
    """start_response inside the iterable, before its first chunk: allowed."""

    def body():
        start_response("200 OK", [TEXT])
        yield b"late\n"

    return body()


@case("start-response/too-late", conforming=False)
def start_response_too_late(environ, start_response):
    """A chunk before start_response: 500."""

    def body():
        yield b"too early\n"
        start_response("200 OK", [TEXT])

    return body()


@case("start-response/bad-status", conforming=False)
def start_response_bad_status(environ, start_response):
    """The status `?status=` (default `OK`) is not three digits, a space and a reason: 500."""
    start_response(query(environ, "status", "OK"), [TEXT])
    return [b"must not be here\n"]


@case("start-response/injection", conforming=False)
def start_response_injection(environ, start_response):
    """A header value with a line break: 500, and never a second header on the wire."""
    start_response("200 OK", [TEXT, ("X-Value", "a\r\nX-Injected: yes")])
    return [b"must not be here\n"]


@case("start-response/bad-name", conforming=False)
def start_response_bad_name(environ, start_response):
    """A header name with a space and a colon: 500."""
    start_response("200 OK", [TEXT, ("X Bad: name", "a")])
    return [b"must not be here\n"]


@case("start-response/not-str", conforming=False)
def start_response_not_str(environ, start_response):
    """A header value that is an int: 500, and the log names the header."""
    start_response("200 OK", [TEXT, ("X-Number", 7)])
    return [b"must not be here\n"]


@case("start-response/hop-by-hop", conforming=False)
def start_response_hop_by_hop(environ, start_response):
    """Transfer-Encoding and Connection, which PEP 3333 forbids: dropped, or 500."""
    start_response("200 OK", [TEXT, ("Transfer-Encoding", "chunked"), ("Connection", "close")])
    return [b"hop\n"]


@case("result/not-bytes", conforming=False)
def result_not_bytes(environ, start_response):
    """A chunk that is str: an error before the head, so 500."""
    start_response("200 OK", [TEXT])
    return ["text"]


@case("result/none", conforming=False)
def result_none(environ, start_response):
    """Returns None: 500."""
    start_response("200 OK", [TEXT])
