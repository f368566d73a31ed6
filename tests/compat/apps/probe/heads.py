"""Statuses, headers, and arguments of start_response() and write()."""

import json
import sys
from urllib.parse import parse_qs

from .registry import CASES, TEXT, case, kept, respond_json


def header_case(name, headers):
    """Registers a case that sends these headers."""

    def respond(environ, start_response):
        start_response("200 OK", headers)
        return [b"ok\n"]

    CASES["/header/" + name] = respond


header_case("newline", [("X-Bad", "a\r\nX-Injected: 1")])
header_case("nul", [("X-Bad", "a\0b")])
header_case("control", [("X-Bad", "a\x01b")])
header_case("tab", [("X-Tab", "a\tb")])
header_case("name-space", [("X Bad", "a")])
header_case("name-empty", [("", "a")])
header_case("name-colon", [("X:Bad", "a")])
header_case("name-newline", [("X\r\nBad", "a")])
header_case("unicode", [("X-Bad", "煎茶")])
header_case("bytes-name", [(b"X-Bad", "a")])
header_case("bytes-value", [("X-Bad", b"a")])
header_case("int", [("Content-Length", 3)])
header_case("triple", [("X-Bad", "a", "b")])
header_case("not-a-pair", ["X-Bad: a"])
header_case("tuple", (("X-Bad", "a"),))
header_case("none", None)
header_case("huge", [("X-Huge", "v" * 70_000)])
header_case("many-huge", [(f"X-Huge-{index}", "v" * 60_000) for index in range(4)])
header_case("too-many", [("X-Many", "v")] * 4096)
header_case("as-many-as-possible", [("X-Many", "v")] * 4095)
header_case("negative-length", [("Content-Length", "-1")])
header_case("plus-length", [("Content-Length", "+3")])
header_case("same-length-twice", [("Content-Length", "3"), ("content-length", "3")])
header_case("spaces", [("X-Spaces", "  padded  ")])


def status_case(name, status):
    """Registers a case that sends this status."""

    def respond(environ, start_response):
        start_response(status, [TEXT])
        return [b"ok\n"]

    CASES["/status/" + name] = respond


status_case("bare", "200")
status_case("odd", "299 Whatever")
status_case("teapot", "418 I'm a teapot")
status_case("interim", "100 Continue")
status_case("switching", "101 Switching Protocols")
status_case("early", "103 Early Hints")
status_case("words", "OK")
status_case("glued", "200OK")
status_case("short", "20 OK")
status_case("bytes", b"200 OK")
status_case("int", 200)
status_case("empty", "")
status_case("beyond", "999 Odd")


@case
def hop_by_hop(environ, start_response):
    """Sends every hop-by-hop header."""
    names = [
        "Connection",
        "Keep-Alive",
        "Transfer-Encoding",
        "Upgrade",
        "TE",
        "Trailer",
        "Proxy-Authenticate",
        "Proxy-Authorization",
        "Proxy-Connection",
    ]
    start_response("200 OK", [TEXT, *((name, "x") for name in names), ("X-Kept", "yes")])
    return [b"ok\n"]


@case
def write_not_bytes(environ, start_response):
    """Calls write() with a str."""
    try:
        start_response("200 OK", [TEXT])("text")
    except TypeError as error:
        return plain_after(start_response, str(error))
    return [b"accepted\n"]


def plain_after(start_response, text):
    """Replaces the head, which has not been sent yet, with a 400 and a text."""
    try:
        raise ValueError(text)
    except ValueError:
        start_response("400 Bad", [TEXT], sys.exc_info())
    return [text.encode()]


@case
def arguments(environ, start_response):
    """Calls start_response() and write() with wrong arguments, then correctly by keyword."""
    write = start_response("200 OK", [TEXT])
    calls = [
        start_response,
        lambda: start_response("200 OK"),
        lambda: start_response("200 OK", [TEXT], None, 4),
        lambda: start_response("200 OK", [TEXT], status="200 OK"),
        lambda: start_response("200 OK", [TEXT], because=None),
        write,
        lambda: write(b"one", b"two"),
    ]
    outcomes = []
    for call in calls:
        try:
            call()
            outcomes.append("accepted")
        except TypeError as error:
            outcomes.append(str(error))
    try:
        raise ValueError
    except ValueError:
        start_response("200 OK", headers=[TEXT], exc_info=sys.exc_info())
    return [json.dumps(outcomes).encode()]


@case
def write_after_end(environ, start_response):
    """Keeps write() and start_response for the next request."""
    kept[:] = [start_response("200 OK", [TEXT, ("Content-Length", "3")]), start_response]
    return [b"ok\n"]


@case
def use_kept(environ, start_response):
    """Calls the kept functions, which must fail without disturbing this request."""
    outcomes = []
    for call in (lambda: kept[0](b"stray"), lambda: kept[1]("500 No", [])):
        try:
            call()
            outcomes.append("accepted")
        except RuntimeError as error:
            outcomes.append(str(error))
    return respond_json(start_response, outcomes)


@case
def reason(environ, start_response):
    """Sends the status `?status=`."""
    start_response(parse_qs(environ["QUERY_STRING"], encoding="latin-1")["status"][0], [TEXT])
    return [b"ok\n"]
