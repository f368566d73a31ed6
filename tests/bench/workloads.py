"""The workloads: the requests, the application and the servers of each, in the order of the tables."""

import load
from app_asgi import CHUNKS
from environment import STATIC_FILES
from measurements import (
    APP,
    APP_ASGI,
    ASGI_HELLO,
    CONNECTIONS,
    ECHO,
    FASTAPI,
    FILE_MIB,
    H2_CONNECTIONS,
    H2_STREAMS,
    HELLO,
    IDLE_CONNECTIONS,
    IDLE_SECONDS,
    MANY_WORKERS,
    MIB,
    MIN_CONNECTION_KIB,
    SHOP,
    SSE,
    STATIC,
    TRANSFER_MIB,
    check_download,
    check_upload,
    client_loop,
    closed_loop,
    echo_loop,
    expect_first,
    handshakes,
    http2,
    is_hello,
    measure_death,
    measure_django_memory,
    measure_echo,
    measure_idle_connections,
    measure_memory,
    measure_mixed,
    measure_websockets,
    mixed_ideal,
    transfer,
)
from workload import Workload

UVICORNS = ("uvicorn", "uvicorn-websockets")

RATE = ("requests_per_s", "cpu_us_per_request", "p50_ms", "p99_ms", "pss_mib")
HELLO_RATE = ("requests_per_s", "cpu_us_per_request", "cpu_us_same_core", "p50_ms", "p99_ms", "pss_mib")
SAME_CORE = "same core: CPU us/req with the client on the server's core instead of another one"
TRANSFER = ("mib_per_s", "cpu_ms_per_transfer", "pss_mib")
WSGI_PEERS = ("granian", "fastpysgi", "peregrine", "weft", "bjoern")
WSGI = ("rgun", *WSGI_PEERS)
DJANGO = ("rgun", "gunicorn-gthread", *WSGI_PEERS)
TRANSFER_SERVERS = ("rgun", "gunicorn-sync", "gunicorn-gthread", *WSGI_PEERS)
# fastpysgi has no WebSockets, and h2corn is about HTTP/2.
STREAMING = ("rgun", "granian", "uvicorn", "peregrine", "weft")
ASGI = (*STREAMING, "fastpysgi", "h2corn")
IMPORTING = ("rgun", "gunicorn-sync", "granian", "peregrine", "weft")
SHARING = ("rgun-preload-modules", *IMPORTING[1:])
PRELOADING = ("rgun-preload", "gunicorn-preload", "bjoern", "fastpysgi")
TLS = (*STREAMING, "nginx")
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
        page=f"WSGI hello, {CONNECTIONS} connections",
        reference="limit",
    ),
    **{
        f"hello-{count}": Workload(
            f"WSGI hello, one worker, {count:,} keep-alive connection{'s' if count > 1 else ''}",
            closed_loop(HELLO, "/", is_hello, connections=count),
            ("limit", *WSGI),
            RATE,
            "requests_per_s",
            page=f"WSGI hello, {count:,} connection{'s' if count > 1 else ''}",
            reference="limit",
        )
        for count in (1, 1024, 4096)
    },
    "hello-1-both-cores": Workload(
        "WSGI hello, one worker, 1 keep-alive connection, on both cores",
        closed_loop(HELLO, "/", is_hello, connections=1, both_cores=True),
        ("limit", *WSGI),
        RATE,
        "requests_per_s",
        note="the kernel chooses the cores of all processes, and of the client",
        page="WSGI hello, 1 connection, both cores",
        reference="limit",
    ),
    "hello-workers": Workload(
        f"WSGI hello, {MANY_WORKERS} workers on one core, {CONNECTIONS} keep-alive connections",
        closed_loop({**HELLO, "workers": MANY_WORKERS}, "/", is_hello),
        WSGI,
        RATE,
        "requests_per_s",
        page=f"WSGI hello, {MANY_WORKERS} workers",
    ),
    "asgi-hello": Workload(
        f"ASGI hello, one worker, {CONNECTIONS} keep-alive connections",
        closed_loop(ASGI_HELLO, "/", is_hello, same_core=True),
        ("limit", *ASGI),
        HELLO_RATE,
        "requests_per_s",
        note=SAME_CORE,
        page=f"ASGI hello, {CONNECTIONS} connections",
        reference="limit",
    ),
    "asgi-echo": Workload(
        f"ASGI echo of {ECHO // 1024} KiB, one worker, {CONNECTIONS} keep-alive connections",
        echo_loop(APP_ASGI),
        ASGI,
        RATE,
        "requests_per_s",
        page=f"ASGI echo of {ECHO // 1024} KiB",
    ),
    "fastapi": Workload(
        f"FastAPI, a route with two parameters and JSON, one worker, {CONNECTIONS} keep-alive connections",
        closed_loop(FASTAPI, "/items/7?discount=0.1", lambda body: b'"price":18.0' in body),
        ASGI,
        RATE,
        "requests_per_s",
        needs=("fastapi",),
        page="FastAPI, JSON",
    ),
    "asgi-sse": Workload(
        f"ASGI, {len(CHUNKS)} server-sent events each, one worker, {CONNECTIONS} keep-alive connections",
        closed_loop(APP_ASGI, "/sse", lambda body: body == SSE, also=expect_first),
        STREAMING,
        RATE,
        "requests_per_s",
        note="each event is one `await send()` with more_body; a single event must arrive at once",
    ),
    "asgi-websocket-echo": Workload(
        f"WebSocket echo of 64 bytes of text, one worker, {CONNECTIONS} connections",
        measure_echo,
        (*STREAMING, "h2corn", "uvicorn-websockets"),
        ("messages_per_s", "cpu_us_per_message", "p50_ms", "p99_ms", "pss_mib"),
        "messages_per_s",
        needs=("websocket",),
        note="one message at a time on each; no permessage-deflate; every echo is compared",
        page="WebSocket echo",
    ),
    "rss-websocket": Workload(
        "memory of an open WebSocket, all processes, one worker",
        measure_websockets,
        (*STREAMING, "uvicorn-websockets"),
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
        TLS,
        RATE,
        "requests_per_s",
        note="nginx sends a constant",
        page="ASGI hello over TLS",
        reference="nginx",
    ),
    "tls-handshake": Workload(
        f"ASGI hello over TLS, one worker, {CONNECTIONS} connections of one request, full handshakes",
        client_loop({**ASGI_HELLO, "tls": True}, is_hello, handshakes),
        ("limit", *TLS),
        RATE,
        "requests_per_s",
        needs=("handshake",),
        note="a new connection with a full handshake for each request; ECDSA key on P-256; limit: no tickets",
        page="ASGI hello over TLS, full handshakes",
        reference="limit",
    ),
    "tls-resumption": Workload(
        f"ASGI hello over TLS, one worker, {CONNECTIONS} connections of one request, resumed sessions",
        closed_loop({**ASGI_HELLO, "tls": True}, "/", is_hello, headers=("Connection: close",)),
        TLS,
        RATE,
        "requests_per_s",
        note="a new connection for each request, on which wrk resumes its last session",
    ),
    "http2-hello": Workload(
        f"ASGI hello over HTTP/2 and TLS, one worker, {H2_CONNECTIONS} connections of {H2_STREAMS} streams",
        client_loop({**ASGI_HELLO, "tls": True, "http2": True}, is_hello, http2),
        ("rgun", "granian", "peregrine", "weft", "h2corn"),
        ("requests_per_s", "cpu_us_per_request", "pss_mib"),
        "requests_per_s",
        page="ASGI hello over HTTP/2 and TLS",
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
            ("rgun", "granian", "peregrine", "weft", "nginx"),
            RATE,
            "requests_per_s",
            note="under the packaged unit, whose filter refuses openat2(2), a file costs rgun twice as much",
            page=f"static file of {size}" if label == "10kib" else "",
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
        page="Django, 20 rows by the ORM",
    ),
    "upload": Workload(
        f"upload of {TRANSFER_MIB} MiB, one at a time, one worker",
        transfer(check_upload, lambda server, buffer: load.upload(server.port, TRANSFER_MIB)),
        TRANSFER_SERVERS,
        TRANSFER,
        "mib_per_s",
    ),
    "download": Workload(
        f"download of a {TRANSFER_MIB} MiB file by wsgi.file_wrapper, one at a time, one worker",
        transfer(
            check_download,
            lambda server, buffer: load.download(server.port, buffer, TRANSFER_MIB * MIB),
        ),
        TRANSFER_SERVERS,
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
        page="1 MiB from memory, 16 connections",
        reference="limit",
    ),
    "echo-64kib": Workload(
        f"WSGI echo of {ECHO // 1024} KiB, one worker, {CONNECTIONS} keep-alive connections",
        echo_loop(APP),
        WSGI,
        RATE,
        "requests_per_s",
        page=f"WSGI echo of {ECHO // 1024} KiB",
    ),
    "file-10mib": Workload(
        f"{FILE_MIB} MiB file by wsgi.file_wrapper, one worker, 4 keep-alive connections",
        closed_loop(
            APP, "/file", lambda body: len(body) == FILE_MIB * MIB, connections=4, threads_of=GTHREAD
        ),
        DJANGO,
        RATE,
        "requests_per_s",
        page=f"file of {FILE_MIB} MiB by the application",
    ),
    "mixed": Workload(
        "p99 of 0.2 ms views (200/s) together with 100 ms views (20/s), open loop, 4 workers x 1 thread",
        measure_mixed,
        TRANSFER_SERVERS,
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
        (
            *("rgun", "rgun-preload", "rgun-preload-modules", "gunicorn-sync", "gunicorn-preload", "granian"),
            "bjoern",
        ),
        ("main_rss_mib", "hello_pss_mib", "django_pss_mib", "django_processes", "boot_ms"),
        "django_pss_mib",
        higher_is_better=False,
        max_rounds=3,
        note="main: the process that was started (daemon, arbiter); boot: exec to the first 200, hello",
    ),
    "rss-connections": Workload(
        f"memory of an idle keep-alive connection, all processes, one worker, {IDLE_CONNECTIONS:,} of them",
        measure_idle_connections,
        DJANGO,
        ("connection_kib",),
        "connection_kib",
        higher_is_better=False,
        max_rounds=3,
        note=f"all opened within seconds, {IDLE_SECONDS} s after one request on each; "
        f"without the kernel's memory; at least {MIN_CONNECTION_KIB} KiB, the resolution",
        page="memory of an idle connection",
    ),
    **{
        f"rss-django{suffix}": Workload(
            f"memory of Django with four workers, all processes, {text}",
            measure_django_memory,
            servers,
            ("django_pss_mib", "django_processes"),
            "django_pss_mib",
            higher_is_better=False,
            # rss-idle measures the same, and more.
            default=False,
            max_rounds=3,
            page=label,
            subject=servers[0],
        )
        for suffix, text, label, servers in (
            ("", "each importing", "memory of 4 Django workers", IMPORTING),
            ("-modules", "libraries preloaded", "memory of 4 Django workers, modules", SHARING),
            ("-preload", "forked after the import", "memory of 4 Django workers, preload", PRELOADING),
        )
    },
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
