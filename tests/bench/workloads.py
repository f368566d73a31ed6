"""The workloads: the requests and applications, and the measurement of one round of one server.

A round starts the server, waits for its first 200, warms it up, measures, and stops it. So only one server
runs at a time, and random properties of a start (hash seed, memory layout) vary between rounds. A round
returns its figures as a dict, whose names have the unit; a wrong response raises BenchError and makes the row
invalid.
"""

import json
import os
import signal
import socket
import time

import load
from app_asgi import CHUNKS
from environment import APPS, HERE, ROOT, STATIC_FILES
from process import BenchError, Measurement
from websocket_load import WebSockets
from workload import Workload

MIB = load.MIB
TRANSFER_MIB = 100
CONNECTIONS = 64
H2_CONNECTIONS = 8
H2_STREAMS = 16


HELLO = {"target": "wsgi:application", "directory": str(APPS / "hello"), "body": 13}
ASGI_HELLO = {**HELLO, "target": "asgi:application", "interface": "asgi"}
STATIC = {**HELLO, "body": 0, "static": str(ROOT / "target" / "bench" / "static")}
SHOP = {"target": "shop.wsgi:application", "directory": str(APPS / "shop")}
APP = {"target": "app:application", "directory": str(HERE)}
APP_ASGI = {"target": "app_asgi:application", "directory": str(HERE), "interface": "asgi"}
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
        "foreign_busy": measured.foreign,
    }


def closed_loop(
    task,
    path,
    check,
    *,
    connections=CONNECTIONS,
    threads_of=(),
    also=lambda server: None,
    same_core=False,
    headers=(),
):
    """Returns a measurement by wrk on `path`; `also` is a further check before the load.

    With `same_core` the CPU time per request is measured again with the client on the server's core. The
    difference is the cost of different cores (a constant hyper response takes 5.1 us, and 3.3 us on its
    client's core; two virtual cores of a Xeon, Linux 6.18). It explains the CPU time and has no target.
    """

    def measure(run, name):
        with run.start(name, **task, **dict(threads_of).get(name, {})) as server:
            boot = server.wait_ready(path)
            expect(server, path, check)
            also(server)
            url = f"{server.scheme}://127.0.0.1:{server.port}{path}"
            load.wrk(url, connections, 1, headers=headers)
            with Measurement(server) as measured:
                counts = load.wrk(url, connections, round(run.seconds) or 1, headers=headers)
            figures = rate_figures(server, boot, counts, measured)
            if same_core:
                with Measurement(server) as measured:
                    counts = load.wrk(url, connections, round(run.seconds) or 1, run.server_core)
                figures["cpu_us_same_core"] = measured.server_seconds * 1e6 / counts["requests"]
            return figures

    return measure


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
                "foreign_busy": measured.foreign,
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
    with run.start(name, **SHOP, workers=4) as server:
        server.wait_ready("/api/products")
        load.wrk(f"http://127.0.0.1:{server.port}/api/products", 16, 2)
        figures["django_pss_mib"] = server.pss_mib()
        figures["django_processes"] = server.count()
    return figures


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
                "foreign_busy": measured.foreign,
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
        return {**latency_figures(done.times), "retries": done.retries, "foreign_busy": measured.foreign}


def mixed_ideal(seconds, rounds):
    """Returns the figures of an ideal queue for the same arrivals, per round."""
    return [
        latency_figures(load.ideal(mixed_arrivals(seconds, number), MIXED_SERVICE, MIXED_WORKERS))
        for number in range(rounds)
    ]


UVICORNS = ("uvicorn", "uvicorn-websockets")

