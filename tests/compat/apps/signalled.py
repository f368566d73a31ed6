"""An application for signals and subprocesses, as `wsgi` and as `asgi`."""

import asyncio
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from urllib.parse import parse_qs

IMPORTED_BY = os.getpid()
HANDLED = []
SAVED = signal.getsignal(signal.SIGTERM)

# Writes its pid to `BOOT_GATE.begun` and waits until the file BOOT_GATE exists.
if "BOOT_GATE" in os.environ:
    with open(os.environ["BOOT_GATE"] + ".begun", "w", encoding="ascii") as file:
        file.write(str(os.getpid()))
    while not os.path.exists(os.environ["BOOT_GATE"]):
        time.sleep(0.01)


def handle(number, frame):
    """Records the signal, then calls the handler that was installed before."""
    HANDLED.append(number)
    SAVED(number, frame)


if os.environ.get("HANDLER") == "chained":
    signal.signal(signal.SIGTERM, handle)
elif os.environ.get("HANDLER") == "own":
    signal.signal(signal.SIGTERM, lambda number, _: HANDLED.append(number))


def wsgi(environ, start_response):
    """Responds with the result, as JSON, of the function that the path names."""
    result = call(environ["PATH_INFO"], environ["QUERY_STRING"])
    if hasattr(result, "__await__"):
        result = asyncio.run(result)
    body = json.dumps(result).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


async def asgi(scope, receive, send):
    """Does the same under ASGI."""
    if scope["type"] != "http":
        raise ValueError(scope["type"])
    result = call(scope["path"], scope["query_string"].decode())
    body = json.dumps(await result if hasattr(result, "__await__") else result).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def call(path, query):
    """Calls the function that the path names."""
    arguments = {name: values[-1] for name, values in parse_qs(query).items()}
    return globals()["do_" + path.strip("/")](**arguments)


def do_who():
    """Returns process ids and the handled signals."""
    return {"pid": os.getpid(), "parent": os.getppid(), "imported_by": IMPORTED_BY, "handled": HANDLED}


async def do_wait(gate):
    """Writes its pid to `GATE.begun` and waits until `GATE` exists."""
    with open(f"{gate}.begun", "w", encoding="ascii") as file:
        file.write(str(os.getpid()))
    while not os.path.exists(gate):
        await asyncio.sleep(0.01)
    return "waited"


def do_sleep(gate):
    """Like do_wait, in a blocking call that a signal could interrupt."""
    with open(f"{gate}.begun", "w", encoding="ascii") as file:
        file.write(str(os.getpid()))
    while not os.path.exists(gate):
        time.sleep(0.01)
    return "slept"


def do_kill(number):
    """Sends a signal to the worker."""
    os.kill(os.getpid(), int(number))
    time.sleep(0.05)
    return os.getpid()


async def do_asyncio():
    """Returns whether SIGINT has Python's default handler."""
    return signal.getsignal(signal.SIGINT) is signal.default_int_handler


def do_handlers():
    """Returns whether signals have a Python handler."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
    return [callable(signal.getsignal(number)) for number in numbers]


def signals(status):
    """Returns signal dispositions and mask from a /proc/PID/status."""
    lines = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    # Without the signals that the C library reserves (nptl(7)).
    reserved = 1 << 31 | 1 << 32
    return {name: int(lines[name].strip(), 16) & ~reserved for name in ("SigBlk", "SigIgn", "SigCgt")}


def do_programs():
    """Returns the signal state of programs started by subprocess, and by fork and exec."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writing, 1)
        os.execv("/bin/cat", ["cat", "/proc/self/status"])
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        forked = pipe.read()
    os.waitpid(pid, 0)
    started = subprocess.check_output(["cat", "/proc/self/status"], text=True)
    return {"subprocess": signals(started), "fork and exec": signals(forked)}


def do_interrupt():
    """Sends SIGINT to programs and returns their exit statuses."""
    sleep = subprocess.Popen(["sleep", "60"])
    code = "import sys, time\nprint('there', flush=True)\ntime.sleep(60)"
    python = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    python.stdout.readline()
    statuses = []
    for child in (sleep, python):
        child.send_signal(signal.SIGINT)
        _, result = child.communicate(timeout=20)
        statuses.append(child.returncode)
    return {"statuses": statuses, "KeyboardInterrupt": b"KeyboardInterrupt" in result}


def child(connection, number):
    """Runs in a forked process; exits with 100 + the signal when interrupted."""
    try:
        connection.send(os.getpid())
        time.sleep(60)
    except KeyboardInterrupt:
        os._exit(100 + number)


def do_forked():
    """Sends signals to forked children of multiprocessing and returns their exit statuses."""
    context = multiprocessing.get_context("fork")
    statuses = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        ours, theirs = context.Pipe()
        process = context.Process(target=child, args=(theirs, int(number)))
        process.start()
        ours.recv()
        until = time.monotonic() + 15
        while process.is_alive() and time.monotonic() < until:
            # Sent repeatedly: in a child that a thread has forked, CPython 3.13 handles SIGINT only
            # while it waits.
            os.kill(process.pid, number)
            process.join(0.1)
        statuses[number.name] = process.exitcode
    return statuses


def do_files():
    """Returns the soft and the hard limit of open files."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)


def do_start(ignores_sigterm=""):
    """Starts a program in the worker's process group and does not wait for it."""
    ignore = "trap '' TERM; " if ignores_sigterm else ""
    child = subprocess.Popen(["sh", "-c", f"{ignore}while :; do sleep 0.1; done"], stdout=subprocess.DEVNULL)
    return {"worker": os.getpid(), "child": child.pid}
