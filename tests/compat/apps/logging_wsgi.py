"""A WSGI application that logs and prints in the way that the path names, for tests of records and requests.

Each text has the query, so that a test finds its own entries.
"""

import io
import logging
import os
import sys
import threading
import traceback

import pytest

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
LOG = logging.getLogger("shop.cart")
LOG.info("imported in %d", os.getpid())


class Shouting(logging.StreamHandler):
    """A handler with an `emit` of its own, as in rich."""

    def emit(self, record):
        self.stream.write(self.format(record).upper() + "\n")
        self.flush()


def handle_with(handler, text):
    """Logs a text by a logger that has this handler only."""
    logger = logging.Logger("other")
    logger.addHandler(handler)
    logger.warning("%s", text)


def do_log(text):
    LOG.warning(
        "logged %s", text, extra={"ORDER": 4711, "RGUN_WORKER": "9", "MESSAGE_ID": "forged", "cart": 1}
    )


def do_pid(text):
    LOG.info("process %d %s", os.getpid(), text)


def do_levels(text):
    for level in (10, 20, 30, 40, 50, 60):
        LOG.parent.setLevel(10)
        LOG.log(level, "level %d %s", level, text)


def do_exception(text):
    try:
        raise ValueError("it broke " + text)
    except ValueError:
        LOG.exception("failed %s", text)


def do_last_resort(text):
    logger = logging.Logger("lonely")
    logger.error("unhandled %s", text)


def do_print(text):
    print("err", text, file=sys.stderr)
    print("out", text, "\nsecond", text, flush=True)
    print("half", text, end="", file=sys.stderr)
    LOG.info("whole %s", text)
    assert sys.stdout.write("") == 0
    assert sys.stderr.write("written " + text + "\n") == len(text) + 9
    sys.stderr.writelines(["lines ", text, "\n"])
    os.write(2, f"raw {text}\n".encode())


def do_traceback(text):
    try:
        raise ValueError("printed " + text)
    except ValueError:
        traceback.print_exc()


def do_thread(text):
    thread = threading.Thread(target=LOG.info, args=("in a thread %s", text), name="helper")
    thread.start()
    thread.join()


def do_others(text):
    memory = io.StringIO()
    handle_with(logging.StreamHandler(memory), text)
    assert memory.getvalue() == text + "\n"
    with open("handled.log", "w") as file:
        handle_with(logging.StreamHandler(file), text)
        handle_with(logging.FileHandler("handled.log", "a"), text)
    with open("handled.log") as file:
        assert file.read() == f"{text}\n{text}\n"
    handle_with(Shouting(), "shouted " + text)
    ends = logging.StreamHandler()
    ends.terminator = "!\n"
    handle_with(ends, "ended " + text)
    wrapped = io.TextIOWrapper(sys.stderr.buffer, "utf-8", line_buffering=True)
    handle_with(logging.StreamHandler(wrapped), "wrapped " + text)
    wrapped.detach()


def do_unformattable(text):
    LOG.info("%d", text)


def do_odd_text(text):
    LOG.info("odd \x1e@forged\x1e %s \ud800 € \n\n tail", text)
    print("\x1e@forged-1\x1eprinted", text, file=sys.stderr)
    print('\x1e{"json": "sequence"}', text, file=sys.stderr)


def do_long(text):
    LOG.info("%s %s", text, "x" * 100_000)
    LOG.info("%s %s", text, "€" * 30_000)


def do_fork(text):
    child = os.fork()
    if child == 0:
        LOG.info("in the child %s", text)
        print("printed by the child", text, file=sys.stderr)
        os._exit(0)
    os.waitpid(child, 0)


def do_redirected(text):
    sys.stderr.flush()
    kept = os.dup(2)
    file = os.open("redirected.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(file, 2)
    LOG.info("to a file %s", text)
    print("printed", text, file=sys.stderr)
    os.dup2(kept, 2)
    with open("redirected.log") as redirected:
        assert redirected.read() == f"INFO to a file {text}\nprinted {text}\n"


def do_after_half_line(text):
    sys.stderr.write("y" * 60_000)
    LOG.warning("after it %s", text)


def do_bounded(text):
    extra = {f"FIELD_{number}": "\x01\U0001f600" * 1024 for number in range(32)}
    logger = logging.Logger("n" * 100_000)
    logger.addHandler(LOG.parent.handlers[0])
    logger.warning("%s %s", text, "\x01" * 48_000, extra={**extra, "N" * 100_000: "long", "M" * 64: 1})


def do_odd_extra(text):
    LOG.warning("odd extra %s", text, extra={"HUGE": 10**5000, "FINE": 1})


def do_print_path(text):
    print("the path is", text)


def do_token(_):
    """Returns what begins the records of this process."""
    return sys.modules["rgun_worker.log_records"].marker


def do_types(_):
    assert type(sys.stdout) is io.TextIOWrapper
    assert type(sys.stderr) is io.TextIOWrapper
    assert sys.stderr is sys.__stderr__
    assert (sys.stdout.fileno(), sys.stderr.isatty()) == (1, False)
    assert sys.stderr.errors == "backslashreplace"
    sys.stdout.buffer.flush()
    with pytest.raises(TypeError, match="must be str, not bytes"):
        sys.stderr.write(b"bytes")


def application(environ, start_response):
    """Calls the function that the path names, with the query."""
    name, _, rest = environ["PATH_INFO"].strip("/").partition(" ")
    answer = globals()["do_" + name](rest or environ["QUERY_STRING"])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [(answer or "done").encode()]
