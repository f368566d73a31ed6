"""The shop's URLs, and faulty views."""

import hashlib
import os
import re
import threading

import release
from django.http import JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from shop.urls import urlpatterns as shop

LEAK = []


def version(request):
    """Returns the release and the worker's pid."""
    return JsonResponse({"version": release.VERSION, "pid": os.getpid()})


@csrf_exempt
def upload(request):
    """Returns size and digest of the body."""
    digest, size = hashlib.sha256(), 0
    while chunk := request.read(65536):
        digest.update(chunk)
        size += len(chunk)
    return JsonResponse({"size": size, "sha256": digest.hexdigest()})


def leak(request):
    """Leaks 15 MiB."""
    LEAK.append(bytearray(os.urandom(1024)) * 15 * 1024)
    return JsonResponse({"leaked": len(LEAK)})


def hang(request):
    """Never returns."""
    threading.Event().wait(600)


def compute(request):
    """Holds the GIL for hours: a regular expression with exponential backtracking."""
    re.match(r"(a|aa)+$", "a" * 80 + "b")


urlpatterns = [
    *(path(f"chaos/{view.__name__}", view) for view in (version, upload, leak, hang, compute)),
    *shop,
]
