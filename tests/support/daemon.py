"""A real rgun in the foreground, started as a user would start it, and its log."""

import os
import re
import signal
import subprocess
import sys
import threading

from .http_client import Connection
from .paths import daemon_binary
from .waiting import DEADLINE


class Daemon:
    """A running daemon, its log, and clients for it."""

    def __init__(self, target, *flags, chdir, bind, python=sys.executable, env=None, program=None):
        """Starts `program` (a list of words), by default the rgun under test.

        `bind` is `unix:PATH`, or `127.0.0.1:0` for a port that the kernel chooses. Without a `bind` or a
        `python`, rgun chooses its address or interpreter.
        """
        self.lines = []
        self.log_grew = threading.Condition()
        self.is_https = "--certfile" in flags
        self.unix_path = bind[len("unix:") :] if bind and bind.startswith("unix:") else None
        where = [
            "--chdir",
            chdir,
            *(["--bind", bind] if bind else []),
            *(["--python", python] if python else []),
        ]
        self.process = subprocess.Popen(
            [str(word) for word in (*(program or [daemon_binary()]), target, *where, *flags)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
            env={**environment(env), "PYTHONDONTWRITEBYTECODE": "1"},
        )
        self.reader = threading.Thread(target=self.read_log, daemon=True)
        self.reader.start()

    # ------------------------------------------------ log

    def read_log(self):
        """Appends the log's lines to `lines`, then None at its end; runs on its own thread."""
        for line in self.process.stdout:
            with self.log_grew:
                self.lines.append(line.rstrip("\n"))
                self.log_grew.notify_all()
        with self.log_grew:
            self.lines.append(None)
            self.log_grew.notify_all()

    def log(self):
        """Returns the log so far."""
        with self.log_grew:
            return "\n".join(line for line in self.lines if line is not None)

    def wait_for_log(self, text, count=1):
        """Waits until `count` lines of the log contain `text`; returns the first of them."""
        with self.log_grew:
            found = []

            def find():
                found[:] = [line for line in self.lines if line is not None and text in line]
                return len(found) >= count or (self.lines and self.lines[-1] is None)

            self.log_grew.wait_for(find, timeout=DEADLINE)
        assert len(found) >= count, f"{len(found)} lines with {text!r}, not {count}, in\n{self.log()}"
        return found[0]

    def wait_ready(self):
        """Waits until a worker is ready."""
        self.wait_for_log("is ready")
        return self

    # ------------------------------------------------ clients

    @property
    def tcp_address(self):
        """Host and port of the TCP listener."""
        line = self.wait_for_log("listening on 127.0.0.1:")
        return "127.0.0.1", int(re.search(r"127\.0\.0\.1:(\d+)", line)[1])

    @property
    def url(self):
        """The base of HTTP URLs."""
        return "{}://{}:{}".format("https" if self.is_https else "http", *self.tcp_address)

    @property
    def ws(self):
        """The base of WebSocket URLs."""
        return self.url.replace("http", "ws", 1)

    def connect(self):
        """Returns a new client connection."""
        return Connection(self.unix_path or self.tcp_address)

    def request(self, method, target, **more):
        """Sends one request on a connection of its own and returns the response."""
        with self.connect() as connection:
            return connection.request(method, target, **more)

    def get(self, target, **more):
        """Sends a GET request on a connection of its own and returns the response."""
        return self.request("GET", target, **more)

    # ------------------------------------------------ the process

    def reload(self):
        """Sends SIGHUP."""
        self.process.send_signal(signal.SIGHUP)

    def terminate(self):
        """Sends SIGTERM and does not wait."""
        if self.process.poll() is None:
            self.process.terminate()

    def stop(self):
        """Sends SIGTERM and returns the exit status; fails if the daemon does not exit."""
        self.terminate()
        try:
            return self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"rgun did not stop:\n{self.log()}") from None
        finally:
            self.reader.join(DEADLINE)
            self.process.stdout.close()


def stop_all(daemons):
    """Stops daemons, all of them at the same time."""
    for daemon in daemons:
        daemon.terminate()
    for daemon in daemons:
        daemon.stop()


def environment(more=None):
    """Returns this process's variables and `more`, for a daemon; RGUN_* of this process are for the tests.

    Services do not have PYTHONUNBUFFERED, which containers and CI often set.
    """
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("RGUN_") and name != "PYTHONUNBUFFERED"
    }
    return {**own, "NO_COLOR": "1", **(more or {})}


def run_check(python, directory, target, *flags, env=None):
    """Runs `rgun check` on an application; returns its exit status and its output."""
    as_root = ["--user", "root"] if os.geteuid() == 0 else []
    where = ("--chdir", directory, "--python", python)
    command = [daemon_binary(), "check", *as_root, target, *where, *flags]
    done = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
        env=environment(env),
    )
    return done.returncode, done.stdout
