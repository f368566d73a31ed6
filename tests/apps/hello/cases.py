"""WSGI applications for protocol tests: one small case a path, served by `cases:application`.

Each case does one thing that PEP 3333 allows, or forbids, or that happens to real applications; what a server
owes the client is in its docstring. `/` lists them all. The tests that speak to a server are elsewhere: this
file only makes the behaviour, deterministic and without any dependency.

A case is named by the path up to the first segment that is not part of a name, so `/status/204` is a case and
`/environ/a%20b` is the case `environ` with PATH_INFO `/environ/a b`. Parameters come in the query string.
Cases marked `conforming=False` break the specification on purpose; all others pass wsgiref.validate.

What happened inside (close() called, a generator finished, an exception seen) is written down as an event:
read them at `/events`, by `?id=` if the request gave one. With several workers, set CASES_EVENTS to a file:
every event is then also appended there as a line of JSON, with the pid.
"""

import ctypes
import hashlib
import io
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from urllib.parse import parse_qs

MIB = 1024 * 1024
CASES = {}
EVENTS = []
TEXT = ("Content-Type", "text/plain; charset=utf-8")
JSON = ("Content-Type", "application/json")
BYTES = ("Content-Type", "application/octet-stream")

log = logging.getLogger("cases")
events_lock = threading.Lock()


class CaseError(Exception):
    """What a case raises when it is meant to fail; its text names the case."""


def case(name, conforming=True):
    """Registers the function below under `name`."""

    def register(function):
        function.conforming = conforming
        CASES[name] = function
        return function

    return register


def application(environ, start_response):
    """Finds the case by the longest prefix of the path, and calls it."""
    path = environ.get("PATH_INFO", "").strip("/")
    name = path
    while name and name not in CASES:
        name = name.rpartition("/")[0]
    if not name and path:
        return answer(start_response, f"no such case: /{path}\n".encode(), "404 Not Found")
    return CASES[name](environ, start_response)


def query(environ, name, default):
    """The query parameter `name`, of the type of its default."""
    values = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True).get(name)
    return type(default)(values[-1]) if values else default


def event(environ, what, **facts):
    """Writes down that something happened in the request `?id=`."""
    entry = {"what": what, "id": query(environ, "id", ""), "pid": os.getpid(), **facts}
    with events_lock:
        EVENTS.append(entry)
        if os.environ.get("CASES_EVENTS"):
            # One write of one line in append mode: lines of several workers do not mix.
            with open(
                os.environ["CASES_EVENTS"], "a", encoding="utf-8", buffering=io.DEFAULT_BUFFER_SIZE
            ) as file:
                file.write(json.dumps(entry) + "\n")


def answer(start_response, body, status="200 OK", headers=(TEXT,)):
    """A whole answer with its Content-Length."""
    start_response(status, [*headers, ("Content-Length", str(len(body)))])
    return [body]


def answer_json(start_response, value):
    """The same, as JSON."""
    return answer(start_response, json.dumps(value, sort_keys=True).encode() + b"\n", headers=[JSON])


class Closing:
    """An iterable that is no generator: writes down how far it was read and that close() was called."""

    def __init__(self, environ, chunks):
        """Over `chunks`, any iterable of bytes."""
        self.environ = environ
        self.chunks = iter(chunks)
        self.given = 0

    def __iter__(self):
        """Itself, as an iterator."""
        return self

    def __next__(self):
        """The next chunk, counted."""
        chunk = next(self.chunks)
        self.given += 1
        return chunk

    def close(self):
        """What a server must call, whatever happened before; more than once would show as two events."""
        event(self.environ, "close", given=self.given)


# --- what the server tells the application ---


@case("")
def index(environ, start_response):
    """The list of all cases, one a line, with the first line of what each says."""
    lines = [
        f"/{name}\t{(function.__doc__ or '').splitlines()[0]}\n" for name, function in sorted(CASES.items())
    ]
    return answer(start_response, "".join(lines).encode())


@case("events")
def events(environ, start_response):
    """The events of this process as JSON, those of `?id=` if given; `?clear=1` forgets them afterwards."""
    wanted = query(environ, "id", "")
    with events_lock:
        found = [entry for entry in EVENTS if not wanted or entry["id"] == wanted]
        if query(environ, "clear", 0):
            EVENTS.clear()
    return answer_json(start_response, found)


