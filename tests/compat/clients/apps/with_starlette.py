"""Starlette: the common routes."""

import contextlib
import hashlib

from ledger import GATES, SEEN, gated, numbers, ticks
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse, RedirectResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect


@contextlib.asynccontextmanager
async def lifespan(app):
    print("starlette: startup", flush=True)
    yield {"pool": "a pool"}
    print("starlette: shutdown", flush=True)


async def json(request):
    return JSONResponse({"framework": "starlette"})


async def item(request):
    return JSONResponse({"n": request.path_params["n"], "q": request.query_params.get("q")})


async def redirect(request):
    return RedirectResponse("/json", 307)


async def fail(request):
    raise ValueError("the view fails")


async def state(request):
    return JSONResponse({"pool": request.state.pool})


async def upload(request):
    async with request.form() as form:
        file = form["file"]
        data = await file.read()
        result = {"note": form["note"], "name": file.filename, "size": len(data)}
    return JSONResponse({**result, "sha256": hashlib.sha256(data).hexdigest()})


async def raw(request):
    digest, size = hashlib.sha256(), 0
    async for part in request.stream():
        digest.update(part)
        size += len(part)
    return JSONResponse({"size": size, "sha256": digest.hexdigest()})


async def lines(request):
    return StreamingResponse(numbers(request.path_params["count"]), media_type="text/plain")


async def blocks(request):
    async def parts():
        for number in range(request.path_params["count"]):
            yield bytes([number % 256]) * 65_536

    return StreamingResponse(parts(), media_type="application/octet-stream")


async def stream(request):
    return StreamingResponse(gated(request.path_params["marker"]), media_type="text/plain")


async def sse(request):
    return StreamingResponse(ticks(request.path_params["marker"]), media_type="text/event-stream")


async def poll(request):
    await GATES[request.path_params["marker"]].wait()
    return JSONResponse("news")


async def open_gate(request):
    GATES[request.path_params["marker"]].set()
    return JSONResponse(None)


async def seen(request):
    return JSONResponse(SEEN[request.path_params["marker"]])


async def background(request):
    marker = request.path_params["marker"]

    async def work():
        await GATES[marker].wait()
        SEEN[marker].append("worked")

    return JSONResponse("accepted", 202, background=BackgroundTask(work))


async def ws_echo(socket):
    await socket.accept()
    while (message := await socket.receive())["type"] != "websocket.disconnect":
        await socket.send({**message, "type": "websocket.send"})


async def ws_json(socket):
    await socket.accept()
    with contextlib.suppress(WebSocketDisconnect):
        async for message in socket.iter_json():
            await socket.send_json({"got": message})


async def ws_about(socket):
    await socket.accept()
    query, token = dict(socket.query_params), socket.headers["x-token"]
    await socket.send_json({"room": socket.path_params["room"], "query": query, "token": token})
    await socket.close()


async def ws_protocol(socket):
    offered = socket.scope["subprotocols"]
    await socket.accept(subprotocol="v2.chat" if "v2.chat" in offered else None)
    await socket.send_json(offered)
    await socket.close()


async def ws_close(socket):
    await socket.accept()
    await socket.close(int(await socket.receive_text()), "as requested")


async def ws_reject(socket):
    await socket.close()


async def ws_watch(socket):
    await socket.accept()
    try:
        await socket.receive_text()
    except WebSocketDisconnect as gone:
        SEEN[socket.path_params["marker"]].append(gone.code)


async def ws_fail(socket):
    await socket.accept()
    raise ValueError("the socket fails")


async def ws_push(socket):
    await socket.accept()
    for number in range(socket.path_params["count"]):
        await socket.send_text(f"{number}")
    await socket.close()


async def ws_deny(socket):
    await socket.send_denial_response(JSONResponse({"why": "no ticket"}, 401, {"x-why": "ticket"}))


app = Starlette(
    routes=[
        Route("/json", json),
        Route("/items/{n:int}", item),
        Route("/redirect", redirect),
        Route("/fail", fail),
        Route("/state", state),
        Route("/upload", upload, methods=["POST"]),
        Route("/raw", raw, methods=["POST"]),
        Route("/lines/{count:int}", lines),
        Route("/blocks/{count:int}", blocks),
        Route("/stream/{marker}", stream),
        Route("/sse/{marker}", sse),
        Route("/poll/{marker}", poll),
        Route("/open/{marker}", open_gate, methods=["POST"]),
        Route("/seen/{marker}", seen),
        Route("/background/{marker}", background, methods=["POST"]),
        WebSocketRoute("/ws/echo", ws_echo),
        WebSocketRoute("/ws/json", ws_json),
        WebSocketRoute("/ws/about/{room}", ws_about),
        WebSocketRoute("/ws/protocol", ws_protocol),
        WebSocketRoute("/ws/close", ws_close),
        WebSocketRoute("/ws/reject", ws_reject),
        WebSocketRoute("/ws/watch/{marker}", ws_watch),
        WebSocketRoute("/ws/fail", ws_fail),
        WebSocketRoute("/ws/push/{count:int}", ws_push),
        WebSocketRoute("/ws/deny", ws_deny),
    ],
    lifespan=lifespan,
)
