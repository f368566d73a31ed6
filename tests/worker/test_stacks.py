"""Stack dumps: on command, which needs the GIL, and on a signal, which does not."""

import os
import struct
import textwrap
import time

import pytest
from support.fake_channel import SLOT_EXCHANGE, SLOT_THREAD
from support.fake_daemon import STACKS_SIGNAL
from support.paths import WORKER_APPS
from support.processes import make_fifo, wchan
from support.waiting import wait_until

# The kernel function in which a reader of an empty pipe waits; "" if the kernel does not report it.
WAITS_FOR_A_PIPE = ("pipe_read", "anon_pipe_read", "pipe_wait", "")


def wait_until_running(worker, exchange):
    """Waits until an exchange runs and returns its slot."""
    found = []

    def runs():
        found[:] = [slot for slot in range(worker.threads) if worker.slot(slot, SLOT_EXCHANGE) == exchange]
        return found

    wait_until("the exchange runs", runs)
    return found[0]


@pytest.fixture
def watched(fake):
    """A worker with three threads, all of them started."""
    worker = fake.spawn("watched", WORKER_APPS, threads=3).wait_ready()
    worker.threads = 3
    wait_until("all three have begun", lambda: all(worker.slot(slot, SLOT_THREAD) for slot in range(3)))
    return worker


def stacks_at_the_fifo(ask):
    """Asks for stacks until they show a thread that waits for its FIFO; returns them."""

    def stacks():
        text = ask()
        return text if text and "in wait_for_fifo" in text else None

    return wait_until("the stacks show the wait for the FIFO", stacks)


def test_stacks_by_command_show_all_threads(watched, tmp_path):
    exchange = watched.submit(f"/wait?path={make_fifo(tmp_path, 'go')}")
    thread = watched.slot(wait_until_running(watched, exchange), SLOT_THREAD)
    text = stacks_at_the_fifo(watched.ask_stacks)
    (stack,) = [stack for stack in text.split("\n\n") if stack.startswith(f"Thread 0x{thread:016x} ")]
    assert "in wait_for_fifo" in stack
    assert text.count("Thread 0x") == 3
    # The thread that writes the stacks is omitted.
    assert "Current thread" not in text
    (tmp_path / "go").write_text("go")
    assert watched.result(exchange)[0] == 200


def test_stacks_by_signal_show_all_threads(watched, tmp_path):
    exchange = watched.submit(f"/wait?path={make_fifo(tmp_path, 'go')}")
    wait_until_running(watched, exchange)
    text = stacks_at_the_fifo(watched.signal_stacks)
    assert text.lower().count("thread 0x") == 3
    (tmp_path / "go").write_text("go")
    assert watched.result(exchange)[0] == 200


def test_stack_of_one_exchange_has_its_source_lines_only(watched, tmp_path):
    first = watched.submit(f"/wait?path={make_fifo(tmp_path, 'first')}")
    wait_until_running(watched, first)
    second = watched.submit(f"/wait?path={make_fifo(tmp_path, 'second')}")
    wait_until_running(watched, second)
    text = stacks_at_the_fifo(lambda: watched.ask_stacks(first))
    thread = watched.slot(wait_until_running(watched, first), SLOT_THREAD)
    assert text.startswith(f"Thread 0x{thread:016x} (most recent call last):\n")
    assert text.count("Thread 0x") == 1
    assert "with open(path" in text
    assert text.index("in application") < text.index("in do_wait") < text.index("in wait_for_fifo")
    # There are no frames of the server.
    assert "threading.py" not in text
    assert "<string>" not in text
    for name, exchange in (("first", first), ("second", second)):
        (tmp_path / name).write_text("go")
        assert watched.result(exchange)[0] == 200
    assert watched.ask_stacks(first) is None


def test_unknown_exchange_has_no_stack(watched):
    assert watched.ask_stacks(4711) is None
    assert watched.stacks_text() == ""


def test_slots_name_their_threads(watched):
    threads = {watched.slot(slot, SLOT_THREAD) for slot in range(3)}
    assert len(threads) == 3
    result = [watched.get("/who") for _ in range(3)]
    for status, body in result:
        assert status == 200
        assert any(f'"thread": {thread},'.encode() in body for thread in threads)


def test_stack_by_signal_shows_a_thread_holding_the_gil(fake):
    worker = fake.spawn("watched", WORKER_APPS).wait_ready()
    exchange = worker.submit("/hold_gil?seconds=5")
    wait_until("the exchange runs", lambda: worker.slot(0, SLOT_EXCHANGE) == exchange)
    # A command would wait for the GIL.
    os.ftruncate(worker.stacks, 0)
    wait_until(
        "the stack shows the thread that holds the GIL", lambda: "in hold_gil" in worker.signal_stacks()
    )
    # The signal interrupts usleep(3), which is harmless here.
    assert worker.result(exchange)[0] == 200


def test_stacks_by_command_wait_for_the_gil(fake):
    worker = fake.spawn("watched", WORKER_APPS).wait_ready()
    exchange = worker.submit("/hold_gil_elsewhere?seconds=2")
    wait_until("a thread holds the GIL", lambda: "in hold_gil" in worker.signal_stacks())
    began = time.monotonic()
    worker.send(b"K" + struct.pack("<Q", 0))
    worker.socket.settimeout(0.2)
    with pytest.raises(AssertionError, match=r"no \('stacks',\) in time"):
        worker.next_report("stacks")
    worker.socket.settimeout(20)
    assert worker.next_report("stacks") == ("stacks", True)
    assert time.monotonic() > began + 1
    assert worker.result(exchange)[0] == 200


