"""What the server passes to the application: the environ, the process, wsgi.errors."""

import os
import sys
import threading

from .registry import CASES, EVENTS, answer, answer_json, case, events_lock, log, query


@case("")
def index(environ, start_response):
    """Lists all cases, one per line, with the first line of their docstrings."""
    lines = [
        f"/{name}\t{(function.__doc__ or '').splitlines()[0]}\n" for name, function in sorted(CASES.items())
    ]
    return answer(start_response, "".join(lines).encode())


@case("events")
def events(environ, start_response):
    """The events of this process, or those of `?id=`, as JSON; `?clear=1` then deletes all."""
    wanted = query(environ, "id", "")
    with events_lock:
        found = [entry for entry in EVENTS if not wanted or entry["id"] == wanted]
        if query(environ, "clear", 0):
            EVENTS.clear()
    return answer_json(start_response, found)


@case("environ")
def show_environ(environ, start_response):
    """The environ as JSON: simple values unchanged, others by type name; `_types` has all types."""
    shown = {
        name: value if isinstance(value, (str, bool, int, tuple)) else type(value).__name__
        for name, value in environ.items()
    }
    shown["_types"] = {name: type(value).__name__ for name, value in environ.items()}
    shown["_exact_dict"] = type(environ) is dict
    return answer_json(start_response, shown)


@case("environ/writable")
def writable_environ(environ, start_response):
    """Changes the environ, as middleware may; later requests must not see it: `seen` is false."""
    seen = "cases.mark" in environ
    environ["cases.mark"] = "here"
    environ["REQUEST_METHOD"] = environ["REQUEST_METHOD"].lower()
    del environ["SERVER_NAME"]
    return answer_json(start_response, {"seen": seen})


@case("who")
def who(environ, start_response):
    """Process, thread and interpreter of the request."""
    return answer_json(
        start_response,
        {
            "pid": os.getpid(),
            "ppid": os.getppid(),
            "thread": threading.current_thread().name,
            "threads": threading.active_count(),
            "main_thread": threading.current_thread() is threading.main_thread(),
            "python": sys.version,
            "executable": sys.executable,
            "prefix": sys.prefix,
            "cwd": os.getcwd(),
            "path": sys.path,
            "argv": sys.argv,
            "env": dict(os.environ),
        },
    )


@case("errors")
def errors(environ, start_response):
    """Writes to wsgi.errors with write() and writelines(), and flushes: both lines reach the log."""
    marker = query(environ, "id", "no-id")
    environ["wsgi.errors"].write(f"wsgi.errors first {marker}\n")
    environ["wsgi.errors"].writelines([f"wsgi.errors second {marker} ", "æøå 煎茶\n"])
    environ["wsgi.errors"].flush()
    return answer(start_response, b"written\n")


@case("output")
def output(environ, start_response):
    """Writes to stdout, stderr, descriptor 2 and logging: each line reaches the log once."""
    marker = query(environ, "id", "no-id")
    print(f"stdout {marker}", flush=True)
    print(f"stderr {marker}", file=sys.stderr, flush=True)
    os.write(2, f"descriptor {marker}\n".encode())
    log.warning("logging %s", marker)
    return answer(start_response, b"written\n")
