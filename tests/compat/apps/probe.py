"""Cases that only the worker's tests need, one a path; the others are in tests/apps/hello/cases."""

import atexit
import bz2
import ctypes
import faulthandler
import gzip
import io
import json
import os
import signal
import sys
import tempfile
import threading
import time
from urllib.parse import parse_qs

CASES = {}
EVENTS = []
TEXT = ("Content-Type", "text/plain")
kept = []
# A handler that calls sys.exit, as applications have for SIGTERM. Only the main thread may install one.
signal.signal(signal.SIGUSR2, lambda *_: sys.exit(5))


def case(function):
    """By its name."""
    CASES["/" + function.__name__] = function
    return function


def application(environ, start_response):
    """The case of that path."""
    return CASES[environ["PATH_INFO"]](environ, start_response)


def query(environ, name, default=""):
    """A query parameter."""
    return parse_qs(environ["QUERY_STRING"]).get(name, [default])[-1]


def tell(start_response, value):
    """An answer as JSON."""
    body = json.dumps(value).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def plain(start_response, body=b"ok\n"):
    """An answer as text."""
    start_response("200 OK", [TEXT, ("Content-Length", str(len(body)))])
    return [body]


@case
def events(environ, start_response):
    """What was written down."""
    return tell(start_response, EVENTS)


@case
def identity(environ, start_response):
    """Process, thread, sys.path, argv, signals: what the worker made of the interpreter."""
    return tell(
        start_response,
        {
            "pid": os.getpid(),
            "path": sys.path,
            "argv": sys.argv,
            "main": threading.current_thread() is threading.main_thread(),
            "thread": threading.current_thread().name,
            "faulthandler": faulthandler.is_enabled(),
            "cwd": os.getcwd(),
            "control_is_inherited": os.get_inheritable(3),
            "modules": sorted(name for name in sys.modules if name.startswith("rgun")),
        },
    )


def header_case(name, headers):
    """Registers a case that gives these headers."""

    def give(environ, start_response):
        start_response("200 OK", headers)
        return [b"ok\n"]

    CASES["/header/" + name] = give


header_case("newline", [("X-Bad", "a\r\nX-Injected: 1")])
header_case("nul", [("X-Bad", "a\0b")])
header_case("control", [("X-Bad", "a\x01b")])
header_case("tab", [("X-Tab", "a\tb")])
header_case("name-space", [("X Bad", "a")])
header_case("name-empty", [("", "a")])
header_case("name-colon", [("X:Bad", "a")])
header_case("name-newline", [("X\r\nBad", "a")])
header_case("unicode", [("X-Bad", "煎茶")])
header_case("bytes-name", [(b"X-Bad", "a")])
header_case("bytes-value", [("X-Bad", b"a")])
header_case("int", [("Content-Length", 3)])
header_case("triple", [("X-Bad", "a", "b")])
header_case("not-a-pair", ["X-Bad: a"])
header_case("tuple", (("X-Bad", "a"),))
header_case("none", None)
header_case("huge", [("X-Huge", "v" * 70_000)])
header_case("many-huge", [(f"X-Huge-{index}", "v" * 60_000) for index in range(4)])
header_case("too-many", [("X-Many", "v")] * 4096)
header_case("as-many-as-possible", [("X-Many", "v")] * 4095)
header_case("negative-length", [("Content-Length", "-1")])
header_case("plus-length", [("Content-Length", "+3")])
header_case("same-length-twice", [("Content-Length", "3"), ("content-length", "3")])
header_case("spaces", [("X-Spaces", "  padded  ")])


def status_case(name, status):
    """Registers a case that gives this status."""

    def give(environ, start_response):
        start_response(status, [TEXT])
        return [b"ok\n"]

    CASES["/status/" + name] = give


status_case("bare", "200")
status_case("odd", "299 Whatever")
status_case("teapot", "418 I'm a teapot")
status_case("interim", "100 Continue")
status_case("switching", "101 Switching Protocols")
status_case("early", "103 Early Hints")
status_case("words", "OK")
status_case("glued", "200OK")
status_case("short", "20 OK")
status_case("bytes", b"200 OK")
status_case("int", 200)
status_case("empty", "")
status_case("beyond", "999 Odd")


