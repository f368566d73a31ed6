"""Views, sync and async, and their URLs."""

import asyncio
import hashlib

from channels.layers import get_channel_layer
from django.contrib.auth import aauthenticate, alogin
from django.http import HttpResponse, HttpResponseRedirect, JsonResponse, StreamingHttpResponse
from django.middleware.csrf import get_token
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from ledger import GATES, SEEN, gated, numbers, ticks

TASKS = set()


def json(request):
    """Runs in a thread of asgiref, because the function is not `async`."""
    return JsonResponse({"framework": "django"})


async def item(request, n):
    return JsonResponse({"n": n, "q": request.GET.get("q")})


def redirect(request):
    return HttpResponseRedirect("/json", status=307)


def fail(request):
    raise ValueError("the view fails")


def upload(request):
    file = request.FILES["file"]
    digest = hashlib.sha256()
    for chunk in file.chunks():
        digest.update(chunk)
    result = {"note": request.POST["note"], "name": file.name, "size": file.size}
    return JsonResponse({**result, "sha256": digest.hexdigest()})


def raw(request):
    digest, size = hashlib.sha256(), 0
    while part := request.read(65_536):
        digest.update(part)
        size += len(part)
    return JsonResponse({"size": size, "sha256": digest.hexdigest()})


async def lines(request, count):
    return StreamingHttpResponse(numbers(count), content_type="text/plain")


async def stream(request, marker):
    return StreamingHttpResponse(gated(marker), content_type="text/plain")


async def sse(request, marker):
    return StreamingHttpResponse(ticks(marker), content_type="text/event-stream")


async def poll(request, marker):
    try:
        await GATES[marker].wait()
    except asyncio.CancelledError:
        SEEN[marker].append("cancelled")
        raise
    return JsonResponse("news", safe=False)


async def open_gate(request, marker):
    GATES[marker].set()
    return JsonResponse({})


async def seen(request, marker):
    return JsonResponse(SEEN[marker], safe=False)


async def background(request, marker):
    """Starts a task on the event loop, because Django has no background tasks."""

    async def work():
        await GATES[marker].wait()
        SEEN[marker].append("worked")

    task = asyncio.create_task(work())
    TASKS.add(task)
    task.add_done_callback(TASKS.discard)
    return JsonResponse("accepted", safe=False, status=202)


async def sign_in(request):
    """Returns the CSRF token for GET; signs the user in for POST."""
    if request.method == "GET":
        return HttpResponse(get_token(request))
    user = await aauthenticate(request, username=request.POST["name"], password=request.POST["password"])
    if user is None:
        return HttpResponse("no", status=403)
    await alogin(request, user)
    return HttpResponse(user.username)


async def whoami(request):
    return HttpResponse((await request.auser()).username)


async def announce(request, room):
    """Sends a message to a group of WebSockets."""
    await get_channel_layer().group_send(room, {"type": "chat_message", "text": "from HTTP"})
    return HttpResponse()


urlpatterns = [
    path("json", json),
    path("items/<int:n>", item),
    path("redirect", redirect),
    path("fail", fail),
    path("upload", csrf_exempt(upload)),
    path("raw", csrf_exempt(raw)),
    path("lines/<int:count>", lines),
    path("stream/<marker>", stream),
    path("sse/<marker>", sse),
    path("poll/<marker>", poll),
    path("open/<marker>", csrf_exempt(open_gate)),
    path("seen/<marker>", seen),
    path("background/<marker>", csrf_exempt(background)),
    path("sign-in", sign_in),
    path("whoami", whoami),
    path("announce/<room>", csrf_exempt(announce)),
]
