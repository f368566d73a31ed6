"""Clients that keep their connections, and a continuous load made of them."""

import threading

from .http_client import Connection
from .waiting import DEADLINE, wait_until


class StaleConnectionError(ConnectionError):
    """A kept connection was closed before any byte of a response came.

    The server may close a kept connection at any time (RFC 9112 section 9.3.1), so the client repeats the
    request on a new connection.
    """


class TruncatedResponseError(ConnectionError):
    """The connection ended after the head of the response and before the end of its body."""

    def __init__(self, status):
        super().__init__(f"status {status}, then the connection ended within the body")
        self.status = status


class KeepAliveClient:
    """Sends requests on one connection for as long as the server keeps it, then on a new one."""

    def __init__(self, address, timeout=40):
        self.address = address
        self.timeout = timeout
        self.connection = None
        self.is_reused = False

    def request(self, method, target, body=b"", headers=()):
        """Sends one request and returns its response, which is complete.

        Raises StaleConnectionError, TruncatedResponseError, or another OSError if there was no response.
        """
        try:
            if self.connection is None:
                self.connection, self.is_reused = Connection(self.address, self.timeout), False
            response = self.connection.request(method, target, body, headers)
        except (ConnectionResetError, BrokenPipeError) as error:
            self.raise_lost(error)
        except OSError:
            self.close()
            raise
        if response.status is None:
            self.raise_lost(ConnectionError(f"no response, only {self.connection.buffer[:100]!r}"))
        if not response.complete:
            self.close()
            raise TruncatedResponseError(response.status)
        self.is_reused = True
        if "close" in response.all("connection"):
            self.close()
        return response

    def raise_lost(self, error):
        """Closes a connection that ended before a head.

        Raises StaleConnectionError for a kept connection without a byte of a response, else `error`.
        """
        is_stale = self.is_reused and self.connection is not None and not self.connection.buffer
        self.close()
        raise StaleConnectionError(str(error)) if is_stale else error

    def close(self):
        """Closes the connection; the next request opens another one."""
        if self.connection is not None:
            self.connection.close()
        self.connection = None


class Load:
    """Clients that send GET requests without pause, half on kept connections and half on new ones.

    Every response that is not a complete 200 is a fault, except on a stale connection: that one is counted
    in `retried`.
    """

    def __init__(self, address, target="/", clients=6):
        self.address = address
        self.target = target
        self.answered = 0
        self.retried = 0
        # Descriptions of the responses that were not a complete 200.
        self.faults = []
        # The values of X-Probe-Daemon, which names the daemon's process (tests/e2e/suite/probe.py).
        self.daemons = set()
        # Up to 1000 different bodies.
        self.bodies = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run_client, args=(index % 2 == 0,), daemon=True)
            for index in range(clients)
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        wait_until("the load is running", lambda: self.answered > 50 or self.faults)
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(40)
            if thread.is_alive():
                self.faults.append("a client was never answered")

    def wait_for_more(self, count, timeout=DEADLINE):
        """Waits until that many further requests have been answered, or one failed."""
        goal = self.answered + count
        wait_until(f"{goal} requests answered", lambda: self.answered >= goal or self.faults, timeout)

    def _run_client(self, keeps):
        client = KeepAliveClient(self.address, DEADLINE)
        headers = {} if keeps else {"Connection": "close"}
        while not self._stop.is_set():
            try:
                response = client.request("GET", self.target, headers=headers)
            except StaleConnectionError:
                with self._lock:
                    self.retried += 1
            except (OSError, ValueError) as error:
                client.close()
                with self._lock:
                    self.faults.append(repr(error))
            else:
                if not keeps:
                    client.close()
                with self._lock:
                    self._count(response)

    def _count(self, response):
        if response.status != 200:
            self.faults.append(f"{response.status} {response.body[:200]!r}")
            return
        self.answered += 1
        self.daemons.update(response.all("x-probe-daemon"))
        if len(self.bodies) < 1000:
            self.bodies.add(response.body)

    def __str__(self):
        retried = f"{self.retried} retried on a new connection"
        return f"{self.answered} answered, {retried}, {len(self.faults)} faults {self.faults[:5]}"
