"""A WSGI application of releases: says which one it is, and does on request what takes other servers down.

`release.py` beside it is what a deploy changes: VERSION, and perhaps code that takes its time or raises.
Nothing but Python 3.9.
"""

import ctypes
import json
import os
import re
import sys
import threading
import time

import release

IMPORTED_BY = os.getpid()
LEAK = []
SICK = getattr(release, "SICK", False)


def application(environ, start_response):
    """Dispatch on the path: the first word names the function, the second is its argument."""
    path = environ["PATH_INFO"]
    _, name, argument, *_ = [*path.split("/"), "", ""]
    if environ["QUERY_STRING"].startswith("/"):
        # Says that it runs, and where, in the file the query names: the test need not guess.
        with open(environ["QUERY_STRING"], "w") as mark:
            mark.write(str(os.getpid()))
    view = VIEWS.get(name)
    if view is None:
        return answer(start_response, "404 Not Found", b"no such view\n")
    status, body = view(argument)
    return answer(start_response, status, body)


def answer(start_response, status, body):
    """Bytes as they are, anything else as JSON."""
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def version(_):
    """Which release this is; all of the answer, so that a load can count them."""
    if SICK:
        raise ValueError("this release is sick")
    return "200 OK", str(release.VERSION).encode()


def facts(_):
    """Where this ran."""
    return "200 OK", {
        "version": str(release.VERSION),
        "pid": os.getpid(),
        "parent": os.getppid(),
        "imported_by": IMPORTED_BY,
        "prefix": sys.prefix,
        "greeting": os.environ.get("GREETING"),
    }


def healthz(_):
    """For reload.probe."""
    return ("503 Service Unavailable", b"sick\n") if SICK else ("200 OK", b"well\n")


def slow(seconds):
    """Waits, without the GIL."""
    time.sleep(float(seconds))
    return "200 OK", {"pid": os.getpid()}


def stuck(_):
    """Waits for what never comes."""
    threading.Event().wait(600)
    return "200 OK", b"never\n"


def gil(_):
    """Computes in C for hours and does not let go of the GIL: a regular expression of the famous kind."""
    re.match(r"(a|aa)+$", "a" * 80 + "b")
    return "200 OK", b"never\n"


def segfault(_):
    """What a bug in an extension module does."""
    ctypes.string_at(0)
    return "200 OK", b"never\n"


def leave(_):
    """What a library that thinks it owns the process does."""
    os._exit(3)


def grow(mib):
    """Keeps that much memory for ever."""
    LEAK.append(bytearray(os.urandom(1024)) * (int(mib) * 1024))
    return "200 OK", {"pid": os.getpid(), "mib": sum(map(len, LEAK)) >> 20}


VIEWS = {
    "": version,
    "facts": facts,
    "healthz": healthz,
    "slow": slow,
    "stuck": stuck,
    "gil": gil,
    "segfault": segfault,
    "leave": leave,
    "grow": grow,
}
