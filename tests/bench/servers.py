"""The command line of each server for a workload.

For every peer except gunicorn-gthread, one worker is one process with one thread for the application. Access
logs are off. The flags are those that each server's manual recommends for speed, as far as a careful operator
would go. Limits that a workload would exceed are raised.
`None` instead of a command line means that the server cannot do this workload.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Task:
    """A workload's demands on a server: everything that a command line depends on."""

    target: str
    directory: str
    port: int
    interface: str = "wsgi"
    workers: int = 1
    threads: int = 1
    body: int = 0
    websockets: int = 0
    tls: bool = False
    http2: bool = False
    # The application calls a database, which Django refuses in a thread with a running event loop.
    database: bool = False
    # Number of connections that the clients open.
    connections: int = 64
    # Idle connections must stay open longer than some servers keep them by default.
    idle: bool = False
    # A directory that is served at /static/.
    static: str = ""

    @property
    def scheme(self):
        """The scheme of the server's URL."""
        return "https" if self.tls else "http"


# Pending connections that the kernel queues: clients open thousands at once (net.core.somaxconn is 4096).
BACKLOG = 4096
# Open connections up to which no server's default limit matters.
FEW_CONNECTIONS = 512
# Modules that every Django project of some size imports.
DJANGO_MODULES = (
    *("django.core.handlers.wsgi", "django.db.models", "django.forms", "django.views.generic"),
    *("django.contrib.auth", "django.template.loader", "django.db.backends.sqlite3.base"),
)
# Bytes of the largest request body that servers accept, and seconds for which they keep idle connections.
MAX_BODY = 1 << 30
# Length of the hello applications' response.
HELLO_BYTES = 13
KEEP_ALIVE = 75


@dataclass(frozen=True)
class Tools:
    """Paths of the programs; `missing` has the reason for each that is missing."""

    bin: str
    rgun: str
    limit: str
    websocket: str
    handshake: str
    certificate: str
    key: str
    missing: dict

    def tls(self, task, certificate, key):
        """Returns a server's flags for TLS, whose names are the arguments; no flags without TLS."""
        return [certificate, self.certificate, key, self.key] if task.tls else []


def rgun(task, tools):
    """rgun of this work tree."""
    threads = ["--threads", str(task.threads)] if task.threads > 1 else []
    # Otherwise the server reserves a second descriptor per connection, for a request's body.
    environment = ["env", f"RGUN_LIMITS_CONNECTIONS={task.websockets + 64}"] if task.websockets else []
    return [
        *[
            *environment,
            tools.rgun,
            task.target,
            "--bind",
            f"127.0.0.1:{task.port}",
            "--workers",
            str(task.workers),
            *threads,
        ],
        *["--chdir", task.directory, "--python", f"{tools.bin}/python", "--log-level", "warning"],
        *tools.tls(task, "--certfile", "--keyfile"),
        *mount(task),
    ]


def mount(task):
    """Returns rgun's flags for `Task.static`."""
    if not task.static:
        return []
    text = f'[[static]]\nurl = "/static/"\ndirectory = "{task.static}"\n'
    return ["--config", written(text)]


def written(text):
    """Writes a configuration to a file of its own and returns the path."""
    with tempfile.NamedTemporaryFile("w", suffix=".conf", prefix="rgun-bench-", delete=False) as file:
        file.write(text)
    return file.name


def nginx(task, tools):
    """nginx with one worker process: files by sendfile, or the body of tests/apps/hello."""
    pair = f"ssl_certificate {tools.certificate}; ssl_certificate_key {tools.key};"
    # Old versions of nginx do not enable TLS 1.3 by default.
    tls = f"{pair} ssl_protocols TLSv1.2 TLSv1.3;" if task.tls else ""
    hello = "location = / { default_type text/plain; return 200 'Hello, world!'; }"
    static = f"location /static/ {{ alias {task.static}/; }}" if task.static else ""
    listen = f"listen 127.0.0.1:{task.port}{' ssl' if task.tls else ''};"
    options = "access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000;"
    return [
        *["nginx", "-e", "stderr", "-c"],
        written(
            f"worker_processes 1; daemon off; pid {tempfile.gettempdir()}/rgun-bench-{task.port}.pid;\n"
            f"events {{ worker_connections 1024; }}\n"
            f"http {{ {options} server {{ {listen} {tls} {hello} {static} }} }}\n"
        ),
    ]


