"""Runs the command of a deployment until it has answered a request, or refused to start."""

import os
import pathlib
import re
import signal
import ssl
import subprocess
import threading

from support.http_client import Connection
from support.processes import children
from support.waiting import DEADLINE, wait_until

# The fields that a proxy on this machine would send.
HEADERS = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
# Times, process ids and versions, which differ between runs or machines, and their replacements.
VARIABLE = [
    (re.compile(r"^\d{4}-\d\d-\d\dT[\d:.]+Z +", re.M), ""),
    (re.compile(r"( rgun\.\w+=(\"[^\"]*\"|\S*))+$", re.M), ""),
    (re.compile(r"\b(after|in) [\d.]+ ?(ms|µs|us|s)\b"), r"\1 TIME"),
    (re.compile(r"\b[\d.]+ ?(ms|µs)(?=\s|$)", re.M), "TIME"),
    (re.compile(r"\[\d\d/[A-Z][a-z]{2}/\d{4}:[\d:]{8} [+-]\d{4}\]"), "[TIME]"),
    (re.compile(r"^\[\d+\] ", re.M), "[PID] "),
    (re.compile(r"(?<=CPython )3[\d.]+|(?<=/python)3\.\d+"), "3.X"),
]
# Logged when the first worker is ready.
INTERFACE = re.compile(r"^INFO \S+ is (WSGI|ASGI): ")
# Lines that are left out. The order of the first two kinds depends on which worker is ready first;
# whether the third is printed depends on the machine's cgroups.
LEFT_OUT = re.compile(r"^INFO (worker \d+ is ready|stopp)|no memory controller")


class Run:
    """A started command, whose output is read until it ends."""

    def __init__(self, process, address, is_https=False):
        self.process = process
        self.address = address
        self.is_https = is_https
        self.lines = []
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        """Appends the output's lines to `lines`, then None at its end; runs on its own thread."""
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
        self.lines.append(None)

    def has_ended(self):
        return bool(self.lines) and self.lines[-1] is None

    def response(self):
        """Returns the response to a request, or None if the daemon refuses to start."""
        wait_until("the daemon listens or ends", lambda: self.has_ended() or self.is_listening())
        try:
            return None if self.has_ended() else self.get()
        except OSError:
            # The listening socket was passed to a daemon that refuses to start.
            wait_until("the daemon ends", self.has_ended)
            return None

    def is_listening(self):
        try:
            Connection(self.address).close()
        except OSError:
            return False
        return True

    def get(self):
        """Sends a request as a proxy does; returns the status and the facts of the stand-in."""
        with Connection(self.address) as connection:
            if self.is_https:
                context = ssl._create_unverified_context()
                connection.socket = context.wrap_socket(connection.socket)
            response = connection.request("GET", "/shop?page=2", headers=HEADERS)
        return response.status, response.json()

    def stop(self):
        """Stops the daemon, which the command may run as a child; returns the exit status."""
        try:
            if not self.has_ended():
                os.kill(daemon_of(self.process.pid), signal.SIGTERM)
            status = self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self.reader.join(DEADLINE)
        self.process.stdout.close()
        return status

    def output(self):
        """Returns the output so far."""
        return "\n".join(line for line in self.lines if line is not None)

    def result(self):
        """Runs to the end; returns the normalized log, the response and the exit status."""
        try:
            response = self.response()
        finally:
            status = self.stop()
        log = self.output()
        for pattern, word in VARIABLE:
            log = pattern.sub(word, log)
        # Drops repeated lines, because the number of workers that print one differs between runs.
        lines = dict.fromkeys(line for line in log.split("\n") if not LEFT_OUT.search(line))
        return "\n".join(in_fixed_order(list(lines))), response, status


def in_fixed_order(lines):
    """Moves the daemon's line about the interface before the output of workers, which may overtake it."""
    output = [number for number, line in enumerate(lines) if line.startswith("[PID] ")]
    about = [number for number, line in enumerate(lines) if INTERFACE.search(line)]
    if output and about and output[0] < about[0]:
        lines.insert(output[0], lines.pop(about[0]))
    return lines


def daemon_of(pid):
    """Returns the process id of rgun: `pid` or its first descendant of that name."""
    found = [pid]
    for process in found:
        if pathlib.Path(f"/proc/{process}/comm").read_text().strip() == "rgun":
            return process
        found += children(process)
    raise AssertionError(f"no descendant of {pid} is rgun")
