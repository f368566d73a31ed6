"""Sends parts of files by `http.response.zerocopysend`, as the query describes them in JSON."""

import io
import json
import os

from asgi_registry import SEEN, application, case, finish, send_json, start

__all__ = ["application"]


@case
async def parts(scope, receive, send):
    """Sends the parts of a plan, strings (`body`) or ranges of a file; records the file's positions.

    The file is closed as soon as the last `send()` has returned.
    """
    plan = json.loads(scope["query_string"])
    headers = [(name.encode(), value.encode()) for name, value in plan.get("headers", {}).items()]
    with open(plan["path"], "rb", buffering=0) as file:
        file.seek(plan.get("position", 0))
        await start(send, headers=headers, trailers=plan.get("trailers", False))
        SEEN.clear()
        for part in plan["parts"]:
            if "body" in part:
                await finish(send, part["body"].encode(), more_body=part.get("more_body", False))
            else:
                await send({"type": "http.response.zerocopysend", "file": file, **part})
                SEEN.append(file.tell())
    if plan.get("trailers"):
        await send({"type": "http.response.trailers", "headers": [(b"x-one", b"1")]})


@case
async def positions(scope, receive, send):
    await send_json(send, SEEN)


@case
async def by_number(scope, receive, send):
    """Names the file by its descriptor."""
    descriptor = os.open(scope["query_string"], os.O_RDONLY)
    try:
        await start(send)
        await send({"type": "http.response.zerocopysend", "file": descriptor})
    finally:
        os.close(descriptor)


@case
async def unusable(scope, receive, send):
    """Sends something that is not an open regular file, and answers with the exception."""
    reader, writer = os.pipe()
    closed = os.dup(reader)
    os.close(closed)
    objects = {
        "pipe": reader,
        "closed": closed,
        "negative": -1,
        "large": 1 << 40,
        "memory": io.BytesIO(b"x"),
        "text": "/etc/hostname",
    }
    what = scope["query_string"].decode()
    await start(send, headers=[(b"content-type", b"text/plain")])
    try:
        await send({"type": "http.response.zerocopysend", "file": objects[what]})
    except (AttributeError, OSError, OverflowError, ValueError) as error:
        await finish(send, f"{type(error).__name__}: {error}".encode())
    finally:
        os.close(reader)
        os.close(writer)
