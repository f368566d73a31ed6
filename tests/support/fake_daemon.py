"""A daemon in plain Python, for tests that must observe or control steps that the real daemon does by itself.

It starts workers and zygotes by the bootstrap, sends commands, and reads reports and stacks (the messages of
`src/channel/control/mod.rs`). Requests and completions are in `fake_channel`.
"""

import contextlib
import dataclasses
import os
import select
import signal
import socket
import struct
from pathlib import Path

from .fake_channel import CHUNKS, COMPLETION, SUBMISSION, TOP, WORDS, Channel, Reader, eventfd, libc, shared
from .waiting import DEADLINE

BOOTSTRAP = (TOP / "src/worker/bootstrap.py").read_text(encoding="utf-8")
PROTOCOL = 10
STACKS_SIGNAL = 50
INTERFACES = {"auto": 0, "wsgi": 1, "asgi": 2}
LIFESPANS = {"auto": 0, "on": 1, "off": 2}
LOOPS = {"auto": 0, "asyncio": 1, "uvloop": 2}
HOOKS = ("post_fork", "post_worker_init", "worker_exit", "worker_abort", "child_exit")
# The hooks of apps/hooked.py.
ALL_HOOKS = {
    "post_fork": "hooked:post_fork",
    "post_worker_init": "hooked:Configuration.post_worker_init",
    "worker_exit": "hooked:worker_exit",
    "child_exit": "hooked:child_exit",
}
PR_SET_CHILD_SUBREAPER = 36


def text(value):
    """Encodes a text of a control message."""
    value = str(value).encode()
    return struct.pack("<I", len(value)) + value


def texts(values):
    """Encodes a list of texts."""
    return struct.pack("<I", len(values)) + b"".join(map(text, values))


def encode_child_exited(pid, number, incarnation):
    """Encodes the command ChildExited."""
    return b"C" + struct.pack("<IHQ", pid, number, incarnation)


def decode(message):
    """Decodes a report into a tuple: its name, then its fields."""
    reader = Reader(message[1:])
    kind = message[:1]
    if kind == b"R":
        return "refused", reader.rest.decode()
    if kind == b"b":
        return "booting", reader.text()
    if kind == b"r":
        return "ready", reader.take("<B")
    if kind == b"f":
        return "failed", reader.take("<B"), reader.text(), reader.text(), reader.text()
    if kind == b"i":
        return "file", reader.take("<Q")
    if kind == b"k":
        return "stacks", bool(reader.take("<B"))
    if kind == b"w":
        return "warning", reader.text()
    if kind == b"z":
        return "forked", *reader.take("<QI")
    if kind == b"e":
        return "fork failed", reader.take("<Q"), reader.text()
    if kind == b"p":
        return ("promoted",)
    if kind == b"m":
        return "sources", reader.texts()
    raise AssertionError(f"unknown report {message!r}")


@dataclasses.dataclass
class Start:
    """The command Start: what a worker or a zygote serves, and how."""

    target: str
    chdir: str
    zygote: bool = False
    threads: int = 1
    # Maps the name of a hook to its function.
    hooks: dict = dataclasses.field(default_factory=dict)
    warm_up: str = ""
    # Modules that a zygote imports instead of the application.
    preload: tuple = ()
    number: int = 0
    incarnation: int = 1
    path: tuple = ()
    interface: str = "auto"
    concurrency: int = 8
    lifespan: str = "auto"
    loop: str = "asyncio"
    pathsend: bool = True
    root_path: str = ""
    # Host, port, and the path of a unix socket.
    listener: tuple = ("127.0.0.1", "8000", "")
    log_config: str = ""
    report_sources: bool = False
    log_token: int = 0

    def encode(self, slots):
        """Returns the message; `slots` is the number of slots in the shared memory."""
        module, _, attribute = self.target.partition(":")
        ways = INTERFACES[self.interface], 0, LIFESPANS[self.lifespan], LOOPS[self.loop], self.pathsend
        limits = self.threads, self.concurrency
        return b"".join(
            [
                b"S" + struct.pack("<6I", PROTOCOL, SUBMISSION, COMPLETION, CHUNKS, slots, 1),
                struct.pack("<HQBB", self.number, self.incarnation, self.zygote, 1),
                struct.pack("<BBBBBBIIQ", self.report_sources, *ways, *limits, self.log_token),
                *map(text, (module, attribute or "application", self.chdir, self.root_path)),
                *(text(self.hooks.get(name, "")) for name in HOOKS),
                b"\x01" + texts(self.preload) if self.preload else b"\x00" + text(self.warm_up),
                text(self.log_config),
                texts(self.path),
                struct.pack("<I", 1),
                *map(text, self.listener),
            ]
        )


