"""The zygote's import: the warm-up request, and the resources that a fork does not duplicate."""

import pytest
from support.paths import WORKER_APPS
from support.records import process_facts


def test_zygote_reports_an_import_error(fake, project):
    zygote = fake.spawn("broken", project(broken="raise ValueError('no database')"), zygote=True)
    assert "importing broken raised ValueError: no database" in zygote.next_report("failed")[2]
    assert zygote.wait() == 1


def test_warm_up_request_reaches_the_application_once(fake):
    zygote = fake.spawn("watched", WORKER_APPS, zygote=True, warm_up="/warm?").wait_ready()
    assert zygote.warnings() == []
    path, environ = process_facts(fake.fork(zygote).wait_ready())["seen"]
    assert path == "/warm"
    expected = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/warm",
        "QUERY_STRING": "",
        "HTTP_HOST": "127.0.0.1",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "REMOTE_ADDR": "127.0.0.1",
        "rgun.request_id": "warm-up",
    }
    assert {name: environ.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("raise ValueError('cold')", ["raised ValueError: cold", "Traceback", "line"]),
        ("start_response('404 Not Found', []); return []", ["was answered with 404 Not Found"]),
        ("start_response('200 OK', []); return None", ["raised TypeError"]),
        ("return []", ["got no response"]),
        ("start_response('200 OK', []); yield b'x'; raise KeyError('late')", ["raised KeyError: 'late'"]),
        ("import sys; sys.exit('no')", ["raised SystemExit: no"]),
    ],
)
def test_failed_warm_up_is_a_warning(fake, project, source, words):
    directory = project(cold=f"def application(environ, start_response):\n    {source}\n")
    zygote = fake.spawn("cold", directory, zygote=True, warm_up="/first").wait_ready()
    (warning,) = zygote.warnings()
    assert "the warm-up request GET /first" in warning
    for word in words:
        assert word in warning
    fake.fork(zygote).wait_ready()


def test_warm_up_response_is_read_and_closed(fake, project):
    directory = project(
        closes="""
            events = []

            class Body:
                def __iter__(self):
                    yield b"one"
                    events.append("read")

                def close(self):
                    events.append("closed")

            def application(environ, start_response):
                start_response("200 OK", [])
                if environ["PATH_INFO"] == "/events":
                    return [repr(events).encode()]
                return Body()
        """
    )
    zygote = fake.spawn("closes", directory, zygote=True, warm_up="/").wait_ready()
    assert zygote.warnings() == []
    assert fake.fork(zygote).wait_ready().get("/events") == (200, b"['read', 'closed']")


def test_warnings_name_open_sockets_and_threads(fake, project):
    directory = project(
        busy="""
            import _thread
            import ctypes
            import socket
            import threading

            listening = socket.create_server(("127.0.0.1", 0))
            connected = socket.create_connection(listening.getsockname())
            unix = socket.socketpair()
            open("port", "w").write(str(listening.getsockname()[1]))
            for_ever = threading.Event()
            threading.Thread(target=for_ever.wait, name="poller", daemon=True).start()
            named = threading.Event()

            def native():
                ctypes.CDLL(None).prctl(15, b"grpc-like", 0, 0, 0)
                named.set()
                for_ever.wait()

            _thread.start_new_thread(native, ())
            named.wait()

            def application(environ, start_response):
                start_response("200 OK", [])
                return [b"ok"]
        """
    )
    zygote = fake.spawn("busy", directory, zygote=True).wait_ready()
    sockets, threads = zygote.warnings()
    port = (directory / "port").read_text()
    assert sockets.count("descriptor ") == 4
    assert f"AF_INET 127.0.0.1:{port})" in sockets
    assert f" to 127.0.0.1:{port})" in sockets
    assert "AF_UNIX unnamed to unnamed" in sockets
    assert "hooks.post_worker_init" in sockets
    assert "poller (threading.Thread)" in threads
    assert "native thread grpc-like" in threads
    # A warning does not prevent the fork.
    assert fake.fork(zygote).wait_ready().get("/") == (200, b"ok")
    assert "DeprecationWarning" not in fake.output()


