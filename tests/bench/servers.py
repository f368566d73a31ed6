"""How each server is started for a workload: the one place that knows their flags.

The rule for every peer: one worker means one process with one thread for the application unless the
server's own kind is threads; access logs off; what its manual recommends for speed on, as far as a careful
operator would. A `None` instead of a command line means that this server does not do this kind of work.
"""

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Task:
    """What to serve: everything a command line can depend on."""

    target: str
    directory: str
    port: int
    interface: str = "wsgi"
    workers: int = 1
    threads: int = 1
    body: int = 0
    websockets: int = 0


@dataclass(frozen=True)
class Tools:
    """Where the programs are: the venv's bin, rgun, the limit; `missing` says what is not there, and why."""

    bin: str
    rgun: str
    limit: str
    websocket: str
    missing: dict


def rgun(task, tools):
    """rgun from this work tree."""
    threads = ["--threads", str(task.threads)] if task.threads > 1 else []
    # Without being told how many, it keeps a second file in reserve for each connection: a request's body.
    most = ["env", f"RGUN_LIMITS_CONNECTIONS={task.websockets + 64}"] if task.websockets else []
    return [
        *[
            *most,
            tools.rgun,
            task.target,
            "--bind",
            f"127.0.0.1:{task.port}",
            "--workers",
            str(task.workers),
            *threads,
        ],
        *["--chdir", task.directory, "--python", f"{tools.bin}/python", "--log-level", "warning"],
    ]


def rgun_preload(task, tools):
    """The same with --preload: one process imports, the workers are forked from it."""
    return [*rgun(task, tools), "--preload"]


def limit(task, tools):
    """hyper from a constant; only for answers that are constants."""
    if not task.body:
        return None
    return [tools.limit, f"127.0.0.1:{task.port}", *([str(task.body)] if task.body > 13 else [])]


def gunicorn(task, tools, *kind):
    """What all gunicorns have in common; its control socket would be left in the home directory."""
    if task.interface != "wsgi":
        return None
    return [
        *[f"{tools.bin}/gunicorn", task.target, "--bind", f"127.0.0.1:{task.port}"],
        *["--workers", str(task.workers), "--log-level", "warning", "--no-control-socket", *kind],
    ]


def gunicorn_sync(task, tools):
    """gunicorn's default: one request a worker, one request a connection."""
    return gunicorn(task, tools, "--worker-class", "sync")


def gunicorn_preload(task, tools):
    """The same with --preload, for the memory it saves."""
    return gunicorn(task, tools, "--worker-class", "sync", "--preload")


def gunicorn_gthread(task, tools):
    """gunicorn with threads and keep-alive, for whose sake people choose it."""
    return gunicorn(task, tools, "--worker-class", "gthread", "--threads", str(task.threads))


def granian(task, tools):
    """granian with one blocking thread a worker under WSGI, and nothing it does not need here.

    Its event loop is uvloop, which is there because uvicorn[standard] is. `--task-impl rust` is left out:
    experimental by its own words, and gone with Python 3.12.
    """
    threads = ["--blocking-threads", str(task.threads)] if task.interface == "wsgi" else []
    # It serves no more at a time than its backpressure says, and a WebSocket is served as long as it is open.
    sockets = ["--ws", "--backpressure", str(task.websockets + 1024)] if task.websockets else ["--no-ws"]
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
        *["--workers", str(task.workers), *threads, "--http", "1", *sockets, "--log-level", "warning"],
        task.target,
    ]


def uvicorn(task, tools):
    """uvicorn[standard]: uvloop, httptools, and of the websockets package what it takes for the best itself.

    Its `zttp` and `zuvloop` are left out: experimental, and not for production by its own release notes.
    """
    if task.interface != "asgi":
        return None
    workers = ["--workers", str(task.workers)] if task.workers > 1 else []
    return [
        *[f"{tools.bin}/uvicorn", task.target, "--host", "127.0.0.1", "--port", str(task.port), *workers],
        *["--log-level", "warning", "--no-access-log", "--app-dir", task.directory],
    ]


def uvicorn_websockets(task, tools):
    """The same with the implementation that was its choice for years; only WebSockets differ."""
    return [*uvicorn(task, tools), "--ws", "websockets"] if task.websockets else None


def bjoern(task, tools):
    """bjoern: C, one thread, as little as there can be."""
    return small(task, tools, "serve_bjoern.py")


def fastwsgi(task, tools):
    """fastwsgi: C over libuv, the same idea."""
    return small(task, tools, "serve_fastwsgi.py")


def small(task, tools, program):
    """Servers that are libraries, started by a program of ours; one thread a worker is all they have."""
    if task.interface != "wsgi" or task.threads > 1:
        return None
    return [f"{tools.bin}/python", str(HERE / program), task.target, str(task.port), str(task.workers)]


# In the order of the table.
SERVERS = {
    "limit": limit,
    "rgun": rgun,
    "rgun-preload": rgun_preload,
    "gunicorn-sync": gunicorn_sync,
    "gunicorn-gthread": gunicorn_gthread,
    "gunicorn-preload": gunicorn_preload,
    "granian": granian,
    "uvicorn": uvicorn,
    "uvicorn-websockets": uvicorn_websockets,
    "fastwsgi": fastwsgi,
    "bjoern": bjoern,
}

# The program a server needs, as `Tools.missing` names it.
NEEDS = {name: name.partition("-")[0] for name in SERVERS}
