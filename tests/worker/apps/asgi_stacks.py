"""Stack cases: requests that await tasks, each in a different way."""

import asyncio

import anyio
import asgi_cases  # noqa: F401 (registers the cases that every test uses)
from asgi_registry import application, case

__all__ = ["application"]


async def innermost():
    await asyncio.sleep(1000)


async def child():
    await innermost()


@case
async def gathers(scope, receive, send):
    await asyncio.gather(child(), child())


@case
async def waits(scope, receive, send):
    await asyncio.wait([asyncio.ensure_future(child())])


@case
async def waits_with_timeout(scope, receive, send):
    await asyncio.wait_for(child(), 1000)


@case
async def awaits_task(scope, receive, send):
    await asyncio.ensure_future(child())


@case
async def shields(scope, receive, send):
    await asyncio.shield(child())


@case
async def groups(scope, receive, send):
    async with asyncio.TaskGroup() as group:
        group.create_task(child())


@case
async def groups_of_anyio(scope, receive, send):
    async with anyio.create_task_group() as group:
        group.start_soon(child)


async def parent():
    await asyncio.gather(child())


@case
async def nests(scope, receive, send):
    await asyncio.gather(parent(), return_exceptions=True)


@case
async def gathers_many(scope, receive, send):
    await asyncio.gather(*[child() for _ in range(100)])


async def waits_for_each_other(tasks, at):
    await asyncio.sleep(0)
    await asyncio.wait([tasks[at]])


@case
async def circle(scope, receive, send):
    """Waits for two tasks that wait for each other."""
    tasks = []
    tasks += [asyncio.ensure_future(waits_for_each_other(tasks, 1 - at)) for at in (0, 1)]
    try:
        await asyncio.wait(tasks)
    finally:
        for task in tasks:
            task.cancel()
