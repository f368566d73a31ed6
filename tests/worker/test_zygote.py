"""Preload: a process that has imported the application, and workers that are forked from it."""

import ctypes
import json
import os
import select
import struct
import subprocess
import threading

import pytest
from conftest import ALL_HOOKS, APPS, child_exited, eventually
from fake_daemon import Daemon
from test_stacks import fifo


@pytest.fixture
def zygote(fake):
    """Of the application beside."""
    return fake.spawn("watched", APPS, zygote=True, threads=2).ready()


def who(worker):
    """What the application says of a worker."""
    status, body = worker.get("/who")
    assert status == 200
    return json.loads(body)


def threads_of(worker):
    """How many threads the kernel knows."""
    return len(os.listdir(f"/proc/{worker.pid}/task"))


def test_four_forked_workers_serve(fake, zygote):
    workers = [fake.fork(zygote, number=number, life=2 + number).ready() for number in range(4)]
    told = [who(worker) for worker in workers]
    assert [each["pid"] for each in told] == [worker.pid for worker in workers]
    assert len({worker.pid for worker in workers}) == 4
    for worker, each in zip(workers, told):
        assert worker.seen[0][0] == "booting"
        # The daemon's children, each a group of its own, of an application that was imported once.
        assert each["parent"] == os.getpid()
        assert each["group"] == worker.pid
        assert each["imported_by"] == zygote.pid
        assert each["multiprocess"] is True
        assert each["main"] is True or "rgun-1" in each["threads"]
        assert f"rgun: worker {worker.number} [watched:application]" in worker.proc("cmdline")
    assert len({each["random"] for each in told}) == 4
    # In turn: none of them takes what belongs to another.
    for _ in range(3):
        for worker in workers:
            assert who(worker)["pid"] == worker.pid
    assert [worker.stop() for worker in workers] == [0] * 4
    assert zygote.stop() == 0


def test_zygote_has_one_thread_and_serves_nothing(zygote):
    assert threads_of(zygote) == 1
    assert "rgun: zygote [watched:application]" in zygote.proc("cmdline")
    exchange = zygote.submit("/who")
    zygote.ask_stacks()
    zygote.collect()
    assert exchange not in zygote.answers


def test_fork_handlers_run_in_workers(fake, zygote):
    worker = fake.fork(zygote).ready()
    # Twice: for the process between, and for the worker.
    assert who(worker)["forks"] == ["python", "python"]
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "__register_atfork"):
        pytest.skip("SKIPPED: this C library has no __register_atfork")
    libc.srand(1)
    drawn = [libc.rand() for _ in range(3)]
    assert json.loads(worker.get("/draw")[1]) == drawn[2]


def test_killed_worker_does_not_affect_the_others(fake, zygote):
    first, second = (fake.fork(zygote, number=number, life=2 + number).ready() for number in range(2))
    assert first.kill() == -9
    assert who(second)["pid"] == second.pid
    third = fake.fork(zygote, number=0, life=9).ready()
    assert who(third)["pid"] == third.pid


def test_workers_survive_a_killed_zygote(fake, zygote):
    worker = fake.fork(zygote).ready()
    zygote.kill()
    assert who(worker)["pid"] == worker.pid
    assert "in start" in worker.ask_stacks()
    assert worker.stop() == 0


def test_zygote_exits_when_its_control_socket_closes(fake, zygote):
    zygote.socket.close()
    assert zygote.wait() == 0


def test_zygote_and_workers_exit_when_their_daemon_dies(python, fake, tmp_path):
    reading, writing = os.pipe()
    daemon = os.fork()
    if daemon == 0:
        try:
            mine = Daemon(python, fake.extension, tmp_path)
            zygote = mine.spawn("watched", APPS, zygote=True).ready()
            # One that hears nothing: the kernel has to end it.
            worker = mine.fork(zygote).ready()
            worker.submit("/hold_gil?seconds=60")
            os.write(writing, struct.pack("<II", zygote.pid, worker.pid))
            threading.Event().wait()
        finally:
            os._exit(1)
    os.close(writing)
    assert select.select([reading], [], [], 20)[0]
    pids = struct.unpack("<II", os.read(reading, 8))
    os.close(reading)
    pidfds = [os.pidfd_open(pid) for pid in pids]
    os.kill(daemon, 9)
    os.waitpid(daemon, 0)
    for pidfd in pidfds:
        assert select.select([pidfd], [], [], 20)[0]
        os.close(pidfd)
    for pid in pids:
        os.waitpid(pid, 0)


