"""The shop's views: ordinary ones, and those that test a server (uploads, streams, errors).

All are plain `def` views, so Django runs the same code under WSGI and (in a thread) under ASGI. They do not
depend on the server.
"""

import asyncio
import hashlib
import os
import random
import re
import tempfile
import time
from pathlib import Path

import django
from django.conf import settings
from django.core.files.uploadedfile import TemporaryUploadedFile
from django.core.files.uploadhandler import TemporaryFileUploadHandler
from django.core.handlers.asgi import ASGIRequest
from django.http import FileResponse, Http404, HttpResponseBadRequest, JsonResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_http_methods

from catalog.models import Category, Product, Upload

CHUNK = 64 * 1024
MIB = 1024 * 1024
MAX_DOWNLOAD_MIB = 4096


class BadParameter(Exception):
    """A query parameter that is not a number in its range."""


def number(request, name, default, highest, kind=int):
    """Returns the query parameter `name` as a number from 0 to `highest`."""
    text = request.GET.get(name, str(default))
    try:
        value = kind(text)
    except ValueError:
        raise BadParameter(f"{name}={text!r} is not a number") from None
    if not 0 <= value <= highest:
        raise BadParameter(f"{name}={text} is not between 0 and {highest}")
    return value


@require_GET
def home(request):
    """The template view: all products by category, the logged-in user, and links."""
    categories = Category.objects.prefetch_related("products")
    return render(request, "catalog/home.html", {"categories": categories, "django": django.get_version()})


@require_GET
def product(request, slug):
    """The page of one product."""
    found = get_object_or_404(Product.objects.select_related("category"), slug=slug)
    return render(request, "catalog/product.html", {"product": found})


@require_GET
def api_status(request):
    """JSON without the database: the cost of Django itself, so that servers can be compared."""
    return JsonResponse(
        {
            "shop": "rgun demo",
            "status": "ok",
            "pid": os.getpid(),
            "django": django.get_version(),
            "currencies": ["EUR", "NOK", "JPY"],
            "limits": {"basket": 100, "upload_mib": 1024},
        }
    )


@require_GET
def api_products(request):
    """JSON from the database: products in stock, by `?category=` and `?q=`, 20 a page."""
    try:
        page = number(request, "page", 0, 10_000)
    except BadParameter as error:
        return JsonResponse({"error": str(error)}, status=400)
    products = Product.objects.filter(stock__gt=0).select_related("category")
    if request.GET.get("category"):
        products = products.filter(category__slug=request.GET["category"])
    if request.GET.get("q"):
        products = products.filter(name__icontains=request.GET["q"])
    rows = [
        {
            "name": row.name,
            "url": row.get_absolute_url(),
            "category": row.category.name,
            "price": row.price,
            "stock": row.stock,
            "created": row.created,
        }
        for row in products[page * 20 : page * 20 + 20]
    ]
    return JsonResponse({"page": page, "products": rows})


def store(name, file, digest, size):
    """Moves an uploaded file to the media root, adds its row, and returns its description."""
    row = Upload(name=name, size=size, sha256=digest)
    row.file.save(os.path.basename(name) or "unnamed", file, save=True)
    return {"id": row.pk, "name": name, "size": size, "sha256": digest}


# Exempt from CSRF, so that curl and test clients can post here; a real shop must not do this.
@csrf_exempt
@require_http_methods(["GET", "POST"])
def upload(request):
    """A form, and its target, which stores every file of a multipart body (request.FILES)."""
    if request.method == "GET":
        return render(request, "catalog/upload.html")
    # Every upload goes to a file. Small ones in memory would be a second code path to measure.
    request.upload_handlers = [TemporaryFileUploadHandler(request)]
    answers = []
    for file in (file for field in request.FILES for file in request.FILES.getlist(field)):
        digest = hashlib.sha256()
        for chunk in file.chunks(CHUNK):
            digest.update(chunk)
        file.seek(0)
        answers.append(store(file.name, file, digest.hexdigest(), file.size))
    if not answers:
        return HttpResponseBadRequest("no file in the form: send one as multipart/form-data\n")
    return JsonResponse({"files": answers})


