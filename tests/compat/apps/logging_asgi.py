"""An ASGI application that logs in tasks and threads, for tests of the request in records and lines.

Each text has the query, so that a test finds its own entries.
"""

import asyncio
import contextvars
import logging
import sys
import threading

logging.basicConfig(level=logging.INFO, format="%(message)s")
LOG = logging.getLogger("shop")
USER = contextvars.ContextVar("user", default=None)
tasks = set()
seen_users = []


async def child(text):
    LOG.info("child %s", text)
    await asyncio.sleep(0)
    print("line", text, file=sys.stderr)


async def log_later(text, event):
    await event.wait()
    LOG.info("later %s", text)


async def log_everywhere(text, event):
    """Logs in the task of the request, in tasks, and in threads."""
    seen_users.append(USER.get())
    LOG.info("task %s", text)
    await asyncio.gather(child(text), asyncio.ensure_future(child(text)))
    context = contextvars.copy_context()
    loop = asyncio.get_running_loop()
    # As asyncio.to_thread (CPython 3.9) and libraries do it.
    await loop.run_in_executor(None, context.run, LOG.info, "copied context %s", text)
    thread = threading.Thread(target=LOG.info, args=("plain thread %s", text))
    thread.start()
    thread.join()
    USER.set(text)
    task = asyncio.ensure_future(log_later(text, event))
    tasks.add(task)
    task.add_done_callback(tasks.discard)


later = None


async def application(scope, receive, send):
    global later
    if scope["type"] == "lifespan":
        later = asyncio.Event()
        while True:
            message = await receive()
            LOG.info("lifespan %s", message["type"])
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    text = scope["query_string"].decode()
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return
            LOG.info("message %s", text)
            await send({"type": "websocket.send", "text": "logged"})
    if scope["path"] == "/later":
        later.set()
        await asyncio.wait(tasks)
    elif scope["path"] == "/users":
        text = repr(seen_users)
    else:
        await log_everywhere(text, later)
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
