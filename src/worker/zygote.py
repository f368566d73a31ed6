"""The Python half of the zygote: warms the application up, says what a fork will not carry over, and forks.

Embedded into the extension and loaded only with preload (src/worker/zygote.rs). Runs on CPython 3.9 and
later.
"""

import contextlib
import gc
import os
import select
import signal
import sys
import threading
import time
import warnings

# Seconds that the two forks may take together; less than the daemon waits for the answer (PATIENCE of
# src/daemon/pool/fork.rs), who takes a zygote that does not answer for one that hangs.
FORK_TIMEOUT = 5

# Seconds that a thread of which Python does not know any more may take to be gone.
LEAVING = 0.1


def warm_up(load, application, environ, target):
    """One request of the application, whose answer nobody reads; None, or what went wrong."""
    begun = []

    def start_response(status, headers, exc_info=None):
        begun[:] = [status]
        return lambda data: None

    try:
        result = application(environ, start_response)
        try:
            for _ in result:
                pass
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()
    except BaseException as error:  # noqa: BLE001 (the workers may serve other requests well)
        summary, trace = load.describe(error)
        return f"the warm-up request GET {target} raised {summary}; going on without\n{trace}"
    status = begun[0] if begun else "nothing"
    if not str(status).startswith(("2", "3")):
        return (
            f"the warm-up request GET {target} was answered {status}: what the application makes at its "
            "first good request will not be shared between workers"
        )
    return None


def settle(own):
    """Makes what is loaded immortal for the garbage collector, so that its marks do not unshare the pages.

    Returns the warnings: what workers that are forked from here will share, or miss, by name.
    """
    found = close_databases()
    gc.collect()
    gc.freeze()
    sockets = open_sockets(own)
    if sockets:
        found.append(
            f"the application has sockets open before its workers are forked, who would all use the same: "
            f"{', '.join(sockets)}; open them at the first request, or in hooks.post_worker_init"
        )
    threads = running_threads()
    if threads:
        found.append(
            f"the application has started threads before its workers are forked, who will be without them: "
            f"{', '.join(threads)}; start them at the first request, or in hooks.post_worker_init"
        )
    return found


def close_databases():
    """Closes what Django keeps open between requests (CONN_MAX_AGE); its workers would all talk on the same.

    Other libraries have no registry of their connections: `open_sockets` names them.
    """
    django = sys.modules.get("django.db")
    try:
        if django is not None:
            django.connections.close_all()
    except Exception as error:  # noqa: BLE001 (whatever a database's module raises)
        return [f"cannot close Django's database connections before workers are forked: {error!r}"]
    return []


def open_sockets(own):
    """Descriptions of the sockets that are open; not of stdin, stdout, stderr and the server's."""
    found = []
    for number in sorted(map(int, os.listdir("/proc/self/fd"))):
        if number < 3 or number in own:
            continue
        try:
            if os.readlink(f"/proc/self/fd/{number}").startswith("socket:"):
                found.append(f"descriptor {number} ({describe_socket(number)})")
        except OSError:
            continue  # the listing's own, closed by now
    return found


def describe_socket(number):
    """Its family, and what it is bound and connected to."""
    import socket

    with socket.socket(fileno=os.dup(number)) as copy:
        text = getattr(copy.family, "name", f"family {copy.family}")
        text += f" {address(copy.getsockname())}"
        try:
            return f"{text} to {address(copy.getpeername())}"
        except OSError:
            return text


def address(name):
    """As people write it."""
    if isinstance(name, bytes):
        return "@" + name[1:].decode("utf-8", "backslashreplace")
    if isinstance(name, tuple) and len(name) >= 2 and isinstance(name[0], str):
        host = f"[{name[0]}]" if ":" in name[0] else name[0]
        return f"{host}:{name[1]}"
    return str(name) or "unnamed"


def running_threads():
    """The threads beside this one: Python's by name, others by the name that the kernel has."""
    until = time.monotonic() + LEAVING
    while True:
        here = {int(name) for name in os.listdir("/proc/self/task")} - {threading.get_native_id()}
        found = []
        for thread in threading.enumerate():
            if thread.native_id in here:
                here.discard(thread.native_id)
                found.append(f"{thread.name} ({type(thread).__module__}.{type(thread).__qualname__})")
        # One that was joined is in the kernel for a moment still.
        if not here or time.monotonic() >= until:
            break
        time.sleep(0.001)
    for number in sorted(here):
        try:
            with open(f"/proc/self/task/{number}/comm", encoding="utf-8", errors="backslashreplace") as file:
                found.append(f"native thread {file.read().strip()}")
        except OSError:
            continue  # it has just ended
    return found


def fork(entrance):
    """Forks twice, so that the new process becomes a child of the daemon, which is a subreaper.

    In the new process: 0 and the process between. Here: its pid and None, once the process between has gone.
    `entrance` is the descriptor of the cgroup that the new process belongs to: the process between enters it,
    so that not one instruction of the new one runs outside.
    """
    # What waits in the buffers would be written by every worker again.
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    reading, writing = os.pipe()
    try:
        between = quiet_fork()
    except BaseException:
        os.close(reading)
        os.close(writing)
        raise
    if between == 0:
        os.close(reading)
        parent = os.getpid()
        try:
            if entrance is not None:
                os.write(entrance, b"0")
            told = quiet_fork()
        except BaseException as error:  # noqa: BLE001 (nothing may leave this process but its exit)
            told = f"{type(error).__name__}: {error}"
        if told == 0:
            os.close(writing)
            return 0, parent
        try:
            os.write(writing, str(told).encode("utf-8", "backslashreplace")[:4096])
        finally:
            os._exit(0)
    os.close(writing)
    told = None
    try:
        # What the application has registered to run at forks may wait for a thread that was not forked.
        poll = select.poll()
        poll.register(reading, select.POLLIN)
        if poll.poll(FORK_TIMEOUT * 1000):
            told = os.read(reading, 4096).decode()
    finally:
        os.close(reading)
        # Not there: the application ignores SIGCHLD, or has waited for it.
        with contextlib.suppress(ChildProcessError, ProcessLookupError):
            if told is None:
                os.kill(between, signal.SIGKILL)
            os.waitpid(between, 0)
    if told is None:
        raise TimeoutError(
            f"the process that was to fork the worker did not come so far in {FORK_TIMEOUT} s: look at the "
            "handlers of os.register_at_fork and pthread_atfork(3)"
        )
    if not told.isdigit():
        raise OSError(told or "the process that was to fork the worker died")
    return int(told), None


def quiet_fork():
    """fork(2) with the handlers of pthread_atfork(3) and os.register_at_fork.

    Python 3.12 and later warn of every thread; `settle` has named them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def reseed():
    """Random numbers of its own for a new process; None, or what went wrong.

    The module `random` sees to that itself (since Python 3.7), NumPy does not: what its functions draw comes
    from one generator, whose state was forked. Generators that the application has made are its own affair.
    """
    numpy_random = sys.modules.get("numpy.random")
    try:
        if numpy_random is not None:
            numpy_random.seed()
    except Exception as error:  # noqa: BLE001 (another kind of generator can be put in its place)
        return (
            "cannot give numpy.random a state of its own, so that all workers draw the same numbers: "
            f"{error!r}; seed it in hooks.post_fork"
        )
    return None
