"""Quart: the common routes."""

import asyncio
import hashlib

from ledger import GATES, SEEN, gated, numbers, ticks
from quart import Quart, make_response, redirect, request, websocket

app = Quart(__name__)


@app.before_serving
async def startup():
    app.pool = "a pool"
    print("quart: startup", flush=True)


@app.after_serving
async def shutdown():
    print("quart: shutdown", flush=True)


@app.get("/json")
async def json():
    return {"framework": "quart"}


@app.get("/items/<int:n>")
async def item(n):
    return {"n": n, "q": request.args.get("q")}


@app.get("/redirect")
async def redirected():
    return redirect("/json", 307)


@app.get("/fail")
async def fail():
    raise ValueError("the view fails")


@app.get("/state")
async def state():
    return {"pool": app.pool}


@app.post("/upload")
async def upload():
    file = (await request.files)["file"]
    data = file.read()
    result = {"note": (await request.form)["note"], "name": file.filename, "size": len(data)}
    return {**result, "sha256": hashlib.sha256(data).hexdigest()}


@app.post("/raw")
async def raw():
    digest, size = hashlib.sha256(), 0
    async for part in request.body:
        digest.update(part)
        size += len(part)
    return {"size": size, "sha256": digest.hexdigest()}


async def streamed(parts, kind):
    response = await make_response(parts, {"content-type": kind})
    response.timeout = None
    return response


@app.get("/lines/<int:count>")
async def lines(count):
    return await streamed(numbers(count), "text/plain")


@app.get("/stream/<marker>")
async def stream(marker):
    return await streamed(gated(marker), "text/plain")


@app.get("/sse/<marker>")
async def sse(marker):
    return await streamed(ticks(marker), "text/event-stream")


@app.get("/poll/<marker>")
async def poll(marker):
    await GATES[marker].wait()
    return '"news"'


@app.post("/open/<marker>")
async def open_gate(marker):
    GATES[marker].set()
    return {}


@app.get("/seen/<marker>")
async def seen(marker):
    return SEEN[marker]


@app.post("/background/<marker>")
async def background(marker):
    async def work():
        await GATES[marker].wait()
        SEEN[marker].append("worked")

    app.add_background_task(work)
    return '"accepted"', 202


@app.websocket("/ws/echo")
async def ws_echo():
    while True:
        await websocket.send(await websocket.receive())


@app.websocket("/ws/json")
async def ws_json():
    while True:
        await websocket.send_json({"got": await websocket.receive_json()})


@app.websocket("/ws/about/<room>")
async def ws_about(room):
    query, token = websocket.args.to_dict(), websocket.headers["x-token"]
    await websocket.send_json({"room": room, "query": query, "token": token})


@app.websocket("/ws/protocol")
async def ws_protocol():
    offered = websocket.requested_subprotocols
    await websocket.accept(subprotocol="v2.chat" if "v2.chat" in offered else None)
    await websocket.send_json(offered)


@app.websocket("/ws/close")
async def ws_close():
    await websocket.accept()
    await websocket.close(int(await websocket.receive()), "as requested")


@app.websocket("/ws/reject")
async def ws_reject():
    return "not you", 403


@app.websocket("/ws/watch/<marker>")
async def ws_watch(marker):
    """Records "cancelled": Quart cancels the handler at a disconnect and reports no code."""
    await websocket.accept()
    try:
        await websocket.receive()
    except asyncio.CancelledError:
        SEEN[marker].append("cancelled")
        raise


@app.websocket("/ws/fail")
async def ws_fail():
    await websocket.accept()
    raise ValueError("the socket fails")


@app.websocket("/ws/push/<int:count>")
async def ws_push(count):
    for number in range(count):
        await websocket.send(f"{number}")


@app.websocket("/ws/deny")
async def ws_deny():
    return {"why": "no ticket"}, 401, {"x-why": "ticket"}
