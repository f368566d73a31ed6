"""The clients: wrk and the like for closed loops, raw sockets for large bodies, asyncio for the open loop.

Each returns counts and raises for every response that is not as expected; workloads.py turns that into a row
of the table. They are not those of tests/support, because their cost is part of the measurement.
"""

import asyncio
import contextlib
import hashlib
import heapq
import json
import math
import random
import re
import resource
import signal
import socket
import subprocess
import time
from pathlib import Path

from process import BenchError

MIB = 1024 * 1024
BLOCK = random.Random(1).randbytes(MIB)


def percentile(values, share):
    """Returns a percentile by the nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


def wrk(url, connections, seconds, cores=(), headers=(), post=0):
    """Runs a closed loop: keep-alive connections, each with one request at a time.

    wrk runs on `cores`, by default on the core of this process. `headers` are lines. With `post`, requests
    are POSTs of this number of bytes, and responses must be at least as long.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = ["taskset", "-c", ",".join(map(str, cores))] if cores else []
    # wrk knows only whole seconds; at SIGINT it ends and reports as usual.
    whole = seconds == round(seconds)
    command += ["wrk", "-t1", f"-c{connections}", f"-d{math.ceil(seconds)}s", "--timeout", "10s"]
    command += [word for line in headers for word in ("-H", line)]
    command += ["-s", str(Path(__file__).with_name("wrk.lua")), url]
    command += ["--", str(post)] if post else []
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        if not whole:
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.wait(seconds)
            run.send_signal(signal.SIGINT)
        printed, complaint = run.communicate(timeout=seconds + 60)
    finally:
        run.kill()
        run.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = [line[5:] for line in printed.splitlines() if line.startswith("JSON ")]
    if run.returncode or not lines:
        raise BenchError(f"wrk failed: {(complaint or printed).strip()[-200:]}")
    counts = json.loads(lines[0])
    elapsed = counts["duration_us"] / 1e6
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    counts["client_busy"] = used / elapsed
    counts["rate"] = counts["requests"] / elapsed
    errors = {key: counts[key] for key in ("connect", "read", "write", "status", "timeout") if counts[key]}
    if errors:
        raise BenchError("wrk counted errors: " + ", ".join(f"{n} {key}" for key, n in errors.items()))
    # A fraction of a second, before a measurement, may be too short for an answer.
    if not counts["requests"] and whole:
        raise BenchError("no request was answered")
    if counts["bytes"] < counts["requests"] * post:
        raise BenchError(
            f"{counts['requests']} responses had {counts['bytes']} bytes, too few for echoes of {post}"
        )
    return counts


def h2load(url, connections, streams, seconds):
    """Runs an HTTP/2 closed loop: `streams` requests at a time on each connection."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = ["h2load", "-t1", f"-c{connections}", f"-m{streams}", f"-D{seconds}", url]
    run = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    counted = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", run.stdout)
    if run.returncode or not counted:
        raise BenchError(f"h2load failed: {(run.stderr or run.stdout).strip()[-200:]}")
    requests, *failures = map(int, counted.groups())
    if any(failures) or not requests:
        raise BenchError(f"h2load counted errors: {counted[0]}")
    protocol = re.search(r"Application protocol: (\S+)", run.stdout)
    if not protocol or not protocol[1].startswith("h2"):
        raise BenchError(f"h2load spoke {protocol and protocol[1]} instead of HTTP/2")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"requests": requests, "rate": requests / seconds, "client_busy": used / seconds}


def handshakes(program, port, connections, seconds):
    """Runs a closed loop of connections, each with a full TLS handshake and one request."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [program, f"127.0.0.1:{port}", str(connections), str(seconds)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if run.returncode:
        raise BenchError(f"the TLS client failed: {run.stderr.strip()[-200:]}")
    counts = json.loads(run.stdout)
    if not counts["requests"]:
        raise BenchError("no request was answered")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    counts["client_busy"] = used / counts["seconds"]
    counts["rate"] = counts["requests"] / counts["seconds"]
    return counts