SLOW = """
    import os
    import time

    while not os.path.exists("go"):
        time.sleep(0.005)

    def application(environ, start_response):
        start_response("200 OK", [])
        return [b"slow, but there"]
"""


# A zygote has no control thread during its import, so the daemon sends a signal.
@pytest.mark.parametrize(
    ("how", "zygote"), [("ask_stacks", False), ("signal_stacks", False), ("signal_stacks", True)]
)
def test_stacks_show_a_hanging_import(fake, project, how, zygote):
    directory = project(slow=SLOW)
    worker = fake.spawn("slow", directory, zygote=zygote)
    worker.next_report("booting")
    wait_until("the stack shows the import", lambda: "slow.py" in getattr(worker, how)())
    (directory / "go").touch()
    worker.wait_ready()


def test_stacks_show_an_import_holding_the_gil(fake, project):
    directory = project(
        held="""
            import ctypes

            ctypes.PyDLL(None).sleep(2)
            raise ValueError("woken")
        """
    )
    worker = fake.spawn("held", directory)
    worker.next_report("booting")
    wait_until("the stack shows the import", lambda: 'held.py", line 4 in <module>' in worker.signal_stacks())
    assert "woken" in worker.next_report("failed")[2]
    assert worker.wait() == 1


def test_stop_during_the_import_exits_without_ready(fake, project):
    directory = project(slow=SLOW)
    worker = fake.spawn("slow", directory)
    worker.next_report("booting")
    worker.send(b"X")
    # The control thread runs already, so it reads the stop before this command.
    worker.ask_stacks()
    (directory / "go").touch()
    assert worker.wait() == 0
    with pytest.raises(AssertionError, match="ended before"):
        worker.next_report("ready")


def test_worker_exits_when_its_daemon_dies_during_the_import(fake, project):
    worker = fake.spawn("slow", project(slow=SLOW))
    worker.next_report("booting")
    worker.socket.close()
    assert worker.wait() == 0


def test_subprocesses_do_not_inherit_the_stacks_file(fake):
    worker = fake.spawn("watched", WORKER_APPS).wait_ready()
    # The subprocess has 0, 1 and 2, and opens 3 to list the descriptors.
    assert worker.get("/child") == (200, b"[0, 1, 2, 3]")


def test_worker_survives_a_hundred_stack_signals_under_load(fake):
    # Only with one thread: faulthandler walks the frames of running threads, which is not safe. The
    # daemon signals only after a command got no reply, and replaces the worker afterwards.
    worker = fake.spawn("watched", WORKER_APPS).wait_ready()
    for _ in range(100):
        exchange = worker.submit("/who")
        os.kill(worker.pid, STACKS_SIGNAL)
        assert worker.result(exchange)[0] == 200
    assert worker.stop() == 0


def test_stack_signal_does_not_interrupt_system_calls(fake, project, tmp_path):
    directory = project(
        reads="""
            import ctypes
            import os

            libc = ctypes.CDLL(None, use_errno=True)

            def read_as_libraries_do(path):
                descriptor = os.open(path, os.O_RDWR)
                got = libc.read(descriptor, ctypes.create_string_buffer(1), 1)
                return got, ctypes.get_errno()

            def application(environ, start_response):
                outcome = read_as_libraries_do(environ["QUERY_STRING"])
                start_response("200 OK", [])
                return [repr(outcome).encode()]
        """
    )
    worker = fake.spawn("reads", directory).wait_ready()
    path = make_fifo(tmp_path, "go")
    exchange = worker.submit(f"/?{path}")
    wait_until("the application reads", lambda: "in read_as_libraries_do" in worker.signal_stacks())
    for _ in range(5):
        # Sent five times, because the first signal must not make the next one interrupt the call.
        wait_until("the read waits in the kernel", lambda: wchan(worker.pid) in WAITS_FOR_A_PIPE)
        assert "in read_as_libraries_do" in worker.signal_stacks()
    path.write_text("x")
    assert worker.result(exchange) == (200, b"(1, 0)")


def test_application_handler_replaces_the_stack_signal(fake, project):
    directory = project(
        own="""
            import signal

            signal.signal(50, lambda *_: None)

            def application(environ, start_response):
                start_response("200 OK", [])
                return [b"still here"]
        """
    )
    worker = fake.spawn("own", directory).wait_ready()
    os.kill(worker.pid, STACKS_SIGNAL)
    assert worker.get("/") == (200, b"still here")
    assert worker.ask_stacks().startswith("Thread 0x")


def test_stacks_may_contain_any_unicode(fake, project):
    source = textwrap.dedent("""
        import os, time

        def wärter_é(path):
            while not os.path.exists(path):
                time.sleep(0.005)  # \\u2603

        def application(environ, start_response):
            wärter_é(environ["QUERY_STRING"])
            start_response("200 OK", [])
            return [b"ok"]
    """)
    directory = project(wide=source)
    worker = fake.spawn("wide", directory).wait_ready()
    worker.threads = 1
    exchange = worker.submit(f"/?{directory}/go")
    wait_until_running(worker, exchange)
    wait_until("the stack has the function's name", lambda: "wärter_é" in worker.ask_stacks(exchange))
    (directory / "go").touch()
    assert worker.result(exchange) == (200, b"ok")
