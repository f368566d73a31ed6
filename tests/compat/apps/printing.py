"""Applications that print in the way that the path names, for tests of printed lines and their requests.

Each line has the query, so that a test finds its own lines.
"""

import asyncio
import atexit
import codecs
import contextvars
import logging
import os
import sys
import threading
import traceback

N_ROUNDS = 24

logging.basicConfig(format="%(message)s")


class Waiting:
    """A value that lets other threads print while `print` asks for its text."""

    def __str__(self):
        threading.Event().wait(0.0005)
        return "waited"


def print_many(name):
    """Prints lines in one call and in several, short ones and long ones."""
    for number in range(N_ROUNDS):
        line = f"({name}.{number})"
        print(line)
        print(line, "of", "several", "texts", sep=" | ")
        print(line, file=sys.stderr)
        print(line, "on", "stderr", file=sys.stderr, flush=number % 2 == 0)
        sys.stdout.write(line)
        sys.stdout.write(" in")
        sys.stdout.write(" pieces\n")
        sys.stderr.write(f"{line} half")
        logging.warning("%s logged", line)
        sys.stderr.write(f"{line} first\n{line} second\n")
        if number % 6 == 0:
            # More than PIPE_BUF, and than the buffer of the stream.
            print(line, "o" * 12_000)
            print(line, "e" * 12_000, file=sys.stderr)
            print(line, Waiting())


def lines_of_many(name):
    """Returns the lines of `print_many`."""
    for number in range(N_ROUNDS):
        line = f"({name}.{number})"
        yield from [line, f"{line} | of | several | texts", line, f"{line} on stderr"]
        yield from [f"{line} in pieces", f"{line} half", f"{line} logged"]
        yield from [f"{line} first", f"{line} second"]
        if number % 6 == 0:
            yield from [f"{line} {'o' * 12_000}", f"{line} {'e' * 12_000}", f"{line} waited"]


def do_many(text):
    print_many(text)


def do_many_in_background(text):
    """A thread without a request prints meanwhile."""
    thread = threading.Thread(target=print_many, args=("background-" + text,))
    thread.start()
    print_many(text)
    thread.join()


def do_tracebacks(text):
    for number in range(N_ROUNDS):
        try:
            raise ValueError(f"{text}.{number}")
        except ValueError:
            traceback.print_exc()


def do_progress(text):
    print("begins", text, end="", flush=True)
    print(" goes on", end="", flush=True)
    print(" ends", flush=True)


def do_interrupted(text):
    """Another thread prints after the beginning of a line has been flushed."""
    print("begins", text, end="", flush=True)
    thread = threading.Thread(target=print, args=("between", text))
    thread.start()
    thread.join()
    print("ends", text, flush=True)


def do_unfinished(text):
    sys.stdout.write("unfinished " + text)


def do_unencodable(text):
    try:
        sys.stdout.write("lone \ud800")
    except UnicodeEncodeError:
        print("refused", text)
    sys.stdout.write("euro ")
    print("\u20ac", text, flush=True)
    print("lone \ud800", text, file=sys.stderr)


def do_long(text):
    """The line is longer than what is kept until it ends."""
    sys.stdout.write(text + " " + "x" * 2_000_000)
    print(" ends", text, flush=True)


def do_nested(text):
    """Python code prints while its own thread writes."""

    def replace(error):
        print("within", text)
        return "?", error.end

    codecs.register_error("printing", replace)
    sys.stdout.reconfigure(errors="printing")
    sys.stdout.write(f"odd \ud800 {text}\n")
    sys.stdout.flush()


def do_fork(text):
    sys.stderr.write("the parent ")
    child = os.fork()
    if child == 0:
        print("the child", text, file=sys.stderr)
        os._exit(0)
    os.waitpid(child, 0)
    print(text, file=sys.stderr)


def do_exit(text):
    atexit.register(print, "at the exit")
    sys.stdout.write("unfinished " + text)


def wsgi(environ, start_response):
    """Calls the function that the path names, with the query."""
    globals()["do_" + environ["PATH_INFO"].strip("/")](environ["QUERY_STRING"])
    start_response("200 OK", [])
    return []


async def asgi(scope, receive, send):
    """Prints in a thread and in the task of the request."""
    if scope["type"] == "lifespan":
        raise RuntimeError
    name = scope["query_string"].decode()
    loop, context = asyncio.get_running_loop(), contextvars.copy_context()
    # As asyncio.to_thread, which CPython 3.9 has, too, does it.
    thread = loop.run_in_executor(None, context.run, print_many, name)
    for number in range(N_ROUNDS):
        sys.stdout.write(f"({name}.{number}) begins")
        await asyncio.sleep(0)
        print(f" and ends ({name}.{number})")
    await thread
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})
