"""FastAPI: the common routes, with injection and validation."""

import contextlib
import hashlib
from typing import Annotated

from fastapi import (
    BackgroundTasks,
    Depends,
    FastAPI,
    Form,
    Header,
    Request,
    UploadFile,
    WebSocketDisconnect,
    WebSocketException,
)
from fastapi import WebSocket as Socket
from fastapi.responses import RedirectResponse, StreamingResponse
from ledger import GATES, SEEN, gated, numbers, ticks
from pydantic import BaseModel


@contextlib.asynccontextmanager
async def lifespan(app):
    print("fastapi: startup", flush=True)
    yield {"pool": "a pool"}
    print("fastapi: shutdown", flush=True)


app = FastAPI(lifespan=lifespan)


class Order(BaseModel):
    name: str
    price: float


@app.get("/json")
def json():
    """Runs in a thread, because the function is not `async`."""
    return {"framework": "fastapi"}


@app.get("/items/{n}")
async def item(n: int, q: str | None = None):
    return {"n": n, "q": q}


@app.post("/orders")
async def order(order: Order):
    return {"taken": order}


@app.get("/redirect")
async def redirect():
    return RedirectResponse("/json", 307)


@app.get("/fail")
async def fail():
    raise ValueError("the view fails")


@app.get("/state")
async def state(request: Request):
    return {"pool": request.state.pool}


@app.post("/upload")
async def upload(file: UploadFile, note: Annotated[str, Form()]):
    data = await file.read()
    result = {"note": note, "name": file.filename, "size": len(data)}
    return {**result, "sha256": hashlib.sha256(data).hexdigest()}


@app.post("/raw")
async def raw(request: Request):
    digest, size = hashlib.sha256(), 0
    async for part in request.stream():
        digest.update(part)
        size += len(part)
    return {"size": size, "sha256": digest.hexdigest()}


@app.get("/lines/{count}")
async def lines(count: int):
    return StreamingResponse(numbers(count), media_type="text/plain")


@app.get("/stream/{marker}")
async def stream(marker: str):
    return StreamingResponse(gated(marker), media_type="text/plain")


@app.get("/sse/{marker}")
async def sse(marker: str):
    return StreamingResponse(ticks(marker), media_type="text/event-stream")


@app.get("/poll/{marker}")
async def poll(marker: str):
    await GATES[marker].wait()
    return "news"


@app.post("/open/{marker}")
async def open_gate(marker: str):
    GATES[marker].set()


@app.get("/seen/{marker}")
async def seen(marker: str):
    return SEEN[marker]


@app.post("/background/{marker}", status_code=202)
async def background(marker: str, later: BackgroundTasks):
    async def work():
        await GATES[marker].wait()
        SEEN[marker].append("worked")

    later.add_task(work)
    return "accepted"


@app.websocket("/ws/echo")
async def ws_echo(socket: Socket):
    await socket.accept()
    while (message := await socket.receive())["type"] != "websocket.disconnect":
        if message.get("text") is not None:
            await socket.send_text(message["text"])
        else:
            await socket.send_bytes(message["bytes"])


@app.websocket("/ws/json")
async def ws_json(socket: Socket):
    await socket.accept()
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            await socket.send_json({"got": await socket.receive_json()})


def credentials(x_token: Annotated[str, Header()]):
    return x_token


@app.websocket("/ws/about/{room}")
async def ws_about(socket: Socket, room: str, q: str, token: Annotated[str, Depends(credentials)]):
    await socket.accept()
    await socket.send_json({"room": room, "query": {"q": q}, "token": token})
    await socket.close()


@app.websocket("/ws/protocol")
async def ws_protocol(socket: Socket):
    offered = socket.scope["subprotocols"]
    await socket.accept(subprotocol="v2.chat" if "v2.chat" in offered else None)
    await socket.send_json(offered)
    await socket.close()


@app.websocket("/ws/close")
async def ws_close(socket: Socket):
    await socket.accept()
    await socket.close(int(await socket.receive_text()), "as requested")


@app.websocket("/ws/reject")
async def ws_reject(socket: Socket):
    raise WebSocketException(1008)


@app.websocket("/ws/watch/{marker}")
async def ws_watch(socket: Socket, marker: str):
    await socket.accept()
    try:
        await socket.receive_text()
    except WebSocketDisconnect as gone:
        SEEN[marker].append(gone.code)


@app.websocket("/ws/fail")
async def ws_fail(socket: Socket):
    await socket.accept()
    raise ValueError("the socket fails")


@app.websocket("/ws/push/{count}")
async def ws_push(socket: Socket, count: int):
    await socket.accept()
    for number in range(count):
        await socket.send_text(f"{number}")
    await socket.close()
