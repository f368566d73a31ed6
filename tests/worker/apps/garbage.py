"""A WSGI and an ASGI application that leave cycles behind; only the collector frees them."""

import asyncio
import gc
import threading
import weakref

# No automatic collection, but the collector is on.
gc.set_threshold(1_000_000)
RELEASE = threading.Event()
CYCLES = []


class Cycle:
    def __init__(self):
        self.itself = self


def leave_cycle():
    CYCLES.append(weakref.ref(Cycle()))


def n_alive():
    return sum(cycle() is not None for cycle in CYCLES)


def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/leave":
        leave_cycle()
    if path == "/leave-without-collector":
        gc.disable()
        leave_cycle()
    if path == "/wait":
        leave_cycle()
        RELEASE.wait(20)
    if path == "/release":
        RELEASE.set()
    start_response("200 OK", [])
    return [str(n_alive()).encode()]


async def asgi(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("no lifespan")
    if scope["path"] == "/leave":
        leave_cycle()
    if scope["path"] == "/wait":
        leave_cycle()
        await asyncio.get_running_loop().run_in_executor(None, RELEASE.wait, 20)
    if scope["path"] == "/release":
        RELEASE.set()
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": str(n_alive()).encode()})
