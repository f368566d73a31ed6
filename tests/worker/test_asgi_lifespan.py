"""ASGI workers from boot to exit: interface, event loop, lifespan and its failures, preload."""

import os
import signal
import subprocess

import pytest
from support.asgi_exchanges import json_of
from support.fake_daemon import ALL_HOOKS, INTERFACES, decode
from support.paths import HELLO, WORKER_APPS
from support.waiting import wait_until

WSGI, ASGI = INTERFACES["wsgi"], INTERFACES["asgi"]
CONFIG, APP = 0, 1


def outcome(worker):
    """Returns the report that ends the boot: ready, failed or refused."""
    while True:
        report = decode(worker.socket.recv(100_000))
        if report[0] in ("ready", "failed", "refused"):
            return report
        worker.earlier_reports.append(report)


@pytest.fixture
def boot(fake, project):
    """A function that starts a worker with an application from its source."""

    def boot(source, target="app:application", **more):
        return fake.spawn(target, project(app=source), **more)

    return boot


LIFESPAN = """
    import json, os
    async def application(scope, receive, send):
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": json.dumps(scope["state"]).encode()})
            return
        assert scope["asgi"] == {"version": "3.0", "spec_version": "2.0"}, scope
        assert await receive() == {"type": "lifespan.startup"}
        STARTUP
        await send({"type": "lifespan.startup.complete"})
        assert await receive() == {"type": "lifespan.shutdown"}
        SHUTDOWN
        await send({"type": "lifespan.shutdown.complete"})
"""


def lifespan(startup="pass", shutdown="pass"):
    return LIFESPAN.replace("STARTUP", startup).replace("SHUTDOWN", shutdown)


# ------------------------------------------------ interfaces


@pytest.mark.parametrize(
    ("target", "version"),
    [
        ("asgi_cases:application", "3.0"),
        ("asgi_cases:instance", "3.0"),
        ("asgi_cases:part", "3.0"),
        ("asgi_cases:returning", "3.0"),
        ("asgi_cases:Awaitable", "3.0"),
        ("asgi_cases:double", "2.0"),
        ("asgi_cases:Double", "2.0"),
    ],
)
def test_asgi_callables_of_every_shape_are_served(fake, target, version):
    worker = fake.spawn(target, WORKER_APPS)
    assert outcome(worker) == ("ready", ASGI)
    assert json_of(worker.fetch("/scope"))["asgi"]["version"] == version
    assert worker.stop() == 0
    assert worker.warnings() == []


def test_wsgi_application_is_detected(fake):
    worker = fake.spawn("wsgi", HELLO)
    assert outcome(worker) == ("ready", WSGI)
    assert worker.fetch("/").status == 200
    assert worker.stop() == 0


def test_interface_setting_overrides_detection(fake, project):
    chdir = project(
        app="async def inner(*a): await a[2]({'type': 'x'})\ndef application(*a): return inner(*a)"
    )
    assert outcome(fake.spawn("app", chdir)) == ("ready", WSGI)
    worker = fake.spawn("app", chdir, interface="asgi")
    assert outcome(worker) == ("ready", ASGI)
    assert "Expected ASGI message" in worker.fetch("/").raised[0]


# ------------------------------------------------ loops


def test_loop_setting_selects_the_loop(fake, python):
    has_uvloop = subprocess.run([python, "-c", "import uvloop"], check=False).returncode == 0
    wanted = {"asyncio": "asyncio", "auto": "uvloop" if has_uvloop else "asyncio"}
    for loop, module in wanted.items():
        worker = fake.spawn("asgi_cases", WORKER_APPS, loop=loop).wait_ready()
        assert json_of(worker.fetch("/task"))[2].partition(".")[0] == module
    if not has_uvloop:
        pytest.skip(f"SKIPPED: {python} has no uvloop")


def test_missing_uvloop_is_a_configuration_error(fake, project):
    chdir = project(app=lifespan(), uvloop="raise ImportError('not here')")
    kind, summary = outcome(fake.spawn("app", chdir, loop="uvloop"))[1:3]
    assert kind == CONFIG
    assert summary.startswith("app.loop: uvloop cannot be imported by ")
    assert "set app.loop to auto or asyncio" in summary
    assert outcome(fake.spawn("app", chdir, loop="auto")) == ("ready", ASGI)


def test_tasks_are_made_by_the_applications_task_factory(boot):
    source = lifespan("startup()").replace("import json, os", "import json, os, asyncio") + (
        "    class Task(asyncio.Task): pass\n"
        "    def startup():\n"
        "        loop = asyncio.get_running_loop()\n"
        "        loop.set_task_factory(lambda loop, coro, **more: Task(coro, loop=loop, **more))\n"
    )
    source = source.replace('json.dumps(scope["state"])', "json.dumps(type(asyncio.current_task()) is Task)")
    worker = boot(source).wait_ready()
    assert json_of(worker.fetch("/")) is True


