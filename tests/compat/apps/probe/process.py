"""The process: signals, forks, descriptors, threads."""

import atexit
import ctypes
import faulthandler
import os
import signal
import sys
import threading

from .registry import EVENTS, case, plain, query, respond_json

# Many applications install such a handler, for SIGTERM. Python allows it only on the main thread.
signal.signal(signal.SIGUSR2, lambda *_: sys.exit(5))


@case
def identity(environ, start_response):
    """Returns how the worker has set up the interpreter: sys.path, argv, thread, faulthandler."""
    return respond_json(
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


@case
def pid(environ, start_response):
    """Returns the process id."""
    return respond_json(start_response, os.getpid())


@case
def handle_signal(environ, start_response):
    """Installs a handler of SIGUSR1 that records its call."""
    signal.signal(
        signal.SIGUSR1, lambda *_: (EVENTS.append("signal handled"), print("signal handled", flush=True))
    )
    return respond_json(start_response, os.getpid())


@case
def handle_signal_badly(environ, start_response):
    """Installs a handler of SIGUSR1 that raises."""

    def handler(*_):
        raise ValueError("fault in the handler")

    signal.signal(signal.SIGUSR1, handler)
    return respond_json(start_response, os.getpid())


@case
def at_exit(environ, start_response):
    """Registers an atexit handler that writes a file."""
    path = query(environ, "path")

    def leave():
        with open(path, "w", encoding="utf-8") as file:
            file.write("atexit ran")

    atexit.register(leave)
    return plain(start_response)


@case
def fork_and_return(environ, start_response):
    """Forks a child that returns into the server, by sys.exit() or with a response."""
    child = os.fork()
    if child == 0:
        if query(environ, "how") == "exit":
            sys.exit(7)
        if query(environ, "how") == "exit_text":
            sys.exit("no licence in the child")
        return plain(start_response, b"from the child\n")
    _, status = os.waitpid(child, 0)
    return respond_json(start_response, os.WEXITSTATUS(status))


@case
def subprocess_descriptors(environ, start_response):
    """Lists the descriptors that a subprocess inherits."""
    reading, writing = os.pipe()
    child = os.posix_spawn(
        sys.executable,
        [sys.executable, "-c", "import os; print(sorted(int(n) for n in os.listdir('/proc/self/fd')))"],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, writing, 1)],
    )
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        result = pipe.read()
    os.waitpid(child, 0)
    return plain(start_response, result)


barrier = threading.Barrier(3)


@case
def meet(environ, start_response):
    """Returns once three requests have reached this case concurrently."""
    barrier.wait(10)
    return respond_json(start_response, threading.current_thread().name)


@case
def hold_gil(environ, start_response):
    """Sleeps in C while holding the GIL."""
    ctypes.PyDLL(None).usleep(int(query(environ, "ms", "100")) * 1000)
    return plain(start_response)
