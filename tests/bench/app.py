"""The WSGI application of the benchmarks besides hello and Django: `app:application`.

One path per kind of work, with as little work as possible, so that the server's part is measured. Hello is in
tests/apps/hello, the Django project in tests/apps/shop.
"""

import hashlib
import json
import os
import time

MIB = 1024 * 1024
CHUNK = 64 * 1024
BIG = b"x" * MIB
DOWNLOAD = os.environ.get("BENCH_FILE", "")
SMALLER_DOWNLOAD = os.environ.get("BENCH_SMALLER_FILE", "")
SHORT_SECONDS = 0.0002
LONG_SECONDS = 0.1


def answer(start_response, body):
    """Responds with a complete body."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def big(environ, start_response):
    """Sends 1 MiB that is in memory."""
    return answer(start_response, BIG)


def upload(environ, start_response):
    """Reads the body in blocks, as frameworks do; responds with its size, for `?digest` also its digest."""
    digest = hashlib.sha256() if environ.get("QUERY_STRING") == "digest" else None
    read = environ["wsgi.input"].read
    size = 0
    while True:
        chunk = read(CHUNK)
        if not chunk:
            break
        size += len(chunk)
        if digest:
            digest.update(chunk)
    return answer(
        start_response, json.dumps({"size": size, "sha256": digest and digest.hexdigest()}).encode()
    )


def echo(environ, start_response):
    """Responds with the body of the request."""
    return answer(start_response, environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))


def blocks(file):
    """Yields the file in blocks and closes it."""
    with file:
        while True:
            block = file.read(CHUNK)
            if not block:
                return
            yield block


def download(environ, start_response):
    """Sends the file BENCH_FILE, or for `/file` BENCH_SMALLER_FILE.

    Uses wsgi.file_wrapper, or blocks if the server has none.
    """
    path = SMALLER_DOWNLOAD if environ["PATH_INFO"] == "/file" else DOWNLOAD
    file = open(path, "rb")  # noqa: SIM115 (the server closes it)
    size = os.fstat(file.fileno()).st_size
    start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(size))])
    wrapper = environ.get("wsgi.file_wrapper")
    return wrapper(file, CHUNK) if wrapper else blocks(file)


def short(environ, start_response):
    """A view that computes for 0.2 ms."""
    end = time.perf_counter() + SHORT_SECONDS
    while time.perf_counter() < end:
        pass
    return answer(start_response, b"short")


def long(environ, start_response):
    """A view that sleeps 0.1 s, as if it waited for another service."""
    time.sleep(LONG_SECONDS)
    return answer(start_response, b"long")


PATHS = {
    "/big": big,
    "/download": download,
    "/echo": echo,
    "/file": download,
    "/long": long,
    "/short": short,
    "/upload": upload,
}


def application(environ, start_response):
    """Dispatches on the path; 404 for unknown paths, which every benchmark treats as an error."""
    view = PATHS.get(environ["PATH_INFO"])
    if view is None:
        start_response("404 Not Found", [("Content-Length", "0")])
        return []
    return view(environ, start_response)
