"""A WSGI application that names files (`app.sendfile_roots`) instead of sending them."""

import ctypes
import os

OPENAT2 = 437


def application(environ, start_response):
    """Answers `/send?FIELD=VALUE` with this field; `/openat2` is the call's error, other paths are 404."""
    if environ["PATH_INFO"] == "/send":
        name, _, value = environ["QUERY_STRING"].partition("=")
        start_response("200 OK", [(name, value)])
        return [b"the application's own body"]
    if environ["PATH_INFO"] == "/openat2":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.syscall(OPENAT2, -1, None, None, 0)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [os.strerror(ctypes.get_errno()).encode()]
    start_response("404 Not Found", [("Content-Type", "text/plain")])
    return [b"the application"]
