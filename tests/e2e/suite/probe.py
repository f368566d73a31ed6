"""A WSGI application that reports its environment and misbehaves on request. Needs only Python 3.9."""

import json
import logging
import os
import resource
import subprocess
import sys
import threading
import time
import traceback

if os.environ.get("PROBE_BOOT_SECONDS"):
    # A slow import, as of a large application.
    time.sleep(float(os.environ["PROBE_BOOT_SECONDS"]))

logging.basicConfig(format="%(message)s")


class ProbeError(Exception):
    """Raised by /raise."""


def application(environ, start_response):
    """Dispatches on the path."""
    path = environ["PATH_INFO"]
    if path == "/raise":
        raise ProbeError("raised on request")
    if path == "/print":
        print("probe says hello on stdout")
        print("probe says hello on stderr", file=sys.stderr)
    if path == "/record":
        print("probe prints in a request", file=sys.stderr)
        try:
            raise ProbeError("caught and logged")
        except ProbeError:
            logging.getLogger("probe.shop").exception("probe logs an error", extra={"ORDER": 4711})
    if path == "/traceback":
        print_traceback()
        thread = threading.Thread(target=fail, args=("in a thread",), name="failing")
        thread.start()
        thread.join()
    if path.startswith("/line/"):
        print(path[len("/line/")] * (48 << 10), file=sys.stderr)
    if path == "/log":
        environ["wsgi.errors"].write("probe writes to wsgi.errors\n")
        environ["wsgi.errors"].flush()
    if path.startswith("/slow/"):
        # Writes its pid into the file that the query names, so that the test knows that it sleeps.
        if environ["QUERY_STRING"]:
            with open(environ["QUERY_STRING"], "w") as mark:
                mark.write(str(os.getpid()))
        time.sleep(float(path.rpartition("/")[2]))
    if path.startswith("/start/"):
        # A program in its own session, which is not waited for.
        child = subprocess.Popen(["sleep", path.rpartition("/")[2]], start_new_session=True)
        return reply(start_response, {"pid": os.getpid(), "child": child.pid})
    if path.startswith("/write/"):
        return reply(start_response, write(path[len("/write") :]))
    return reply(
        start_response,
        {
            "pid": os.getpid(),
            "parent": os.getppid(),
            "uid": os.getuid(),
            "python": sys.version.split()[0],
            "cwd": os.getcwd(),
            "files": resource.getrlimit(resource.RLIMIT_NOFILE),
            "environ": dict(os.environ),
        },
    )


def fail(text):
    """Raises an exception that has a cause."""
    try:
        int("x")
    except ValueError as error:
        raise ProbeError(text) from error


def print_traceback():
    """Prints a traceback, and a line after it."""
    try:
        fail("printed")
    except ProbeError:
        traceback.print_exc()
    print("probe prints after the traceback", file=sys.stderr)


def write(path):
    """Tries to create a file; returns the error or None."""
    try:
        with open(path, "w") as file:
            file.write("probe\n")
    except OSError as error:
        return {"error": error.strerror}
    return {"error": None}


def reply(start_response, facts):
    """Responds with JSON, and with the daemon's pid in a header."""
    body = json.dumps(facts).encode()
    start_response(
        "200 OK",
        [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("X-Probe-Daemon", str(os.getppid())),
        ],
    )
    return [body]
