"""An application to look into: it waits, holds the GIL, forks, counts; for tests that play the daemon."""

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
    # What pthread_atfork(3) calls. In the child it draws one number.
    libc.__register_atfork(None, None, libc.rand, None)


def application(environ, start_response):
    """Calls the function that the path names, and answers what it returns as JSON."""
    SEEN.append(environ["PATH_INFO"])
    query = {name: values[-1] for name, values in parse_qs(environ["QUERY_STRING"]).items()}
    told = globals()["do_" + environ["PATH_INFO"].strip("/")](environ, **query)
    body = json.dumps(told).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def do_who(environ):
    """The process, the thread, and what the process was when the application was imported."""
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
    """For a first request: what the environ says."""
    return SEEN.append({name: value for name, value in environ.items() if isinstance(value, (str, bool))})


def do_raise(environ):
    """A view that does not work."""
    raise ValueError("the view is cold")


def do_draw(environ):
    """The next number of rand(3)."""
    return libc.rand()


def do_wait(environ, path):
    """Until somebody opens that FIFO."""
    wait_for_fifo(path)
    return os.getpid()


def wait_for_fifo(path):
    """In one system call, without the GIL."""
    with open(path, encoding="utf-8") as fifo:
        return fifo.read()


def do_sleep(environ, seconds):
    """Without the GIL."""
    time.sleep(float(seconds))
    return "slept"


def do_hold_gil_elsewhere(environ, seconds):
    """A thread that holds the GIL in C, out of reach of signals: those go to the main thread."""
    threading.Thread(target=hold_gil, args=(float(seconds),), name="holder").start()
    return True


def hold_gil(seconds):
    """usleep(3), called as if it needed the GIL."""
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))


def do_hold_gil(environ, seconds):
    """The request's own thread holds it."""
    hold_gil(float(seconds))
    return os.getpid()


def do_child(environ):
    """The descriptors that a program inherits which the application starts."""
    reading, writing = os.pipe()
    child = os.posix_spawn(
        sys.executable,
        [sys.executable, "-c", "import os; print(sorted(int(n) for n in os.listdir('/proc/self/fd')))"],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, writing, 1)],
    )
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = json.loads(pipe.read())
    os.waitpid(child, 0)
    return told


def do_fork_and_answer(environ):
    """A process that comes back into the server; what becomes of it."""
    child = os.fork()
    if child == 0:
        return "from the child"
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def do_descriptors(environ):
    """How many are open."""
    return len(os.listdir("/proc/self/fd"))