def read_head(connection):
    """Reads the head of a response; returns status, Content-Length and the first bytes of the body."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            raise BenchError(f"connection closed within the head: {data[:80]!r}")
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    fields = dict(line.lower().split(":", 1) for line in lines[1:])
    if "content-length" not in fields:
        raise BenchError("the answer has no Content-Length")
    return int(lines[0].split()[1]), int(fields["content-length"]), rest


def upload(port, mib, check=False):
    """Sends one POST of `mib` MiB with a known length; the response must have the right size."""
    target = "/upload?digest" if check else "/upload"
    head = f"POST {target} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/octet-stream\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(f"{head}Content-Length: {mib * MIB}\r\nConnection: close\r\n\r\n".encode())
        for _ in range(mib):
            connection.sendall(BLOCK)
        status, length, body = read_head(connection)
        while len(body) < length:
            piece = connection.recv(65536)
            if not piece:
                raise BenchError("connection closed within the answer to an upload")
            body += piece
    if status != 200:
        raise BenchError(f"upload answered {status}: {body[:100]!r}")
    answer = json.loads(body)
    if answer["size"] != mib * MIB:
        raise BenchError(f"upload of {mib * MIB} bytes arrived as {answer['size']}")
    if check:
        digest = hashlib.sha256()
        for _ in range(mib):
            digest.update(BLOCK)
        if answer["sha256"] != digest.hexdigest():
            raise BenchError("upload arrived with another SHA-256")


def download(port, buffer, expected, sha256=None):
    """Sends one GET for the file; checks its length, and with `sha256` its content."""
    digest = hashlib.sha256()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(b"GET /download HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
        status, length, rest = read_head(connection)
        if (status, length) != (200, expected):
            raise BenchError(f"download answered {status} with {length} bytes instead of {expected}")
        digest.update(rest)
        got = len(rest)
        while got < length:
            count = connection.recv_into(buffer)
            if not count:
                raise BenchError(f"download ended after {got} of {length} bytes")
            if sha256:
                digest.update(buffer[:count])
            got += count
    if sha256 and digest.hexdigest() != sha256:
        raise BenchError("download arrived with another SHA-256")


# --- the open loop ---


def schedule(seed, seconds, rates):
    """Returns Poisson arrivals as sorted (seconds from start, path); `rates` are per second, by path."""
    chance = random.Random(seed)
    arrivals = []
    for path, rate in rates.items():
        now = chance.expovariate(rate)
        while now < seconds:
            arrivals.append((now, path))
            now += chance.expovariate(rate)
    return sorted(arrivals)


def ideal(arrivals, service, servers):
    """Returns the times in the system, by path, of an ideal queue: M/G/c, first in first out."""
    free = [0.0] * servers
    times = {path: [] for path in service}
    for at, path in arrivals:
        begin = max(at, heapq.heappop(free))
        heapq.heappush(free, begin + service[path])
        times[path].append(begin + service[path] - at)
    return times


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request on it."""

    def __init__(self, pool):
        """An idle connection is in `pool`."""
        self.pool = pool
        self.transport = None
        self.waiting = None
        self.data = b""

    def connection_made(self, transport):
        """Stores the connection's transport (asyncio.Protocol)."""
        self.transport = transport

    def connection_lost(self, error):
        """Removes a closed connection from the pool and fails its request."""
        with contextlib.suppress(ValueError):
            self.pool.remove(self)
        if self.waiting and not self.waiting.done():
            self.waiting.set_exception(
                ConnectionResetError(f"closed within a request after {len(self.data)} bytes")
            )

    def data_received(self, data):
        """Ends the request when the body is complete; all responses have a Content-Length."""
        self.data += data
        head, separator, body = self.data.partition(b"\r\n\r\n")
        if not separator or not self.waiting or self.waiting.done():
            return
        low = head.lower()
        length = int(low.partition(b"content-length:")[2].split(b"\r\n")[0])
        if len(body) >= length:
            close = b"connection: close" in low
            self.waiting.set_result(int(head[9:12]))
            if close:
                self.transport.close()
            else:
                self.pool.append(self)

    def ask(self, path):
        """Sends a request; returns a future of its status."""
        self.data = b""
        self.waiting = asyncio.get_running_loop().create_future()
        self.transport.write(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
        return self.waiting


class OpenLoop:
    """Sends requests at fixed times, even if responses are late; latency counts from the intended time."""

    def __init__(self, port, seed):
        """Picks idle connections at random; `seed` makes the choice repeatable."""
        self.port = port
        self.chance = random.Random(seed)
        self.idle = []
        self.times = {}
        self.lag = []
        self.retries = 0
        self.failures = []

    async def connection(self):
        """Returns an idle connection or a new one."""
        while self.idle:
            chosen = self.idle.pop(self.chance.randrange(len(self.idle)))
            if not chosen.transport.is_closing():
                return chosen
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(lambda: Connection(self.idle), "127.0.0.1", self.port))[1]

    async def request(self, intended, path):
        """Sends one request; retries once on a stale kept connection (RFC 9112 section 9.3.1)."""
        loop = asyncio.get_running_loop()
        self.lag.append(loop.time() - intended)
        try:
            for attempt in (0, 1):
                connection = await self.connection()
                try:
                    status = await asyncio.wait_for(connection.ask(path), 20)
                    break
                except ConnectionResetError:
                    if attempt or connection.data:
                        raise
                    self.retries += 1
        except (OSError, ValueError, asyncio.TimeoutError) as error:
            self.failures.append(f"{path}: {error or type(error).__name__}")
            return
        if status != 200:
            self.failures.append(f"{path}: status {status}")
            return
        self.times.setdefault(path, []).append(loop.time() - intended)

    async def run(self, arrivals, connections):
        """Opens the pool, follows `arrivals`, and waits for the last response."""
        loop = asyncio.get_running_loop()
        for _ in range(connections):
            made = await loop.create_connection(lambda: Connection(self.idle), "127.0.0.1", self.port)
            self.idle.append(made[1])
        start = loop.time() + 0.1
        tasks = []
        for at, path in arrivals:
            pause = start + at - loop.time()
            if pause > 0:
                await asyncio.sleep(pause)
            tasks.append(asyncio.ensure_future(self.request(start + at, path)))
        await asyncio.gather(*tasks)
        for connection in list(self.idle):
            connection.transport.close()


def open_loop(port, arrivals, connections, seed, max_lag=0.005):
    """Runs the open loop; fails if the client itself is late by more than `max_lag` seconds at p99."""
    loop = OpenLoop(port, seed)
    asyncio.run(loop.run(arrivals, connections))
    if percentile(loop.lag, 0.99) > max_lag:
        raise BenchError(f"the client itself was late: p99 {percentile(loop.lag, 0.99) * 1000:.1f} ms")
    if loop.failures:
        raise BenchError(
            f"{len(loop.failures)} of {len(arrivals)} requests failed, first: {loop.failures[0]}"
        )
    return loop


def timed(action, seconds, min_count=3):
    """Repeats `action` for `seconds`, at least `min_count` times; returns the count and the duration."""
    begin = time.perf_counter()
    count = 0
    while count < min_count or time.perf_counter() - begin < seconds:
        action()
        count += 1
    return count, time.perf_counter() - begin


def free_port():
    """Returns a port that is free at the moment."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
