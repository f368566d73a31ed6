"""The memory that a daemon shares with a worker, in plain Python: requests in, completions out.

The layout is that of `src/channel/layout.rs` and the frames are those of `src/channel/frame`, implemented
a second time; the golden bytes (src/channel/tests/golden) keep both equal. Processes and worker sockets are
in `fake_daemon`.
"""

import ctypes
import dataclasses
import fcntl
import mmap
import os
import platform
import struct
import time
from pathlib import Path

from .waiting import DEADLINE

TOP = Path(__file__).resolve().parent.parent.parent

SUBMISSION = COMPLETION = 256 * 1024
CHUNKS = 64
SUBMISSION_HEAD, SUBMISSION_TAIL, COMPLETION_HEAD, COMPLETION_TAIL, TOKENS, WANTS_SPACE, FREE_HEAD = (
    4096 + 128 * n for n in (0, 1, 2, 3, 5, 6, 7)
)
SLOTS_AT = 4096 + 128 * 9
SLOT_EXCHANGE, SLOT_THREAD, SLOT_ACKED, SLOT_WANTS_CREDIT = 0, 16, 128, 136
# States of a record. The daemon's end adds TAKEN when it pops a completion.
READY, PAD, MARKED_DONE = 1, 4, 5
TAKEN = 2
END, BODY_FD, BODY_CHUNKS, DONE, TEXT, MORE = 1, 2, 4, 8, 16, 32
RESPOND, BODY, RAISED, WINDOW_UPDATE, HINTS, TRAILERS, CLOSE = 1, 2, 3, 4, 5, 6, 7
SPOOLED, HTTPS, STREAMS, WEBSOCKET = 1, 2, 4, 8
MESSAGE_COST = 64
UNKNOWN_LENGTH = TO_THE_END = 2**64 - 1
LITERAL = 255

F_ADD_SEALS = 1033
SEALS = 0x1 | 0x2 | 0x4  # SEAL, SHRINK, GROW
FUTEX_WAKE = 1
FUTEX_WAKE_OP = 5
# FUTEX_OP_OR of TAKEN; the comparison (with 0, equal) is never true, so that no waiter is woken.
OR_TAKEN = 2 << 28 | TAKEN << 12
SYS_FUTEX = {"x86_64": 202, "aarch64": 98}[platform.machine()]
libc = ctypes.CDLL(None, use_errno=True)
WORDS = {"<Q": ctypes.c_uint64, "<I": ctypes.c_uint32}


