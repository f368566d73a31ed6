"""A WSGI application about files: those that rgun sends for it, and those that rgun keeps for it."""

import ctypes
import hashlib
import os

VERSION = 1
OPENAT2 = 437
SIZE = 64 << 20


def application(environ, start_response):
    """Dispatches on the path."""
    answer = VIEWS.get(environ["PATH_INFO"], missing)
    return answer(environ, start_response)


def text(start_response, value, status="200 OK", fields=()):
    start_response(status, [("Content-Type", "text/plain"), *fields])
    return [value.encode()]


def missing(environ, start_response):
    return text(start_response, "the application", "404 Not Found")


def version(environ, start_response):
    return text(start_response, str(VERSION))


def send(environ, start_response):
    """Answers with the field in the query: `/send?FIELD=VALUE`."""
    name, _, value = environ["QUERY_STRING"].partition("=")
    return text(start_response, "the application's own body", fields=[(name, value)])


def openat2(environ, start_response):
    """Answers with the error of a call of openat2(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(OPENAT2, -1, None, None, 0)
    return text(start_response, os.strerror(ctypes.get_errno()))


def digest(environ, start_response):
    """Answers with the hash of the request's body."""
    found = hashlib.sha256()
    while block := environ["wsgi.input"].read(1 << 20):
        found.update(block)
    return text(start_response, found.hexdigest())


def large(environ, start_response):
    """Answers with 64 MiB."""
    start_response("200 OK", [("Content-Length", str(SIZE))])
    return (bytes(1 << 20) for _ in range(SIZE >> 20))


def wrapped(environ, start_response):
    """Answers with the file that the query names, by wsgi.file_wrapper."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return environ["wsgi.file_wrapper"](open(environ["QUERY_STRING"], "rb"))


VIEWS = {
    "/version": version,
    "/send": send,
    "/openat2": openat2,
    "/digest": digest,
    "/large": large,
    "/wrapped": wrapped,
}
