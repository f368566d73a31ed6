"""The daemon's side of the channel in plain Python, for what the real one does not let a test see or order.

It starts workers and zygotes by the bootstrap, sends commands, reads reports and stacks, and gives requests
whose answers fit into frames. The layout is that of `src/channel/layout.rs`, the frames those of `frame.rs`
and `control.rs`, written down once more: the golden bytes (tests/golden) keep all equal.
"""

import contextlib
import ctypes
import fcntl
import mmap
import os
import platform
import select
import signal
import socket
import struct
import time
from pathlib import Path

from http_client import DEADLINE

TOP = Path(__file__).resolve().parent.parent.parent
BOOTSTRAP = (TOP / "src/worker/bootstrap.py").read_text(encoding="utf-8")
PROTOCOL = 2
STACKS_SIGNAL = 50

SUBMISSION = COMPLETION = 256 * 1024
CHUNKS = 64
SUBMISSION_AT = 8192
COMPLETION_AT = SUBMISSION_AT + SUBMISSION
TOTAL = COMPLETION_AT + COMPLETION + 4096 + CHUNKS * 65536
SUBMISSION_HEAD, COMPLETION_HEAD, COMPLETION_TAIL, TOKENS = (4096 + 128 * n for n in (0, 2, 3, 5))
SLOTS_AT = 4096 + 128 * 9
SLOT_EXCHANGE, SLOT_THREAD = 0, 16
READY, PAD = 1, 4
DONE = 8
RAISED = 3
LITERAL = 255

F_ADD_SEALS = 1033
SEALS = 0x1 | 0x2 | 0x4  # SEAL, SHRINK, GROW
PR_SET_CHILD_SUBREAPER = 36
FUTEX_WAKE = 1
SYS_FUTEX = {"x86_64": 202, "aarch64": 98}[platform.machine()]
libc = ctypes.CDLL(None, use_errno=True)

HOOKS = ("post_fork", "post_worker_init", "worker_exit", "child_exit")