def test_application_without_sockets_causes_no_warning(zygote):
    assert zygote.warnings() == []


DRAWS = """
    import numpy.random

    def application(environ, start_response):
        start_response("200 OK", [])
        return [repr(numpy.random.random()).encode()]
"""


def test_numpy_is_seeded_in_each_worker(fake, project):
    # A stand-in for NumPy: one generator for the module, which is not reseeded at a fork.
    directory = project(draws=DRAWS)
    (directory / "numpy").mkdir()
    (directory / "numpy/__init__.py").touch()
    (directory / "numpy/random.py").write_text(
        "import random as python\n\n"
        "generator = python.Random(1)\nrandom, seed = generator.random, generator.seed\n"
    )
    zygote = fake.spawn("draws", directory, zygote=True).wait_ready()
    workers = [fake.fork(zygote, number=number, incarnation=2 + number).wait_ready() for number in range(3)]
    assert len({worker.get("/") for worker in workers}) == 3
    assert [worker.warnings() for worker in workers] == [[], [], []]


def test_generator_that_cannot_be_seeded_is_a_warning(fake, project):
    directory = project(draws=DRAWS)
    (directory / "numpy").mkdir()
    (directory / "numpy/__init__.py").touch()
    (directory / "numpy/random.py").write_text(
        "def random():\n    return 0.5\n\ndef seed():\n    raise TypeError('no MT19937')\n"
    )
    zygote = fake.spawn("draws", directory, zygote=True).wait_ready()
    worker = fake.fork(zygote).wait_ready()
    (warning,) = worker.warnings()
    assert "numpy.random" in warning
    assert "no MT19937" in warning
    assert "hooks.post_fork" in warning
    assert worker.get("/") == (200, b"0.5")


IMPORTED = """
    import os

    imported_by = os.getpid()
"""
IMPORTS = """
    import os

    import imported

    imported_by = os.getpid()

    def application(environ, start_response):
        start_response("200 OK", [])
        return [f"{imported.imported_by} {imported_by} {os.getpid()}".encode()]
"""


def test_preloaded_modules_are_imported_once(fake, project):
    directory = project(imported=IMPORTED, imports=IMPORTS)
    zygote = fake.spawn("imports", directory, zygote=True, preload=("json", "imported")).wait_ready()
    for number in range(2):
        worker = fake.fork(zygote, number=number, incarnation=2 + number).wait_ready()
        assert worker.get("/")[1].decode() == f"{zygote.pid} {worker.pid} {worker.pid}"


def test_worker_of_preloaded_modules_reports_an_import_error(fake, project):
    directory = project(broken="raise ValueError('no database')")
    zygote = fake.spawn("broken", directory, zygote=True, preload=("json",)).wait_ready()
    worker = fake.fork(zygote)
    assert "importing broken raised ValueError: no database" in worker.next_report("failed")[2]
    assert zygote.warnings() == []


def test_missing_or_failing_module_is_a_failure(fake, project):
    directory = project(imports=IMPORTS, imported="raise ValueError('no licence')")
    zygote = fake.spawn("imports", directory, zygote=True, preload=("jsn",))
    assert "workers.preload: there is no module jsn" in zygote.next_report("failed")[2]
    zygote = fake.spawn("imports", directory, zygote=True, preload=("json", "imported"))
    assert (
        "workers.preload: importing imported raised ValueError: no licence" in zygote.next_report("failed")[2]
    )


def test_sockets_and_threads_of_a_module_are_warnings(fake, project):
    directory = project(
        imports=IMPORTS,
        imported="""
            import os, socket, threading

            imported_by = os.getpid()
            kept = socket.socket()
            threading.Thread(target=threading.Event().wait, name="sender", daemon=True).start()
        """,
    )
    zygote = fake.spawn("imports", directory, zygote=True, preload=("imported",)).wait_ready()
    sockets, threads = zygote.warnings()
    for warning in (sockets, threads):
        assert "a module of workers.preload" in warning
        assert "remove that module from the list" in warning
    assert "sender" in threads
