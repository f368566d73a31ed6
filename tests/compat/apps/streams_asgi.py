"""Server-sent events from Starlette that wait for another request, with and without middleware."""

import asyncio
import collections

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route

GATES = collections.defaultdict(asyncio.Event)


async def events(request):
    async def parts():
        await GATES[request.query_params["id"]].wait()
        yield "data: late\n\n"

    return StreamingResponse(parts(), media_type="text/event-stream")


async def package(request):
    """Like events, by sse-starlette."""
    from sse_starlette.sse import EventSourceResponse

    async def parts():
        await GATES[request.query_params["id"]].wait()
        yield {"data": "late"}

    return EventSourceResponse(parts(), sep="\n")


async def allow(request):
    GATES[request.query_params["id"]].set()
    return PlainTextResponse("open")


async def same(request, call_next):
    return await call_next(request)


routes = [Route("/events", events), Route("/package", package), Route("/open", allow)]
middleware = [Middleware(BaseHTTPMiddleware, dispatch=same)] * 2
application = Starlette(routes=[Mount("/wrapped", routes=routes, middleware=middleware), *routes])
