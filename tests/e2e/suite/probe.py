"""A WSGI application that tells what it runs in, and misbehaves on request. Nothing but Python 3.9."""

import json
import os
import resource
import subprocess
import sys
import time

if os.environ.get("PROBE_BOOT_SECONDS"):
    # An import that takes its time: a large application, a database that answers late.
    time.sleep(float(os.environ["PROBE_BOOT_SECONDS"]))


class ProbeError(Exception):
    """What /raise raises."""


def application(environ, start_response):
    """Dispatch on the path."""
    path = environ["PATH_INFO"]
    if path == "/raise":
        raise ProbeError("raised on request")
    if path == "/print":
        print("probe says hello on stdout", flush=True)
        print("probe says hello on stderr", file=sys.stderr, flush=True)
    if path.startswith("/line/"):
        print(path[len("/line/")] * (48 << 10), file=sys.stderr)
    if path == "/log":
        environ["wsgi.errors"].write("probe writes to wsgi.errors\n")
        environ["wsgi.errors"].flush()
    if path.startswith("/slow/"):
        # Says that it sleeps, and who, in the file the query names: the test need not guess.
        if environ["QUERY_STRING"]:
            with open(environ["QUERY_STRING"], "w") as mark:
                mark.write(str(os.getpid()))
        time.sleep(float(path.rpartition("/")[2]))
    if path.startswith("/start/"):
        # A program in a session of its own, that nobody waits for.
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


def write(path):
    """Try to create a file there, and say how it went."""
    try:
        with open(path, "w") as file:
            file.write("probe\n")
    except OSError as error:
        return {"error": error.strerror}
    return {"error": None}


def reply(start_response, facts):
    """JSON; the daemon's process id in a header, so that a load can see which life of it answered."""
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