@csrf_exempt
@require_http_methods(["POST", "PUT"])
def upload_raw(request):
    """Stores the body as it is, read piece by piece with request.read(); `?name=` names it."""
    digest = hashlib.sha256()
    size = 0
    name = request.GET.get("name", "raw")
    with TemporaryUploadedFile(name, request.content_type, 0, None) as file:
        while True:
            chunk = request.read(CHUNK)
            if not chunk:
                break
            digest.update(chunk)
            size += file.write(chunk)
        file.seek(0)
        return JsonResponse(store(name, file, digest.hexdigest(), size))


def sample_file(mib):
    """Returns a file of `mib` MiB, made on first use, with the same content on every machine."""
    folder = Path(settings.DATA_DIR) / "files"
    path = folder / f"{mib}.bin"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        # Renamed into place: two workers may create the file at once, and neither may serve half.
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
            for block in range(mib):
                file.write(random.Random(block).randbytes(MIB))
        os.replace(file.name, path)
    return path


@require_GET
def download(request, mib):
    """A file of the chosen size, sent by FileResponse, which uses wsgi.file_wrapper under WSGI."""
    if mib > MAX_DOWNLOAD_MIB:
        raise Http404(f"{mib} MiB is more than {MAX_DOWNLOAD_MIB} MiB")
    return FileResponse(sample_file(mib).open("rb"), as_attachment=True, filename=f"{mib}MiB.bin")


def pieces(count, delay, size):
    """Yields `count` numbered lines of at least `size` bytes, `delay` seconds apart."""
    for index in range(count):
        if index and delay:
            time.sleep(delay)
        yield f"chunk {index} ".ljust(size - 1, ".").encode() + b"\n"


async def async_pieces(count, delay, size):
    """Does the same for ASGI: Django >= 4.2 would collect a plain generator before sending."""
    for index in range(count):
        if index and delay:
            await asyncio.sleep(delay)
        yield f"chunk {index} ".ljust(size - 1, ".").encode() + b"\n"


@require_GET
def stream(request):
    """The streaming view: `?n=` chunks of `?size=` bytes, `?delay=` seconds apart."""
    try:
        count = number(request, "n", 5, 1_000_000)
        delay = number(request, "delay", 0, 60, float)
        size = number(request, "size", 16, MIB)
    except BadParameter as error:
        return HttpResponseBadRequest(f"{error}\n")
    needs_async = isinstance(request, ASGIRequest) and django.VERSION >= (4, 2)
    source = async_pieces if needs_async else pieces
    return StreamingHttpResponse(source(count, delay, size), content_type="text/plain; charset=utf-8")


@require_GET
def slow(request):
    """Sleeps `?s=` seconds and returns the time, like a view that waits for another service."""
    try:
        seconds = number(request, "s", 1, 3600, float)
    except BadParameter as error:
        return HttpResponseBadRequest(f"{error}\n")
    time.sleep(seconds)
    return JsonResponse({"slept": seconds, "pid": os.getpid()})


class DemoError(Exception):
    """The exception that /error raises; logs can be searched for its name."""


def error(request):
    """Raises an exception: the response is 500, and the traceback is in the server's log."""
    raise DemoError("this view raises on purpose")


SECRET_HEADER = re.compile(r"COOKIE|AUTHORIZATION")


@csrf_exempt
def meta(request):
    """Returns Django's view of the request line, the peer and the headers; secrets are masked."""
    return JsonResponse(
        {
            "method": request.method,
            "scheme": request.scheme,
            "host": request.get_host(),
            "path": request.path,
            "full_path": request.get_full_path(),
            "remote_addr": request.META.get("REMOTE_ADDR"),
            "is_secure": request.is_secure(),
            "headers": {
                name: "***" if SECRET_HEADER.search(name.upper()) else value
                for name, value in request.headers.items()
            },
            "meta": {
                name: "***" if SECRET_HEADER.search(name) else str(value)
                for name, value in sorted(request.META.items())
                if name.startswith(("wsgi.", "HTTP_", "SERVER_", "REMOTE_", "CONTENT_"))
                or name in {"REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING"}
            },
        }
    )
