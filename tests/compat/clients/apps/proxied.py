"""Bare ASGI behind a proxy: returns what the proxy reports, echoes WebSockets, counts uploads."""

import hashlib
import json

PROGRESS = {}


async def application(scope, receive, send):
    if scope["type"] == "websocket":
        await websocket(receive, send)
    elif scope["path"] == "/upload":
        await answer(send, await upload(scope, receive))
    elif scope["path"] == "/progress":
        await answer(send, PROGRESS.get(scope["query_string"].decode(), 0))
    else:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        await answer(
            send,
            {
                "client": scope["client"] and scope["client"][0],
                "scheme": scope["scheme"],
                "server": scope["server"],
                "root_path": scope["root_path"],
                "id": scope["extensions"]["rgun"]["request_id"],
                "headers": headers,
            },
        )


async def websocket(receive, send):
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


async def upload(scope, receive):
    """Receives the body; the query names the upload."""
    name, digest, more = scope["query_string"].decode(), hashlib.sha256(), True
    while more:
        message = await receive()
        body, more = message.get("body", b""), message.get("more_body", False)
        digest.update(body)
        PROGRESS[name] = PROGRESS.get(name, 0) + len(body)
    return {"length": PROGRESS[name], "digest": digest.hexdigest()}


async def answer(send, content):
    body = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
