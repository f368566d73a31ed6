"""Bare ASGI: echoes every WebSocket message."""


async def application(scope, receive, send):
    if scope["type"] != "websocket":
        raise ValueError(f"no {scope['type']} here")
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})
