"""The Python part of zygote.rs: imports, warms up, warns of state that a fork loses, and forks.

Embedded into the extension and loaded only with preload (src/worker/zygote.rs). Runs on CPython 3.9
and later.
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

# Timeout of both forks, seconds. Shorter than the daemon's (src/daemon/pool/fork.rs), which regards
# a zygote that does not answer as hung.
FORK_TIMEOUT = 5

# Seconds to wait for joined threads to disappear from /proc.
THREAD_EXIT_TIMEOUT = 0.1


def import_modules(load, modules, directory):
    """Imports the modules of `workers.preload`. Returns None, or a Failure's outcome."""
    try:
        for module in modules:
            load.import_module(module, directory, "workers.preload")
    except load.Failure as failure:
        return failure.outcome
    return None


def warm_up(load, application, environ, target):
    """Runs one request and discards the response. Returns None, or a warning."""
    statuses = []

    def start_response(status, headers, exc_info=None):
        statuses[:] = [status]
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
    except BaseException as error:  # noqa: BLE001 (the workers may serve other requests)
        summary, trace = load.describe(error)
        return f"the warm-up request GET {target} raised {summary}; continuing without a warm-up\n{trace}"
    status = str(statuses[0]) if statuses else ""
    if not status.startswith(("2", "3")):
        outcome = f"was answered with {status}" if statuses else "got no response"
        return (
            f"the warm-up request GET {target} {outcome}: objects that the application creates "
            "at its first successful request will not be shared between workers"
        )
    return None


def freeze(own, has_application):
    """Exempts all objects from garbage collection, so that the collector's marks do not unshare their pages.

    Returns warnings: database connections that could not be closed, sockets that forked workers
    would share, threads that they would lack.
    """
    found = close_databases()
    if has_application:
        subject, later = "the application", "at the first request, or in hooks.post_worker_init"
        open_later, start_later = f"open them {later}", f"start them {later}"
    else:
        subject = "a module of workers.preload"
        open_later = start_later = "remove that module from the list"
    gc.collect()
    gc.freeze()
    sockets = open_sockets(own)
    if sockets:
        found.append(
            f"{subject} opened sockets before the workers were forked; all workers would share them: "
            f"{', '.join(sockets)}; {open_later}"
        )
    threads = running_threads()
    if threads:
        found.append(
            f"{subject} started threads before the workers were forked; no worker will have them: "
            f"{', '.join(threads)}; {start_later}"
        )
    return found


def close_databases():
    """Closes Django's persistent database connections (CONN_MAX_AGE), which all workers would share.

    Other libraries have no registry of their connections: `open_sockets` reports them.
    """
    django, conf = sys.modules.get("django.db"), sys.modules.get("django.conf")
    try:
        # Without settings there are no connections, and looking for some would import the settings.
        if django is not None and conf is not None and conf.settings.configured:
            django.connections.close_all()
    except Exception as error:  # noqa: BLE001 (a database backend may raise anything)
        return [f"cannot close Django's database connections before workers are forked: {error!r}"]
    return []


def open_sockets(own):
    """Describes the open sockets, except stdin, stdout, stderr and those in `own`."""
    found = []
    for number in sorted(map(int, os.listdir("/proc/self/fd"))):
        if number < 3 or number in own:
            continue
        try:
            if os.readlink(f"/proc/self/fd/{number}").startswith("socket:"):
                found.append(f"descriptor {number} ({describe_socket(number)})")
        except OSError:
            continue  # the descriptor of the listing, closed by now
    return found


def describe_socket(number):
    """Describes a socket: family, local and peer address."""
    import socket

    with socket.socket(fileno=os.dup(number)) as copy:
        text = getattr(copy.family, "name", f"family {copy.family}")
        text += f" {address(copy.getsockname())}"
        try:
            return f"{text} to {address(copy.getpeername())}"
        except OSError:
            return text