# ------------------------------------------------ lifespan


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_lifespan_starts_before_ready_and_ends_before_exit(boot, fake, mode):
    worker = boot(lifespan("print('one: startup', flush=True)", "print('two: shutdown')"), lifespan=mode)
    assert outcome(worker) == ("ready", ASGI)
    assert "one: startup" in fake.output()
    assert "two" not in fake.output()
    assert worker.stop() == 0
    assert "two: shutdown" in fake.output()


def test_stacks_include_the_task_of_a_hanging_lifespan(boot, tmp_path):
    source = lifespan("await wait_for_file('startup')", "await wait_for_file('shutdown')") + (
        "    import asyncio\n"
        "    async def wait_for_file(name):\n"
        "        while not os.path.exists(name):\n"
        "            await asyncio.sleep(0.01)\n"
    )
    worker = boot(source)
    worker.next_report("booting")
    wait_until("the stacks show the startup", lambda: "wait_for_file('startup')" in worker.ask_stacks())
    (tmp_path / "startup").touch()
    worker.wait_ready()
    assert "Lifespan" not in worker.ask_stacks(), "it waits for its shutdown"
    worker.send(b"X")
    wait_until("the stacks show the shutdown", lambda: "wait_for_file('shutdown')" in worker.ask_stacks())
    assert "Lifespan's task (most recent call last):" in worker.ask_stacks()
    (tmp_path / "shutdown").touch()
    assert worker.wait() == 0


def test_lifespan_state_is_copied_to_each_request(boot):
    worker = boot(lifespan('scope["state"]["x"] = [1]')).wait_ready()
    assert json_of(worker.fetch("/")) == {"x": [1]}


def test_lifespan_off_is_not_run(boot, fake):
    worker = boot(lifespan("print('startup')"), lifespan="off").wait_ready()
    assert json_of(worker.fetch("/")) == {}
    assert worker.stop() == 0
    assert fake.output() == ""


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_startup_failure_fails_the_boot_with_its_message(boot, mode):
    fail = 'return await send({"type": "lifespan.startup.failed", "message": "no database"})'
    worker = boot(lifespan(fail), lifespan=mode)
    failed = "the application's startup failed"
    assert outcome(worker) == ("failed", APP, f"{failed}: no database", "", failed)
    assert worker.wait() == 1


def test_traceback_as_startup_failure_is_summarized(boot):
    fail = (
        'await send({"type": "lifespan.startup.failed", '
        '"message": "Traceback (most recent call last):\\n  File x\\nOSError: no database\\n"}); '
        "raise OSError('no database')"
    )
    _, kind, summary, trace, headline = outcome(boot(lifespan(fail)))
    assert headline == "the application's startup failed"
    assert (kind, summary) == (APP, "the application's startup failed: OSError: no database")
    assert trace.startswith("Traceback")


def test_missing_lifespan_fails_the_boot_only_if_required(boot):
    source = """
        async def application(scope, receive, send):
            assert scope["type"] == "http", "hello speaks http"
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"{}"})
    """
    worker = boot(source)
    assert outcome(worker) == ("ready", ASGI)
    assert json_of(worker.fetch("/")) == {}
    assert worker.stop() == 0
    assert worker.warnings() == []
    _, kind, summary, trace, headline = outcome(boot(source, lifespan="on"))
    assert kind == APP
    assert headline.startswith("the application's lifespan raised AssertionError (")
    assert summary.startswith("the application's lifespan raised AssertionError: hello speaks http")
    assert "in application" in trace


def test_exception_in_startup_fails_the_boot_only_with_on(boot):
    source = lifespan("raise OSError('no database')")
    worker = boot(source)
    assert outcome(worker) == ("ready", ASGI)
    (warning,) = worker.warnings()
    assert "app.lifespan is auto" in warning
    assert "OSError: no database" in warning
    assert outcome(boot(source, lifespan="on"))[1:3] == (
        *(APP, "the application's lifespan raised OSError: no database"),
    )


@pytest.mark.parametrize(
    ("shutdown", "why"),
    [
        ("raise OSError('shut')", "the application's shutdown raised OSError: shut"),
        (
            'return await send({"type": "lifespan.shutdown.failed", "message": "lost"})',
            "the application's shutdown failed: lost",
        ),
    ],
)
def test_shutdown_failure_is_a_warning(boot, shutdown, why):
    worker = boot(lifespan(shutdown=shutdown)).wait_ready()
    worker.send(b"X")
    assert why in worker.next_report("warning")[1]
    assert worker.wait() == 0


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ('{"type": "lifespan.shutdown.complete"}', "invalid state transition"),
        ('{"type": "http.response.start"}', "Unexpected ASGI message 'http.response.start'"),
    ],
)
def test_invalid_lifespan_messages_raise(boot, message, why):
    _, _, summary, *_ = outcome(boot(lifespan(f"await send({message})"), lifespan="on"))
    assert why in summary


