"""A small Django project in one file."""

import os
from pathlib import Path

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import FileResponse, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

settings.configure(
    DEBUG=False,
    SECRET_KEY="for tests",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECURE_SSL_REDIRECT=os.environ.get("SSL_REDIRECT") == "1",
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.http.ConditionalGetMiddleware",
    ],
    LOGGING_CONFIG=None,
)


def index(request):
    """Returns text."""
    return HttpResponse(f"Django {request.path}")


def form(request):
    """Reads form fields and an uploaded file."""
    return JsonResponse({"fields": request.POST.dict(), "size": len(request.FILES["file"].read())})


def body(request):
    """Counts the lines of the body."""
    return JsonResponse({"lines": len(request.readlines())})


def stream(request):
    """Streams a generator."""
    return StreamingHttpResponse(f"{index}\n" for index in range(3))


def file(request):
    """Sends a file through file_wrapper."""
    return FileResponse(Path(__file__).open("rb"))


def fail(request):
    """Raises; Django answers 500."""
    raise ValueError("django view")


urlpatterns = [
    path("", index),
    path("p/<str:name>/", lambda request, name: HttpResponse(name)),
    path("form", form),
    path("body", body),
    path("stream", stream),
    path("file", file),
    path("fail", fail),
    path(
        "where",
        lambda request: JsonResponse(
            {"url": request.build_absolute_uri(), "client": request.META["REMOTE_ADDR"]}
        ),
    ),
]

application = get_wsgi_application()
asgi = get_asgi_application()