@case("environ")
def show_environ(environ, start_response):
    """The environ as JSON: strings as they are, other values as the name of their type; `_types` has all."""
    shown = {
        name: value if isinstance(value, (str, bool, int, tuple)) else type(value).__name__
        for name, value in environ.items()
    }
    shown["_types"] = {name: type(value).__name__ for name, value in environ.items()}
    shown["_exact_dict"] = type(environ) is dict
    return answer_json(start_response, shown)


@case("environ/writable")
def writable_environ(environ, start_response):
    """Changes the environ, as middleware may; the next request must not see it (`seen` stays false)."""
    seen = "cases.mark" in environ
    environ["cases.mark"] = "here"
    environ["REQUEST_METHOD"] = environ["REQUEST_METHOD"].lower()
    del environ["SERVER_NAME"]
    return answer_json(start_response, {"seen": seen})


@case("who")
def who(environ, start_response):
    """Which process and thread ran this, and what Python."""
    return answer_json(
        start_response,
        {
            "pid": os.getpid(),
            "ppid": os.getppid(),
            "thread": threading.current_thread().name,
            "threads": threading.active_count(),
            "main_thread": threading.current_thread() is threading.main_thread(),
            "python": sys.version,
            "executable": sys.executable,
            "prefix": sys.prefix,
            "cwd": os.getcwd(),
            "path": sys.path,
            "argv": sys.argv,
            "env": dict(os.environ),
        },
    )


@case("errors")
def errors(environ, start_response):
    """Writes two lines to wsgi.errors by write() and writelines(), and flushes: both reach the log."""
    marker = query(environ, "id", "no-id")
    environ["wsgi.errors"].write(f"wsgi.errors first {marker}\n")
    environ["wsgi.errors"].writelines([f"wsgi.errors second {marker} ", "æøå 煎茶\n"])
    environ["wsgi.errors"].flush()
    return answer(start_response, b"written\n")


@case("output")
def output(environ, start_response):
    """Writes to stdout, stderr (by print and to the descriptor) and logging: each reaches the log once."""
    marker = query(environ, "id", "no-id")
    print(f"stdout {marker}", flush=True)
    print(f"stderr {marker}", file=sys.stderr, flush=True)
    os.write(2, f"descriptor {marker}\n".encode())
    log.warning("logging %s", marker)
    return answer(start_response, b"written\n")


# --- the request body ---


def echo(start_response, data, **facts):
    """Reports `data` by length and digest, and what else is known; the bytes themselves with `?body=1`."""
    return answer_json(
        start_response, {"length": len(data), "sha256": hashlib.sha256(data).hexdigest(), **facts}
    )


@case("echo")
def echo_body(environ, start_response):
    """The body as it came, read with one read(): same bytes, same Content-Type."""
    body = environ["wsgi.input"].read(-1)
    return answer(start_response, body, headers=[("Content-Type", environ.get("CONTENT_TYPE") or BYTES[1])])


@case("input/read")
def input_read(environ, start_response):
    """read(`?n=`) until b""; without n one read(-1). Reports length, digest and how many calls it took."""
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
    """read() with no argument: the whole body (wsgiref.validate wants one, applications give none)."""
    return echo(start_response, environ["wsgi.input"].read())


@case("input/readline")
def input_readline(environ, start_response):
    """readline(), or readline(`?n=`), until b"": lines as lists of lengths."""
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
    """readlines(), or readlines(`?hint=`): with a hint at least one line as long as there is one."""
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
    """read(0) and readline(0) are b"" and take nothing."""
    nothing = environ["wsgi.input"].read(0) + environ["wsgi.input"].readline(0)
    return echo(start_response, environ["wsgi.input"].read(-1), nothing=len(nothing))


@case("input/ignored")
def input_ignored(environ, start_response):
    """Answers without reading the body: the connection stays usable, or is closed in good order."""
    return answer(start_response, b"not read\n")


@case("input/partial")
def input_partial(environ, start_response):
    """Reads `?n=` bytes and answers: what is left is no part of the next request."""
    return echo(start_response, environ["wsgi.input"].read(query(environ, "n", 10)))