def rgun_preload(task, tools):
    """rgun with --preload: one process imports and serves a probe, and the workers are forked from it."""
    probe = ["env", "RGUN_RELOAD_PROBE=/api/products"] if task.database else []
    return [*probe, *rgun(task, tools), "--preload"]


def rgun_preload_modules(task, tools):
    """rgun with the libraries of Django preloaded: each worker imports the application."""
    return ["env", f"RGUN_WORKERS_PRELOAD={','.join(DJANGO_MODULES)}", *rgun(task, tools)]


def limit(task, tools):
    """hyper with a constant response, over rustls if wanted; only for workloads with a constant body."""
    if not task.body:
        return None
    size = 0 if task.body == HELLO_BYTES else task.body
    tls = [tools.certificate, tools.key] if task.tls else []
    return [tools.limit, f"127.0.0.1:{task.port}", str(size), *tls]


def gunicorn(task, tools, *kind):
    """The command line that all rows of gunicorn share. A control socket would stay in the home directory."""
    if task.interface != "wsgi":
        return None
    return [
        *[f"{tools.bin}/gunicorn", task.target, "--bind", f"127.0.0.1:{task.port}"],
        *["--workers", str(task.workers), "--log-level", "warning", "--no-control-socket", *kind],
        *["--backlog", str(BACKLOG), *(["--keep-alive", str(KEEP_ALIVE)] if task.idle else [])],
    ]


def gunicorn_sync(task, tools):
    """gunicorn's default: one request per worker, one request per connection."""
    return gunicorn(task, tools, "--worker-class", "sync")


def gunicorn_preload(task, tools):
    """gunicorn with --preload, for the memory it saves."""
    return gunicorn(task, tools, "--worker-class", "sync", "--preload")


def gunicorn_gthread(task, tools):
    """gunicorn with threads and keep-alive."""
    limit = ["--worker-connections", str(task.connections * 2)] if task.connections > FEW_CONNECTIONS else []
    return gunicorn(task, tools, "--worker-class", "gthread", "--threads", str(task.threads), *limit)


def granian(task, tools):
    """granian with one blocking thread per worker under WSGI.

    Its event loop is uvloop, which uvicorn[standard] installs. `--task-impl rust` is left out: experimental,
    and not available since Python 3.12.
    """
    threads = ["--blocking-threads", str(task.threads)] if task.interface == "wsgi" else []
    sockets = ["--ws"] if task.websockets else ["--no-ws"]
    # By default a worker stops accepting at backlog/workers open connections, and the others would wait.
    most = max(task.websockets, task.connections) + 1024
    limit = ["--backlog", str(BACKLOG), "--backpressure", str(most)]
    static = ["--static-path-route", "/static", "--static-path-mount", task.static] if task.static else []
    return [
        *[
            f"{tools.bin}/granian",
            "--interface",
            task.interface,
            "--host",
            "127.0.0.1",
            "--port",
            str(task.port),
        ],
        *[
            "--workers",
            str(task.workers),
            *threads,
            "--http",
            "auto" if task.http2 else "1",
            *sockets,
            *limit,
        ],
        *["--log-level", "warning", *tools.tls(task, "--ssl-certificate", "--ssl-keyfile"), *static],
        task.target,
    ]


def uvicorn(task, tools):
    """uvicorn[standard]: uvloop, httptools, and its default WebSocket implementation.

    `zttp` and `zuvloop` are left out: experimental according to its release notes.
    """
    if task.interface != "asgi":
        return None
    workers = ["--workers", str(task.workers)] if task.workers > 1 else []
    return [
        *[f"{tools.bin}/uvicorn", task.target, "--host", "127.0.0.1", "--port", str(task.port), *workers],
        *["--log-level", "warning", "--no-access-log", "--app-dir", task.directory],
        *["--backlog", str(BACKLOG)],
        *tools.tls(task, "--ssl-certfile", "--ssl-keyfile"),
    ]