class FakeDaemon:
    """Plays the daemon for its workers: it is their parent, or the subreaper that adopts them."""

    n_open = 0

    def __init__(self, python, extension, directory):
        self.python = str(python)
        self.extension = str(extension)
        self.log = directory / "log"
        self.page_descriptor, self.page = shared(4096)
        self.doorbell = eventfd()
        self.workers = []
        FakeDaemon.n_open += 1
        self.is_open = True
        assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
        # Workers must not inherit other descriptors, such as pytest's; the real daemon prevents that, too.
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if int(name) > 2:
                    os.set_inheritable(int(name), False)

    def spawn(self, target, chdir, *, env=None, **settings):
        """Starts a worker or a zygote as a new process; `settings` are attributes of `Start`."""
        start = Start(target, chdir, **settings)
        worker = Worker(self, start.number, start.incarnation, slots=max(start.threads, start.concurrency))
        theirs = worker.open_channel()
        environment = {**os.environ, "RGUN_BOOTSTRAP": BOOTSTRAP, **(env or {})}
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        here = os.getcwd()
        os.chdir(chdir)
        try:
            worker.pid = os.posix_spawn(
                self.python,
                [
                    self.python,
                    "-c",
                    "import os; exec(os.environ.pop('RGUN_BOOTSTRAP'))",
                    self.extension,
                ],
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, log, 1),
                    (os.POSIX_SPAWN_DUP2, log, 2),
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), 3),
                ],
                setpgroup=0,
            )
        finally:
            os.chdir(here)
            os.close(log)
            theirs.close()
        shared_with_all = self.page_descriptor, self.doorbell
        worker.send(
            start.encode(worker.slots), worker.map_descriptor, *shared_with_all, worker.stacks, worker.eventfd
        )
        return worker

    def fork(self, zygote, *, number=0, incarnation=2, output=(), cgroup_procs=None):
        """Lets a zygote fork a worker.

        `output` has the worker's stdout and stderr, by default the zygote's. `cgroup_procs` is the
        descriptor to which the intermediate process writes to enter the worker's cgroup.
        """
        worker = Worker(self, number, incarnation, slots=zygote.slots)
        theirs = worker.open_channel()
        fds = [theirs.fileno(), worker.map_descriptor, worker.stacks, worker.eventfd, *output]
        zygote.send(
            b"Z" + struct.pack("<HQ", number, incarnation),
            *fds,
            *([] if cgroup_procs is None else [cgroup_procs]),
        )
        theirs.close()
        name, forked, *rest = zygote.next_report("forked", "fork failed")
        assert (name, forked) == ("forked", incarnation), rest
        worker.pid = rest[0]
        return worker

    def wait_for_completion(self, seconds):
        """Announces sleep and waits until a worker signals a completion, for `seconds` at most."""
        self.announce_sleep(for_workers=False)
        if any(worker.has_completion() for worker in self.workers if worker.map is not None):
            return
        if is_readable(self.doorbell, seconds):
            os.read(self.doorbell, 8)

    def announce_sleep(self, *, for_workers):
        """Announces a sleep: until a completion comes, or until a worker has no backlog any more."""
        epoch, _ = struct.unpack("<II", self.page[:8])
        WORDS["<I"].from_buffer(self.page, 4).value = int(for_workers)
        WORDS["<I"].from_buffer(self.page).value = (epoch + 2) | 1

    def is_rung(self, seconds=DEADLINE):
        """Returns whether a worker wakes the daemon within `seconds`."""
        if not is_readable(self.doorbell, seconds):
            return False
        os.read(self.doorbell, 8)
        return True

    def output(self):
        """Returns what all processes have written to stdout and stderr."""
        return self.log.read_text(encoding="utf-8", errors="backslashreplace")

    def close(self):
        """Ends all workers and closes all descriptors."""
        for worker in self.workers:
            worker.socket.close()
            for descriptor in worker.files.values():
                os.close(descriptor)
            worker.files = {}
        for worker in self.workers:
            if worker.pid is not None and worker.status is None:
                worker.kill()
        if self.is_open:
            # A thousand tests would otherwise run out of descriptors.
            owned = [self.page_descriptor, self.doorbell]
            for worker in self.workers:
                owned += [worker.map_descriptor, worker.stacks, worker.eventfd]
            for descriptor in owned:
                os.close(descriptor)
        FakeDaemon.n_open -= self.is_open
        self.is_open = False
        if FakeDaemon.n_open == 0:
            # Orphans of other tests must not be adopted.
            assert libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) == 0