@case("input/late")
def input_late(environ, start_response):
    """Sends a first chunk, and reads the body only then."""
    start_response("200 OK", [TEXT])

    def body():
        yield b"first\n"
        data = environ["wsgi.input"].read(-1)
        yield f"{len(data)} {hashlib.sha256(data).hexdigest()}\n".encode()

    return body()


@case("input/thread")
def input_thread(environ, start_response):
    """Reads the body in another thread while the first waits: the stream is not tied to a thread."""
    got = []
    reader = threading.Thread(target=lambda: got.append(environ["wsgi.input"].read(-1)))
    reader.start()
    reader.join()
    return echo(start_response, got[0])


# --- ways to give a response ---


@case("write")
def write(environ, start_response):
    """All of the body by the write() callable: `?n=` pieces, `?delay=` seconds apart, sent at once."""
    send = start_response("200 OK", [TEXT])
    for index in range(query(environ, "n", 3)):
        if index:
            time.sleep(query(environ, "delay", 0.0))
        send(f"written {index}\n".encode())
    return []


@case("write/then-iterate")
def write_then_iterate(environ, start_response):
    """write() first, an iterable after: the written part comes first."""
    send = start_response("200 OK", [TEXT])
    send(b"written\n")
    return [b"iterated\n"]


@case("write/raise")
def write_raise(environ, start_response):
    """write(), then raises: the head is gone, so the connection is reset and nothing looks complete."""
    start_response("200 OK", [TEXT])(b"written\n")
    raise CaseError("write/raise")


@case("iterate")
def iterate(environ, start_response):
    """`?n=` chunks of `?size=` bytes, `?delay=` seconds apart, no Content-Length: sent as they come."""
    start_response("200 OK", [TEXT])
    count, size, delay = query(environ, "n", 3), query(environ, "size", 16), query(environ, "delay", 0.0)

    def chunks():
        for index in range(count):
            if index and delay:
                time.sleep(delay)
            yield f"chunk {index} ".ljust(size - 1, ".").encode()[: size - 1] + b"\n"

    return Closing(environ, chunks())


@case("iterate/generator")
def iterate_generator(environ, start_response):
    """A generator that is the application: start_response at the first next(), finally at close()."""
    event(environ, "entered")
    try:
        start_response("200 OK", [TEXT])
        yield b"one\n"
        yield b"two\n"
    finally:
        event(environ, "finally")


@case("iterate/empty")
def iterate_empty(environ, start_response):
    """An iterable without a chunk: the head, an empty body, close() once."""
    start_response("200 OK", [TEXT])
    return Closing(environ, [])


@case("iterate/empty-chunks")
def iterate_empty_chunks(environ, start_response):
    """b"" between the chunks: none of them ends the body."""
    start_response("200 OK", [TEXT])
    return Closing(environ, [b"", b"one\n", b"", b"two\n", b""])


@case("iterate/list")
def iterate_list(environ, start_response):
    """A list of two without Content-Length."""
    start_response("200 OK", [TEXT])
    return [b"one\n", b"two\n"]


@case("iterate/tuple")
def iterate_tuple(environ, start_response):
    """A tuple of one without Content-Length."""
    start_response("200 OK", [TEXT])
    return (b"one\n",)


@case("iterate/endless")
def iterate_endless(environ, start_response):
    """Never ends: memory stays bounded; when the client goes, close() comes within `?delay=` and a bit."""
    start_response("200 OK", [BYTES])
    block = b"x" * query(environ, "size", 65536)
    delay = query(environ, "delay", 0.0)

    def chunks():
        while True:
            yield block
            if delay:
                time.sleep(delay)

    return Closing(environ, chunks())


@case("big")
def big(environ, start_response):
    """`?mib=` MiB in one bytes object."""
    return answer(start_response, b"x" * (query(environ, "mib", 1) * MIB), headers=[BYTES])


