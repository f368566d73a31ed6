"""Preload: a zygote that has imported the application, and the workers that are forked from it."""

import ctypes
import json
import os
import select
import struct
import threading

import pytest
from support.fake_daemon import ALL_HOOKS, FakeDaemon, encode_child_exited
from support.paths import WORKER_APPS
from support.processes import make_fifo, n_threads
from support.records import process_facts
from support.waiting import wait_until


def test_four_forked_workers_serve(fake, zygote):
    workers = [fake.fork(zygote, number=number, incarnation=2 + number).wait_ready() for number in range(4)]
    facts = [process_facts(worker) for worker in workers]
    assert [each["pid"] for each in facts] == [worker.pid for worker in workers]
    assert len({worker.pid for worker in workers}) == 4
    for worker, each in zip(workers, facts):
        assert worker.earlier_reports[0][0] == "booting"
        # Children of the daemon, each in its own process group, with one import in common.
        assert each["parent"] == os.getpid()
        assert each["group"] == worker.pid
        assert each["imported_by"] == zygote.pid
        assert each["multiprocess"] is True
        assert each["main"] is True or "rgun-1" in each["threads"]
        assert f"rgun: worker {worker.number} [watched:application]" in worker.proc("cmdline")
    assert len({each["random"] for each in facts}) == 4
    # Each worker serves only its own requests.
    for _ in range(3):
        for worker in workers:
            assert process_facts(worker)["pid"] == worker.pid
    assert [worker.stop() for worker in workers] == [0] * 4
    assert zygote.stop() == 0


def test_zygote_has_one_thread_and_serves_nothing(zygote):
    assert n_threads(zygote.pid) == 1
    assert "rgun: zygote [watched:application]" in zygote.proc("cmdline")
    exchange = zygote.submit("/who")
    zygote.ask_stacks()
    zygote.collect()
    assert exchange not in zygote.responses


def test_fork_handlers_run_in_workers(fake, zygote):
    worker = fake.fork(zygote).wait_ready()
    # Two forks: the intermediate process and the worker.
    assert process_facts(worker)["forks"] == ["python", "python"]
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "__register_atfork"):
        pytest.skip("SKIPPED: this C library has no __register_atfork")
    libc.srand(1)
    drawn = [libc.rand() for _ in range(3)]
    assert json.loads(worker.get("/draw")[1]) == drawn[2]


def test_killed_worker_does_not_affect_the_others(fake, zygote):
    first, second = (
        fake.fork(zygote, number=number, incarnation=2 + number).wait_ready() for number in range(2)
    )
    assert first.kill() == -9
    assert process_facts(second)["pid"] == second.pid
    third = fake.fork(zygote, number=0, incarnation=9).wait_ready()
    assert process_facts(third)["pid"] == third.pid


def test_workers_survive_a_killed_zygote(fake, zygote):
    worker = fake.fork(zygote).wait_ready()
    zygote.kill()
    assert process_facts(worker)["pid"] == worker.pid
    assert "in start" in worker.ask_stacks()
    assert worker.stop() == 0


def test_zygote_exits_when_its_worker_socket_closes(fake, zygote):
    zygote.socket.close()
    assert zygote.wait() == 0


def test_zygote_and_workers_exit_when_their_daemon_dies(python, fake, tmp_path):
    reading, writing = os.pipe()
    daemon = os.fork()
    if daemon == 0:
        try:
            mine = FakeDaemon(python, fake.extension, tmp_path)
            zygote = mine.spawn("watched", WORKER_APPS, zygote=True).wait_ready()
            # The worker holds the GIL, so the kernel has to end it.
            worker = mine.fork(zygote).wait_ready()
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
    worker = fake.fork(zygote, cgroup_procs=writing).wait_ready()
    assert os.read(reading, 10) == b"0"
    assert process_facts(worker)["pid"] == worker.pid
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


@pytest.mark.parametrize("has_cgroup", [False, True])
def test_forked_worker_has_its_own_stdout_and_stderr(fake, project, has_cgroup):
    zygote = fake.spawn("printing", project(printing=PRINTING.format(redirect="")), zygote=True).wait_ready()
    stdout, stderr, cgroup = os.pipe(), os.pipe(), os.pipe()
    own = {"cgroup_procs": cgroup[1]} if has_cgroup else {}
    worker = fake.fork(zygote, output=(stdout[1], stderr[1]), **own).wait_ready()
    for end in (stdout[1], stderr[1], cgroup[1]):
        os.close(end)
    assert worker.get("/") == (200, b"ok")
    assert os.read(stdout[0], 100) == b"to stdout\n"
    assert os.read(stderr[0], 100) == b"to stderr\n"
    assert os.read(cgroup[0], 100) == (b"0" if has_cgroup else b"")
    assert worker.stop() == 0
    # No other process has the descriptors open, not even the zygote.
    assert os.read(stdout[0], 100) == os.read(stderr[0], 100) == b""
    assert "to std" not in fake.output()
    assert zygote.stop() == 0
    for end in (stdout[0], stderr[0], cgroup[0]):
        os.close(end)


