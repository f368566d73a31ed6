"""A response behind `?N` Starlette middlewares, each of which runs the application in a task."""

from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import Response


async def call(request, call_next):
    return await call_next(request)


async def application(scope, receive, send):
    if scope["type"] != "http":
        raise ValueError(f"no {scope['type']} here")
    wrapped = Response(b"all")
    for _ in range(int(scope["query_string"])):
        wrapped = BaseHTTPMiddleware(wrapped, call)
    await wrapped(scope, receive, send)