def is_readable(descriptor, seconds):
    """Returns whether a descriptor becomes readable within `seconds`."""
    # select(2) accepts only descriptors below 1024.
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


class Worker(Channel):
    """One worker or zygote process, as its daemon sees it."""

    def __init__(self, daemon, number, incarnation, slots):
        super().__init__(daemon, incarnation, slots)
        self.number = number
        self.incarnation = incarnation
        self.pid = None
        self.status = None
        # Reports that were received while the test waited for another one.
        self.earlier_reports = []

    def open_channel(self):
        """Makes everything that both sides share; returns the worker's end of its socket."""
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(DEADLINE)
        self.open()
        self.stacks = os.memfd_create("stacks", os.MFD_CLOEXEC)
        self.daemon.workers.append(self)
        return theirs

    # ------------------------------------------------ control

    def send(self, message, *descriptors):
        """Sends a command."""
        socket.send_fds(self.socket, [message], descriptors)

    def stop(self):
        self.send(b"X")
        return self.wait()

    def next_report(self, *names):
        """Waits for a report with one of these names; earlier ones are kept in `earlier_reports`."""
        while True:
            try:
                message, fds, _, _ = socket.recv_fds(self.socket, 100_000, 4)
            except ConnectionResetError:
                continue
            except socket.timeout:
                raise AssertionError(
                    f"no {names} in time: {self.earlier_reports}\n{self.stacks_text()}"
                    f"\n{self.daemon.output()}"
                ) from None
            assert message, f"ended before {names}: {self.earlier_reports}\n{self.daemon.output()}"
            report = decode(message)
            if report[0] == "file":
                (self.files[report[1]],) = fds
            if report[0] in names:
                return report
            assert report[0] not in ("failed", "refused"), report
            self.earlier_reports.append(report)

    def wait_ready(self):
        """Waits until the worker can serve, or the zygote can fork."""
        self.next_report("ready")
        return self

    def warnings(self):
        """Returns the warnings received so far."""
        return [report[1] for report in self.earlier_reports if report[0] == "warning"]

    def ask_stacks(self, exchange=0):
        """Requests the stacks by command; returns their text, or None for an unknown exchange."""
        os.ftruncate(self.stacks, 0)
        self.send(b"K" + struct.pack("<Q", exchange))
        return self.stacks_text() if self.next_report("stacks")[1] else None

    def signal_stacks(self):
        """Requests the stacks by signal; returns their text."""
        os.ftruncate(self.stacks, 0)
        os.kill(self.pid, STACKS_SIGNAL)
        assert self.next_report("stacks")[1] is True
        return self.stacks_text()

    def stacks_text(self):
        return os.pread(self.stacks, 1 << 20, 0).decode()

    # ------------------------------------------------ the process

    def wait(self):
        """Waits for the exit and returns the exit status; negative for a signal."""
        if self.status is None:
            pidfd = os.pidfd_open(self.pid)
            try:
                exited = is_readable(pidfd, DEADLINE)
            finally:
                os.close(pidfd)
            assert exited, f"{self.pid} does not exit: {self.earlier_reports}\n{self.daemon.output()}"
            _, status = os.waitpid(self.pid, 0)
            self.status = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
        return self.status

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        return self.wait()

    def proc(self, name):
        """Reads a file below /proc/PID."""
        return Path(f"/proc/{self.pid}/{name}").read_text(encoding="utf-8")
