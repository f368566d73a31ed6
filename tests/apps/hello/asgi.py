"""The smallest ASGI application, `asgi:application`: lifespan and HTTP only."""

BODY = b"Hello, world!"
START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain"), (b"content-length", str(len(BODY)).encode())],
}
FINISH = {"type": "http.response.body", "body": BODY}


async def application(scope, receive, send):
    """Responds to every request with thirteen bytes."""
    if scope["type"] == "http":
        await send(START)
        await send(FINISH)
    elif scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    else:
        # The specification asks for an exception if the protocol is not supported.
        raise ValueError(f"hello speaks http and lifespan, not {scope['type']}")