def test_forked_worker_enters_its_cgroup_before_ready(fake, zygote):
    reading, writing = os.pipe()
    worker = fake.fork(zygote, entrance=writing).ready()
    assert os.read(reading, 10) == b"0"
    assert who(worker)["pid"] == worker.pid
    for descriptor in (reading, writing):
        os.close(descriptor)


PRINTING = """
    import os
    import sys

    {redirect}

    def application(environ, start_response):
        os.write(1, b"to stdout\\n")
        print("to stderr", file=sys.stderr, flush=True)
        start_response("200 OK", [])
        return [b"ok"]
    """


@pytest.mark.parametrize("entrance", [False, True])
def test_forked_worker_has_its_own_stdout_and_stderr(fake, project, entrance):
    zygote = fake.spawn("printing", project(printing=PRINTING.format(redirect="")), zygote=True).ready()
    stdout, stderr, cgroup = os.pipe(), os.pipe(), os.pipe()
    own = {"entrance": cgroup[1]} if entrance else {}
    worker = fake.fork(zygote, output=(stdout[1], stderr[1]), **own).ready()
    for end in (stdout[1], stderr[1], cgroup[1]):
        os.close(end)
    assert worker.get("/") == (200, b"ok")
    assert os.read(stdout[0], 100) == b"to stdout\n"
    assert os.read(stderr[0], 100) == b"to stderr\n"
    assert os.read(cgroup[0], 100) == (b"0" if entrance else b"")
    assert worker.stop() == 0
    # Nobody else has them: the zygote has let go.
    assert os.read(stdout[0], 100) == os.read(stderr[0], 100) == b""
    assert "to std" not in fake.output()
    assert zygote.stop() == 0
    for end in (stdout[0], stderr[0], cgroup[0]):
        os.close(end)


def test_redirected_stdout_stays_redirected_in_forked_workers(fake, project, tmp_path):
    redirect = f"os.dup2(os.open({str(tmp_path / 'own')!r}, os.O_CREAT | os.O_WRONLY, 0o600), 1)"
    zygote = fake.spawn("printing", project(printing=PRINTING.format(redirect=redirect)), zygote=True).ready()
    stdout, stderr = os.pipe(), os.pipe()
    worker = fake.fork(zygote, output=(stdout[1], stderr[1])).ready()
    os.close(stdout[1])
    os.close(stderr[1])
    assert worker.get("/") == (200, b"ok")
    assert (tmp_path / "own").read_text() == "to stdout\n"
    assert os.read(stderr[0], 100) == b"to stderr\n"
    assert os.read(stdout[0], 100) == b""
    assert [worker.stop(), zygote.stop()] == [0, 0]
    os.close(stdout[0])
    os.close(stderr[0])


def test_failed_fork_is_reported_and_the_next_succeeds(fake, zygote):
    reading, writing = os.pipe()
    with pytest.raises(AssertionError, match=r"OSError: \[Errno 9\]"):
        fake.fork(zygote, life=5, entrance=reading)
    zygote.send(b"Z" + struct.pack("<HQ", 0, 6))
    assert zygote.next("fork failed") == ("fork failed", 6, "the daemon sent Fork without its descriptors")
    assert who(fake.fork(zygote, life=7).ready())["main"] is not None
    for descriptor in (reading, writing):
        os.close(descriptor)


def test_hanging_fork_is_given_up_and_the_next_succeeds(fake, project):
    directory = project(
        hangs="""
            import os
            import threading

            def wait_for_a_thread_that_was_not_forked():
                if os.path.exists("hang"):
                    threading.Event().wait()

            os.register_at_fork(after_in_child=wait_for_a_thread_that_was_not_forked)

            def application(environ, start_response):
                start_response("200 OK", [])
                return [b"ok"]
        """
    )
    zygote = fake.spawn("hangs", directory, zygote=True).ready()
    (directory / "hang").touch()
    with pytest.raises(AssertionError, match=r"did not come so far in 5 s.*os.register_at_fork"):
        fake.fork(zygote, life=5)
    assert zygote.proc(f"task/{zygote.pid}/children").split() == []
    (directory / "hang").unlink()
    assert fake.fork(zygote, life=6).ready().get("/") == (200, b"ok")


