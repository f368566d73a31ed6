"""Bare ASGI that sends parts of a file by `http.response.zerocopysend`, and strings between them.

The query is a JSON list of parts: a string, or a range with `offset` and `count`; `{}` is the whole file.
"""

import json
import os
from urllib.parse import unquote


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    assert "http.response.zerocopysend" in scope["extensions"]
    parts = json.loads(unquote(scope["query_string"].decode()) or "[{}]")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    with open(os.environ["ZERO_COPY_FILE"], "rb") as file:
        for number, part in enumerate(parts):
            more = {"more_body": number < len(parts) - 1}
            if isinstance(part, str):
                await send({"type": "http.response.body", "body": part.encode(), **more})
            else:
                await send({"type": "http.response.zerocopysend", "file": file, **part, **more})
