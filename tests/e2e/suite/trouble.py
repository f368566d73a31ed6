"""A WSGI application with releases: reports its release, and hangs, crashes or leaks on request.

A deploy changes `release.py` in the same directory: VERSION, and code that may be slow or raise. Needs only
Python 3.9.
"""

import ctypes
import json
import os
import re
import signal
import sys
import threading
import time

import release

IMPORTED_BY = os.getpid()
LEAK = []
SICK = getattr(release, "SICK", False)


def application(environ, start_response):
    """Dispatches on the path: the first word names the function, the second is its argument."""
    path = environ["PATH_INFO"]
    _, name, argument, *_ = [*path.split("/"), "", ""]
    if environ["QUERY_STRING"].startswith("/"):
        # Writes the pid into the file that the query names: the test waits until the request is running.
        with open(environ["QUERY_STRING"], "w") as mark:
            mark.write(str(os.getpid()))
    view = VIEWS.get(name)
    if view is None:
        return answer(start_response, "404 Not Found", b"no such view\n")
    status, body = view(argument)
    return answer(start_response, status, body)


def answer(start_response, status, body):
    """Responds with bytes, or anything else as JSON."""
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def version(_):
    """Returns only the release, so that a load can collect the releases that answer."""
    if SICK:
        raise ValueError("this release is sick")
    return "200 OK", str(release.VERSION).encode()


def facts(_):
    """Returns facts about the process."""
    return "200 OK", {
        "version": str(release.VERSION),
        "pid": os.getpid(),
        "parent": os.getppid(),
        "imported_by": IMPORTED_BY,
        "prefix": sys.prefix,
        "greeting": os.environ.get("GREETING"),
    }


def healthz(_):
    """The target of reload.probe."""
    return ("503 Service Unavailable", b"sick\n") if SICK else ("200 OK", b"well\n")


def slow(seconds):
    """Sleeps without the GIL."""
    time.sleep(float(seconds))
    return "200 OK", {"pid": os.getpid()}


def stuck(_):
    """Never returns."""
    threading.Event().wait(600)
    return "200 OK", b"never\n"


def gil(_):
    """Holds the GIL for hours: a regular expression with exponential backtracking."""
    re.match(r"(a|aa)+$", "a" * 80 + "b")
    return "200 OK", b"never\n"


def segfault(_):
    """Reads address zero."""
    ctypes.string_at(0)
    return "200 OK", b"never\n"


def leave(_):
    """Exits the process."""
    os._exit(3)


def grow(mib):
    """Leaks memory."""
    LEAK.append(bytearray(os.urandom(1024)) * (int(mib) * 1024))
    return "200 OK", {"pid": os.getpid(), "mib": sum(map(len, LEAK)) >> 20}


def bomb(most):
    """Starts at most `most` programs, until the kernel refuses, and kills them after three seconds."""
    started, error = [], None
    try:
        for _ in range(int(most)):
            started.append(os.posix_spawn("/bin/sleep", ["sleep", "100"], {}))
    except OSError as refused:
        error = type(refused).__name__
    time.sleep(3)
    for child in started:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return "200 OK", {"pid": os.getpid(), "started": len(started), "error": error}


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
    "bomb": bomb,
}
