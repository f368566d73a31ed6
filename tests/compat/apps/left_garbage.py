"""A WSGI and an ASGI application that leave memory to the garbage collector, which never runs by itself."""

import gc
import os

gc.set_threshold(0)


class Cycle:
    """64 KiB that only the collector frees; below malloc's threshold for mappings of their own."""

    def __init__(self):
        self.itself = self
        self.memory = bytearray(os.urandom(1024)) * 64


def leave(path):
    """Leaves N MiB behind, for `/leave/N`. Returns the process's id."""
    mebibytes = int(path.rpartition("/")[2])
    for _ in range(16 * mebibytes):
        Cycle()
    return str(os.getpid()).encode()


def application(environ, start_response):
    start_response("200 OK", [])
    return [leave(environ["PATH_INFO"])]


async def asgi(scope, receive, send):
    assert scope["type"] == "http"
    body = leave(scope["path"])
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": body})
