"""Starlette and FastAPI WebSockets, as in their documentation."""

import asyncio

from fastapi import Depends, FastAPI, WebSocket, WebSocketException
from starlette.applications import Starlette
from starlette.endpoints import WebSocketEndpoint
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

SEEN = []


async def echo(websocket):
    """Accepts the first offered subprotocol and echoes messages."""
    await websocket.accept((websocket.scope["subprotocols"] or [None])[0], headers=[(b"x-by", b"starlette")])
    try:
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message["code"], message.get("reason"))
            if message.get("text") is not None:
                await websocket.send_text(message["text"])
            else:
                await websocket.send_bytes(message["bytes"])
    except WebSocketDisconnect as error:
        SEEN[:] = [error.code, error.reason]


async def uncaught(websocket):
    """Does not catch the disconnect, like most applications."""
    await websocket.accept()
    while True:
        await websocket.send_text(await websocket.receive_text())


async def closes_finally(websocket):
    await websocket.accept()
    try:
        async for text in websocket.iter_text():
            await websocket.send_json({"got": text})
    finally:
        await websocket.close(1001)
        SEEN[:] = ["closed"]


async def feed(websocket):
    """Sends, without receiving, until a send fails."""
    await websocket.accept()
    try:
        while True:
            await websocket.send_bytes(b"f" * 1000)
            await asyncio.sleep(0.001)
    except WebSocketDisconnect as error:
        SEEN[:] = [error.code]


async def closes(websocket):
    await websocket.accept()
    await websocket.close(4000, "as documented")
    message = await websocket.receive()
    SEEN[:] = [message["type"], message["code"]]


async def forbids(websocket):
    await websocket.close(1008)


async def denies(websocket):
    await websocket.send_denial_response(JSONResponse({"detail": "who are you?"}, 401, {"x-by": "starlette"}))


async def aborts(websocket):
    raise HTTPException(402, "no money")


async def fails(websocket):
    await websocket.accept()
    raise ValueError("in a Starlette WebSocket")


class Counter(WebSocketEndpoint):
    """An endpoint class."""

    encoding = "json"

    async def on_receive(self, websocket, data):
        await websocket.send_json({"next": data["n"] + 1})

    async def on_disconnect(self, websocket, close_code):
        SEEN[:] = [close_code]


async def seen(request):
    return JSONResponse(SEEN)


api = FastAPI()


async def token(websocket: WebSocket, token: str = ""):
    if token != "right":
        raise WebSocketException(1008, "wrong token")
    return token


@api.websocket("/rooms/{number}")
async def room(websocket: WebSocket, number: int, sent_token: str = Depends(token)):
    await websocket.accept()
    await websocket.send_json([number, sent_token])
    if await websocket.receive_text() == "expel me":
        raise WebSocketException(4002, "expelled")


class Tag(BaseHTTPMiddleware):
    """A middleware that WebSockets must pass unchanged."""

    async def dispatch(self, request, call_next):
        return await call_next(request)


views = (echo, uncaught, closes_finally, feed, closes, forbids, denies, aborts, fails)
application = Starlette(
    routes=[
        *(WebSocketRoute(f"/{view.__name__}", view) for view in views),
        WebSocketRoute("/counter", Counter),
        Route("/seen", seen),
        Mount("/api", api),
    ],
    middleware=[Middleware(Tag)],
)