@case
def hop_by_hop(environ, start_response):
    """Every header that is the connection's, not the application's."""
    names = [
        "Connection",
        "Keep-Alive",
        "Transfer-Encoding",
        "Upgrade",
        "TE",
        "Trailer",
        "Proxy-Authenticate",
        "Proxy-Authorization",
        "Proxy-Connection",
    ]
    start_response("200 OK", [TEXT, *((name, "x") for name in names), ("X-Kept", "yes")])
    return [b"ok\n"]


@case
def write_not_bytes(environ, start_response):
    """write() with text."""
    try:
        start_response("200 OK", [TEXT])("text")
    except TypeError as error:
        return plain_after(start_response, str(error))
    return [b"accepted\n"]


def plain_after(start_response, text):
    """Replaces the head that was not sent."""
    try:
        raise ValueError(text)
    except ValueError:
        start_response("400 Bad", [TEXT], sys.exc_info())
    return [text.encode()]


@case
def arguments(environ, start_response):
    """All ways to call start_response() and write() wrongly, then one with names that is right."""
    write = start_response("200 OK", [TEXT])
    calls = [
        start_response,
        lambda: start_response("200 OK"),
        lambda: start_response("200 OK", [TEXT], None, 4),
        lambda: start_response("200 OK", [TEXT], status="200 OK"),
        lambda: start_response("200 OK", [TEXT], because=None),
        write,
        lambda: write(b"one", b"two"),
    ]
    outcomes = []
    for call in calls:
        try:
            call()
            outcomes.append("accepted")
        except TypeError as error:
            outcomes.append(str(error))
    try:
        raise ValueError
    except ValueError:
        start_response("200 OK", headers=[TEXT], exc_info=sys.exc_info())
    return [json.dumps(outcomes).encode()]


@case
def write_after_end(environ, start_response):
    """Keeps write() and start_response for the next request."""
    kept[:] = [start_response("200 OK", [TEXT, ("Content-Length", "3")]), start_response]
    return [b"ok\n"]


@case
def use_kept(environ, start_response):
    """Uses what an earlier request left: both must fail, and this request is not disturbed."""
    outcomes = []
    for call in (lambda: kept[0](b"stray"), lambda: kept[1]("500 No", [])):
        try:
            call()
            outcomes.append("accepted")
        except RuntimeError as error:
            outcomes.append(str(error))
    return tell(start_response, outcomes)


@case
def write_beyond_length(environ, start_response):
    """write() and an iterable, together more than Content-Length."""
    start_response("200 OK", [TEXT, ("Content-Length", "6")])(b"1234")
    return [b"5678", b"9"]


@case
def write_long(environ, start_response):
    """`?mib=` MiB by write(), in pieces of 1 MiB."""
    send = start_response("200 OK", [TEXT])
    for _ in range(int(query(environ, "mib", "1"))):
        send(b"w" * 1048576)
    return []


class Subclass(list):
    """A list with an iterator and a close() of its own: neither may be passed over."""

    def __iter__(self):
        yield b"from the iterator\n"

    def close(self):
        EVENTS.append("subclass closed")


@case
def list_subclass(environ, start_response):
    """A list that is not one."""
    start_response("200 OK", [TEXT])
    return Subclass([b"from the list\n"])