def h2corn(task, tools):
    """h2corn on asyncio, as in its own benchmarks.

    Its IO is in Rust, and it took a tenth more CPU time with uvloop. It keeps its two threads for IO, because
    with one it took a third more CPU time, even on one core.
    """
    if task.interface != "asgi":
        return None
    return [
        *[f"{tools.bin}/h2corn", task.target, "--bind", f"127.0.0.1:{task.port}", "--loop", "asyncio"],
        *["--workers", str(task.workers), "--app-dir", task.directory],
        *["--no-access-log", "--backlog", str(BACKLOG)],
        *tools.tls(task, "--certfile", "--keyfile"),
    ]


def uvicorn_websockets(task, tools):
    """uvicorn with its previous default for WebSockets."""
    return [*uvicorn(task, tools), "--ws", "websockets"] if task.websockets else None


def bjoern(task, tools):
    """bjoern: C, one thread."""
    return small(task, tools, "serve_bjoern.py") if task.interface == "wsgi" else None


def fastpysgi(task, tools):
    """fastpysgi: C on libuv, one thread; the successor of fastwsgi."""
    return small(task, tools, "serve_fastpysgi.py", *([tools.certificate, tools.key] if task.tls else []))


def small(task, tools, program, *more):
    """Servers that are libraries, started by a program of this directory; one thread per worker."""
    if task.threads > 1 or task.websockets:
        return None
    return [f"{tools.bin}/python", str(HERE / program), task.target, str(task.port), str(task.workers), *more]


def peregrine(task, tools):
    """peregrine: Swift within the application's process; WSGI without threads, the fastest way by its manual.

    peregrine uses uvloop if that is installed, as here. The times in its flags are in milliseconds.
    """
    return [f"{tools.bin}/peregrine", *swift_and_rust(task, tools, 1000), task.target]


def weft(task, tools):
    """weft: tokio driven by asyncio's selector; WSGI without threads, its default, unless one is needed."""
    threads = ["--wsgi-threads", "1"] if task.database and task.interface == "wsgi" else []
    return [f"{tools.bin}/weft", *swift_and_rust(task, tools, 1), *threads, task.target]


def swift_and_rust(task, tools, second):
    """The flags that peregrine and weft share; `second` is a second in the unit of their times."""
    return [
        *["--host", "127.0.0.1", "--port", str(task.port), "--workers", str(task.workers)],
        *["--protocol", task.interface, "--log-level", "warning", "--max-body", str(MAX_BODY)],
        *["--backlog", str(BACKLOG), "--max-connections", str(2 * BACKLOG + task.websockets)],
        *([] if task.websockets else ["--no-websockets"]),
        *(["--keep-alive", str(KEEP_ALIVE * second)] if task.idle else []),
        *(["--static-dir", f"/static={task.static}"] if task.static else []),
        *tools.tls(task, "--tls-cert", "--tls-key"),
    ]


# In the order of the table.
SERVERS = {
    "limit": limit,
    "rgun": rgun,
    "rgun-preload": rgun_preload,
    "rgun-preload-modules": rgun_preload_modules,
    "gunicorn-sync": gunicorn_sync,
    "gunicorn-gthread": gunicorn_gthread,
    "gunicorn-preload": gunicorn_preload,
    "granian": granian,
    "uvicorn": uvicorn,
    "uvicorn-websockets": uvicorn_websockets,
    "h2corn": h2corn,
    "fastpysgi": fastpysgi,
    "peregrine": peregrine,
    "weft": weft,
    "bjoern": bjoern,
    "nginx": nginx,
}

# The program that each server needs, as named in `Tools.missing`.
NEEDS = {name: name.partition("-")[0] for name in SERVERS}