@case("big/chunks")
def big_chunks(environ, start_response):
    """`?mib=` MiB, numbered, in chunks of `?size=` bytes, no Content-Length; X-SHA256 tells the digest."""
    size = query(environ, "size", 65536)
    total = query(environ, "mib", 1) * MIB
    data = b"".join(index.to_bytes(8, "big") for index in range(total // 8))
    start_response("200 OK", [BYTES, ("X-SHA256", hashlib.sha256(data).hexdigest())])
    return Closing(environ, (data[start : start + size] for start in range(0, total, size)))


# --- exc_info ---


@case("exc-info/before")
def exc_info_before(environ, start_response):
    """start_response 200, then an error before any byte: with exc_info the head becomes 500."""
    start_response("200 OK", [TEXT, ("X-First", "yes")])
    try:
        raise CaseError("exc-info/before")
    except CaseError:
        start_response("500 Internal Server Error", [TEXT, ("X-Second", "yes")], sys.exc_info())
    return [b"replaced\n"]


@case("exc-info/after")
def exc_info_after(environ, start_response):
    """A chunk, then start_response with exc_info: it must raise that exception, and the body is cut off."""
    start_response("200 OK", [TEXT])

    def body():
        yield b"sent\n"
        try:
            raise CaseError("exc-info/after")
        except CaseError:
            info = sys.exc_info()
        try:
            start_response("500 Internal Server Error", [TEXT], info)
        except CaseError as error:
            event(environ, "raised again", same=error is info[1])
            raise
        event(environ, "not raised")
        yield b"must not be here\n"

    return body()


@case("start-response/twice", conforming=False)
def start_response_twice(environ, start_response):
    """A second start_response without exc_info is the application's error: 500, with the reason logged."""
    start_response("200 OK", [TEXT])
    start_response("200 OK", [TEXT])
    return [b"must not be here\n"]


@case("start-response/never", conforming=False)
def start_response_never(environ, start_response):
    """A body without start_response: 500."""
    return [b"must not be here\n"]


@case("start-response/late")
def start_response_late(environ, start_response):
    """start_response inside the iterable, before its first chunk: allowed."""

    def body():
        start_response("200 OK", [TEXT])
        yield b"late\n"

    return body()


@case("start-response/too-late", conforming=False)
def start_response_too_late(environ, start_response):
    """A chunk before start_response: 500."""

    def body():
        yield b"too early\n"
        start_response("200 OK", [TEXT])

    return body()


@case("start-response/bad-status", conforming=False)
def start_response_bad_status(environ, start_response):
    """The status `?status=` (default `OK`) is not three digits, a space and a reason: 500."""
    start_response(query(environ, "status", "OK"), [TEXT])
    return [b"must not be here\n"]


@case("start-response/injection", conforming=False)
def start_response_injection(environ, start_response):
    """A header value with a line break: 500, and never a second header on the wire."""
    start_response("200 OK", [TEXT, ("X-Value", "a\r\nX-Injected: yes")])
    return [b"must not be here\n"]


@case("start-response/bad-name", conforming=False)
def start_response_bad_name(environ, start_response):
    """A header name with a space and a colon: 500."""
    start_response("200 OK", [TEXT, ("X Bad: name", "a")])
    return [b"must not be here\n"]


@case("start-response/not-str", conforming=False)
def start_response_not_str(environ, start_response):
    """A header value that is an int: 500, and the log names the header."""
    start_response("200 OK", [TEXT, ("X-Number", 7)])
    return [b"must not be here\n"]


@case("start-response/hop-by-hop", conforming=False)
def start_response_hop_by_hop(environ, start_response):
    """Transfer-Encoding and Connection are the server's (PEP 3333): 500 or left out, never a broken frame."""
    start_response("200 OK", [TEXT, ("Transfer-Encoding", "chunked"), ("Connection", "close")])
    return [b"hop\n"]


@case("result/not-bytes", conforming=False)
def result_not_bytes(environ, start_response):
    """A chunk that is str: an error before the head, so 500."""
    start_response("200 OK", [TEXT])
    return ["text"]


@case("result/none", conforming=False)
def result_none(environ, start_response):
    """Returns None: 500."""
    start_response("200 OK", [TEXT])


# --- status, headers and lengths ---


@case("status")
def status(environ, start_response):
    """Any status: `/status/404`, with an empty body where HTTP allows none, else its own name."""
    code = environ["PATH_INFO"].rpartition("/")[2]
    code = code if code.isdecimal() else "200"
    if code in ("204", "304"):
        start_response(f"{code} No Body", [("X-Status", code)])
        return []
    return answer(start_response, f"{code}\n".encode(), f"{code} Told So")


@case("status/204/body", conforming=False)
def status_204_body(environ, start_response):
    """204 with a body and Content-Length all the same: the client sees neither."""
    return answer(start_response, b"must not be here\n", "204 No Content")


@case("status/304/body", conforming=False)
def status_304_body(environ, start_response):
    """304 with a body: the client sees none; a Content-Length may stay (RFC 9110, 15.4.5)."""
    return answer(start_response, b"must not be here\n", "304 Not Modified", [TEXT, ("ETag", '"x"')])


@case("head")
def head(environ, start_response):
    """HEAD as it should be: the Content-Length of GET, no body; the length stays, and close() comes."""
    body = b"for GET only\n"
    start_response("200 OK", [TEXT, ("Content-Length", str(len(body)))])
    return Closing(environ, [b"" if environ["REQUEST_METHOD"] == "HEAD" else body])


@case("head/body", conforming=False)
def head_body(environ, start_response):
    """A body in answer to HEAD, as careless applications give it: dropped."""
    return answer(start_response, b"for GET only\n")


@case("length/exact")
def length_exact(environ, start_response):
    """Content-Length and several chunks that add up to it."""
    start_response("200 OK", [TEXT, ("Content-Length", "8")])
    return Closing(environ, [b"one\n", b"two\n"])


@case("length/too-short-body", conforming=False)
def length_too_short_body(environ, start_response):
    """Fewer bytes than Content-Length says: the connection breaks, it must not look complete."""
    start_response("200 OK", [TEXT, ("Content-Length", "100")])
    return Closing(environ, [b"short\n"])


@case("length/too-long-body", conforming=False)
def length_too_long_body(environ, start_response):
    """More bytes than Content-Length says: the rest is not sent, the next response on the wire is intact."""
    start_response("200 OK", [TEXT, ("Content-Length", "5")])
    return Closing(environ, [b"12345", b"67890", b"abc"])


@case("length/bad", conforming=False)
def length_bad(environ, start_response):
    """Content-Length that is no number: 500."""
    start_response("200 OK", [TEXT, ("Content-Length", "many")])
    return [b"bad\n"]


@case("length/twice", conforming=False)
def length_twice(environ, start_response):
    """Two Content-Length headers that differ: 500."""
    start_response("200 OK", [TEXT, ("Content-Length", "4"), ("Content-Length", "5")])
    return [b"bad\n"]


@case("headers/duplicate")
def headers_duplicate(environ, start_response):
    """Two Set-Cookie and two Link headers: all four arrive, in order."""
    cookies = [("Set-Cookie", "a=1; Path=/"), ("Set-Cookie", "b=2; Path=/")]
    return answer(start_response, b"", headers=[TEXT, *cookies, ("Link", "</a>"), ("Link", "</b>")])


@case("headers/latin1")
def headers_latin1(environ, start_response):
    """A value with ISO-8859-1 characters: those bytes on the wire."""
    return answer(start_response, b"", headers=[TEXT, ("X-Latin", "cr\xe8me")])


@case("headers/empty")
def headers_empty(environ, start_response):
    """An empty value arrives as one."""
    return answer(start_response, b"", headers=[TEXT, ("X-Empty", "")])


@case("headers/many")
def headers_many(environ, start_response):
    """`?n=` headers of `?size=` bytes each."""
    value = "v" * query(environ, "size", 20)
    more = [(f"X-Many-{index}", value) for index in range(query(environ, "n", 50))]
    return answer(start_response, b"", headers=[TEXT, *more])


@case("headers/own-date")
def headers_own_date(environ, start_response):
    """Date and Server of the application's own: they win, and there is one of each."""
    own = [("Date", "Thu, 01 Jan 1970 00:00:00 GMT"), ("Server", "cases")]
    return answer(start_response, b"", headers=[TEXT, *own])


# --- files ---


class Recording:
    """Mixed into a file: writes down the close() a server calls, and tells it from a forgotten object's."""

    def close(self):
        """Only the first one is an event; IOBase calls close() again when it is collected."""
        if not self.closed:
            event(self.environ, "collected" if self.forgotten else "close")
        super().close()

    def __del__(self):
        """A file that comes here open was never closed by the server."""
        self.forgotten = True
        super().__del__()

    environ = None
    forgotten = False


class RecordingFile(Recording, io.FileIO):
    """An unbuffered file over a descriptor, which it owns."""

    def __init__(self, environ, descriptor):
        """Open for reading, at the position the descriptor has."""
        super().__init__(descriptor, "rb")
        self.environ = environ


class RecordingBytes(Recording, io.BytesIO):
    """The same without a descriptor: its fileno() raises."""

    def __init__(self, environ, data):
        """Over `data`, at its start."""
        super().__init__(data)
        self.environ = environ


def temporary(data):
    """A descriptor of a nameless file with `data`, at its start."""
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(data)
        file.seek(0)
        return os.dup(file.fileno())


def numbered(size):
    """`size` bytes that tell where in the file they are."""
    return b"".join(index.to_bytes(8, "big") for index in range(size // 8 + 1))[:size]


@case("file")
def file(environ, start_response):
    """A file of `?size=` bytes by wsgi.file_wrapper with Content-Length; close() once, after all of it."""
    size = query(environ, "size", MIB)
    start_response("200 OK", [BYTES, ("Content-Length", str(size))])
    return environ["wsgi.file_wrapper"](RecordingFile(environ, temporary(numbered(size))), 8192)


@case("file/no-length")
def file_no_length(environ, start_response):
    """The same without Content-Length: framed by the server, complete."""
    start_response("200 OK", [BYTES])
    data = numbered(query(environ, "size", MIB))
    return environ["wsgi.file_wrapper"](RecordingFile(environ, temporary(data)))


@case("file/offset")
def file_offset(environ, start_response):
    """A file that was read up to `?offset=`: sent from there, as PEP 3333 says."""
    size, offset = query(environ, "size", MIB), query(environ, "offset", 1000)
    opened = RecordingFile(environ, temporary(numbered(size)))
    opened.read(offset)
    start_response("200 OK", [BYTES, ("Content-Length", str(size - offset))])
    return environ["wsgi.file_wrapper"](opened)


@case("file/part")
def file_part(environ, start_response):
    """A file with more bytes than Content-Length (a range answer): no more than that is sent."""
    start_response("206 Partial Content", [BYTES, ("Content-Length", "1000")])
    return environ["wsgi.file_wrapper"](RecordingFile(environ, temporary(numbered(5000))))


@case("file/truncated", conforming=False)
def file_truncated(environ, start_response):
    """A file shorter than Content-Length: the connection breaks, it must not look complete."""
    start_response("200 OK", [BYTES, ("Content-Length", "5000")])
    return environ["wsgi.file_wrapper"](RecordingFile(environ, temporary(numbered(1000))))


@case("file/no-descriptor")
def file_no_descriptor(environ, start_response):
    """file_wrapper over an object that has read() and close() but no fileno(): read in blocks."""
    data = numbered(query(environ, "size", MIB))
    start_response("200 OK", [BYTES, ("Content-Length", str(len(data)))])
    return environ["wsgi.file_wrapper"](RecordingBytes(environ, data), 8192)


@case("file/buffered")
def file_buffered(environ, start_response):
    """A buffered file of which a line was read: the position is the object's, not the descriptor's."""
    opened = open(temporary(b"first line\n" + numbered(100_000)), "rb")  # noqa: SIM115 (the server closes it)
    opened.readline()
    start_response("200 OK", [BYTES, ("Content-Length", "100000")])
    return environ["wsgi.file_wrapper"](opened)


@case("file/pipe")
def file_pipe(environ, start_response):
    """The read end of a pipe: a descriptor without a position."""
    reading, writing = os.pipe()
    os.write(writing, b"through a pipe\n")
    os.close(writing)
    start_response("200 OK", [TEXT])
    return environ["wsgi.file_wrapper"](RecordingFile(environ, reading))


@case("file/iterated")
def file_iterated(environ, start_response):
    """The wrapper iterated by the application itself, as middleware does."""
    wrapper = environ["wsgi.file_wrapper"](RecordingFile(environ, temporary(numbered(20_000))), 4096)
    try:
        body = b"".join(wrapper)
    finally:
        wrapper.close()
    return answer(start_response, body, headers=[BYTES])


# --- failures ---


@case("raise")
def raise_error(environ, start_response):
    """Raises before start_response: 500, one traceback in the log."""
    raise CaseError("raise")


@case("raise/after-start")
def raise_after_start(environ, start_response):
    """Raises after start_response but before a byte: 500 all the same."""
    start_response("200 OK", [TEXT])
    raise CaseError("raise/after-start")


@case("raise/first")
def raise_first(environ, start_response):
    """Raises at the first iteration: 500; close() is called."""
    start_response("200 OK", [TEXT])

    def chunks():
        raise CaseError("raise/first")
        yield b""

    return Closing(environ, chunks())


@case("raise/middle")
def raise_middle(environ, start_response):
    """Raises after a chunk went out: reset, not a clean end; close() is called."""
    start_response("200 OK", [TEXT])

    def chunks():
        yield b"one\n"
        raise CaseError("raise/middle")

    return Closing(environ, chunks())


@case("raise/close")
def raise_close(environ, start_response):
    """close() raises after a complete body: the client has its answer, the log the traceback."""

    class Failing(Closing):
        def close(self):
            super().close()
            raise CaseError("raise/close")

    return Failing(environ, answer(start_response, b"complete\n"))


@case("raise/system-exit")
def raise_system_exit(environ, start_response):
    """sys.exit() in a view: 500, and the worker goes on or is replaced; no request is lost."""
    sys.exit(3)


@case("raise/keyboard-interrupt")
def raise_keyboard_interrupt(environ, start_response):
    """KeyboardInterrupt in a view, the same."""
    raise KeyboardInterrupt


@case("raise/unprintable")
def raise_unprintable(environ, start_response):
    """An exception whose text cannot be had: 500, and logging it does not fail."""

    class Unprintable(Exception):
        def __str__(self):
            raise CaseError("no text")

    raise Unprintable


@case("exit")
def exit_now(environ, start_response):
    """os._exit(`?code=`): the worker is gone; 502, and the next request is served."""
    os._exit(query(environ, "code", 7))


@case("exit/middle")
def exit_middle(environ, start_response):
    """os._exit after a chunk went out: reset."""
    start_response("200 OK", [TEXT])

    def chunks():
        yield b"one\n"
        time.sleep(query(environ, "delay", 0.2))
        os._exit(7)

    return chunks()


@case("segfault")
def segfault(environ, start_response):
    """Reads address zero: the kernel kills the worker with SIGSEGV."""
    ctypes.string_at(0)
    raise CaseError("still alive after reading address zero")


@case("kill")
def kill(environ, start_response):
    """Sends `?signal=` (default KILL) to the worker itself, then waits for it."""
    os.kill(os.getpid(), signal.Signals["SIG" + query(environ, "signal", "KILL")])
    time.sleep(query(environ, "wait", 1.0))
    return answer(start_response, b"survived\n")


# --- time, concurrency, memory ---

active = 0
most = 0
active_lock = threading.Lock()


@case("sleep")
def sleep(environ, start_response):
    """Sleeps `?ms=` milliseconds; tells how many requests ran in this process at once, now and at most."""
    global active, most
    with active_lock:
        active += 1
        most = max(most, active)
        now = active
    try:
        event(environ, "sleeping")
        time.sleep(query(environ, "ms", 100) / 1000)
    finally:
        with active_lock:
            active -= 1
    event(environ, "slept")
    return answer_json(start_response, {"pid": os.getpid(), "active": now, "most": most})


@case("spin")
def spin(environ, start_response):
    """Works in Python for `?ms=` milliseconds: other threads run, slowly."""
    end = time.monotonic() + query(environ, "ms", 100) / 1000
    count = 0
    while time.monotonic() < end:
        count += 1
    return answer_json(start_response, {"pid": os.getpid(), "count": count})


@case("hold-gil")
def hold_gil(environ, start_response):
    """Sleeps `?ms=` milliseconds in C with the GIL held: no Python code of this worker runs meanwhile."""
    event(environ, "holding")
    # PyDLL, unlike CDLL, does not release the GIL around the call.
    ctypes.PyDLL(None).usleep(query(environ, "ms", 100) * 1000)
    return answer_json(start_response, {"pid": os.getpid()})


kept = []


@case("memory")
def memory(environ, start_response):
    """Allocates and touches `?mib=` MiB; kept for good with `?keep=1`: a leak."""
    block = b"x" * (query(environ, "mib", 10) * MIB)
    if query(environ, "keep", 0):
        kept.append(block)
    return answer_json(start_response, {"pid": os.getpid(), "kept_mib": sum(map(len, kept)) // MIB})
