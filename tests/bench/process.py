"""A server under measurement: its tree of processes, pinned to one core, watched through /proc, stopped.

Used by the workloads. CPU and memory are those of all processes of the session that the server was started
in and of all their descendants, so a zygote, an arbiter or a daemon counts as much as a worker. It knows no
server's flags: servers.py does.
"""

import contextlib
import http.client
import os
import signal
import subprocess
import time

TICK = os.sysconf("SC_CLK_TCK")
# Indices into what read_stat() gives: proc(5)'s numbers less three.
PARENT, SESSION, START, RSS = 1, 3, 19, 21
USER_TO_CHILDREN_SYSTEM = slice(11, 15)
PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024


class BenchError(Exception):
    """Something that makes a row of the table invalid; its text is shown there."""


def read_stat(pid):
    """The fields of /proc/PID/stat after the command name (proc(5)), or None if the process is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            # The name may contain spaces and parentheses: what follows the last one is fields 3 and up.
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def tree(leader):
    """Pids to stat fields of everything in the session of `leader` and everything descended from it."""
    stats = {int(name): read_stat(name) for name in os.listdir("/proc") if name.isdigit()}
    stats = {pid: fields for pid, fields in stats.items() if fields}
    found = {pid for pid, fields in stats.items() if int(fields[SESSION]) == leader or pid == leader}
    grown = True
    while grown:
        more = {pid for pid, fields in stats.items() if int(fields[PARENT]) in found} - found
        found |= more
        grown = bool(more)
    return {pid: stats[pid] for pid in found}


def cpu_seconds(pid):
    """User and system time of one process so far, that of its reaped children included; 0 if it is gone."""
    fields = read_stat(pid)
    return sum(map(int, fields[USER_TO_CHILDREN_SYSTEM])) / TICK if fields else 0.0


def busy_seconds():
    """What all cores have worked so far, for anyone: user, nice, system, irq, softirq (proc(5))."""
    with open("/proc/stat") as file:
        fields = list(map(int, file.readline().split()[1:]))
    return sum(fields[index] for index in (0, 1, 2, 5, 6)) / TICK


class Server:
    """One start of one server; a context manager that leaves no process behind."""

    def __init__(self, argv, directory, environment, port, core, log):
        """Remembers what to start; `log` is the file that gets all of its output."""
        self.argv = argv
        self.directory = directory
        self.environment = environment
        self.port = port
        self.core = core
        self.log = log
        self.process = None
        self.started = 0.0
        self.known = {}
        self.stuck = False

    def __enter__(self):
        """Starts it, pinned; not yet ready."""
        self.log.seek(0)
        self.log.truncate()
        self.started = time.perf_counter()
        self.process = subprocess.Popen(
            ["taskset", "-c", str(self.core), *self.argv],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        return self

    def __exit__(self, *_):
        """SIGTERM as an operator would; whatever is left after ten seconds is killed and `stuck` set."""
        self.known = {pid: fields[START] for pid, fields in tree(self.process.pid).items()}
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.stuck = True
        # By pid and start time, never by name: only what this very server started.
        self.known.update((pid, fields[START]) for pid, fields in tree(self.process.pid).items())
        deadline = time.monotonic() + 5
        while any(self.is_ours(pid) for pid in self.known):
            if time.monotonic() > deadline:
                raise BenchError("processes of the server survive SIGKILL")
            for pid in filter(self.is_ours, self.known):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            # Neither children of ours nor all of one process group: there is no event to wait for.
            time.sleep(0.005)
        self.process.wait()

    def is_ours(self, pid):
        """Whether `pid` still runs as the process it was: no zombie, and no other that got its number."""
        fields = read_stat(pid)
        return bool(fields) and fields[0] not in "ZX" and fields[START] == self.known[pid]

    def tail(self):
        """The last lines of its output, for an error message."""
        self.log.flush()
        with open(self.log.name, errors="replace") as file:
            return " | ".join(line.strip() for line in file.readlines()[-4:] if line.strip())[-300:]

    def get(self, path, timeout=10):
        """Status and body of one GET."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def wait_ready(self, path, timeout=30):
        """Polls until `path` answers 200; returns the milliseconds since it was started."""
        deadline = self.started + timeout
        while time.perf_counter() < deadline:
            if self.process.poll() is not None:
                raise BenchError(f"exited with {self.process.returncode} while starting: {self.tail()}")
            try:
                status, _ = self.get(path)
                if status == 200:
                    return (time.perf_counter() - self.started) * 1000
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.001)
        raise BenchError(f"no 200 from {path} within {timeout} s: {self.tail()}")

    def cpu_seconds(self):
        """User and system time of the tree so far, that of reaped children included."""
        return (
            sum(sum(map(int, fields[USER_TO_CHILDREN_SYSTEM])) for fields in tree(self.process.pid).values())
            / TICK
        )

    def pss_mib(self):
        """Proportional set size of the tree: memory shared between its processes counts once."""
        total = 0
        for pid in tree(self.process.pid):
            try:
                with open(f"/proc/{pid}/smaps_rollup") as file:
                    total += sum(int(line.split()[1]) for line in file if line.startswith("Pss:"))
            except (FileNotFoundError, ProcessLookupError):
                continue
        return total / 1024

    def settle(self, patience=20):
        """Returns when the tree has done next to nothing for a quarter of a second."""
        deadline = time.monotonic() + patience
        before = self.cpu_seconds()
        while time.monotonic() < deadline:
            # What it does is inside of it: between two looks there is no event to wait for.
            time.sleep(0.25)
            now = self.cpu_seconds()
            if now - before <= 1.5 / TICK:
                return
            before = now
        raise BenchError(f"the idle server still works after {patience} s")

    def leader_rss_mib(self):
        """Resident set size of the process that was started: rgun's daemon, gunicorn's arbiter."""
        fields = read_stat(self.process.pid)
        if not fields:
            raise BenchError(f"the server is gone: {self.tail()}")
        return int(fields[RSS]) * PAGE_KIB / 1024

    def count(self):
        """How many processes the tree has."""
        return len(tree(self.process.pid))


class Quiet:
    """A measured stretch of time: what the server used in it, and how much anybody else took from the cores.

    `foreign` is the share of one core that neither the server nor this process and its children used; on a
    quiet machine it is a few per cent. With much more, rates are worth little, CPU per request still is.
    """

    def __init__(self, server, child=None):
        """Around a load on `server`; `child` is a client that runs on, so that nobody has reaped it yet."""
        self.server = server
        self.child = child
        self.server_seconds = 0.0
        self.child_busy = 0.0
        self.foreign = 0.0

    def now(self):
        """The clock, and the CPU of everybody, of the server, of the clients, and of the child among them."""
        child = self.child.cpu_seconds() if self.child else 0.0
        reaped = sum(os.times()[:4])
        return time.perf_counter(), busy_seconds(), self.server.cpu_seconds(), reaped + child, child

    def __enter__(self):
        """Starts counting."""
        self.before = self.now()
        return self

    def __exit__(self, *_):
        """Stops counting."""
        elapsed, everybody, server, client, child = (now - was for now, was in zip(self.now(), self.before))
        self.server_seconds = server
        self.child_busy = child / elapsed
        self.foreign = max(0.0, everybody - server - client) / elapsed
