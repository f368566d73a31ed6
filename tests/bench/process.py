"""Starts a server on its cores, measures all its processes through /proc, and stops it.

Used by the workloads. Unlike tests/support/daemon.py it starts any server. CPU time and memory are those of
all processes of the server's session and of their descendants, so a zygote, an arbiter or a daemon counts
like a worker. Command lines are in servers.py.
"""

import contextlib
import http.client
import os
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))
from support import http_client

TICK = os.sysconf("SC_CLK_TCK")
# Indices into the result of read_stat(): the numbers of proc(5) less three.
PARENT, SESSION, START, RSS = 1, 3, 19, 21
USER_AND_SYSTEM, CHILDREN_USER_AND_SYSTEM = slice(11, 13), slice(13, 15)
# The kind of clock, in the lowest bits of a clock id: the time for which a process was scheduled.
CPU_CLOCK = 2
PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024


class BenchError(Exception):
    """An error that makes a row of the table invalid. The row shows the text."""


def read_stat(pid):
    """Returns the fields of /proc/PID/stat after the name (proc(5)), or None if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            # The name may contain spaces and parentheses, so fields 3 and up follow the last one.
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def tree(leader):
    """Returns pid and stat fields of all processes in the session of `leader`, and of their descendants."""
    stats = {int(name): read_stat(name) for name in os.listdir("/proc") if name.isdigit()}
    stats = {pid: fields for pid, fields in stats.items() if fields}
    found = {pid for pid, fields in stats.items() if int(fields[SESSION]) == leader or pid == leader}
    grown = True
    while grown:
        more = {pid for pid, fields in stats.items() if int(fields[PARENT]) in found} - found
        found |= more
        grown = bool(more)
    return {pid: stats[pid] for pid in found}


def cpu_seconds(pid, fields=None):
    """Returns user and system time of a process and its reaped children; 0 without such a process.

    The process's own time is that of its CPU clock (clock_getcpuclockid(3)), because the times in /proc have
    steps of 10 ms, which is 1 % of a measurement of a second.
    """
    fields = fields or read_stat(pid)
    if not fields:
        return 0.0
    own, reaped = fields[USER_AND_SYSTEM], fields[CHILDREN_USER_AND_SYSTEM]
    try:
        seconds = time.clock_gettime(~pid << 3 | CPU_CLOCK)
    except OSError:
        seconds = sum(map(int, own)) / TICK
    return seconds + sum(map(int, reaped)) / TICK


def core_seconds():
    """Returns the busy time (user, nice, system, irq, softirq) and the stolen time of all cores (proc(5))."""
    with open("/proc/stat") as file:
        fields = list(map(int, file.readline().split()[1:]))
    return sum(fields[index] for index in (0, 1, 2, 5, 6)) / TICK, fields[7] / TICK


def https_get(port, path, timeout):
    """Sends a GET request over TLS without verifying the certificate; returns status and body."""
    context = ssl._create_unverified_context()
    context.set_alpn_protocols(["http/1.1"])
    with contextlib.closing(
        http.client.HTTPSConnection("127.0.0.1", port, timeout=timeout, context=context)
    ) as https:
        https.request("GET", path, headers={"Connection": "close"})
        response = https.getresponse()
        return response.status, response.read()


class Server:
    """One run of one server; a context manager that leaves no process behind."""

    def __init__(self, argv, directory, environment, port, cores, log, *, scheme="http"):
        """`log` is the file that gets all output."""
        self.argv = argv
        self.directory = directory
        self.environment = environment
        self.port = port
        self.cores = cores
        self.log = log
        self.scheme = scheme
        self.process = None
        self.started = 0.0
        self.known = {}
        self.stuck = False

    def __enter__(self):
        """Starts the server on its cores, without waiting until it is ready."""
        self.log.seek(0)
        self.log.truncate()
        self.started = time.perf_counter()
        self.process = subprocess.Popen(
            ["taskset", "-c", ",".join(map(str, self.cores)), *self.argv],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        return self

    def __exit__(self, *_):
        """Sends SIGTERM; after ten seconds kills the remaining processes and sets `stuck`."""
        self.known = {pid: fields[START] for pid, fields in tree(self.process.pid).items()}
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.stuck = True
        # By pid and start time, so that only processes of this server are killed.
        self.known.update((pid, fields[START]) for pid, fields in tree(self.process.pid).items())
        deadline = time.monotonic() + 5
        while any(self.is_ours(pid) for pid in self.known):
            if time.monotonic() > deadline:
                raise BenchError("processes of the server survive SIGKILL")
            for pid in filter(self.is_ours, self.known):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            # The processes are neither our children nor one process group, so there is no event to wait for.
            time.sleep(0.005)
        self.process.wait()

    def is_ours(self, pid):
        """Returns whether `pid` is still the same running process, and neither a zombie nor a reused pid."""
        fields = read_stat(pid)
        return bool(fields) and fields[0] not in "ZX" and fields[START] == self.known[pid]

    def tail(self):
        """Returns the last lines of the output, for an error message."""
        self.log.flush()
        with open(self.log.name, errors="replace") as file:
            return " | ".join(line.strip() for line in file.readlines()[-4:] if line.strip())[-300:]

    def request(self, method, path, body=b"", timeout=10):
        """Sends one request on a connection of its own; returns status and body.

        The client closes it: fastpysgi 0.6 serves nothing more after an ASGI response with Connection: close.
        """
        with http_client.Connection(("127.0.0.1", self.port), timeout) as connection:
            response = connection.request(method, path, body)
        if not response.complete:
            raise ConnectionError(f"{method} {path}: no complete response: {response}")
        return response.status, response.body

    def post(self, path, body):
        """Sends a POST request without TLS; returns status and body."""
        return self.request("POST", path, body)

    def get(self, path, timeout=10):
        """Sends a GET request; returns status and body."""
        if self.scheme == "https":
            return https_get(self.port, path, timeout)
        return self.request("GET", path, timeout=timeout)

    def wait_ready(self, path, timeout=30):
        """Polls until `path` answers 200; returns the milliseconds since the server was started."""
        deadline = self.started + timeout
        while time.perf_counter() < deadline:
            if self.process.poll() is not None:
                raise BenchError(f"exited with {self.process.returncode} while starting: {self.tail()}")
            try:
                status, _ = self.get(path)
                if status == 200:
                    return (time.perf_counter() - self.started) * 1000
            except (OSError, ValueError, http.client.HTTPException):
                pass
            time.sleep(0.001)
        raise BenchError(f"no 200 from {path} within {timeout} s: {self.tail()}")

    def cpu_seconds(self):
        """Returns user and system time of all processes, reaped children included."""
        return sum(cpu_seconds(pid, fields) for pid, fields in tree(self.process.pid).items())

    def pss_mib(self):
        """Returns the proportional set size of all processes, which counts shared memory once."""
        total = 0
        for pid in tree(self.process.pid):
            try:
                with open(f"/proc/{pid}/smaps_rollup") as file:
                    total += sum(int(line.split()[1]) for line in file if line.startswith("Pss:"))
            except (FileNotFoundError, ProcessLookupError):
                continue
        return total / 1024

    def settle(self, timeout=20):
        """Waits until the processes have been idle for a quarter of a second."""
        deadline = time.monotonic() + timeout
        before = self.cpu_seconds()
        while time.monotonic() < deadline:
            # There is no event for idleness.
            time.sleep(0.25)
            now = self.cpu_seconds()
            if now - before <= 1.5 / TICK:
                return
            before = now
        raise BenchError(f"the idle server still works after {timeout} s")

    def leader_rss_mib(self):
        """Returns the resident set size of the started process: rgun's daemon, gunicorn's arbiter."""
        fields = read_stat(self.process.pid)
        if not fields:
            raise BenchError(f"the server is gone: {self.tail()}")
        return int(fields[RSS]) * PAGE_KIB / 1024

    def count(self):
        """Returns the number of processes."""
        return len(tree(self.process.pid))


class Measurement:
    """A measured period: the CPU time of the server, and how busy the cores were with other processes.

    `foreign` is the share of one core used by neither the server nor this process and its children: a few per
    cent on a quiet machine. With much more, rates are unreliable; CPU time per request is still reliable.
    `stolen` is the share of one core that the hypervisor took away from this machine.
    """

    def __init__(self, server, child=None):
        """`child` is a client that keeps running, so its CPU time is not among that of reaped children."""
        self.server = server
        self.child = child
        self.server_seconds = 0.0
        self.child_busy = 0.0
        self.foreign = 0.0
        self.stolen = 0.0

    def now(self):
        """Returns the clock, busy and stolen time, and the CPU time of server, clients, and `child`."""
        child = self.child.cpu_seconds() if self.child else 0.0
        reaped = sum(os.times()[:4])
        return time.perf_counter(), *core_seconds(), self.server.cpu_seconds(), reaped + child, child

    def __enter__(self):
        """Starts counting."""
        self.before = self.now()
        return self

    def __exit__(self, *_):
        """Stops counting."""
        elapsed, total, stolen, server, client, child = (
            now - was for now, was in zip(self.now(), self.before)
        )
        self.server_seconds = server
        self.child_busy = child / elapsed
        self.foreign = max(0.0, total - server - client) / elapsed
        self.stolen = stolen / elapsed