def test_forks_leave_no_descriptor_and_no_child(fake, zygote):
    def descriptors(worker):
        return sorted(os.readlink(f"/proc/{worker.pid}/fd/{n}") for n in os.listdir(f"/proc/{worker.pid}/fd"))

    def kinds(worker):
        return [name.split(":")[0].split(" ")[0] for name in descriptors(worker)]

    before = descriptors(zygote)
    for life in range(2, 12):
        worker = fake.fork(zygote, life=life).ready()
        assert descriptors(zygote) == before
        assert kinds(worker) == kinds(zygote)
        assert json.loads(worker.get("/descriptors")[1]) == len(before) + 1
        assert worker.stop() == 0
    assert descriptors(zygote) == before
    assert zygote.proc(f"task/{zygote.pid}/children").split() == []


def test_subprocesses_of_a_forked_worker_inherit_no_descriptor(fake, zygote):
    assert fake.fork(zygote).ready().get("/child") == (200, b"[0, 1, 2, 3]")


def test_child_forked_in_a_forked_worker_does_not_return(fake, zygote):
    worker = fake.fork(zygote).ready()
    assert worker.get("/fork_and_answer") == (200, b"70")
    assert who(worker)["pid"] == worker.pid


def test_zygote_reports_an_import_error(fake, project):
    zygote = fake.spawn("broken", project(broken="raise ValueError('no database')"), zygote=True)
    assert "importing broken raised ValueError: no database" in zygote.next("failed")[2]
    assert zygote.wait() == 1


# ---------------------------------------------------------------- the warm-up


def test_warm_up_request_reaches_the_application_once(fake):
    zygote = fake.spawn("watched", APPS, zygote=True, warm_up="/warm?").ready()
    assert zygote.warnings() == []
    path, environ = who(fake.fork(zygote).ready())["seen"]
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
        ("start_response('404 Not Found', []); return []", ["was answered 404 Not Found"]),
        ("start_response('200 OK', []); return None", ["raised TypeError"]),
        ("return []", ["was answered nothing"]),
        ("start_response('200 OK', []); yield b'x'; raise KeyError('late')", ["raised KeyError: 'late'"]),
        ("import sys; sys.exit('no')", ["raised SystemExit: no"]),
    ],
)
def test_failed_warm_up_is_a_warning(fake, project, source, words):
    directory = project(cold=f"def application(environ, start_response):\n    {source}\n")
    zygote = fake.spawn("cold", directory, zygote=True, warm_up="/first").ready()
    (warning,) = zygote.warnings()
    assert "the warm-up request GET /first" in warning
    for word in words:
        assert word in warning
    fake.fork(zygote).ready()


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
                start_response("200 OK", [])("written")
                if environ["PATH_INFO"] == "/events":
                    return [repr(events).encode()]
                return Body()
        """.replace('("written")', "")
    )
    zygote = fake.spawn("closes", directory, zygote=True, warm_up="/").ready()
    assert zygote.warnings() == []
    assert fake.fork(zygote).ready().get("/events") == (200, b"['read', 'closed']")


# ---------------------------------------------------------------- what a fork does not carry over


def test_open_sockets_and_threads_are_warnings_by_name(fake, project):
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
    zygote = fake.spawn("busy", directory, zygote=True).ready()
    sockets, threads = zygote.warnings()
    port = (directory / "port").read_text()
    assert sockets.count("descriptor ") == 4
    assert f"AF_INET 127.0.0.1:{port})" in sockets
    assert f" to 127.0.0.1:{port})" in sockets
    assert "AF_UNIX unnamed to unnamed" in sockets
    assert "hooks.post_worker_init" in sockets
    assert "poller (threading.Thread)" in threads
    assert "native thread grpc-like" in threads
    # Told, not refused.
    assert fake.fork(zygote).ready().get("/") == (200, b"ok")
    assert "DeprecationWarning" not in fake.output()


def test_application_without_sockets_causes_no_warning(zygote):
    assert zygote.warnings() == []


def test_django_connections_are_closed_before_a_fork(fake, project):
    pytest.importorskip("django")
    directory = project(
        kept="""
            import os

            import django
            from django.conf import settings
            from django.core.wsgi import get_wsgi_application
            from django.http import HttpResponse
            from django.urls import path

            DATABASE = {"ENGINE": "django.db.backends.sqlite3", "NAME": "data.sqlite3", "CONN_MAX_AGE": None}
            settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, DATABASES={"default": DATABASE})
            application = get_wsgi_application()

            def view(request):
                from django.db import connection

                before = connection.connection is not None
                connection.cursor().execute("select 1")
                return HttpResponse(f"{before} {os.getpid()}")

            urlpatterns = [path("", view)]
        """
    )
    zygote = fake.spawn("kept", directory, zygote=True, warm_up="/").ready()
    assert zygote.warnings() == []
    worker = fake.fork(zygote).ready()
    assert worker.get("/") == (200, f"False {worker.pid}".encode())
    # Kept now, and given up again when the worker becomes a zygote.
    assert worker.get("/") == (200, f"True {worker.pid}".encode())
    worker.send(b"P")
    worker.ready()
    child = fake.fork(worker, life=3).ready()
    assert child.get("/") == (200, f"False {child.pid}".encode())


DRAWS = """
    import numpy.random

    def application(environ, start_response):
        start_response("200 OK", [])
        return [repr(numpy.random.random()).encode()]
