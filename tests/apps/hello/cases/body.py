"""Ways to read the request body: PEP 3333, "Input and Error Streams"."""

import hashlib
import threading

from .registry import BYTES, TEXT, answer, answer_json, case, query


def echo(start_response, data, **facts):
    """Responds with length and digest of `data`, and further facts, as JSON."""
    return answer_json(
        start_response, {"length": len(data), "sha256": hashlib.sha256(data).hexdigest(), **facts}
    )


@case("echo")
def echo_body(environ, start_response):
    """Echoes the body, read with one read(), and its Content-Type."""
    body = environ["wsgi.input"].read(-1)
    return answer(start_response, body, headers=[("Content-Type", environ.get("CONTENT_TYPE") or BYTES[1])])


@case("input/read")
def input_read(environ, start_response):
    """read(`?n=`) until b"", or one read(-1). Reports length, digest and the number of calls."""
    size = query(environ, "n", -1)
    pieces = []
    while True:
        piece = environ["wsgi.input"].read(size)
        if not piece:
            break
        pieces.append(piece)
    again = environ["wsgi.input"].read(1)
    longest = max(map(len, pieces), default=0)
    return echo(start_response, b"".join(pieces), calls=len(pieces), longest=longest, after_end=len(again))


@case("input/read-all", conforming=False)
def input_read_all(environ, start_response):
    """read() without an argument: the whole body, although wsgiref.validate forbids the call."""
    return echo(start_response, environ["wsgi.input"].read())


@case("input/readline")
def input_readline(environ, start_response):
    """readline(), or readline(`?n=`), until b"". Reports the lengths of the lines."""
    size = query(environ, "n", -1)
    lines = []
    while True:
        line = environ["wsgi.input"].readline() if size < 0 else environ["wsgi.input"].readline(size)
        if not line:
            break
        lines.append(line)
    return echo(start_response, b"".join(lines), lengths=[len(line) for line in lines])


@case("input/readlines")
def input_readlines(environ, start_response):
    """readlines(), or readlines(`?hint=`): a hint yields at least one line if any is left."""
    hint = query(environ, "hint", -1)
    lines = environ["wsgi.input"].readlines() if hint < 0 else environ["wsgi.input"].readlines(hint)
    return echo(start_response, b"".join(lines), lengths=[len(line) for line in lines])


@case("input/iter")
def input_iter(environ, start_response):
    """Iterates over wsgi.input: lines, with their ends."""
    lines = list(environ["wsgi.input"])
    return echo(start_response, b"".join(lines), lengths=[len(line) for line in lines])


@case("input/mixed")
def input_mixed(environ, start_response):
    """read(3), readline(), read(2), then the rest: one position for all methods."""
    stream = environ["wsgi.input"]
    pieces = [stream.read(3), stream.readline(), stream.read(2), stream.read(-1)]
    return echo(start_response, b"".join(pieces), lengths=[len(piece) for piece in pieces])


@case("input/zero")
def input_zero(environ, start_response):
    """read(0) and readline(0) return b"" and consume nothing."""
    nothing = environ["wsgi.input"].read(0) + environ["wsgi.input"].readline(0)
    return echo(start_response, environ["wsgi.input"].read(-1), nothing=len(nothing))


@case("input/ignored")
def input_ignored(environ, start_response):
    """Responds without reading the body: the connection stays usable or is closed properly."""
    return answer(start_response, b"not read\n")


@case("input/partial")
def input_partial(environ, start_response):
    """Reads `?n=` bytes: the remaining ones are not part of the next request."""
    return echo(start_response, environ["wsgi.input"].read(query(environ, "n", 10)))


@case("input/late")
def input_late(environ, start_response):
    """Sends a first chunk before it reads the body."""
    start_response("200 OK", [TEXT])

    def body():
        yield b"first\n"
        data = environ["wsgi.input"].read(-1)
        yield f"{len(data)} {hashlib.sha256(data).hexdigest()}\n".encode()

    return body()


@case("input/thread")
def input_thread(environ, start_response):
    """Reads the body in another thread: the stream is not tied to a thread."""
    got = []
    reader = threading.Thread(target=lambda: got.append(environ["wsgi.input"].read(-1)))
    reader.start()
    reader.join()
    return echo(start_response, got[0])
