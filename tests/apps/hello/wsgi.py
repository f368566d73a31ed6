"""The smallest WSGI application, `wsgi:application`, which the benchmarks call hello."""

BODY = b"Hello, world!"
HEADERS = [("Content-Type", "text/plain"), ("Content-Length", str(len(BODY)))]


def application(environ, start_response):
    """Responds to every request with thirteen bytes."""
    # A new list each time: PEP 3333 lets a server modify the list.
    start_response("200 OK", HEADERS[:])
    return [BODY]
