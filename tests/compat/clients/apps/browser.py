"""Starlette with a page that uses WebSocket, EventSource, fetch and forms, and posts its findings.

The page is browser.html.
"""

import asyncio
import json
import os
import pathlib

from ledger import GATES, gated
from starlette.applications import Starlette
from starlette.responses import FileResponse, JSONResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

# The page posts all its findings each time, so that a new worker gets them too.
FINDINGS = {}
CLOSED = []


async def page(request):
    return FileResponse(pathlib.Path(__file__).with_name("browser.html"))


async def findings(request):
    if request.method == "POST":
        FINDINGS.update(await request.json())
    return JSONResponse(FINDINGS)


async def stream(request):
    return StreamingResponse(gated("browser"), media_type="text/plain")


async def open_gate(request):
    GATES["browser"].set()
    return JSONResponse(None)


async def upload(request):
    async with request.form() as form:
        return JSONResponse({"note": form["note"], "size": len(await form["file"].read())})


async def events(request):
    """Sends three events and ends; the browser reconnects with its last event's id."""
    begin = int(request.headers.get("last-event-id", -1)) + 1

    async def three():
        yield "retry: 20\n\n"
        for number in range(begin, begin + 3):
            yield f"id: {number}\nevent: news\ndata: {json.dumps({'number': number})}\n\n"
            await asyncio.sleep(0)

    return StreamingResponse(three(), media_type="text/event-stream", headers={"cache-control": "no-cache"})


async def echo(socket):
    await socket.accept(subprotocol="v2.chat")
    while (message := await socket.receive())["type"] != "websocket.disconnect":
        await socket.send({**message, "type": "websocket.send"})
    CLOSED.append([message["code"], message.get("reason")])


async def closed(request):
    return JSONResponse(CLOSED)


async def reject(socket):
    await socket.close()


async def live(socket):
    """Sends the worker's pid, then waits for the disconnect."""
    await socket.accept()
    await socket.send_json({"pid": os.getpid()})
    try:
        while True:
            await socket.receive_text()
    except WebSocketDisconnect:
        pass


app = Starlette(
    routes=[
        Route("/page", page),
        Route("/findings", findings, methods=["GET", "POST"]),
        Route("/stream", stream),
        Route("/open", open_gate, methods=["POST"]),
        Route("/upload", upload, methods=["POST"]),
        Route("/events", events),
        Route("/closed", closed),
        WebSocketRoute("/echo", echo),
        WebSocketRoute("/reject", reject),
        WebSocketRoute("/live", live),
    ]
)
