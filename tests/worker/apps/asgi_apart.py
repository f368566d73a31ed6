"""Isolation cases: contexts, cancelled waits, forks."""

import asyncio
import contextlib
import contextvars
import gc
import os
import sys
import time

import asgi_cases  # noqa: F401 (registers the cases that every test uses)
from asgi_registry import SEEN, application, case, finish, gate, send_json, start

__all__ = ["application"]

variable = contextvars.ContextVar("variable", default="unset")


@case
async def keeps_a_secret(scope, receive, send):
    """Responds outside of a tick, then blocks the loop until other requests have arrived."""
    variable.set("a secret")
    await gate(scope).wait()
    await send_json(send, variable.get())
    time.sleep(0.3)


@case
async def looks_for_secrets(scope, receive, send):
    await send_json(send, variable.get())


def n_futures():
    gc.collect()
    return sum(isinstance(found, asyncio.Future) for found in gc.get_objects())


@case
async def gives_up(scope, receive, send):
    """Returns how many Futures are left over from cancelled receives."""
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
    await send_json(send, n_futures() - before)


@case
async def gives_up_sending(scope, receive, send):
    """Records how many Futures are left over from cancelled sends to a client without credit."""
    await receive()
    await start(send)
    part = {"type": "http.response.body", "body": b"p" * 1_000_000, "more_body": True}
    for _ in range(2):
        await send(part)
    before = n_futures()
    for _ in range(100):
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(send(part), 0.0001)
    SEEN[:] = [n_futures() - before]
    await finish(send)


@case
async def forks_and_awaits(scope, receive, send):
    """Forks a child that awaits on its parent's loop, while the parent waits for the child."""
    waiting = asyncio.get_running_loop().create_future()
    pid = os.fork()
    if pid == 0:
        time.sleep(0.2)  # until there are requests to claim
        await waiting
    _, status = os.waitpid(pid, 0)
    await send_json(send, os.WEXITSTATUS(status))


@case
async def returns_too_early(scope, receive, send):
    """Returns while most of its response waits for credit."""
    await start(send)
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(finish(send, b"b" * 6_000_000), 0.001)
    SEEN[:] = ["returned"]


@case
async def interrupts_the_server(scope, receive, send):
    """Makes a profiler raise in the server's own frames, as a signal handler may."""

    def profile(frame, event, function):
        if event == "c_call" and function.__name__ == "_complete":
            sys.setprofile(None)
            raise ValueError("from a signal handler")

    sys.setprofile(profile)
