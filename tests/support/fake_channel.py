"""The memory that a daemon shares with a worker, in plain Python: requests in, completions out.

The layout is that of `src/channel/layout.rs`, the frames those of `frame.rs`, written down once more: the
golden bytes (tests/golden) keep all equal. Processes and their control sockets are in `fake_daemon`.
"""

import ctypes
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
READY, PAD, AMENDED = 1, 4, 5
END, BODY_FD, BODY_CHUNKS, DONE, TEXT, MORE = 1, 2, 4, 8, 16, 32
RESPOND, BODY, RAISED, TAKE, HINTS, TRAILERS, CLOSE = 1, 2, 3, 4, 5, 6, 7
HTTPS, STREAMS, WEBSOCKET = 2, 4, 8
MESSAGE_COST = 64
UNKNOWN_LENGTH = TO_THE_END = 2**64 - 1
LITERAL = 255

F_ADD_SEALS = 1033
SEALS = 0x1 | 0x2 | 0x4  # SEAL, SHRINK, GROW
FUTEX_WAKE = 1
SYS_FUTEX = {"x86_64": 202, "aarch64": 98}[platform.machine()]
libc = ctypes.CDLL(None, use_errno=True)
WORDS = {"<Q": ctypes.c_uint64, "<I": ctypes.c_uint32}


