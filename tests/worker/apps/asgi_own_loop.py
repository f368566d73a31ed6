"""An application with an event loop class of its own, whose `get_debug` differs from asyncio's."""

import asyncio
import json


class OwnLoop(asyncio.SelectorEventLoop):
    calls = 0

    def get_debug(self):
        OwnLoop.calls += 1
        return super().get_debug()


asyncio.DefaultEventLoopPolicy._loop_factory = OwnLoop


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("no lifespan")
    loop, before = asyncio.get_running_loop(), OwnLoop.calls
    loop.get_debug()
    body = [type(loop).__name__, "own" if OwnLoop.calls == before + 1 else "replaced"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})
