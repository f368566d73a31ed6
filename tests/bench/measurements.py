"""The measurement of one round of one server, for each kind of workload; workloads.py has the table of them.

A round starts the server, waits for its first 200, warms it up, measures, and stops it. So only one server
runs at a time, and random properties of a start (hash seed, memory layout) vary between rounds. A round
returns its figures as a dict, whose names have the unit; a wrong response raises BenchError and makes the row
invalid.
"""

import contextlib
import json
import os
import signal
import socket
import time

import load
from app_asgi import CHUNKS
from environment import APPS, HERE, ROOT
from process import BenchError, Measurement
from support import http_client
from websocket_load import WebSockets

MIB = load.MIB
TRANSFER_MIB = 100
CONNECTIONS = 64
H2_CONNECTIONS = 8
H2_STREAMS = 16
MANY_WORKERS = 32
# Bytes of the bodies that are echoed, and MiB of the file that many clients download.
ECHO = 64 * 1024
FILE_MIB = 10
IDLE_CONNECTIONS = 2000
# Seconds after which a connection counts as idle, and a server may have released its buffers.
IDLE_SECONDS = 8
# The resolution of that figure: a server's other memory varies by 200 KiB from start to start.
MIN_CONNECTION_KIB = 0.1
# Opening thousands of connections takes a part of the usual time before a measurement.
MANY_CONNECTIONS = 1024

HELLO = {"target": "wsgi:application", "directory": str(APPS / "hello"), "body": 13}
ASGI_HELLO = {**HELLO, "target": "asgi:application", "interface": "asgi"}
STATIC = {**HELLO, "body": 0, "static": str(ROOT / "target" / "bench" / "static")}
SHOP = {"target": "shop.wsgi:application", "directory": str(APPS / "shop"), "database": True}
APP = {"target": "app:application", "directory": str(HERE)}
APP_ASGI = {"target": "app_asgi:application", "directory": str(HERE), "interface": "asgi"}
FASTAPI = {**APP_ASGI, "target": "app_fastapi:application"}
SSE = b"".join(chunk["body"] for chunk in CHUNKS)


def expect(server, path, check):
    """Checks one response before the load."""
    status, body = server.get(path)
    if status != 200 or not check(body):
        raise BenchError(f"{path} answered {status} {body[:60]!r}")


def is_hello(body):
    """Whether this is the body of the application tests/apps/hello."""
    return body == b"Hello, world!"


