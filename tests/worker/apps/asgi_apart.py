"""Cases for what requests keep to themselves, and what they leave behind."""

import asyncio
import contextlib
import contextvars
import gc
import os
import sys
import time

import asgi_cases
from asgi_cases import case, gate, tell

variable = contextvars.ContextVar("variable", default="unset")
application = asgi_cases.application


@case
async def keeps_a_secret(scope, receive, send):
    """Answers outside of a turn, and keeps the loop from the turn that follows until others have come."""
    variable.set("a secret")
    await gate(scope).wait()
    await tell(send, variable.get())
    time.sleep(0.3)


@case
async def looks_for_secrets(scope, receive, send):
    await tell(send, variable.get())


def n_futures():
    gc.collect()
    return sum(isinstance(found, asyncio.Future) for found in gc.get_objects())


@case
async def gives_up(scope, receive, send):
    """How many Futures are left of receives that were given up."""
    await receive()
    before = n_futures()
    for _ in range(100):
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(receive(), 0.0001)
        receive().close()
        waiting = asyncio.create_task(receive())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
    del waiting
    await tell(send, n_futures() - before)


@case
async def gives_up_sending(scope, receive, send):
    """The same of sends, to a client that takes nothing."""
    await receive()
    await asgi_cases.start(send)
    part = {"type": "http.response.body", "body": b"p" * 1_000_000, "more_body": True}
    for _ in range(2):
        await send(part)
    before = n_futures()
    for _ in range(100):
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(send(part), 0.0001)
    asgi_cases.SEEN[:] = [n_futures() - before]
    await asgi_cases.finish(send)


@case
async def forks_and_awaits(scope, receive, send):
    """The child goes on waiting on its parent's loop, while its parent does not turn it."""
    waiting = asyncio.get_running_loop().create_future()
    pid = os.fork()
    if pid == 0:
        time.sleep(0.2)  # until there is something to be taken
        await waiting
    _, status = os.waitpid(pid, 0)
    await tell(send, os.WEXITSTATUS(status))


@case
async def returns_too_early(scope, receive, send):
    """While most of its answer waits for the client."""
    await asgi_cases.start(send)
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(asgi_cases.finish(send, b"b" * 6_000_000), 0.001)
    asgi_cases.SEEN[:] = ["returned"]


@case
async def is_interrupted(scope, receive, send):
    """By what a signal handler may raise in the server's own frames, in the way of a profiler's here."""

    def profile(frame, event, function):
        if event == "c_call" and function.__name__ == "_returned":
            sys.setprofile(None)
            raise ValueError("from a signal handler")

    sys.setprofile(profile)