"""


def test_numpy_is_seeded_in_each_worker(fake, project):
    # NumPy's own names, and its way: one generator for the module, that nothing renews at a fork.
    directory = project(draws=DRAWS)
    (directory / "numpy").mkdir()
    (directory / "numpy/__init__.py").touch()
    (directory / "numpy/random.py").write_text(
        "import random as python\n\n"
        "generator = python.Random(1)\nrandom, seed = generator.random, generator.seed\n"
    )
    zygote = fake.spawn("draws", directory, zygote=True).ready()
    workers = [fake.fork(zygote, number=number, life=2 + number).ready() for number in range(3)]
    assert len({worker.get("/") for worker in workers}) == 3
    assert [worker.warnings() for worker in workers] == [[], [], []]


def test_real_numpy_is_seeded_in_each_worker(fake, project, python):
    if subprocess.run([python, "-c", "import numpy"], check=False, capture_output=True).returncode:
        pytest.skip("SKIPPED: no NumPy beside the interpreter under test")
    zygote = fake.spawn("draws", project(draws=DRAWS), zygote=True).ready()
    workers = [fake.fork(zygote, number=number, life=2 + number).ready() for number in range(3)]
    assert len({worker.get("/") for worker in workers}) == 3


def test_generator_that_cannot_be_seeded_is_a_warning(fake, project):
    directory = project(draws=DRAWS)
    (directory / "numpy").mkdir()
    (directory / "numpy/__init__.py").touch()
    (directory / "numpy/random.py").write_text(
        "def random():\n    return 0.5\n\ndef seed():\n    raise TypeError('no MT19937')\n"
    )
    zygote = fake.spawn("draws", directory, zygote=True).ready()
    worker = fake.fork(zygote).ready()
    (warning,) = worker.warnings()
    assert "numpy.random" in warning
    assert "no MT19937" in warning
    assert "hooks.post_fork" in warning
    assert worker.get("/") == (200, b"0.5")


# ---------------------------------------------------------------- stacks and hooks


def test_stacks_belong_to_their_own_process(fake, zygote, tmp_path):
    worker = fake.fork(zygote).ready()
    exchange = worker.submit(f"/wait?path={fifo(tmp_path, 'go')}")
    eventually(lambda: "in wait_for_fifo" in worker.signal_stacks(), "it runs")
    assert zygote.stacks_text() == ""
    assert "in do_wait" in worker.ask_stacks(exchange)
    assert "in start" in zygote.ask_stacks()
    assert "wait_for_fifo" not in zygote.signal_stacks()
    assert zygote.ask_stacks(exchange) is None
    (tmp_path / "go").write_text("go")
    assert worker.answer(exchange)[0] == 200


def test_boot_hooks_run_in_workers_and_child_exit_in_zygote(fake, hooked):
    zygote = fake.spawn("watched", APPS, zygote=True, hooks=ALL_HOOKS).ready()
    assert hooked() == []
    workers = [fake.fork(zygote, number=number, life=5 + number).ready() for number in range(2)]
    for worker in workers:
        events = [event for event in hooked() if event["in"] == worker.pid]
        assert [event["hook"] for event in events] == ["post_fork", "post_worker_init"]
        for event in events:
            assert (event["pid"], event["number"], event["age"]) == (worker.pid, worker.number, worker.life)
            assert event["ppid"] == os.getpid()
            assert event["app"] is True
    assert workers[0].stop() == 0
    zygote.send(child_exited(workers[0].pid, 0, 5))
    zygote.ask_stacks()
    last = hooked()[-2:]
    assert [event["hook"] for event in last] == ["worker_exit", "child_exit"]
    assert last[1]["in"] == zygote.pid
    assert last[1]["pid"] == workers[0].pid
    assert last[1]["server"] == os.getpid()


def test_failing_hook_in_a_forked_worker_fails_that_worker(fake):
    zygote = fake.spawn("watched", APPS, zygote=True, hooks={"post_fork": "hooked:raises"}).ready()
    for life in (2, 3):
        worker = fake.fork(zygote, life=life)
        assert "hooks.post_fork: hooked:raises raised LookupError" in worker.next("failed")[2]
        assert worker.wait() == 1


def test_atexit_handlers_run_in_forked_workers(fake, project):
    directory = project(
        leaving="""
            import atexit
            import os

            def leave():
                open(f"left-{os.getpid()}", "w").close()

            atexit.register(leave)

            def application(environ, start_response):
                pass
        """
    )
    zygote = fake.spawn("leaving", directory, zygote=True).ready()
    worker = fake.fork(zygote).ready()
    assert worker.stop() == 0
    # The process between has none of its own.
    assert [path.name for path in directory.glob("left-*")] == [f"left-{worker.pid}"]


def test_buffered_output_is_written_once_across_forks(fake, project):
    directory = project(
        prints="""
            print("printed at the import")

            def application(environ, start_response):
                pass
        """
    )
    zygote = fake.spawn("prints", directory, zygote=True).ready()
    for life in (2, 3):
        fake.fork(zygote, life=life).ready().stop()
    zygote.stop()
    assert fake.output().count("printed at the import") == 1


# ---------------------------------------------------------------- refork


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("forked", [False, True])
def test_promoted_worker_becomes_a_zygote(fake, threads, forked):
    if forked:
        worker = fake.fork(fake.spawn("watched", APPS, zygote=True, threads=threads).ready()).ready()
    else:
        worker = fake.spawn("watched", APPS, threads=threads).ready()
    for _ in range(3):
        who(worker)
    # The helper has run, too.
    assert "in start" in worker.ask_stacks()
    worker.send(b"P")
    worker.next("promoted")
    worker.ready()
    assert worker.warnings() == []
    # One that was joined may be about to leave the kernel still.
    eventually(lambda: threads_of(worker) == 1, "it has one thread")
    assert "rgun: zygote [watched:application]" in worker.proc("cmdline")
    children = [fake.fork(worker, number=number, life=20 + number).ready() for number in range(2)]
    for child in children:
        told = who(child)
        assert told["pid"] == child.pid
        # It knows what its zygote has served.
        assert told["seen"][:3] == ["/who"] * 3
        assert told["parent"] == os.getpid()
    # And once more.
    children[0].send(b"P")
    children[0].ready()
    assert who(fake.fork(children[0], life=30).ready())["seen"][:4] == ["/who"] * 4
    assert children[1].stop() == 0
    assert worker.stop() == 0


def test_promoted_worker_unmaps_its_shared_memory(fake):
    worker = fake.spawn("watched", APPS).ready()
    who(worker)
    assert "memfd:fake" in worker.proc("maps")
    worker.send(b"P")
    worker.ready()
    maps = [line for line in worker.proc("maps").splitlines() if "memfd:fake" in line]
    # The reactor's page, which its workers need.
    assert len(maps) == 1


def test_worker_that_is_no_zygote_refuses_to_fork(fake):
    worker = fake.spawn("watched", APPS).ready()
    with pytest.raises(AssertionError, match="it is no zygote"):
        fake.fork(worker, life=2)
    assert who(worker)["pid"] == worker.pid