def shared(size):
    """A sealed memfd and its mapping."""
    descriptor = os.memfd_create("fake", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    mapping = mmap.mmap(descriptor, size)
    fcntl.fcntl(descriptor, F_ADD_SEALS, SEALS)
    return descriptor, mapping


def text(value):
    """A text of control messages."""
    value = str(value).encode()
    return struct.pack("<I", len(value)) + value


class Reader:
    """Takes a message apart."""

    def __init__(self, message):
        self.rest = message

    def take(self, layout):
        size = struct.calcsize(layout)
        values = struct.unpack(layout, self.rest[:size])
        self.rest = self.rest[size:]
        return values[0] if len(values) == 1 else values

    def skip(self, length):
        self.rest = self.rest[length:]

    def text(self):
        length = self.take("<I")
        value, self.rest = self.rest[:length], self.rest[length:]
        return value.decode()


def decode(message):
    """A report as a tuple: its name, and what it says."""
    reader = Reader(message[1:])
    kind = message[:1]
    if kind == b"R":
        return "refused", reader.rest.decode()
    if kind == b"b":
        return "booting", reader.text()
    if kind == b"r":
        return "ready", reader.take("<B")
    if kind == b"f":
        return "failed", reader.take("<B"), reader.text(), reader.text()
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
    raise AssertionError(f"what is {message!r}?")


class Daemon:
    """What workers take for one: it is their parent, or adopts them."""

    def __init__(self, python, extension, directory):
        self.python = str(python)
        self.extension = str(extension)
        self.log = directory / "log"
        self.page_descriptor, self.page = shared(4096)
        self.doorbell = eventfd()
        self.workers = []
        assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
        # As the real one leaves nothing to its workers by accident: what our own parent left us.
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if int(name) > 2:
                    os.set_inheritable(int(name), False)

    def spawn(
        self, target, chdir, *, zygote=False, threads=1, hooks=None, warm_up="", number=0, life=1, path=()
    ):
        """Starts a process from nothing."""
        worker = Worker(self, number, life)
        theirs = worker.open_channel()
        module, _, attribute = target.partition(":")
        start = b"S" + struct.pack("<6I", PROTOCOL, SUBMISSION, COMPLETION, CHUNKS, threads, 1)
        start += struct.pack("<HQBBBBBBII", number, life, zygote, 1, 0, 0, 0, 0, threads, 1000)
        start += text(module) + text(attribute or "application") + text(chdir) + text("")
        start += b"".join(text((hooks or {}).get(name, "")) for name in HOOKS) + text(warm_up)
        start += struct.pack("<I", len(path)) + b"".join(map(text, path))
        start += struct.pack("<I", 1) + text("127.0.0.1") + text("8000") + text("")
        environment = {**os.environ, "RGUN_BOOTSTRAP": BOOTSTRAP}
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
        worker.send(start, worker.map_descriptor, self.page_descriptor, self.doorbell, worker.stacks)
        return worker

    def fork(self, zygote, *, number=0, life=2, entrance=None):
        """Has a zygote make a worker."""
        worker = Worker(self, number, life)
        theirs = worker.open_channel()
        fds = [theirs.fileno(), worker.map_descriptor, worker.stacks]
        zygote.send(b"Z" + struct.pack("<HQ", number, life), *fds, *([] if entrance is None else [entrance]))
        theirs.close()
        name, told, *rest = zygote.next("forked", "fork failed")
        assert (name, told) == ("forked", life), rest
        worker.pid = rest[0]
        return worker

    def wait_for_bell(self, seconds):
        """Announces sleep, and sleeps until a worker rings; for as long as that at most."""
        (epoch,) = struct.unpack("<I", self.page[:4])
        self.page[:4] = struct.pack("<I", (epoch + 2) | 1)
        if any(worker.has_completion() for worker in self.workers if worker.map is not None):
            return
        if select.select([self.doorbell], [], [], seconds)[0]:
            os.read(self.doorbell, 8)

    def output(self):
        """What all processes have said on stdout and stderr."""
        return self.log.read_text(encoding="utf-8", errors="backslashreplace")

    def close(self):
        """Ends everything."""
        for worker in self.workers:
            worker.socket.close()
        for worker in self.workers:
            if worker.pid is not None and worker.status is None:
                worker.kill()


def eventfd():
    """os.eventfd came with 3.10."""
    descriptor = libc.eventfd(0, os.O_CLOEXEC | os.O_NONBLOCK)
    assert descriptor >= 0
    return descriptor


class Worker:
    """One process, seen by its daemon."""

    def __init__(self, daemon, number, life):
        self.daemon = daemon
        self.number = number
        self.life = life
        self.pid = None
        self.status = None
        self.map = None
        self.seen = []
        self.exchange = life * 1000
        self.answers = {}

    def open_channel(self):
        """Makes everything the two sides share; the worker's end of the control socket."""
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(DEADLINE)
        self.map_descriptor, self.map = shared(TOTAL)
        self.stacks = os.memfd_create("stacks", os.MFD_CLOEXEC)
        self.daemon.workers.append(self)
        return theirs

    # ------------------------------------------------ control

    def send(self, message, *descriptors):
        """A command."""
        socket.send_fds(self.socket, [message], descriptors)

    def stop(self):
        self.send(b"X")
        return self.wait()

    def next(self, *names):
        """The next report with one of these names; what comes before it is kept in `seen`."""
        while True:
            try:
                message = self.socket.recv(100_000)
            except ConnectionResetError:
                continue
            except socket.timeout:
                raise AssertionError(
                    f"no {names} in time; {self.seen}\n{self.stacks_text()}\n{self.daemon.output()}"
                ) from None
            assert message, f"ended before {names}: {self.seen}\n{self.daemon.output()}"
            report = decode(message)
            if report[0] in names:
                return report
            assert report[0] not in ("failed", "refused"), report
            self.seen.append(report)

    def ready(self):
        """Waits until it can serve, or fork."""
        self.next("ready")
        return self

    def warnings(self):
        """Those that came with what was waited for."""
        return [report[1] for report in self.seen if report[0] == "warning"]

    def ask_stacks(self, exchange=0):
        """By command; what has been written."""
        os.ftruncate(self.stacks, 0)
        self.send(b"K" + struct.pack("<Q", exchange))
        return self.stacks_text() if self.next("stacks")[1] else None

    def signal_stacks(self):
        """By signal."""
        os.ftruncate(self.stacks, 0)
        os.kill(self.pid, STACKS_SIGNAL)
        assert self.next("stacks")[1] is True
        return self.stacks_text()

    def stacks_text(self):
        return os.pread(self.stacks, 1 << 20, 0).decode()

    # ------------------------------------------------ the process

    def wait(self):
        """Its exit code, negative for a signal."""
        if self.status is None:
            pidfd = os.pidfd_open(self.pid)
            try:
                exited = select.select([pidfd], [], [], DEADLINE)[0]
            finally:
                os.close(pidfd)
            assert exited, f"{self.pid} does not exit: {self.seen}\n{self.daemon.output()}"
            _, status = os.waitpid(self.pid, 0)
            self.status = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
        return self.status

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        return self.wait()

    def proc(self, name):
        """A file of its /proc."""
        return Path(f"/proc/{self.pid}/{name}").read_text(encoding="utf-8")

    # ------------------------------------------------ requests

    def word(self, at, layout="<Q"):
        return struct.unpack_from(layout, self.map, at)[0]

    def slot(self, number, field):
        return self.word(SLOTS_AT + 256 * number + field)

    def submit(self, path):
        """Publishes GET `path`; the exchange's id."""
        self.exchange += 1
        path, _, query = path.partition("?")
        path, query, request_id = path.encode(), query.encode(), b"id-%d" % self.exchange
        head = struct.pack("<QQQBBBBHH6HHH", self.exchange, 0, 0, 1, 1, 11, 0, 0, 0, 0,
                           len(path), len(query), 0, len(request_id), 0, 0, 0)  # fmt: skip
        frame = head + path + query + request_id
        record = struct.pack("<II", len(frame), READY) + frame + bytes(-len(frame) % 8)
        head = self.word(SUBMISSION_HEAD)
        left = SUBMISSION - head % SUBMISSION
        if len(record) > left:
            struct.pack_into("<II", self.map, SUBMISSION_AT + head % SUBMISSION, left - 8, PAD)
            head += left
        at = SUBMISSION_AT + head % SUBMISSION
        self.map[at : at + len(record)] = record
        struct.pack_into("<Q", self.map, SUBMISSION_HEAD, head + len(record))
        self.wake()
        return self.exchange

    def wake(self):
        """Grants a token, which wakes one sleeper.

        Without compare-and-swap the count of sleepers is not ours to lower; so a token may be one too many,
        and wakes a thread in vain.
        """
        struct.pack_into("<I", self.map, TOKENS, self.word(TOKENS, "<I") + 1)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.map, TOKENS))
        libc.syscall(SYS_FUTEX, ctypes.c_void_p(address), FUTEX_WAKE, 1, None, None, 0)

    def has_completion(self):
        return self.word(COMPLETION_HEAD) != self.word(COMPLETION_TAIL)

    def collect(self):
        """Takes what has come."""
        while self.has_completion():
            tail = self.word(COMPLETION_TAIL)
            at = COMPLETION_AT + tail % COMPLETION
            length, state = struct.unpack_from("<II", self.map, at)
            frame = self.map[at + 8 : at + 8 + length]
            struct.pack_into("<Q", self.map, COMPLETION_TAIL, tail + 8 + length + -length % 8)
            if state != PAD:
                self.take(frame)

    def take(self, frame):
        """One completion."""
        exchange, kind, flags, status, n_fields, _, _, _ = struct.unpack_from("<QBBHHHQH", frame)
        rest = Reader(frame[32:])
        for _ in range(n_fields):
            if rest.take("<B") == LITERAL:
                rest.skip(rest.take("<H"))
            rest.skip(rest.take("<H"))
        answer = self.answers.setdefault(exchange, {"status": 0, "body": b"", "done": False})
        answer["status"] = answer["status"] or status
        if kind == RAISED:
            answer["raised"] = rest.text()
        else:
            answer["body"] += rest.rest
        answer["done"] = bool(flags & DONE)

    def answer(self, exchange):
        """Waits for all of it: status and body."""
        deadline = time.monotonic() + DEADLINE
        while not self.answers.get(exchange, {}).get("done"):
            assert time.monotonic() < deadline, f"no answer: {self.answers}\n{self.daemon.output()}"
            self.daemon.wait_for_bell(0.1)
            self.collect()
        answer = self.answers[exchange]
        assert "raised" not in answer, answer["raised"]
        return answer["status"], answer["body"]

    def get(self, path):
        """One request."""
        return self.answer(self.submit(path))