def shared(size):
    """A sealed memfd and its mapping."""
    descriptor = os.memfd_create("fake", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    mapping = mmap.mmap(descriptor, size)
    fcntl.fcntl(descriptor, F_ADD_SEALS, SEALS)
    return descriptor, mapping


class Reader:
    """Takes a message apart."""

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


def eventfd():
    """os.eventfd came with 3.10."""
    descriptor = libc.eventfd(0, os.O_CLOEXEC | os.O_NONBLOCK)
    assert descriptor >= 0
    return descriptor


class Answer:
    """What a worker has said to one exchange."""

    def __init__(self):
        self.status = 0
        # Only one that is not the status code's own.
        self.reason = b""
        self.fields = []
        self.body = b""
        self.hints = []
        self.trailers = None
        # A WebSocket's: whole ones, the one that is coming, and code and reason of its end.
        self.messages = []
        self.message = b""
        self.closed = None
        self.raised = []
        self.trace = ""
        self.file = None
        self.taken = 0
        self.end = self.done = False
        # Kind, flags and status of each completion.
        self.frames = []

    def __repr__(self):
        return repr({**vars(self), "body": self.body[:200]})


def known_names():
    """The names that travel as a number, from the table itself."""
    source = (TOP / "src/channel/header.rs").read_text(encoding="utf-8")
    table = source.partition("pub const NAMES")[2].partition("= [")[2].partition("];")[0]
    return [name.strip().strip('"').encode() for name in table.split(",") if name.strip()]


NAMES = known_names()


class Channel:
    """One worker's, seen by its daemon."""

    def __init__(self, daemon, life, slots):
        self.daemon = daemon
        self.slots = slots
        self.submission_at = SLOTS_AT + 256 * slots
        self.submission_at += -self.submission_at % 4096
        self.completion_at = self.submission_at + SUBMISSION
        self.free_at = self.completion_at + COMPLETION
        self.slab_at = self.free_at + 4096
        self.map = None
        self.bell = None
        self.exchange = life * 1000
        self.responses = {}
        # How far the completion ring is read, and where records lie with which answers have ended.
        self.read_to = 0
        self.ended = {}
        self.files = {}
        self.n_freed = 0
        # Chunks and credit are given back when the frame is taken; else the test does it.
        self.is_slow = False
        self.unacked = []

    def open(self):
        """Makes what is shared."""
        self.map_descriptor, self.map = shared(self.slab_at + CHUNKS * 65536)
        self.bell = eventfd()

    def word(self, at, layout="<Q"):
        return WORDS[layout].from_buffer(self.map, at).value

    def put(self, at, value, layout="<Q"):
        """At once: struct packs byte by byte, and the worker would see half a number."""
        WORDS[layout].from_buffer(self.map, at).value = value

    def slot(self, number, field):
        return self.word(SLOTS_AT + 256 * number + field)

    def slot_of(self, exchange):
        """The slot in which an exchange runs, if it does."""
        slots = range(self.slots)
        return next((number for number in slots if self.slot(number, SLOT_EXCHANGE) == exchange), None)

    def wait_claimed(self):
        """Waits until its ring is empty."""
        deadline = time.monotonic() + DEADLINE
        while self.word(SUBMISSION_TAIL) != self.word(SUBMISSION_HEAD):
            assert time.monotonic() < deadline, f"claims nothing\n{self.daemon.output()}"
            time.sleep(0.001)  # nobody rings for that
            self.collect()

    def submit(
        self,
        path,
        method="GET",
        headers=(),
        body=b"",
        *,
        version=11,
        https=False,
        length=None,
        peer=("", 0),
        websocket=False,
    ):
        """Publishes a request; the exchange's id. With `length` the body comes in parts."""
        self.exchange += 1
        path, _, query = path.partition("?")
        path, query, request_id = path.encode(), query.encode(), b"id-%d" % self.exchange
        method, host = method.encode(), peer[0].encode()
        known = {b"GET": 1, b"HEAD": 2, b"POST": 3}.get(method, 0)
        literal = b"" if known else method
        body_length = len(body) if length is None else length
        flags = (HTTPS if https else 0) | (STREAMS if length is not None else 0)
        flags |= WEBSOCKET if websocket else 0
        head = struct.pack("<QQQBBBBHH6HHH", self.exchange, body_length, 0, 1, known, version, flags,
                           len(headers), 0, len(literal), len(path), len(query), len(host), len(request_id),
                           0, peer[1], 0)  # fmt: skip
        frame = head + literal + path + query + host + request_id
        for name, value in headers:
            frame += struct.pack("<BH", LITERAL, len(name)) + name + struct.pack("<H", len(value)) + value
        self.publish(frame + (body if length is None else b""))
        return self.exchange

    def part(self, exchange, part, end=False):
        """A part of a body."""
        self.publish(struct.pack("<Q16xBBH4x", exchange, 2, int(end), 0) + part)

    def message(self, exchange, content, more=False, text=None):
        """A WebSocket message, or a part of one that goes on."""
        text = isinstance(content, str) if text is None else text
        content = content.encode() if isinstance(content, str) else content
        self.publish(struct.pack("<Q16xBBH4x", exchange, 2, text << 1 | more << 2, 0) + content)

    def disconnect(self, exchange, cancel=False, code=0, reason=b""):
        """The client has gone, or the deadline passed."""
        self.publish(struct.pack("<Q16xBBH4x", exchange, 3, int(cancel), code) + reason)

    def half_close(self, exchange):
        """The client sends nothing more."""
        self.publish(struct.pack("<Q16xBBH4x", exchange, 3, 2, 0))

    def publish(self, frame):
        """A record, and wakes."""
        record = struct.pack("<II", len(frame), READY) + frame + bytes(-len(frame) % 8)
        head = self.word(SUBMISSION_HEAD)
        left = SUBMISSION - head % SUBMISSION
        if head + len(record) + left - self.word(SUBMISSION_TAIL) > SUBMISSION:
            self.wait_claimed()
        if len(record) > left:
            struct.pack_into("<II", self.map, self.submission_at + head % SUBMISSION, left - 8, PAD)
            head += left
        at = self.submission_at + head % SUBMISSION
        self.map[at : at + len(record)] = record
        self.put(SUBMISSION_HEAD, head + len(record))
        self.wake()

    def wake(self):
        """Grants a token, which wakes one sleeper; and rings, for an event loop.

        Without compare-and-swap the count of sleepers is not ours to lower; so a token may be one too many,
        and wakes a thread in vain.
        """
        self.put(TOKENS, self.word(TOKENS, "<I") + 1, "<I")
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.map, TOKENS))
        libc.syscall(SYS_FUTEX, ctypes.c_void_p(address), FUTEX_WAKE, 1, None, None, 0)
        self.ring()

    def ring(self):
        """Rings its bell."""
        os.write(self.bell, struct.pack("<Q", 1))

    def give(self, at):
        """Something was given that a word says is wanted."""
        wanted = self.word(at, "<I")
        if wanted & 1:
            self.put(at, wanted + 1, "<I")
            self.ring()

    def has_completion(self):
        return self.word(COMPLETION_HEAD) != self.read_to

    def collect(self):
        """Takes what has come."""
        self.look_at_ended()
        kept = None
        while self.has_completion():
            tail = self.read_to
            at = self.completion_at + tail % COMPLETION
            length, state = struct.unpack_from("<II", self.map, at)
            frame = self.map[at + 8 : at + 8 + length]
            self.read_to = tail + 8 + length + -length % 8
            if state != PAD:
                self.take(frame)
                exchange, flags = struct.unpack_from("<QxB", frame)
                if flags & END and not flags & DONE:
                    self.ended[exchange] = tail
                    kept = tail if kept is None else kept
        self.look_at_ended()
        self.put(COMPLETION_TAIL, self.read_to if kept is None else kept)
        self.give(WANTS_SPACE)

    def look_at_ended(self):
        """Finds the DONEs that were added to records; to the tests they are frames of their own.

        Nothing here can say in one step that a record was taken, as the real daemon does, so the worker may
        add DONE until it writes over the record: not before the next look.
        """
        for exchange, tail in list(self.ended.items()):
            answer = self.responses[exchange]
            is_there = self.word(COMPLETION_HEAD) - tail <= COMPLETION
            state = struct.unpack_from("<I", self.map, self.completion_at + tail % COMPLETION + 4)[0]
            if is_there and state == AMENDED:
                answer.frames.append((BODY, END | DONE, 0))
                answer.done = True
            if answer.done or not is_there:
                del self.ended[exchange]

    def take(self, frame):
        """One completion."""
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
        elif kind == TAKE:
            answer.taken = rest.take("<Q")
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
        """Name and value."""
        name = rest.take("<B")
        name = rest.bytes(rest.take("<H")) if name == LITERAL else NAMES[name]
        return name, rest.bytes(rest.take("<H"))

    def acknowledge(self):
        """What was taken has left for the client: credit and chunks are the worker's again."""
        for slot, n_bytes, chunks in self.unacked:
            acked = SLOTS_AT + 256 * slot + SLOT_ACKED
            self.put(acked, self.word(acked) + n_bytes)
            for number in chunks:
                self.put(self.free_at + self.n_freed % CHUNKS * 4, number, "<I")
                self.n_freed += 1
            self.put(FREE_HEAD, self.n_freed)
            self.give(SLOTS_AT + 256 * slot + SLOT_WANTS_CREDIT)
        self.give(WANTS_SPACE)
        self.unacked = []

    def wait_for_response(self, exchange, condition, what):
        """Waits until an exchange's answer is so; the answer."""
        deadline = time.monotonic() + DEADLINE
        while True:
            self.collect()
            answer = self.responses.get(exchange)
            if answer is not None and condition(answer):
                return answer
            assert time.monotonic() < deadline, f"never {what}: {answer}\n{self.daemon.output()}"
            self.daemon.wait_for_bell(0.1)

    def wait_done(self, exchange):
        """Waits for all of an answer."""
        return self.wait_for_response(exchange, lambda answer: answer.done, "done")

    def result(self, exchange):
        """Waits for all of it: status and body."""
        answer = self.wait_done(exchange)
        assert not answer.raised, answer.raised
        return answer.status, answer.body

    def fetch(self, *request, **more):
        """One request, all of its answer."""
        return self.wait_done(self.submit(*request, **more))

    def get(self, path):
        """One request."""
        return self.result(self.submit(path))
