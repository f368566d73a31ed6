"""The smallest WSGI application: `wsgi:application`, what the benches call hello."""

BODY = b"Hello, world!"
HEADERS = [("Content-Type", "text/plain"), ("Content-Length", str(len(BODY)))]


def application(environ, start_response):
    """Answers every request with thirteen bytes."""
    # A list of its own each time: PEP 3333 lets a server append to the one it is given.
    start_response("200 OK", HEADERS[:])
    return [BODY]
