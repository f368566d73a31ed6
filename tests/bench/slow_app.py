"""The application of `slow_clients`: a short response, and one that a slow client cannot receive at once."""

LARGE = b"x" * (256 * 1024)


def application(environ, start_response):
    environ["wsgi.input"].read()
    body = LARGE if environ["PATH_INFO"] == "/large" else b"Hello, world!"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
