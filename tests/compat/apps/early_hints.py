"""A WSGI application that sends early hints; each path is a case."""

import threading

LINK = ("Link", "</style.css>; rel=preload; as=style")
RELEASED = threading.Event()
FAULTS = {
    "/split": [("Link", "a\r\nSet-Cookie: b=1")],
    "/name": [("Li nk", "a")],
    "/length": [("Content-Length", "5")],
    "/type": [("Link", 5)],
    "/large": [("Link", "x" * 300_000)],
}


def application(environ, start_response):
    hint, path = environ["wsgi.early_hints"], environ["PATH_INFO"]
    text = "done"
    if path == "/two":
        hint([LINK])
        hint(((b"Link", b"</app.js>; rel=preload"),))
        # Waits until the test has read the hints: the daemon drops hints that it would write
        # together with the response.
        RELEASED.wait(30)
        RELEASED.clear()
    elif path == "/release":
        RELEASED.set()
    elif path == "/late":
        start_response("200 OK", [])(b"body ")
        hint([LINK])
        return [b"end"]
    elif path == "/prepared":
        start_response("200 OK", [("X-Own", "yes")])
        hint([LINK])
        return [b"prepared"]
    elif path == "/thread":
        other = threading.Thread(target=hint, args=([LINK],))
        other.start()
        other.join()
    elif path in FAULTS:
        try:
            hint(FAULTS[path])
        except (TypeError, ValueError) as error:
            text = type(error).__name__
    start_response("200 OK", [])
    return [text.encode()]