RATE = ("requests_per_s", "cpu_us_per_request", "p50_ms", "p99_ms", "pss_mib")
HELLO_RATE = ("requests_per_s", "cpu_us_per_request", "cpu_us_same_core", "p50_ms", "p99_ms", "pss_mib")
SAME_CORE = "same core: CPU us/req with the client on the server's core instead of another one"
TRANSFER = ("mib_per_s", "cpu_ms_per_transfer", "pss_mib")
SMALL_PEERS = ("granian", "fastwsgi", "bjoern")
ASGI = ("rgun", "granian", "uvicorn")
DJANGO = ("rgun", "gunicorn-sync", "gunicorn-gthread", *SMALL_PEERS)
# The best number of threads for gthread with one worker on one core (1 to 8 tried).
GTHREAD = {"gunicorn-gthread": {"threads": 4}}

WORKLOADS = {
    "hello": Workload(
        f"WSGI hello, one worker, {CONNECTIONS} keep-alive connections",
        closed_loop(HELLO, "/", is_hello, threads_of=GTHREAD, same_core=True),
        ("limit", *DJANGO),
        HELLO_RATE,
        "requests_per_s",
        note=SAME_CORE,
    ),
    "asgi-hello": Workload(
        f"ASGI hello, one worker, {CONNECTIONS} keep-alive connections",
        closed_loop(ASGI_HELLO, "/", is_hello, same_core=True),
        ("limit", *ASGI),
        HELLO_RATE,
        "requests_per_s",
        note=SAME_CORE,
    ),
    "asgi-sse": Workload(
        f"ASGI, {len(CHUNKS)} server-sent events each, one worker, {CONNECTIONS} keep-alive connections",
        closed_loop(APP_ASGI, "/sse", lambda body: body == SSE, also=expect_first),
        ASGI,
        RATE,
        "requests_per_s",
        note="each event is one `await send()` with more_body; a single event must arrive at once",
    ),
    "asgi-websocket-echo": Workload(
        f"WebSocket echo of 64 bytes of text, one worker, {CONNECTIONS} connections",
        measure_echo,
        (*ASGI, "uvicorn-websockets"),
        ("messages_per_s", "cpu_us_per_message", "p50_ms", "p99_ms", "pss_mib"),
        "messages_per_s",
        needs=("websocket",),
        note="one message at a time on each; no permessage-deflate; every echo is compared",
    ),
    "rss-websocket": Workload(
        "memory of an open WebSocket, all processes, one worker",
        measure_websockets,
        (*ASGI, "uvicorn-websockets"),
        ("plain_kib", "plain_used_kib", "deflate_kib", "deflate_used_kib"),
        "plain_kib",
        higher_is_better=False,
        max_rounds=2,
        needs=("websocket",),
        note="each: accepted, then idle; used: the same after 1 KiB echoed; deflate: of those that compress",
    ),
    "tls-hello": Workload(
        f"ASGI hello over TLS, one worker, {CONNECTIONS} keep-alive connections",
        closed_loop({**ASGI_HELLO, "tls": True}, "/", is_hello),
        (*ASGI, "nginx"),
        RATE,
        "requests_per_s",
    ),
    "tls-handshake": Workload(
        f"ASGI hello over TLS, one worker, {CONNECTIONS} connections of one request, full handshakes",
        client_loop({**ASGI_HELLO, "tls": True}, is_hello, handshakes),
        (*ASGI, "nginx"),
        RATE,
        "requests_per_s",
        needs=("handshake",),
        note="a new connection with a full handshake for each request; ECDSA key on P-256",
    ),
    "tls-resumption": Workload(
        f"ASGI hello over TLS, one worker, {CONNECTIONS} connections of one request, resumed sessions",
        closed_loop({**ASGI_HELLO, "tls": True}, "/", is_hello, headers=("Connection: close",)),
        (*ASGI, "nginx"),
        RATE,
        "requests_per_s",
        note="a new connection for each request, on which wrk resumes its last session",
    ),
    "http2-hello": Workload(
        f"ASGI hello over HTTP/2 and TLS, one worker, {H2_CONNECTIONS} connections of {H2_STREAMS} streams",
        client_loop({**ASGI_HELLO, "tls": True, "http2": True}, is_hello, http2),
        ("rgun", "granian", "h2corn"),
        ("requests_per_s", "cpu_us_per_request", "pss_mib"),
        "requests_per_s",
    ),
    **{
        f"static-{label}": Workload(
            f"static file of {size} by the server itself, {connections} keep-alive connections",
            closed_loop(
                STATIC,
                f"/static/{name}",
                lambda body, name=name: body == b"x" * STATIC_FILES[name],
                connections=connections,
            ),
            ("rgun", "granian", "nginx"),
            RATE,
            "requests_per_s",
        )
        for label, size, name, connections in (
            ("10kib", "10 KiB", "10KiB.bin", CONNECTIONS),
            ("1mib", "1 MiB", "1MiB.bin", 16),
        )
    },
    "django-json": Workload(
        "Django JSON view without database, default middleware, one worker",
        closed_loop(SHOP, "/api/status", lambda body: b'"ok"' in body, threads_of=GTHREAD),
        DJANGO,
        RATE,
        "requests_per_s",
    ),
    "django-orm": Workload(
        "Django JSON view of 20 rows from SQLite by the ORM, one worker",
        closed_loop(SHOP, "/api/products", lambda body: body.count(b'"price"') == 20, threads_of=GTHREAD),
        DJANGO,
        RATE,
        "requests_per_s",
        max_rounds=3,
        note="mostly the ORM: servers can differ only by as much as in django-json",
    ),
    "upload": Workload(
        f"upload of {TRANSFER_MIB} MiB, one at a time, one worker",
        transfer(check_upload, lambda server, buffer: load.upload(server.port, TRANSFER_MIB)),
        DJANGO,
        TRANSFER,
        "mib_per_s",
    ),
    "download": Workload(
        f"download of a {TRANSFER_MIB} MiB file by wsgi.file_wrapper, one at a time, one worker",
        transfer(
            check_download,
            lambda server, buffer: load.download(server.port, buffer, TRANSFER_MIB * MIB),
        ),
        DJANGO,
        TRANSFER,
        "mib_per_s",
    ),
    "body-1mib": Workload(
        "1 MiB in-memory response, one worker, 16 keep-alive connections",
        closed_loop(
            {**APP, "body": MIB}, "/big", lambda body: body == b"x" * MIB, connections=16, threads_of=GTHREAD
        ),
        ("limit", *DJANGO),
        RATE,
        "requests_per_s",
    ),
    "mixed": Workload(
        "p99 of 0.2 ms views (200/s) together with 100 ms views (20/s), open loop, 4 workers x 1 thread",
        measure_mixed,
        DJANGO,
        ("short_p50_ms", "short_p99_ms", "short_max_ms", "long_p99_ms", "retries"),
        "short_p99_ms",
        higher_is_better=False,
        max_rounds=3,
        note=f"{CONNECTIONS} kept connections, one at random for each request; `ideal` is one queue, no cost",
        ideal=mixed_ideal,
    ),
    "rss-idle": Workload(
        "memory: idle hello with one worker, and Django with four",
        measure_memory,
        ("rgun", "rgun-preload", "gunicorn-sync", "gunicorn-preload", "granian", "bjoern"),
        ("main_rss_mib", "hello_pss_mib", "django_pss_mib", "django_processes", "boot_ms"),
        "django_pss_mib",
        higher_is_better=False,
        max_rounds=3,
        note="main: the process that was started (daemon, arbiter); boot: exec to the first 200, hello",
    ),
    "death": Workload(
        "one Django worker is killed: how long until another one answers",
        measure_death,
        ("rgun", "rgun-preload", "gunicorn-sync", "gunicorn-preload"),
        ("replaced_ms", "boot_ms", "over_boot_ms"),
        "replaced_ms",
        higher_is_better=False,
        max_rounds=3,
        note="boot: exec of the server to the first 200, the server's own start included",
    ),
}