def test_redirected_stdout_stays_redirected_in_forked_workers(fake, project, tmp_path):
    redirect = f"os.dup2(os.open({str(tmp_path / 'own')!r}, os.O_CREAT | os.O_WRONLY, 0o600), 1)"
    zygote = fake.spawn(
        "printing", project(printing=PRINTING.format(redirect=redirect)), zygote=True
    ).wait_ready()
    stdout, stderr = os.pipe(), os.pipe()
    worker = fake.fork(zygote, output=(stdout[1], stderr[1])).wait_ready()
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
        fake.fork(zygote, incarnation=5, cgroup_procs=reading)
    zygote.send(b"Z" + struct.pack("<HQ", 0, 6))
    assert zygote.next_report("fork failed") == (
        "fork failed",
        6,
        "the daemon sent Fork without its descriptors",
    )
    assert process_facts(fake.fork(zygote, incarnation=7).wait_ready())["main"] is not None
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
    zygote = fake.spawn("hangs", directory, zygote=True).wait_ready()
    (directory / "hang").touch()
    with pytest.raises(AssertionError, match=r"did not fork the worker in 5 s.*os.register_at_fork"):
        fake.fork(zygote, incarnation=5)
    assert zygote.proc(f"task/{zygote.pid}/children").split() == []
    (directory / "hang").unlink()
    assert fake.fork(zygote, incarnation=6).wait_ready().get("/") == (200, b"ok")


def test_forks_leave_no_descriptor_and_no_child(fake, zygote):
    def descriptors(worker):
        return sorted(os.readlink(f"/proc/{worker.pid}/fd/{n}") for n in os.listdir(f"/proc/{worker.pid}/fd"))

    def kinds(worker):
        return [name.split(":")[0].split(" ")[0] for name in descriptors(worker)]

    before = descriptors(zygote)
    for incarnation in range(2, 12):
        worker = fake.fork(zygote, incarnation=incarnation).wait_ready()
        assert descriptors(zygote) == before
        assert kinds(worker) == kinds(zygote)
        assert json.loads(worker.get("/descriptors")[1]) == len(before) + 1
        assert worker.stop() == 0
    assert descriptors(zygote) == before
    assert zygote.proc(f"task/{zygote.pid}/children").split() == []


def test_subprocesses_of_a_forked_worker_inherit_no_descriptor(fake, zygote):
    assert fake.fork(zygote).wait_ready().get("/child") == (200, b"[0, 1, 2, 3]")


def test_child_forked_in_a_forked_worker_does_not_return(fake, zygote):
    worker = fake.fork(zygote).wait_ready()
    assert worker.get("/fork_and_answer") == (200, b"70")
    assert process_facts(worker)["pid"] == worker.pid


# ---------------------------------------------------------------- stacks and hooks


def test_stacks_belong_to_their_own_process(fake, zygote, tmp_path):
    worker = fake.fork(zygote).wait_ready()
    exchange = worker.submit(f"/wait?path={make_fifo(tmp_path, 'go')}")
    wait_until("the request runs", lambda: "in wait_for_fifo" in worker.signal_stacks())
    assert zygote.stacks_text() == ""
    assert "in do_wait" in worker.ask_stacks(exchange)
    assert "in start" in zygote.ask_stacks()
    assert "wait_for_fifo" not in zygote.signal_stacks()
    assert zygote.ask_stacks(exchange) is None
    (tmp_path / "go").write_text("go")
    assert worker.result(exchange)[0] == 200


def test_boot_hooks_run_in_workers_and_child_exit_in_zygote(fake, hook_events):
    zygote = fake.spawn("watched", WORKER_APPS, zygote=True, hooks=ALL_HOOKS).wait_ready()
    assert hook_events() == []
    workers = [fake.fork(zygote, number=number, incarnation=5 + number).wait_ready() for number in range(2)]
    for worker in workers:
        events = [event for event in hook_events() if event["in"] == worker.pid]
        assert [event["hook"] for event in events] == ["post_fork", "post_worker_init"]
        for event in events:
            assert (event["pid"], event["number"], event["age"]) == (
                worker.pid,
                worker.number,
                worker.incarnation,
            )
            assert event["ppid"] == os.getpid()
            assert event["app"] is True
    assert workers[0].stop() == 0
    zygote.send(encode_child_exited(workers[0].pid, 0, 5))
    zygote.ask_stacks()
    last = hook_events()[-2:]
    assert [event["hook"] for event in last] == ["worker_exit", "child_exit"]
    assert last[1]["in"] == zygote.pid
    assert last[1]["pid"] == workers[0].pid
    assert last[1]["server"] == os.getpid()


def test_failing_hook_in_a_forked_worker_fails_that_worker(fake):
    zygote = fake.spawn(
        "watched", WORKER_APPS, zygote=True, hooks={"post_fork": "hooked:raises"}
    ).wait_ready()
    for incarnation in (2, 3):
        worker = fake.fork(zygote, incarnation=incarnation)
        assert "hooks.post_fork: hooked:raises raised LookupError" in worker.next_report("failed")[2]
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
    zygote = fake.spawn("leaving", directory, zygote=True).wait_ready()
    worker = fake.fork(zygote).wait_ready()
    assert worker.stop() == 0
    # The intermediate process runs no atexit handler.
    assert [path.name for path in directory.glob("left-*")] == [f"left-{worker.pid}"]


def test_buffered_output_is_written_once_across_forks(fake, project):
    directory = project(
        prints="""
            print("printed at the import")

            def application(environ, start_response):
                pass
        """
    )
    zygote = fake.spawn("prints", directory, zygote=True).wait_ready()
    for incarnation in (2, 3):
        fake.fork(zygote, incarnation=incarnation).wait_ready().stop()
    zygote.stop()
    assert fake.output().count("printed at the import") == 1