def shared(size):
    """Makes a sealed memfd; returns its descriptor and its mapping."""
    descriptor = os.memfd_create("fake", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    mapping = mmap.mmap(descriptor, size)
    fcntl.fcntl(descriptor, F_ADD_SEALS, SEALS)
    return descriptor, mapping


class Reader:
    """Decodes a message from its beginning."""

    def __init__(self, message):
        self.rest = message

    def take(self, layout):
        size = struct.calcsize(layout)
        values = struct.unpack(layout, self.rest[:size])
        self.rest = self.rest[size:]
        return values[0] if len(values) == 1 else values

    def bytes(self, length):
        value, self.rest = self.rest[:length], self.rest[length:]
        return value

    def text(self):
        return self.bytes(self.take("<I")).decode()

    def texts(self):
        """Returns the texts up to the end of the message."""
        texts = []
        while self.rest:
            texts.append(self.text())
        return texts


def eventfd():
    """Makes an eventfd; os.eventfd exists since Python 3.10."""
    descriptor = libc.eventfd(0, os.O_CLOEXEC | os.O_NONBLOCK)
    assert descriptor >= 0
    return descriptor


class Answer:
    """The completions of one exchange so far."""

    def __init__(self):
        self.status = 0
        # The reason phrase, if it is not the standard phrase of the status.
        self.reason = b""
        self.fields = []
        self.body = b""
        self.hints = []
        self.trailers = None
        # A WebSocket's complete messages, its incomplete message, and the code and reason of its close.
        self.messages = []
        self.message = b""
        self.closed = None
        # Summaries of exceptions, and the traceback of the last one.
        self.raised = []
        self.trace = ""
        # Offset and length of a file.
        self.file = None
        # Total number of bytes of the body or the messages that the daemon may send.
        self.credit = 0
        self.end = self.done = False
        # (kind, flags, status) of each completion.
        self.frames = []

    def __repr__(self):
        return repr({**vars(self), "body": self.body[:200]})


def known_names():
    """Reads the header names that are encoded as a number from the table in header.rs."""
    source = (TOP / "src/channel/header.rs").read_text(encoding="utf-8")
    table = source.partition("pub const NAMES")[2].partition("= [")[2].partition("];")[0]
    return [name.strip().strip('"').encode() for name in table.split(",") if name.strip()]


NAMES = known_names()


@dataclasses.dataclass
class Connection:
    """A request's connection, as the daemon describes it to a worker."""

    # 10 for HTTP/1.0, 11 for HTTP/1.1, 20 for HTTP/2.
    version: int = 11
    https: bool = False
    # The client's address and port.
    peer: tuple = ("", 0)
    websocket: bool = False
    root_path: str = ""
    # 0: the port of the listener.
    server_port: int = 0
    # The body travels as a descriptor, with a message of its own.
    spooled: bool = False

    def flags(self):
        """Returns the flags of a submission frame."""
        flags = (self.spooled, SPOOLED), (self.https, HTTPS), (self.websocket, WEBSOCKET)
        return sum(flag for is_set, flag in flags if is_set)


class Channel:
    """The daemon's end of one worker's channel."""

    def __init__(self, daemon, incarnation, slots):
        self.daemon = daemon
        self.slots = slots
        self.submission_at = SLOTS_AT + 256 * slots
        self.submission_at += -self.submission_at % 4096
        self.completion_at = self.submission_at + SUBMISSION
        self.free_at = self.completion_at + COMPLETION
        self.slab_at = self.free_at + 4096
        self.map = None
        self.eventfd = None
        self.exchange = incarnation * 1000
        self.responses = {}
        # The read position of the completion ring.
        self.read_to = 0
        self.files = {}
        self.n_freed = 0
        # Whether the test itself returns chunks and credit, by acknowledge().
        self.is_slow = False
        self.unacked = []

    def open(self):
        """Makes the shared memory and the worker's eventfd."""
        self.map_descriptor, self.map = shared(self.slab_at + CHUNKS * 65536)
        self.eventfd = eventfd()

    def word(self, at, layout="<Q"):
        return WORDS[layout].from_buffer(self.map, at).value

    def put(self, at, value, layout="<Q"):
        """Writes a word in one store; struct would write it byte by byte."""
        WORDS[layout].from_buffer(self.map, at).value = value

    def slot(self, number, field):
        return self.word(SLOTS_AT + 256 * number + field)

    def slot_of(self, exchange):
        """Returns the slot in which an exchange runs, or None."""
        slots = range(self.slots)
        return next((number for number in slots if self.slot(number, SLOT_EXCHANGE) == exchange), None)

    def wait_claimed(self):
        """Waits until the worker has claimed all records in the submission ring."""
        deadline = time.monotonic() + DEADLINE
        while self.word(SUBMISSION_TAIL) != self.word(SUBMISSION_HEAD):
            assert time.monotonic() < deadline, f"the worker claims nothing\n{self.daemon.output()}"
            time.sleep(0.001)  # the worker does not signal this
            self.collect()

    def submit(self, path, method="GET", headers=(), body=b"", *, length=None, **connection):
        """Submits a request and returns the exchange's id.

        With `length` the body follows in parts. `connection` has attributes of `Connection`.
        """
        self.exchange += 1
        connection = Connection(**connection)
        path, _, query = path.partition("?")
        known = {"GET": 1, "HEAD": 2, "POST": 3}.get(method, 0)
        literal = "" if known else method
        parts = [literal, path, query, connection.peer[0], f"id-{self.exchange}", connection.root_path]
        parts = [part.encode() for part in parts]
        body_length = len(body) if length is None else length
        flags = connection.flags() | (STREAMS if length is not None else 0)
        head = struct.pack("<QQQBBBBHH6HHH", self.exchange, body_length, 0, 1, known, connection.version,
                           flags, len(headers), 0, *map(len, parts), connection.peer[1],
                           connection.server_port)  # fmt: skip
        frame = head + b"".join(parts)
        for name, value in headers:
            frame += struct.pack("<BH", LITERAL, len(name)) + name + struct.pack("<H", len(value)) + value
        self.publish(frame + (body if length is None and not connection.spooled else b""))
        return self.exchange

    def part(self, exchange, part, end=False):
        """Sends a part of a request body."""
        self.publish(struct.pack("<Q16xBBH4x", exchange, 2, int(end), 0) + part)

    def message(self, exchange, content, more=False, text=None):
        """Sends a WebSocket message, or with `more` a part of one."""
        text = isinstance(content, str) if text is None else text
        content = content.encode() if isinstance(content, str) else content
        self.publish(struct.pack("<Q16xBBH4x", exchange, 2, text << 1 | more << 2, 0) + content)

    def disconnect(self, exchange, cancel=False, code=0, reason=b""):
        """Reports that the client has disconnected, or with `cancel` that the deadline has passed."""
        self.publish(struct.pack("<Q16xBBH4x", exchange, 3, int(cancel), code) + reason)

    def half_close(self, exchange):
        """Reports that the client has closed its sending side."""
        self.publish(struct.pack("<Q16xBBH4x", exchange, 3, 2, 0))

    def publish(self, frame):
        """Writes a record into the submission ring and wakes the worker."""
        record = struct.pack("<II", len(frame), READY) + frame + bytes(-len(frame) % 8)
        head = self.word(SUBMISSION_HEAD)
        left = SUBMISSION - head % SUBMISSION
        padding = left if len(record) > left else 0
        if head + padding + len(record) - self.word(SUBMISSION_TAIL) > SUBMISSION:
            self.wait_claimed()
        if padding:
            struct.pack_into("<II", self.map, self.submission_at + head % SUBMISSION, left - 8, PAD)
            head += left
        at = self.submission_at + head % SUBMISSION
        self.map[at : at + len(record)] = record
        self.put(SUBMISSION_HEAD, head + len(record))
        self.wake()

    def wake(self):
        """Adds a token, which wakes one sleeping thread, and writes to the eventfd, which wakes a loop.

        Python has no compare-and-swap to decrement the count of sleepers, so there may be one token too many,
        which wakes a thread in vain.
        """
        self.put(TOKENS, self.word(TOKENS, "<I") + 1, "<I")
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.map, TOKENS))
        libc.syscall(SYS_FUTEX, ctypes.c_void_p(address), FUTEX_WAKE, 1, None, None, 0)
        self.ring()

    def ring(self):
        """Writes to the worker's eventfd."""
        os.write(self.eventfd, struct.pack("<Q", 1))

    def satisfy(self, at):
        """Clears a want flag and writes to the worker's eventfd if it was set."""
        flag = self.word(at, "<I")
        if flag & 1:
            self.put(at, flag + 1, "<I")
            self.ring()

    def has_completion(self):
        return self.word(COMPLETION_HEAD) != self.read_to

    def collect(self):
        """Reads all completions."""
        while self.has_completion():
            tail = self.read_to
            at = self.completion_at + tail % COMPLETION
            state = self.take_record(at + 4)
            length = struct.unpack_from("<I", self.map, at)[0]
            frame = self.map[at + 8 : at + 8 + length]
            self.read_to = tail + 8 + length + -length % 8
            if state != PAD:
                self.take(frame)
            if state == MARKED_DONE:
                # The tests see a DONE that the worker has added to a record as a frame of its own.
                exchange = struct.unpack_from("<Q", frame)[0]
                answer = self.responses[exchange]
                answer.frames.append((BODY, END | DONE, 0))
                answer.done = True
        self.put(COMPLETION_TAIL, self.read_to)
        self.satisfy(WANTS_SPACE)

    def take_record(self, at):
        """Marks a record as taken, after which the worker adds no DONE to it; returns its previous state.

        Python has no atomic operations, and the worker may add DONE at this moment. FUTEX_WAKE_OP of
        futex(2) changes its second word atomically.
        """
        word = ctypes.addressof(ctypes.c_char.from_buffer(self.map, at))
        unused = ctypes.c_uint32()
        woken = libc.syscall(
            SYS_FUTEX, ctypes.byref(unused), FUTEX_WAKE_OP, 0, None, ctypes.c_void_p(word), OR_TAKEN
        )
        assert woken == 0, os.strerror(ctypes.get_errno())
        return self.word(at, "<I") & ~TAKEN

    def take(self, frame):
        """Decodes one completion and adds it to its answer."""
        exchange, kind, flags, status, n_fields, n_chunks, _, slot, reason = struct.unpack_from(
            "<QBBHHHQHH", frame
        )
        rest = Reader(frame[32:])
        reason = rest.bytes(reason)
        fields = [self.field(rest) for _ in range(n_fields)]
        answer = self.responses.setdefault(exchange, Answer())
        answer.frames.append((kind, flags & ~(BODY_CHUNKS | BODY_FD), status))
        answer.end |= bool(flags & END)
        answer.done |= bool(flags & DONE)
        if kind == RESPOND:
            assert answer.status == 0, "two heads"
            answer.status, answer.reason, answer.fields = status, reason, fields
        elif kind == HINTS:
            answer.hints.append(fields)
        elif kind == TRAILERS:
            answer.trailers = fields
        if kind == RAISED:
            answer.raised.append(rest.text())
            answer.trace = rest.text()
        elif kind == WINDOW_UPDATE:
            answer.credit = rest.take("<Q")
        elif kind == CLOSE:
            assert answer.closed is None, "closed twice"
            answer.closed = status, rest.rest.decode()
        elif flags & BODY_FD:
            answer.file = rest.take("<QQ")
        else:
            chunks = [rest.take("<II") for _ in range(n_chunks)]
            part = b""
            for number, length in chunks:
                at = self.slab_at + number * 65536
                part += self.map[at : at + length]
            part += rest.rest
            used = len(part)
            if answer.status == 101 and kind == BODY and not flags & END:
                used += MESSAGE_COST
                answer.message += part
                if not flags & MORE:
                    whole, answer.message = answer.message, b""
                    answer.messages.append(whole.decode() if flags & TEXT else whole)
            else:
                answer.body += part
            self.unacked.append((slot, used, [number for number, _ in chunks]))
            if not self.is_slow:
                self.acknowledge()

    def field(self, rest):
        """Decodes a header: name and value."""
        name = rest.take("<B")
        name = rest.bytes(rest.take("<H")) if name == LITERAL else NAMES[name]
        return name, rest.bytes(rest.take("<H"))

    def acknowledge(self):
        """Returns credit and chunks to the worker, as if the client had received everything."""
        for slot, n_bytes, chunks in self.unacked:
            acked = SLOTS_AT + 256 * slot + SLOT_ACKED
            self.put(acked, self.word(acked) + n_bytes)
            for number in chunks:
                self.put(self.free_at + self.n_freed % CHUNKS * 4, number, "<I")
                self.n_freed += 1
            self.put(FREE_HEAD, self.n_freed)
            self.satisfy(SLOTS_AT + 256 * slot + SLOT_WANTS_CREDIT)
        self.satisfy(WANTS_SPACE)
        self.unacked = []

    def wait_for_response(self, exchange, condition, what):
        """Waits until `condition(answer)` holds for an exchange and returns its answer."""
        deadline = time.monotonic() + DEADLINE
        while True:
            self.collect()
            answer = self.responses.get(exchange)
            if answer is not None and condition(answer):
                return answer
            assert time.monotonic() < deadline, f"not in time: {what}: {answer}\n{self.daemon.output()}"
            self.daemon.wait_for_completion(0.1)

    def wait_done(self, exchange):
        """Waits until an exchange has ended and returns its answer."""
        return self.wait_for_response(exchange, lambda answer: answer.done, "done")

    def result(self, exchange):
        """Waits until an exchange has ended without an exception; returns status and body."""
        answer = self.wait_done(exchange)
        assert not answer.raised, answer.raised
        return answer.status, answer.body

    def fetch(self, *request, **more):
        """Submits a request and waits until its exchange has ended; returns the answer."""
        return self.wait_done(self.submit(*request, **more))

    def get(self, path):
        """Submits a GET request; returns status and body."""
        return self.result(self.submit(path))