def address(name):
    """Formats a socket address."""
    if isinstance(name, bytes):
        return "@" + name[1:].decode("utf-8", "backslashreplace")
    if isinstance(name, tuple) and len(name) >= 2 and isinstance(name[0], str):
        host = f"[{name[0]}]" if ":" in name[0] else name[0]
        return f"{host}:{name[1]}"
    return str(name) or "unnamed"


def running_threads():
    """Names all other threads: Python's threads by their Python name, native threads by the kernel's name."""
    deadline = time.monotonic() + THREAD_EXIT_TIMEOUT
    while True:
        thread_ids = {int(name) for name in os.listdir("/proc/self/task")} - {threading.get_native_id()}
        found = []
        for thread in threading.enumerate():
            if thread.native_id in thread_ids:
                thread_ids.discard(thread.native_id)
                found.append(f"{thread.name} ({type(thread).__module__}.{type(thread).__qualname__})")
        # A joined thread stays in /proc for a moment.
        if not thread_ids or time.monotonic() >= deadline:
            break
        time.sleep(0.001)
    for number in sorted(thread_ids):
        try:
            with open(f"/proc/self/task/{number}/comm", encoding="utf-8", errors="backslashreplace") as file:
                found.append(f"native thread {file.read().strip()}")
        except OSError:
            continue  # it has just ended
    return found


def fork(cgroup_procs):
    """Forks twice, so that the new process becomes a child of the daemon, which is a subreaper.

    Returns (0, pid of the intermediate process) in the new process. Returns (pid of the new
    process, None) in the zygote, once the intermediate process has exited. `cgroup_procs` is a
    descriptor of the new process's cgroup, or None: the intermediate process joins it, so that no
    instruction of the new process runs outside.
    """
    # Buffered output would be written again by every worker.
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    reading, writing = os.pipe()
    try:
        intermediate = quiet_fork()
    except BaseException:
        os.close(reading)
        os.close(writing)
        raise
    if intermediate == 0:
        os.close(reading)
        parent = os.getpid()
        try:
            if cgroup_procs is not None:
                os.write(cgroup_procs, b"0")
            answer = quiet_fork()
        except BaseException as error:  # noqa: BLE001 (this process may only exit)
            answer = f"{type(error).__name__}: {error}"
        if answer == 0:
            os.close(writing)
            return 0, parent
        try:
            os.write(writing, str(answer).encode("utf-8", "backslashreplace")[:4096])
        finally:
            os._exit(0)
    os.close(writing)
    answer = None
    try:
        # With a timeout: a fork handler of the application may wait for a thread that was not
        # forked.
        poll = select.poll()
        poll.register(reading, select.POLLIN)
        if poll.poll(FORK_TIMEOUT * 1000):
            answer = os.read(reading, 4096).decode()
    finally:
        os.close(reading)
        # The process is missing if the application ignores SIGCHLD or has waited for all children.
        with contextlib.suppress(ChildProcessError, ProcessLookupError):
            if answer is None:
                os.kill(intermediate, signal.SIGKILL)
            os.waitpid(intermediate, 0)
    if answer is None:
        raise TimeoutError(
            f"the intermediate process did not fork the worker in {FORK_TIMEOUT} s: check the handlers of "
            "os.register_at_fork and pthread_atfork(3)"
        )
    if not answer.isdigit():
        raise OSError(answer or "the intermediate process died before it forked the worker")
    return int(answer), None


def quiet_fork():
    """Calls fork(2) with the handlers of pthread_atfork(3) and os.register_at_fork.

    Suppresses the Python 3.12 warning about threads: `freeze` has reported them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def reseed():
    """Reseeds NumPy's global generator in a new process. Returns None, or a warning.

    The module `random` reseeds itself since Python 3.7. Generators of the application are not
    reseeded.
    """
    numpy_random = sys.modules.get("numpy.random")
    try:
        if numpy_random is not None:
            numpy_random.seed()
    except Exception as error:  # noqa: BLE001 (the application may have replaced the generator)
        return (
            f"cannot reseed numpy.random, so all workers draw the same numbers: {error!r}; "
            "seed it in hooks.post_fork"
        )
    return None
