"""An application that waits, holds the GIL, forks and reports its process, for worker tests."""

import ctypes
import json
import os
import random
import sys
import threading
import time
from urllib.parse import parse_qs

IMPORTED_BY = os.getpid()
FORKS = []
SEEN = []
libc = ctypes.CDLL(None)
os.register_at_fork(after_in_child=lambda: FORKS.append("python"))
libc.srand(1)
if hasattr(libc, "__register_atfork"):
    # As by pthread_atfork(3): each forked child draws one number.
    libc.__register_atfork(None, None, libc.rand, None)


def application(environ, start_response):
    """Responds with the result, as JSON, of the function that the path names."""
    SEEN.append(environ["PATH_INFO"])
    query = {name: values[-1] for name, values in parse_qs(environ["QUERY_STRING"]).items()}
    result = globals()["do_" + environ["PATH_INFO"].strip("/")](environ, **query)
    body = json.dumps(result).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def do_who(environ):
    """Returns facts about process and thread, and the pid of the import."""
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "group": os.getpgid(0),
        "imported_by": IMPORTED_BY,
        "thread": threading.get_ident(),
        "main": threading.current_thread() is threading.main_thread(),
        "threads": [thread.name for thread in threading.enumerate()],
        "forks": FORKS,
        "seen": SEEN[:-1],
        "random": random.random(),
        "multiprocess": environ["wsgi.multiprocess"],
    }


def do_warm(environ):
    """Records the environ of a warm-up request."""
    return SEEN.append({name: value for name, value in environ.items() if isinstance(value, (str, bool))})


def do_raise(environ):
    """Raises."""
    raise ValueError("the view is cold")


def do_draw(environ):
    """Returns the next number of rand(3)."""
    return libc.rand()


def do_wait(environ, path):
    """Waits until the FIFO has a writer."""
    wait_for_fifo(path)
    return os.getpid()


def wait_for_fifo(path):
    """Waits in one system call, without the GIL."""
    with open(path, encoding="utf-8") as fifo:
        return fifo.read()


def do_sleep(environ, seconds):
    """Sleeps without the GIL."""
    time.sleep(float(seconds))
    return "slept"


def do_hold_gil_elsewhere(environ, seconds):
    """Holds the GIL in C on another thread; signals interrupt only the main thread."""
    threading.Thread(target=hold_gil, args=(float(seconds),), name="holder").start()
    return True


def hold_gil(seconds):
    """Calls usleep(3) without releasing the GIL."""
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))


def do_hold_gil(environ, seconds):
    """Holds the GIL on the request's thread."""
    hold_gil(float(seconds))
    return os.getpid()


def do_child(environ):
    """Lists the descriptors that a subprocess inherits."""
    reading, writing = os.pipe()
    child = os.posix_spawn(
        sys.executable,
        [sys.executable, "-c", "import os; print(sorted(int(n) for n in os.listdir('/proc/self/fd')))"],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, writing, 1)],
    )
    os.close(writing)
    with os.fdopen(reading) as pipe:
        result = json.loads(pipe.read())
    os.waitpid(child, 0)
    return result


def do_fork_and_answer(environ):
    """Forks a child that returns into the server; returns its exit status."""
    child = os.fork()
    if child == 0:
        return "from the child"
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def do_descriptors(environ):
    """Counts the worker's open descriptors."""
    return len(os.listdir("/proc/self/fd"))
