"""BlackSheep: the common routes."""

import asyncio
import contextlib
import hashlib

from blacksheep import Application, Request, Response, StreamedContent, WebSocket, get, json, post, ws
from blacksheep import redirect as redirected
from blacksheep.server.websocket import WebSocketDisconnectError
from ledger import GATES, SEEN, gated, numbers, ticks

app = Application()
TASKS = set()


@app.lifespan
async def lifespan(app):
    app.pool = "a pool"
    print("blacksheep: startup", flush=True)
    yield
    print("blacksheep: shutdown", flush=True)


def streamed(parts, kind):
    async def encoded():
        async for part in parts:
            yield part.encode()

    return Response(200, content=StreamedContent(kind, encoded))


@get("/json")
async def plain():
    return json({"framework": "blacksheep"})


@get("/items/{int:n}")
async def item(n: int, q: str | None = None):
    return json({"n": n, "q": q})


@get("/redirect")
async def redirect():
    answer = redirected("/json")
    answer.status = 307
    return answer


@get("/fail")
async def fail():
    raise ValueError("the view fails")


@get("/state")
async def state():
    return json({"pool": app.pool})


@post("/upload")
async def upload(request: Request):
    form = await request.form()
    (file,) = form["file"]
    result = {"note": form["note"], "name": file.file_name.decode(), "size": len(file.data)}
    return json({**result, "sha256": hashlib.sha256(file.data).hexdigest()})


@post("/raw")
async def raw(request: Request):
    digest, size = hashlib.sha256(), 0
    async for part in request.stream():
        digest.update(part)
        size += len(part)
    return json({"size": size, "sha256": digest.hexdigest()})


@get("/lines/{int:count}")
async def lines(count: int):
    return streamed(numbers(count), b"text/plain")


@get("/stream/{marker}")
async def stream(marker: str):
    return streamed(gated(marker), b"text/plain")


@get("/sse/{marker}")
async def sse(request: Request, marker: str):
    """Checks for a disconnect itself: BlackSheep would continue to send."""

    async def parts():
        async with contextlib.aclosing(ticks(marker)) as events:
            async for event in events:
                if await request.is_disconnected():
                    break
                yield event

    return streamed(parts(), b"text/event-stream")


@get("/poll/{marker}")
async def poll(marker: str):
    await GATES[marker].wait()
    return json("news")


@post("/open/{marker}")
async def open_gate(marker: str):
    GATES[marker].set()
    return json(None)


@get("/seen/{marker}")
async def seen(marker: str):
    return json(SEEN[marker])


@post("/background/{marker}")
async def background(marker: str):
    """Starts a task on the event loop, because BlackSheep has no background tasks."""

    async def work():
        await GATES[marker].wait()
        SEEN[marker].append("worked")

    task = asyncio.create_task(work())
    TASKS.add(task)
    task.add_done_callback(TASKS.discard)
    return json("accepted", 202)


@ws("/ws/echo")
async def ws_echo(socket: WebSocket):
    await socket.accept()
    while (message := await socket.receive())["type"] != "websocket.disconnect":
        if message.get("text") is not None:
            await socket.send_text(message["text"])
        else:
            await socket.send_bytes(message["bytes"])


@ws("/ws/json")
async def ws_json(socket: WebSocket):
    await socket.accept()
    try:
        while True:
            await socket.send_json({"got": await socket.receive_json()})
    except WebSocketDisconnectError:
        pass


@ws("/ws/about/{room}")
async def ws_about(socket: WebSocket, room: str, q: str):
    await socket.accept()
    token = socket.headers.get_single(b"x-token").decode()
    await socket.send_json({"room": room, "query": {"q": q}, "token": token})
    await socket.close()


@ws("/ws/protocol")
async def ws_protocol(socket: WebSocket):
    offered = socket.scope["subprotocols"]
    await socket.accept(subprotocol="v2.chat" if "v2.chat" in offered else None)
    await socket.send_json(offered)
    await socket.close()


@ws("/ws/close")
async def ws_close(socket: WebSocket):
    await socket.accept()
    await socket.close(int(await socket.receive_text()), "as requested")


@ws("/ws/reject")
async def ws_reject(socket: WebSocket):
    await socket.close()


@ws("/ws/watch/{marker}")
async def ws_watch(socket: WebSocket, marker: str):
    await socket.accept()
    try:
        await socket.receive_text()
    except WebSocketDisconnectError as gone:
        SEEN[marker].append(gone.code)


@ws("/ws/fail")
async def ws_fail(socket: WebSocket):
    await socket.accept()
    raise ValueError("the socket fails")


@ws("/ws/push/{int:count}")
async def ws_push(socket: WebSocket, count: int):
    await socket.accept()
    for number in range(count):
        await socket.send_text(f"{number}")
    await socket.close()
