"""Clients that request everything a site has, check every byte of the responses, and record each request.

Used by test_chaos.py, on the machine. They check whether a response is correct. The test, which knows the
disturbances of the server, decides whether an incorrect one is excusable.
"""

import dataclasses
import hashlib
import json
import random
import threading
import time

import host
from support.load import KeepAliveClient, StaleConnectionError, TruncatedResponseError
from support.waiting import wait_until

MIB = 1 << 20
# The digest of the shop's /download/1.
FILE = hashlib.sha256(random.Random(0).randbytes(MIB)).hexdigest()
# Statuses of the daemon's own responses: a worker died, no worker is available, a request took too long.
DAEMON = {502, 503, 504}


@dataclasses.dataclass
class RequestRecord:
    """One request and its outcome."""

    id: str
    kind: str
    began: float
    ended: float = 0.0
    # 0: no response.
    status: int = 0
    # "": complete and correct. "retry": a kept connection was closed before any byte of a response.
    # "truncated": the connection ended within the body. Anything else describes what is wrong.
    fault: str = ""


def is_json(check):
    """Returns a check of a body: JSON for which `check` holds."""
    return lambda body, sent: check(json.loads(body), sent)


def has_all_lines(body, sent):
    """Whether a stream has all its twenty parts, in order."""
    lines = body.split(b"\n")
    return lines.pop() == b"" and [line.split()[1] for line in lines] == [b"%d" % n for n in range(20)]


def is_digest_of(value, sent):
    """Whether the application has read the whole upload."""
    return (value["size"], value["sha256"]) == (len(sent), hashlib.sha256(sent).hexdigest())


# Kind: weight, method, path, expected status, check of the body.
KINDS = {
    "status": (20, "GET", "/api/status", 200, is_json(lambda value, _: value["status"] == "ok")),
    "json": (20, "GET", "/api/products", 200, is_json(lambda value, _: len(value["products"]) == 20)),
    "page": (10, "GET", "/", 200, lambda body, _: b"Darjeeling" in body and b"</html>" in body[-20:]),
    "version": (20, "GET", "/chaos/version", 200, is_json(lambda value, _: value["version"] > 0)),
    "upload": (10, "POST", "/chaos/upload", 200, is_json(is_digest_of)),
    "download": (5, "GET", "/download/1", 200, lambda body, _: hashlib.sha256(body).hexdigest() == FILE),
    "stream": (5, "GET", "/stream?n=20&size=500&delay=0.01", 200, has_all_lines),
    "slow": (4, "GET", "/slow?s=0.2", 200, is_json(lambda value, _: value["slept"] == 0.2)),
    "raise": (4, "GET", "/error", 500, lambda body, _: b"Server Error" in body),
    # Sent by the test only.
    "leak": (0, "GET", "/chaos/leak", 200, is_json(lambda value, _: value["leaked"] > 0)),
    "hang": (0, "GET", "/chaos/hang", 504, lambda body, _: True),
    "compute": (0, "GET", "/chaos/compute", 504, lambda body, _: True),
}


class Clients:
    """Concurrent clients, until the block ends; `records` has every request by its id."""

    def __init__(self, seed, count):
        self.records = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._run_client, args=(index, random.Random(f"{seed} {index}")), daemon=True
            )
            for index in range(count)
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        wait_until("the clients are answered", lambda: len(self.records) > 20)
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a client was never answered"

    def _run_client(self, index, rng):
        kinds, weights = zip(*((kind, row[0]) for kind, row in KINDS.items()))
        client = KeepAliveClient(host.ADDRESS)
        number = 0
        while not self._stop.wait(rng.random() * 0.04):
            number += 1
            (kind,) = rng.choices(kinds, weights)
            if rng.random() < 0.1:
                client.close()
            self._send(f"chaos-{index}-{number}", kind, client, rng)

    def send_one(self, name, kind):
        """Sends one request of this kind on a connection of its own; returns its record."""
        return self._send(name, kind, KeepAliveClient(host.ADDRESS), random)

    def _send(self, name, kind, client, rng):
        _, method, path, expected, check = KINDS[kind]
        sent = rng.randbytes(rng.choice((100, 30_000, 300_000))) if method == "POST" else b""
        record = RequestRecord(name, kind, time.monotonic())
        try:
            response = client.request(method, path, sent, {"X-Request-ID": name})
        except StaleConnectionError:
            record.fault = "retry"
        except TruncatedResponseError as error:
            record.status, record.fault = error.status, "truncated"
        except OSError as error:
            record.fault = f"no response: {error!r}"
        else:
            record.status = response.status
            record.fault = find_fault(record, expected, check, response, sent)
        record.ended = time.monotonic()
        with self._lock:
            self.records[record.id] = record
        return record


def find_fault(record, expected, check, response, sent):
    """Describes what is wrong with a complete response; "" if nothing is."""
    if response.all("x-request-id") != [record.id]:
        return f"response to another request: {response.all('x-request-id')}"
    body = response.body
    if response.status == expected and expected not in DAEMON:
        try:
            is_right = check(body, sent)
        except (ValueError, LookupError, TypeError) as error:
            return f"{response.status} with {body[:100]!r}: {error!r}"
        return "" if is_right else f"{response.status} with the wrong body {body[:100]!r}"
    if response.status in DAEMON:
        # The daemon's own text: the status, a reason, and the id under which the journal has the request.
        lines = body.decode().splitlines()
        status = str(response.status)
        is_right = len(lines) == 3 and lines[0].startswith(status) and lines[2].endswith(record.id)
        return "" if is_right else f"{status} with a text other than the daemon's: {body[:200]!r}"
    return f"status {response.status}: {body[:200]!r}"
