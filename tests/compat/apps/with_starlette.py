"""A Starlette application with FastAPI mounted in it."""

import asyncio
import contextlib
import pathlib
import shutil
import tempfile

from fastapi import BackgroundTasks, Depends, FastAPI, UploadFile
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route

SEEN = []


@contextlib.asynccontextmanager
async def lifespan(app):
    print("starlette: startup", flush=True)
    yield {"pool": "a pool"}
    print("starlette: shutdown", flush=True)


class Tag(BaseHTTPMiddleware):
    """A middleware that runs the application in a task group."""

    async def dispatch(self, request, call_next):
        response = await call_next(request)
        response.headers["x-tag"] = "tagged"
        return response


async def page(request):
    return PlainTextResponse(f"{request.method} {request.url.path} {request.state.pool}")


async def stream(request):
    async def parts():
        try:
            for number in range(int(request.query_params.get("n", 3))):
                yield f"{number}\n"
                await asyncio.sleep(0.001)
        finally:
            SEEN.append("stream closed")

    return StreamingResponse(parts(), media_type="text/plain")


async def upload(request):
    size = 0
    async for part in request.stream():
        size += len(part)
    return JSONResponse({"size": size})


async def background(request):
    async def work():
        await asyncio.sleep(0)
        SEEN.append("worked")

    return JSONResponse("accepted", background=BackgroundTask(work))


async def blocking(request):
    """Runs in a thread of anyio."""
    import anyio.to_thread

    return JSONResponse(await anyio.to_thread.run_sync(lambda: "from a thread"))


async def seen(request):
    return JSONResponse(SEEN)


async def file(request):
    return FileResponse(pathlib.Path(__file__))


async def growing(request):
    """Sends a file that grows after its length was read."""
    log = pathlib.Path(tempfile.mkdtemp()) / "log"
    log.write_bytes(b"line\n" * 10_000)
    announced = log.stat()
    with log.open("ab") as file:
        file.write(b"one more line\n")
    return FileResponse(log, stat_result=announced, background=BackgroundTask(shutil.rmtree, log.parent))


async def fail(request):
    raise ValueError("starlette view")


api = FastAPI()


class Item(BaseModel):
    name: str
    price: float


def double(n: int):
    return n * 2


@api.get("/double")
async def get_double(doubled: int = Depends(double)):
    return {"doubled": doubled}


@api.get("/sync")
def sync_view(later: BackgroundTasks):
    later.add_task(SEEN.append, "later")
    return {"sync": True}


@api.post("/items")
async def post_item(item: Item):
    return item


@api.post("/files")
async def post_file(file: UploadFile):
    return {"name": file.filename, "size": len(await file.read())}


application = Starlette(
    routes=[
        *(Route(f"/{view.__name__}", view, methods=["GET", "POST"]) for view in (upload, stream, background)),
        *(Route(f"/{view.__name__}", view) for view in (blocking, seen, file, growing, fail)),
        Mount("/api", api),
        Route("/", page),
    ],
    lifespan=lifespan,
)
tagged = Starlette(routes=[Mount("/", application)], middleware=[Middleware(Tag)], lifespan=lifespan)