@case
def big_list(environ, start_response):
    """`?n=` items of `?size=` bytes in a list."""
    start_response("200 OK", [TEXT])
    return [b"%07d" % index * (int(query(environ, "size")) // 7) for index in range(int(query(environ, "n")))]


@case
def big_list_short(environ, start_response):
    """A large list with less than its Content-Length."""
    start_response("200 OK", [TEXT, ("Content-Length", "300000")])
    return [b"x" * 100_000, b"y" * 100_000]


@case
def empty_list(environ, start_response):
    """No chunk at all."""
    start_response("200 OK", [TEXT])
    return []


@case
def bytes_result(environ, start_response):
    """A bytes object as the result: an iterable of int."""
    start_response("200 OK", [TEXT])
    return b"ok"


@case
def old_iteration(environ, start_response):
    """An object with __getitem__ only."""

    class Old:
        def __getitem__(self, index):
            return [b"one\n", b"two\n"][index]

    start_response("200 OK", [TEXT])
    return Old()


@case
def after_last_chunk(environ, start_response):
    """A generator's code after its last yield runs even if Content-Length was reached."""

    def body():
        yield b"ok\n"
        EVENTS.append("after the last chunk of " + environ["REQUEST_METHOD"])

    start_response("200 OK", [TEXT, ("Content-Length", "3")])
    return body()


@case
def slow_close(environ, start_response):
    """close() waits until `?path=` exists: the client has its response before that."""

    class Body:
        def __iter__(self):
            return iter([b"complete\n"])

        def close(self):
            while not os.path.exists(query(environ, "path")):
                time.sleep(0.005)
            EVENTS.append("closed slowly")

    start_response("200 OK", [TEXT, ("Content-Length", "9")])
    return Body()


@case
def raise_and_close(environ, start_response):
    """The iterable raises, then close() raises, too."""

    class Body:
        def __iter__(self):
            raise ValueError("first fault")

        def close(self):
            raise ValueError("second fault")

    start_response("200 OK", [TEXT])
    return Body()


@case
def odd_close(environ, start_response):
    """Looking for close raises."""

    class Body:
        def __iter__(self):
            return iter([b"x"])

        @property
        def close(self):
            raise ValueError("no close for you")

    start_response("200 OK", [TEXT])
    return Body()


told = threading.Event()


@case
def raise_when_told(environ, start_response):
    """A chunk, then an exception when /tell_it was asked in another thread."""
    start_response("200 OK", [TEXT])
    told.clear()

    def body():
        yield b"one\n"
        told.wait(10)
        raise ValueError("told to")

    return body()


@case
def tell_it(environ, start_response):
    """Lets the exception of raise_when_told come."""
    told.set()
    return plain(start_response)


@case
def chained(environ, start_response):
    """An exception with a cause."""
    try:
        raise KeyError("the cause")
    except KeyError as error:
        raise ValueError("the effect") from error


@case
def long_traceback(environ, start_response):
    """An exception with a text of 100,000 characters."""
    raise ValueError("begin " + "x" * 100_000 + " end")


@case
def deep(environ, start_response):
    """Recursion without end."""
    return deep(environ, start_response)


@case
def surrogate(environ, start_response):
    """An exception whose text is not Unicode."""
    raise ValueError("odd \udcff text")


@case
def reason(environ, start_response):
    """A status line of the client's choice."""
    start_response(parse_qs(environ["QUERY_STRING"], encoding="latin-1")["status"][0], [TEXT])
    return [b"ok\n"]


@case
def gzip_file(environ, start_response):
    """file_wrapper over a GzipFile, whose fileno() is that of the compressed file."""
    return compressed(environ, start_response, gzip.open)


@case
def bz2_file(environ, start_response):
    """The same with bz2."""
    return compressed(environ, start_response, bz2.open)


def compressed(environ, start_response, opener):
    """Writes a compressed file and wraps it."""
    handle, path = tempfile.mkstemp()
    os.close(handle)
    with opener(path, "wb") as file:
        file.write(b"plain text\n" * 1000)
    opened = opener(path, "rb")
    os.unlink(path)
    start_response("200 OK", [TEXT])
    return environ["wsgi.file_wrapper"](opened)


@case
def named_temporary(environ, start_response):
    """file_wrapper over tempfile's wrapper object, after some of it was read."""
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115 (the server closes it)
    file.write(b"0123456789" * 10_000)
    file.seek(5)
    start_response("200 OK", [TEXT])
    return environ["wsgi.file_wrapper"](file)


@case
def file_after_write(environ, start_response):
    """write() first, a file after."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 (the server closes it)
    file.write(b"from the file\n")
    file.seek(0)
    start_response("200 OK", [TEXT])(b"written\n")
    return environ["wsgi.file_wrapper"](file)


@case
def file_at_end(environ, start_response):
    """A file that has been read to its end."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 (the server closes it)
    file.write(b"nothing left")
    start_response("200 OK", [TEXT])
    return environ["wsgi.file_wrapper"](file)


@case
def closed_file(environ, start_response):
    """A file that is closed already."""
    file = io.BytesIO(b"x")
    file.close()
    start_response("200 OK", [TEXT])
    return environ["wsgi.file_wrapper"](file)


@case
def descriptors(environ, start_response):
    """How many descriptors the worker has open."""
    return tell(start_response, len(os.listdir("/proc/self/fd")))


@case
def read_twice(environ, start_response):
    """The body by one read(), then at the end."""
    stream = environ["wsgi.input"]
    return tell(start_response, [len(stream.read()), len(stream.read()), len(stream.readline())])


@case
def read_none(environ, start_response):
    """read(None), readline(None), readlines(None)."""
    stream = environ["wsgi.input"]
    return tell(
        start_response,
        [
            stream.readline(None).decode(),
            [line.decode() for line in stream.readlines(None)],
            len(stream.read(None)),
        ],
    )


@case
def read_types(environ, start_response):
    """What read() takes, and what it gives."""
    stream = environ["wsgi.input"]
    refused = []
    for size in ("3", 1.5, b"1"):
        try:
            stream.read(size)
        except TypeError:
            refused.append(repr(size))
    return tell(start_response, [refused, type(stream.read(1)).__name__, type(stream.readline()).__name__])


@case
def keep_input(environ, start_response):
    """Keeps the stream of a request for the next one."""
    kept[:] = [environ["wsgi.input"]]
    return plain(start_response)


@case
def read_kept(environ, start_response):
    """Reads the stream of an earlier request."""
    return tell(start_response, [len(kept[0].read()), len(environ["wsgi.input"].read())])


@case
def pid(environ, start_response):
    """The process."""
    return tell(start_response, os.getpid())


@case
def handle_signal(environ, start_response):
    """Installs a handler for SIGUSR1 that writes down that it ran."""
    signal.signal(
        signal.SIGUSR1, lambda *_: (EVENTS.append("signal handled"), print("signal handled", flush=True))
    )
    return tell(start_response, os.getpid())


@case
def handle_signal_badly(environ, start_response):
    """A handler that raises."""

    def handler(*_):
        raise ValueError("fault in the handler")

    signal.signal(signal.SIGUSR1, handler)
    return tell(start_response, os.getpid())


@case
def at_exit(environ, start_response):
    """Writes a file when the interpreter ends in good order."""
    path = query(environ, "path")

    def leave():
        with open(path, "w", encoding="utf-8") as file:
            file.write("atexit ran")

    atexit.register(leave)
    return plain(start_response)


@case
def fork_and_return(environ, start_response):
    """A child that comes back into the server: by sys.exit, and by returning an answer."""
    child = os.fork()
    if child == 0:
        if query(environ, "how") == "exit":
            sys.exit(7)
        return plain(start_response, b"from the child\n")
    _, status = os.waitpid(child, 0)
    return tell(start_response, os.WEXITSTATUS(status))


@case
def subprocess_descriptors(environ, start_response):
    """What descriptors a child process inherits."""
    reading, writing = os.pipe()
    child = os.posix_spawn(
        sys.executable,
        [sys.executable, "-c", "import os; print(sorted(int(n) for n in os.listdir('/proc/self/fd')))"],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, writing, 1)],
    )
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return plain(start_response, told)


barrier = threading.Barrier(3)


@case
def meet(environ, start_response):
    """Returns when three requests are in here at once."""
    barrier.wait(10)
    return tell(start_response, threading.current_thread().name)


@case
def hold_gil(environ, start_response):
    """Sleeps in C with the GIL held."""
    ctypes.PyDLL(None).usleep(int(query(environ, "ms", "100")) * 1000)
    return plain(start_response)