def test_lifespan_that_returns_early_is_accepted(boot):
    worker = boot(lifespan("return"), lifespan="on").wait_ready()
    assert json_of(worker.fetch("/")) == {}
    assert worker.stop() == 0


def test_tasks_left_on_the_loop_are_cancelled_at_exit(boot, fake):
    startup = "application.task = __import__('asyncio').create_task(endless())"
    source = lifespan(startup) + (
        "    async def endless():\n"
        "        import asyncio\n"
        "        try:\n"
        "            await asyncio.sleep(1000)\n"
        "        finally:\n"
        "            print('endless: cancelled', flush=True)\n"
    )
    worker = boot(source).wait_ready()
    assert worker.stop() == 0
    assert fake.output() == "endless: cancelled\n"


def test_stop_during_startup_exits_without_ready(boot, fake, tmp_path):
    source = lifespan("await startup()") + (
        "    async def startup():\n"
        "        import asyncio\n"
        "        print('begun', flush=True)\n"
        f"        while not os.path.exists({str(tmp_path / 'go')!r}):\n"
        "            await asyncio.sleep(0.01)\n"
    )
    worker = boot(source)
    worker.next_report("booting")
    worker.send(b"X")
    (tmp_path / "go").touch()
    assert worker.wait() == 0
    assert "Task was destroyed" not in fake.output()


@pytest.mark.parametrize("mode", ["auto", "on"])
@pytest.mark.parametrize("loop", ["asyncio", "auto"])
@pytest.mark.parametrize("wait", ["sleep(1000)", "os.kill(os.getpid(), signal.SIGUSR1)"])
@pytest.mark.parametrize("phase", ["startup", "shutdown"])
def test_exit_in_a_signal_handler_ends_startup_and_shutdown(boot, fake, mode, loop, wait, phase):
    source = lifespan(**{phase: "await phase()"}).replace("import json, os", "import json, os, signal, sys")
    source += (
        "    def leave(number, frame):\n"
        "        sys.exit(5)\n"
        "    signal.signal(signal.SIGUSR1, leave)\n"
        "    async def phase():\n"
        "        from asyncio import sleep\n"
        "        print('begun', flush=True)\n"
        f"        {'await ' * wait.startswith('sleep')}{wait}\n"
        "        await sleep(1000)\n"
    )
    worker = boot(source, lifespan=mode, loop=loop)
    if phase == "shutdown":
        worker.wait_ready().send(b"X")
    wait_until("the phase has begun", lambda: "begun" in fake.output())
    if "kill" not in wait:
        os.kill(worker.pid, signal.SIGUSR1)
    assert worker.wait() == 5
    assert "Task was destroyed" not in fake.output()


# ------------------------------------------------ hooks, preload


def test_hooks_run_around_lifespan(fake, hook_events):
    worker = fake.spawn("asgi_cases", WORKER_APPS, hooks=ALL_HOOKS).wait_ready()
    worker.fetch("/scope")
    assert worker.stop() == 0
    assert [event["hook"] for event in hook_events()] == ["post_fork", "post_worker_init", "worker_exit"]
    assert "lifespan: shutdown" in fake.output()


def test_forked_workers_have_their_own_loop_and_lifespan(fake):
    zygote = fake.spawn("asgi_cases", WORKER_APPS, zygote=True, warm_up="/scope")
    assert outcome(zygote) == ("ready", ASGI)
    assert any("warm-up request is for WSGI" in warning for warning in zygote.warnings())
    workers = [fake.fork(zygote, number=number, incarnation=2 + number) for number in range(2)]
    for worker in workers:
        assert outcome(worker) == ("ready", ASGI)
    for worker in workers:
        assert json_of(worker.fetch("/scope"))["state"]["from"] == "lifespan"
        assert worker.fetch("/flood").body == b"f" * 50_000 * 200
        assert worker.stop() == 0
    assert fake.output().count("lifespan: shutdown") == 2
    assert zygote.stop() == 0


def test_promoted_worker_runs_lifespan_shutdown_first(fake):
    worker = fake.spawn("asgi_cases", WORKER_APPS).wait_ready()
    assert worker.fetch("/scope").status == 200
    worker.send(b"P")
    worker.next_report("promoted")
    assert fake.output().count("lifespan: shutdown") == 1
    assert worker.next_report("ready") == ("ready", ASGI)
    child = fake.fork(worker, incarnation=9)
    assert outcome(child) == ("ready", ASGI)
    assert child.fetch("/scope").status == 200
    assert child.stop() == 0
    assert worker.stop() == 0