def expect_first(server):
    """Checks that the server passes on a single event at once."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(b"GET /first HTTP/1.1\r\nHost: bench\r\n\r\n")
        seen = b""
        while CHUNKS[0]["body"] not in seen:
            try:
                piece = connection.recv(65536)
            except OSError:
                piece = b""
            if not piece:
                raise BenchError(f"the first event did not come by itself, only {seen[-60:]!r}")
            seen += piece


def rate_figures(server, boot, counts, measured):
    """Returns the figures of a closed loop of requests."""
    return {
        "requests_per_s": counts["rate"],
        "cpu_us_per_request": measured.server_seconds * 1e6 / counts["requests"],
        **{f"{rank}_ms": counts[f"{rank}_us"] / 1000 for rank in ("p50", "p99") if f"{rank}_us" in counts},
        "pss_mib": server.pss_mib(),
        "boot_ms": boot,
        "client_busy": counts["client_busy"],
        **disturbance(measured),
    }


def disturbance(measured):
    """Returns the shares of a core that something else used during a measurement."""
    return {"foreign_busy": measured.foreign, "stolen": measured.stolen}


def expect_echo(server):
    """Checks one echo before the load."""
    body = bytes(number % 251 for number in range(ECHO))
    status, echoed = server.post("/echo", body)
    if status != 200 or echoed != body:
        raise BenchError(f"/echo answered {status} with {len(echoed)} other bytes")


def echo_loop(task, **options):
    """Returns a measurement of POSTs whose responses are their bodies."""
    return closed_loop(task, "/echo", None, post=ECHO, **options)


def closed_loop(
    task,
    path,
    check,
    *,
    connections=CONNECTIONS,
    threads_of=(),
    also=lambda server: None,
    same_core=False,
    both_cores=False,
    headers=(),
    post=0,
):
    """Returns a measurement by wrk on `path`; `also` is a further check before the load.

    With several workers, the load begins when all have booted. With `same_core` the CPU time per request is
    measured again with the client on the server's core. The difference is the cost of different cores (a
    constant hyper response takes 5.1 us, and 3.3 us on its client's core; two virtual cores of a Xeon, Linux
    6.18). It explains the CPU time and has no target. With `both_cores` the kernel chooses the core of each
    process of the server, and of the client.
    """

    def measure(run, name):
        threads = dict(threads_of).get(name, {})
        cores = run.cores if both_cores else ()
        with run.start(name, cores, **task, **threads, connections=connections) as server:
            boot = server.wait_ready(path)
            if post:
                expect_echo(server)
            else:
                expect(server, path, check)
            also(server)
            if task.get("workers", 1) > 1:
                server.settle()
            url = f"{server.scheme}://127.0.0.1:{server.port}{path}"
            options = {"cores": cores, "headers": headers, "post": post}
            load.wrk(url, connections, warm_up(run, connections), **options)
            with Measurement(server) as measured:
                counts = load.wrk(url, connections, round(run.seconds) or 1, **options)
            figures = rate_figures(server, boot, counts, measured)
            if same_core and not run.page:
                with Measurement(server) as measured:
                    counts = load.wrk(url, connections, round(run.seconds) or 1, run.cores[:1])
                figures["cpu_us_same_core"] = measured.server_seconds * 1e6 / counts["requests"]
            return figures

    return measure


def warm_up(run, connections):
    """Returns the seconds of load before a measurement."""
    usual = 0.5 if run.page else 1
    return usual if connections < MANY_CONNECTIONS else 2 * usual


def client_loop(task, check, client):
    """Returns a measurement; `client(run, server, seconds)` sends requests for `/` and returns its counts."""

    def measure(run, name):
        with run.start(name, **task) as server:
            boot = server.wait_ready("/")
            expect(server, "/", check)
            client(run, server, 1)
            with Measurement(server) as measured:
                counts = client(run, server, round(run.seconds) or 1)
            return rate_figures(server, boot, counts, measured)

    return measure


def http2(run, server, seconds):
    """Runs h2load."""
    return load.h2load(f"https://127.0.0.1:{server.port}/", H2_CONNECTIONS, H2_STREAMS, seconds)


def handshakes(run, server, seconds):
    """Runs the program in handshake/."""
    return load.handshakes(run.handshake, server.port, CONNECTIONS, seconds)


def transfer(prepare, once):
    """Returns a measurement of one large body at a time."""

    def measure(run, name):
        with run.start(name, **APP) as server:
            server.wait_ready("/short")
            prepare(run, server)
            buffer = memoryview(bytearray(MIB))
            with Measurement(server) as measured:
                count, elapsed = load.timed(lambda: once(server, buffer), run.seconds)
            cpu = measured.server_seconds
            return {
                "mib_per_s": count * TRANSFER_MIB / elapsed,
                "cpu_ms_per_transfer": cpu * 1000 / count,
                "pss_mib": server.pss_mib(),
                **disturbance(measured),
            }

    return measure


def check_upload(run, server):
    """Checks the first upload by its digest."""
    load.upload(server.port, TRANSFER_MIB, check=True)


def check_download(run, server):
    """Checks the first download by its digest."""
    buffer = memoryview(bytearray(MIB))
    load.download(server.port, buffer, TRANSFER_MIB * MIB, sha256=run.file_sha256)


def measure_memory(run, name):
    """Measures idle hello with one worker, then Django with four busy workers."""
    figures = {}
    with run.start(name, **HELLO) as server:
        figures["boot_ms"] = server.wait_ready("/")
        figures["main_rss_mib"] = server.leader_rss_mib()
        figures["hello_pss_mib"] = server.pss_mib()
    return {**figures, **measure_django_memory(run, name)}


def measure_django_memory(run, name):
    """Measures Django with four workers, all of which have served requests."""
    with run.start(name, **SHOP, workers=4) as server:
        server.wait_ready("/api/products")
        server.settle()
        load.wrk(f"http://127.0.0.1:{server.port}/api/products", 16, 2)
        return {"django_pss_mib": server.pss_mib(), "django_processes": server.count()}


def measure_idle_connections(run, name):
    """Measures the memory that an open idle connection adds to all processes, after one request on it.

    The kernel's memory of the connection is in no PSS, and equal for all servers.
    """
    with run.start(name, **HELLO, connections=IDLE_CONNECTIONS, idle=True) as server:
        server.wait_ready("/")
        server.settle()
        before = server.pss_mib()
        with contextlib.ExitStack() as stack:
            clients = []
            for _ in range(IDLE_CONNECTIONS):
                client = http_client.Connection(("127.0.0.1", server.port))
                clients.append(stack.enter_context(client))
                if client.request("GET", "/").status != 200:
                    raise BenchError("a connection got no response")
            # Nothing tells that a server has released memory.
            time.sleep(IDLE_SECONDS)
            server.settle()
            after = server.pss_mib()
            for client in clients[:: IDLE_CONNECTIONS // 20]:
                if client.request("GET", "/").status != 200:
                    raise BenchError("an idle connection was closed")
        figure = (after - before) * 1024 / IDLE_CONNECTIONS
        return {"connection_kib": max(figure, MIN_CONNECTION_KIB)}


def measure_death(run, name):
    """Kills a Django worker and measures the time until another one responds."""
    with run.start(name, **SHOP) as server:
        boot = server.wait_ready("/api/status")
        expect(server, "/api/status", lambda body: b'"ok"' in body)
        first = json.loads(server.get("/api/status")[1])["pid"]
        os.kill(first, signal.SIGKILL)
        died = time.perf_counter()
        while time.perf_counter() - died < 20:
            try:
                status, body = server.get("/api/status")
            except (OSError, ValueError):
                status = 0
            if status == 200 and json.loads(body)["pid"] != first:
                replaced = (time.perf_counter() - died) * 1000
                return {"boot_ms": boot, "replaced_ms": replaced, "over_boot_ms": max(0.0, replaced - boot)}
            time.sleep(0.001)
    raise BenchError(f"no other worker answered within 20 s of the death of {first}")


def wait_for_websockets(run, server):
    """Waits until a WebSocket echoes; returns the milliseconds since the start."""
    boot = server.wait_ready("/sse")
    with WebSockets(run.websocket, server.port, 8) as some:
        some.command("once")
    return boot


def measure_echo(run, name):
    """Measures a closed loop of echoes on WebSockets."""
    with run.start(name, **APP_ASGI, websockets=CONNECTIONS) as server:
        boot = wait_for_websockets(run, server)
        with WebSockets(run.websocket, server.port, CONNECTIONS) as clients:
            clients.echo(1)
            with Measurement(server, clients) as measured:
                counts = clients.echo(run.seconds)
            return {
                "messages_per_s": counts["messages"] / counts["seconds"],
                "cpu_us_per_message": measured.server_seconds * 1e6 / counts["messages"],
                "p50_ms": counts["p50_us"] / 1000,
                "p99_ms": counts["p99_us"] / 1000,
                "pss_mib": server.pss_mib(),
                "boot_ms": boot,
                "client_busy": measured.child_busy,
                **disturbance(measured),
            }


def measure_websockets(run, name):
    """Measures the memory that an open WebSocket adds to all processes, before and after a message.

    The kernel's memory of the connection is in no PSS, and equal for all servers. The message is long enough
    to be compressed; some servers send short ones uncompressed.
    """
    figures = {}
    size = 1024
    for kind in ("plain", "deflate"):
        deflate = kind == "deflate"
        with run.start(name, **APP_ASGI, websockets=run.websockets) as server:
            wait_for_websockets(run, server)
            server.settle()
            before = server.pss_mib()
            with WebSockets(run.websocket, server.port, run.websockets, size, deflate) as clients:
                if clients.deflated != (run.websockets if deflate else 0):
                    continue  # The server does not support permessage-deflate.
                for key, use in ((f"{kind}_kib", False), (f"{kind}_used_kib", True)):
                    if use:
                        clients.command("once")
                    server.settle()
                    figures[key] = (server.pss_mib() - before) * 1024 / run.websockets
    return figures


MIXED_RATES = {"/short": 200, "/long": 20}
MIXED_SERVICE = {"/short": 0.0002, "/long": 0.1}
MIXED_WORKERS = 4


def mixed_arrivals(seconds, number):
    """Returns the arrival times of a round, the same for all servers.

    A round is long, because a stable tail percentile needs many requests.
    """
    return load.schedule(number, max(5, seconds * 4), MIXED_RATES)


def latency_figures(times):
    """Returns the figures of the open loop."""
    return {
        "short_p50_ms": load.percentile(times["/short"], 0.5) * 1000,
        "short_p99_ms": load.percentile(times["/short"], 0.99) * 1000,
        "short_max_ms": max(times["/short"]) * 1000,
        "long_p99_ms": load.percentile(times["/long"], 0.99) * 1000,
    }


def measure_mixed(run, name):
    """Measures the open loop on four workers of one thread."""
    with run.start(name, **APP, workers=MIXED_WORKERS) as server:
        server.wait_ready("/short")
        load.wrk(f"http://127.0.0.1:{server.port}/short", 16, 1)
        arrivals = mixed_arrivals(run.seconds, run.number)
        with Measurement(server) as measured:
            done = load.open_loop(server.port, arrivals, CONNECTIONS, run.number)
        return {**latency_figures(done.times), "retries": done.retries, **disturbance(measured)}


def mixed_ideal(seconds, rounds):
    """Returns the figures of an ideal queue for the same arrivals, per round."""
    return [
        latency_figures(load.ideal(mixed_arrivals(seconds, number), MIXED_SERVICE, MIXED_WORKERS))
        for number in range(rounds)
    ]
