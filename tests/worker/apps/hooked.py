"""Server hooks as in a gunicorn.conf.py; each records its arguments."""

import json
import os
import subprocess
import sys
import threading


def record_call(name, worker, server=None):
    """Appends a line of JSON to the file that EVENTS names."""
    record = {
        "hook": name,
        # The process that runs the hook.
        "in": os.getpid(),
        "pid": worker.pid,
        "age": worker.age,
        "number": worker.number,
        "ppid": worker.ppid,
        "same": getattr(worker, "kept", None),
        "app": "watched" in sys.modules,
        "main": threading.current_thread() is threading.main_thread(),
        "blocked": blocked_signals(),
    }
    if server is not None:
        record["server"] = server.pid
        record["threads"] = server.cfg.threads
    with open(os.environ["EVENTS"], "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def blocked_signals():
    """Returns the blocked signals that a subprocess inherits."""
    return subprocess.run(
        ["grep", "SigBlk", "/proc/self/status"], capture_output=True, text=True, check=True
    ).stdout.split()[1]


def post_fork(server, worker):
    """Called before the import."""
    worker.kept = "kept"
    server.log.info("hello from post_fork of %s", worker.pid)
    record_call("post_fork", worker, server)


class Configuration:
    """The target of a hook may be a dotted name."""

    @staticmethod
    def post_worker_init(worker):
        """Called after the import."""
        worker.log.warning("%r can serve", worker)
        record_call("post_worker_init", worker)


def worker_exit(server, worker):
    """Called at the worker's exit."""
    record_call("worker_exit", worker, server)


def child_exit(server, worker):
    """Called for the exit of another worker."""
    record_call("child_exit", worker, server)


def exits(*_):
    """Exits."""
    sys.exit("no licence")


def raises(*_):
    """Raises."""
    raise LookupError("no such hook point")


number = 5
