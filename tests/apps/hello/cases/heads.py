"""Statuses, headers and Content-Length."""

from .registry import TEXT, Closing, answer, case, query


@case("status")
def status(environ, start_response):
    """Any status, as in `/status/404`, with the code as the body where HTTP allows one."""
    code = environ["PATH_INFO"].rpartition("/")[2]
    code = code if code.isdecimal() else "200"
    if code in ("204", "304"):
        start_response(f"{code} No Body", [("X-Status", code)])
        return []
    return answer(start_response, f"{code}\n".encode(), f"{code} Told So")


@case("status/204/body", conforming=False)
def status_204_body(environ, start_response):
    """204 with a body and Content-Length: the client gets neither."""
    return answer(start_response, b"must not be here\n", "204 No Content")


@case("status/304/body", conforming=False)
def status_304_body(environ, start_response):
    """304 with a body: the client gets none, but perhaps its Content-Length (RFC 9110 §15.4.5)."""
    return answer(start_response, b"must not be here\n", "304 Not Modified", [TEXT, ("ETag", '"x"')])


@case("head")
def head(environ, start_response):
    """A correct HEAD: the Content-Length of GET and no body; close() is called."""
    body = b"for GET only\n"
    start_response("200 OK", [TEXT, ("Content-Length", str(len(body)))])
    return Closing(environ, [b"" if environ["REQUEST_METHOD"] == "HEAD" else body])


@case("head/body", conforming=False)
def head_body(environ, start_response):
    """A body for HEAD, as careless applications send it: dropped."""
    return answer(start_response, b"for GET only\n")


@case("length/exact")
def length_exact(environ, start_response):
    """Content-Length and several chunks that add up to it."""
    start_response("200 OK", [TEXT, ("Content-Length", "8")])
    return Closing(environ, [b"one\n", b"two\n"])


@case("length/too-short-body", conforming=False)
def length_too_short_body(environ, start_response):
    """Fewer bytes than Content-Length: the response must not look complete."""
    start_response("200 OK", [TEXT, ("Content-Length", "100")])
    return Closing(environ, [b"short\n"])


@case("length/too-long-body", conforming=False)
def length_too_long_body(environ, start_response):
    """More bytes than Content-Length: the rest is dropped, and the next response is intact."""
    start_response("200 OK", [TEXT, ("Content-Length", "5")])
    return Closing(environ, [b"12345", b"67890", b"abc"])


@case("length/bad", conforming=False)
def length_bad(environ, start_response):
    """Content-Length that is not a number: 500."""
    start_response("200 OK", [TEXT, ("Content-Length", "many")])
    return [b"bad\n"]


@case("length/twice", conforming=False)
def length_twice(environ, start_response):
    """Two Content-Length headers that differ: 500."""
    start_response("200 OK", [TEXT, ("Content-Length", "4"), ("Content-Length", "5")])
    return [b"bad\n"]


@case("headers/duplicate")
def headers_duplicate(environ, start_response):
    """Two Set-Cookie and two Link headers: all four arrive, in order."""
    cookies = [("Set-Cookie", "a=1; Path=/"), ("Set-Cookie", "b=2; Path=/")]
    return answer(start_response, b"", headers=[TEXT, *cookies, ("Link", "</a>"), ("Link", "</b>")])


@case("headers/latin1")
def headers_latin1(environ, start_response):
    """A value with ISO-8859-1 characters: those bytes on the wire."""
    return answer(start_response, b"", headers=[TEXT, ("X-Latin", "cr\xe8me")])


@case("headers/empty")
def headers_empty(environ, start_response):
    """An empty value arrives empty."""
    return answer(start_response, b"", headers=[TEXT, ("X-Empty", "")])


@case("headers/many")
def headers_many(environ, start_response):
    """`?n=` headers of `?size=` bytes each."""
    value = "v" * query(environ, "size", 20)
    more = [(f"X-Many-{index}", value) for index in range(query(environ, "n", 50))]
    return answer(start_response, b"", headers=[TEXT, *more])


@case("headers/own-date")
def headers_own_date(environ, start_response):
    """Date and Server of the application replace those of the server."""
    own = [("Date", "Thu, 01 Jan 1970 00:00:00 GMT"), ("Server", "cases")]
    return answer(start_response, b"", headers=[TEXT, *own])
