"""Litestar: the common routes."""

import contextlib
import hashlib
from typing import Annotated

from ledger import GATES, SEEN, gated, numbers, ticks
from litestar import Litestar, MediaType, Request, WebSocket, get, post, websocket, websocket_listener
from litestar.background_tasks import BackgroundTask
from litestar.datastructures import State, UploadFile
from litestar.enums import RequestEncodingType
from litestar.exceptions import WebSocketDisconnect
from litestar.params import Body
from litestar.response import Redirect, Response, Stream
from pydantic import BaseModel, ConfigDict


@contextlib.asynccontextmanager
async def lifespan(app):
    app.state.pool = "a pool"
    print("litestar: startup", flush=True)
    yield
    print("litestar: shutdown", flush=True)


@get("/json")
async def json() -> dict:
    return {"framework": "litestar"}


@get("/items/{n:int}")
async def item(n: int, q: str | None = None) -> dict:
    return {"n": n, "q": q}


@get("/redirect", status_code=307)
async def redirect() -> Redirect:
    return Redirect("/json", status_code=307)


@get("/fail")
async def fail() -> None:
    raise ValueError("the view fails")


@get("/state")
async def state(state: State) -> dict:
    return {"pool": state.pool}


class Form(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    note: str
    file: UploadFile


@post("/upload", status_code=200)
async def upload(data: Annotated[Form, Body(media_type=RequestEncodingType.MULTI_PART)]) -> dict:
    content = await data.file.read()
    result = {"note": data.note, "name": data.file.filename, "size": len(content)}
    return {**result, "sha256": hashlib.sha256(content).hexdigest()}


@post("/raw", status_code=200, request_max_body_size=None)
async def raw(request: Request) -> dict:
    digest, size = hashlib.sha256(), 0
    async for part in request.stream():
        digest.update(part)
        size += len(part)
    return {"size": size, "sha256": digest.hexdigest()}


@get("/lines/{count:int}")
async def lines(count: int) -> Stream:
    return Stream(numbers(count), media_type="text/plain")


@get("/stream/{marker:str}")
async def stream(marker: str) -> Stream:
    return Stream(gated(marker), media_type="text/plain")


@get("/sse/{marker:str}")
async def sse(marker: str) -> Stream:
    return Stream(ticks(marker), media_type="text/event-stream")


@get("/poll/{marker:str}", media_type=MediaType.JSON)
async def poll(marker: str) -> str:
    await GATES[marker].wait()
    return '"news"'


@post("/open/{marker:str}", status_code=200)
async def open_gate(marker: str) -> dict:
    GATES[marker].set()
    return {}


@get("/seen/{marker:str}")
async def seen(marker: str) -> list:
    return SEEN[marker]


@post("/background/{marker:str}", status_code=202)
async def background(marker: str) -> Response[str]:
    async def work():
        await GATES[marker].wait()
        SEEN[marker].append("worked")

    return Response('"accepted"', media_type=MediaType.JSON, background=BackgroundTask(work))


@websocket("/ws/echo")
async def ws_echo(socket: WebSocket) -> None:
    await socket.accept()
    while (message := await socket.receive())["type"] != "websocket.disconnect":
        if message.get("text") is not None:
            await socket.send_text(message["text"])
        else:
            await socket.send_bytes(message["bytes"])


@websocket_listener("/ws/json")
async def ws_json(data: dict) -> dict:
    return {"got": data}


@websocket("/ws/about/{room:str}")
async def ws_about(socket: WebSocket, room: str, q: str) -> None:
    await socket.accept()
    await socket.send_json({"room": room, "query": {"q": q}, "token": socket.headers["x-token"]})
    await socket.close()


@websocket("/ws/protocol")
async def ws_protocol(socket: WebSocket) -> None:
    offered = socket.scope["subprotocols"]
    await socket.accept(subprotocols="v2.chat" if "v2.chat" in offered else None)
    await socket.send_json(offered)
    await socket.close()


@websocket("/ws/close")
async def ws_close(socket: WebSocket) -> None:
    await socket.accept()
    await socket.close(int(await socket.receive_text()), "as requested")


@websocket("/ws/reject")
async def ws_reject(socket: WebSocket) -> None:
    await socket.close()


@websocket("/ws/watch/{marker:str}")
async def ws_watch(socket: WebSocket, marker: str) -> None:
    await socket.accept()
    try:
        await socket.receive_text()
    except WebSocketDisconnect as gone:
        SEEN[marker].append(gone.code)


@websocket("/ws/fail")
async def ws_fail(socket: WebSocket) -> None:
    await socket.accept()
    raise ValueError("the socket fails")


@websocket("/ws/push/{count:int}")
async def ws_push(socket: WebSocket, count: int) -> None:
    await socket.accept()
    for number in range(count):
        await socket.send_text(f"{number}")
    await socket.close()


app = Litestar(
    [
        *(json, item, redirect, fail, state, upload, raw),
        *(lines, stream, sse, poll, open_gate, seen, background),
        *(ws_echo, ws_json, ws_about, ws_protocol, ws_close, ws_reject, ws_watch, ws_fail, ws_push),
    ],
    lifespan=[lifespan],
)
