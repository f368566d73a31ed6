"""Clients that ask for everything a site has, check every byte of what comes back, and remember each request.

Used by test_chaos.py, on the machine. They decide what a good answer is; whether what was not good is
excusable is the test's to say, who knows what was done to the server meanwhile.
"""

import dataclasses
import hashlib
import http.client
import json
import random
import threading
import time

import host

MIB = 1 << 20
# What the shop's /download/1 consists of.
FILE = hashlib.sha256(random.Random(0).randbytes(MIB)).hexdigest()
# Answers of the daemon's own: somebody died, nobody is there, somebody took too long.
DAEMON = {502, 503, 504}


@dataclasses.dataclass
class Asked:
    """One request and what became of it."""

    id: str
    kind: str
    began: float
    ended: float = 0.0
    status: int = 0
    # "": complete and right. "retry": a kept connection was found closed, no byte of an answer had come.
    # "broken": it broke off, visibly, after its head. Anything else is a sentence about what is wrong.
    fault: str = ""


def is_json(check):
    """An answer's check: JSON for which `check` holds."""
    return lambda body, sent: check(json.loads(body), sent)


def lines_complete(body, sent):
    """All twenty pieces of the stream, in order."""
    lines = body.split(b"\n")
    return lines.pop() == b"" and [line.split()[1] for line in lines] == [b"%d" % n for n in range(20)]


# Kind: weight, method, path, status when all is well, check of the body.
KINDS = {
    "status": (20, "GET", "/api/status", 200, is_json(lambda told, _: told["status"] == "ok")),
    "json": (20, "GET", "/api/products", 200, is_json(lambda told, _: len(told["products"]) == 20)),
    "page": (10, "GET", "/", 200, lambda body, _: b"Darjeeling" in body and b"</html>" in body[-20:]),
    "version": (20, "GET", "/chaos/version", 200, is_json(lambda told, _: told["version"] > 0)),
    "upload": (
        10,
        "POST",
        "/chaos/upload",
        200,
        is_json(
            lambda told, sent: (told["size"], told["sha256"]) == (len(sent), hashlib.sha256(sent).hexdigest())
        ),
    ),
    "download": (5, "GET", "/download/1", 200, lambda body, _: hashlib.sha256(body).hexdigest() == FILE),
    "stream": (5, "GET", "/stream?n=20&size=500&delay=0.01", 200, lines_complete),
    "slow": (4, "GET", "/slow?s=0.2", 200, is_json(lambda told, _: told["slept"] == 0.2)),
    "raise": (4, "GET", "/error", 500, lambda body, _: b"Server Error" in body),
    # Only when the test says so.
    "leak": (0, "GET", "/chaos/leak", 200, is_json(lambda told, _: told["leaked"] > 0)),
    "hang": (0, "GET", "/chaos/hang", 504, lambda body, _: True),
    "compute": (0, "GET", "/chaos/compute", 504, lambda body, _: True),
}


class Clients:
    """So many at a time, until the block ends; `asked` is all that was asked, by id."""

    def __init__(self, seed, count):
        self.asked = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._client, args=(index, random.Random(f"{seed} {index}")), daemon=True)
            for index in range(count)
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        host.wait_for("the clients are answered", lambda: len(self.asked) > 20)
        return self

    def __exit__(self, *exception):
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a client was never answered"

    def _client(self, index, chance):
        kinds, weights = zip(*((kind, row[0]) for kind, row in KINDS.items()))
        connection = None
        number = 0
        while not self._stop.wait(chance.random() * 0.04):
            number += 1
            (kind,) = chance.choices(kinds, weights)
            if connection is None or chance.random() < 0.1:
                connection = Connection()
            self.ask(f"chaos-{index}-{number}", kind, connection, chance)
            if not connection.kept:
                connection = None

    def once(self, name, kind):
        """One request of this kind, on a connection of its own."""
        return self.ask(name, kind, Connection(), random)

    def ask(self, name, kind, connection, chance):
        """One request and its account."""
        _, method, path, expected, check = KINDS[kind]
        sent = chance.randbytes(chance.choice((100, 30_000, 300_000))) if method == "POST" else None
        asked = Asked(name, kind, time.monotonic())
        body = connection.ask(asked, method, path, sent)
        asked.ended = time.monotonic()
        if not asked.fault:
            asked.fault = judged(asked, expected, check, body, sent)
        with self._lock:
            self.asked[asked.id] = asked
        return asked


def judged(asked, expected, check, body, sent):
    """What is wrong with a complete answer, or nothing."""
    if asked.status == expected and expected not in DAEMON:
        try:
            good = check(body, sent)
        except (ValueError, LookupError, TypeError) as error:
            return f"{asked.status} with {body[:100]!r}: {error!r}"
        return "" if good else f"{asked.status} with the wrong body {body[:100]!r}"
    if asked.status in DAEMON:
        # The daemon's own words: the status, a reason, and the id under which the journal has it.
        lines = body.decode().splitlines()
        good = len(lines) == 3 and lines[0].startswith(str(asked.status)) and lines[2].endswith(asked.id)
        return "" if good else f"{asked.status} in other words than the daemon's: {body[:200]!r}"
    return f"status {asked.status}: {body[:200]!r}"


class Connection:
    """A connection that is kept while the server keeps it."""

    def __init__(self):
        self._connection = http.client.HTTPConnection(*host.ADDRESS, timeout=40)
        self._used = False
        self.kept = True

    def ask(self, asked, method, path, body):
        """The answer's body; `asked` gets its status, or what happened instead of it."""
        response = None
        try:
            self._connection.request(method, path, body=body, headers={"X-Request-ID": asked.id})
            response = self._connection.getresponse()
            asked.status = response.status
            received = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if response is not None:
                asked.fault = "broken"
            elif self._used and isinstance(error, host.CONNECTION_LOST):
                asked.fault = "retry"
            else:
                asked.fault = f"no answer: {error!r}"
            return b""
        self._used = True
        if response.headers.get("X-Request-ID") != asked.id:
            asked.fault = f"answer to another request: {response.headers.get('X-Request-ID')}"
        if response.will_close:
            self.close()
        return received

    def close(self):
        """For good."""
        self.kept = False
        self._connection.close()
