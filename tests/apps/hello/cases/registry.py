"""The cases by name, the application that calls them, and helpers that several cases share."""

import io
import json
import logging
import os
import threading
from urllib.parse import parse_qs

MIB = 1024 * 1024


CASES = {}


EVENTS = []


TEXT = ("Content-Type", "text/plain; charset=utf-8")


JSON = ("Content-Type", "application/json")


BYTES = ("Content-Type", "application/octet-stream")


log = logging.getLogger("cases")


events_lock = threading.Lock()


class CaseError(Exception):
    """Raised by cases that fail on purpose; its text names the case."""


def case(name, conforming=True):
    """Registers the function below under `name`."""

    def register(function):
        function.conforming = conforming
        CASES[name] = function
        return function

    return register


def application(environ, start_response):
    """Finds the case by the longest prefix of the path, and calls it."""
    path = environ.get("PATH_INFO", "").strip("/")
    name = path
    while name and name not in CASES:
        name = name.rpartition("/")[0]
    if not name and path:
        return answer(start_response, f"no such case: /{path}\n".encode(), "404 Not Found")
    return CASES[name](environ, start_response)


def query(environ, name, default):
    """Returns the query parameter `name`, converted to the type of its default."""
    values = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True).get(name)
    return type(default)(values[-1]) if values else default


def event(environ, what, **facts):
    """Records an event of the request `?id=`."""
    entry = {"what": what, "id": query(environ, "id", ""), "pid": os.getpid(), **facts}
    with events_lock:
        EVENTS.append(entry)
        if os.environ.get("CASES_EVENTS"):
            # One write per line in append mode, so lines of several workers do not mix.
            with open(
                os.environ["CASES_EVENTS"], "a", encoding="utf-8", buffering=io.DEFAULT_BUFFER_SIZE
            ) as file:
                file.write(json.dumps(entry) + "\n")


def answer(start_response, body, status="200 OK", headers=(TEXT,)):
    """Responds with a body and its Content-Length."""
    start_response(status, [*headers, ("Content-Length", str(len(body)))])
    return [body]


def answer_json(start_response, value):
    """Responds with JSON."""
    return answer(start_response, json.dumps(value, sort_keys=True).encode() + b"\n", headers=[JSON])


class Closing:
    """An iterable that records, in close(), how many chunks were read."""

    def __init__(self, environ, chunks):
        """Wraps `chunks`, any iterable of bytes."""
        self.environ = environ
        self.chunks = iter(chunks)
        self.n_sent = 0

    def __iter__(self):
        """Returns itself, which is an iterator."""
        return self

    def __next__(self):
        """Counts and returns the next chunk."""
        chunk = next(self.chunks)
        self.n_sent += 1
        return chunk

    def close(self):
        """Records an event; a server must call this exactly once."""
        event(self.environ, "close", n_sent=self.n_sent)
