"""From `python -c` to Ready: interpreters that cannot, and applications that cannot be loaded."""

import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile

import pytest
from conftest import APPS, TOP, daemon

BOOTSTRAP = TOP / "src/worker/bootstrap.py"


def check(python, directory, target, *flags, env=None):
    """What `rgun check` says of an application: exit status and text."""
    as_root = ["--user", "root"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [
            str(daemon()),
            "check",
            *as_root,
            target,
            "--chdir",
            str(directory),
            "--python",
            str(python),
            *flags,
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "NO_COLOR": "1", **(env or {})},
    )
    return done.returncode, done.stdout


GOOD = """
    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"good"]

    app = application
    number = 5

    async def asgi(scope, receive, send):
        pass

    class Asgi3:
        async def __call__(self, scope, receive, send):
            pass

    class Asgi2:
        def __init__(self, scope):
            pass

        async def __call__(self, receive, send):
            pass

    asgi_object = Asgi3()

    def asgi_by_parameters(scope, receive, send):
        pass

    class Wsgi:
        def __call__(self, environ, start_response):
            return application(environ, start_response)

        def method(self, environ, start_response, extra=None):
            return application(environ, start_response)

    wsgi_object = Wsgi()
    wsgi_method = wsgi_object.method

    class WsgiClass:
        def __init__(self, environ, start_response):
            self.result = application(environ, start_response)

        def __iter__(self):
            return iter(self.result)

    import functools

    def with_setting(setting, environ, start_response):
        return application(environ, start_response)

    partial = functools.partial(with_setting, 5)
    asgi_partial = functools.partial(asgi)

    def make():
        return application

    def make_nothing():
        pass

    def make_trouble():
        raise RuntimeError("no database")

    make.inner = make
"""


@pytest.mark.parametrize(
    "target",
    [
        "good",
        "good:application",
        "good:app",
        "good:wsgi_object",
        "good:wsgi_method",
        "good:wsgi_object.method",
        "good:WsgiClass",
        "good:make()",
        "good:make.inner()",
    ],
)
def test_wsgi_callables_of_every_shape_are_loaded(python, project, target):
    code, text = check(python, project(good=GOOD), target)
    assert code == 0, text


@pytest.mark.parametrize("target", ["good:application", "good:wsgi_object", "good:WsgiClass", "good:make()"])
def test_wsgi_callables_of_every_shape_answer(start, project, target):
    assert start(target, project(good=GOOD)).ready().get("/").body == b"good"


@pytest.mark.parametrize(
    "target",
    [
        "good:asgi",
        "good:Asgi3",
        "good:Asgi2",
        "good:asgi_object",
        "good:asgi_by_parameters",
        "good:asgi_partial",
    ],
)
def test_asgi_callables_of_every_shape_are_detected(python, project, target):
    code, text = check(python, project(good=GOOD), target)
    assert code == 0, text
    assert "asgi" in text.lower()


def test_interface_asgi_overrides_detection(python, project):
    code, text = check(python, project(good=GOOD), "good:app", "--interface", "asgi")
    assert code == 0, text
    assert "asgi" in text.lower()


def test_interface_wsgi_overrides_detection(python, project):
    code, text = check(python, project(good=GOOD), "good:asgi_by_parameters", "--interface", "wsgi")
    assert code == 0, text


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nothere", ["there is no module nothere", "app.target", "app.directory"]),
        ("god", ["there is no module god", "(is it good?)"]),
        ("package.wsg", ["there is no module package.wsg", "(is it wsgi?)"]),
        ("good.wsgi", ["there is no module good.wsgi", "'good' is not a package"]),
        ("good:ap", ["has no attribute ap", "(is it app?)", "good.py"]),
        ("other", ["has no attribute application", "(is it app?)"]),
        ("good:number", ["good:number is an object of type int, which cannot be called"]),
        ("good:number()", ["good:number is an object of type int", "remove the ()"]),
        ("good:make_nothing()", ["good:make_nothing() is None, which cannot be called"]),
        ("good:app.nothing", ["has no attribute app.nothing"]),
    ],
)
def test_missing_target_is_a_configuration_error_with_a_hint(python, project, target, words):
    directory = project(good=GOOD, package__wsgi="application = 1", package____init__="", other="app = print")
    code, text = check(python, directory, target)
    assert code == 78, text
    for word in words:
        assert word in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import nothere", ["ModuleNotFoundError: No module named 'nothere'", "import nothere"]),
        ("import broken.part", ["ModuleNotFoundError: No module named 'broken.part'"]),
        ("from sys import nothere", ["ImportError: cannot import name 'nothere'"]),
        ("def x(:", ["SyntaxError", "broken.py", "def x(:"]),
        ("raise ValueError('no database')", ["ValueError: no database", "line 1"]),
        ("import sys; sys.exit('no settings')", ["SystemExit: no settings"]),
        ("raise KeyboardInterrupt", ["KeyboardInterrupt"]),
        ("def __getattr__(name): raise ValueError('odd ' + name)", ["ValueError: odd application"]),
        ("def f(): f()\nf()", ["RecursionError"]),
    ],
)
def test_import_error_is_reported_once_with_its_traceback(python, project, source, words):
    code, text = check(python, project(broken=source), "broken")
    assert code != 0, text
    for word in words:
        assert word in text
    # A SyntaxError in the target has its place in the message, and no frames.
    assert text.count("Traceback (most recent call last)") == ("SyntaxError" not in words)
    assert "<rgun>" not in text
    assert "importlib" not in text


def test_exception_in_a_factory_is_reported(python, project):
    code, text = check(python, project(good=GOOD), "good:make_trouble()")
    assert code != 0, text
    assert "calling good:make_trouble() raised RuntimeError: no database" in text
    assert 'raise RuntimeError("no database")' in text


def test_application_starts_in_its_directory(probe):
    told = probe.get("/identity").json()
    assert told["path"][0] == told["cwd"] == str(APPS)
    assert "" not in told["path"]
    assert told["argv"] == ["rgun"]
    assert told["main"] is True
    assert told["faulthandler"] is True
    assert told["control_is_inherited"] is False


def test_pythonpath_precedes_the_directory(start, project, tmp_path_factory):
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    (first / "text.py").write_text("text = b'of the first'\n")
    (second / "text.py").write_text("raise ValueError('the wrong one')\n")
    directory = project(
        good="""
            from text import text

            def application(environ, start_response):
                start_response("200 OK", [])
                return [text]
        """,
        text="raise ValueError('the wrong one')",
    )
    flags = ("--workers", "1", "--pythonpath", f"{first},{second}")
    server = start("good", directory, flags).ready()
    assert server.get("/").body == b"of the first"


# The target, and the interface that it turns out to have.
FACTORIES = {
    "plain": "Wsgi",
    "with_defaults": "Asgi",
    "with_keywords": "Wsgi",
    "cached": "Wsgi",
    "wrapped": "Asgi",
    "bound": "Wsgi",
    "partly": "Asgi",
    "Bare": "Asgi",
    "Configured": "Wsgi",
    "provider": "Wsgi",
}
FACTORIES_SOURCE = """
    import functools

    def wsgi(environ, start_response):
        start_response("200 OK", [])
        return [b"made"]

    async def asgi(scope, receive, send):
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"made"})

    def plain():
        return wsgi

    def with_defaults(config=None, *, debug=False):
        return asgi

    def with_keywords(**settings):
        return wsgi

    @functools.lru_cache(maxsize=None)
    def cached():
        return wsgi

    def traced(function):
        @functools.wraps(function)
        def call(*args, **kwargs):
            return function(*args, **kwargs)
        return call

    wrapped = traced(with_defaults)

    def needs(config):
        return asgi

    partly = functools.partial(needs, "production")

    class Bare:
        async def __call__(self, scope, receive, send):
            await asgi(scope, receive, send)

    class Configured:
        def __init__(self, settings=None):
            self.settings = settings

        def __call__(self, environ, start_response):
            return wsgi(environ, start_response)

        def make(self):
            return wsgi

    bound = Configured().make

    class Provider:
        def __call__(self):
            return wsgi

    provider = Provider()

    # None of these is a factory.
    def with_default_arguments(environ=None, start_response=None):
        return wsgi(environ, start_response)

    traced_wsgi = traced(wsgi)

    class Iterable:
        def __init__(self, environ, start_response):
            self.parts = wsgi(environ, start_response)

        def __iter__(self):
            return iter(self.parts)

    class Asgi2:
        def __init__(self, scope):
            self.scope = scope

        async def __call__(self, receive, send):
            await asgi(self.scope, receive, send)

    def useless():
        return 5

    def broken():
        raise RuntimeError("no database")
"""


@pytest.mark.parametrize("name", FACTORIES)
def test_callable_without_arguments_is_called_as_a_factory(start, project, name):
    server = start(f"made:{name}", project(made=FACTORIES_SOURCE)).ready()
    assert f"made:{name}()" in server.wait_for("is called to make the application")
    assert server.get("/").body == b"made"


@pytest.mark.parametrize(
    "name", ["with_default_arguments", "traced_wsgi", "Iterable", "Asgi2", "wsgi", "asgi"]
)
def test_application_is_not_taken_for_a_factory(start, project, name):
    server = start(f"made:{name}", project(made=FACTORIES_SOURCE)).ready()
    assert server.get("/").body == b"made"
    assert "to make the application" not in server.log()


def test_detected_factory_fails_like_a_named_one(python, project):
    directory = project(made=FACTORIES_SOURCE)
    code, text = check(python, directory, "made:useless")
    assert code == 78, text
    assert "made:useless() is an object of type int, which cannot be called" in text
    code, text = check(python, directory, "made:broken")
    assert code != 0, text
    assert "calling made:broken() raised RuntimeError: no database" in text


def test_preloaded_factory_is_detected(start, project):
    flags = ("--workers", "1", "--preload")
    server = start("made:with_defaults", project(made=FACTORIES_SOURCE), flags).ready()
    assert server.get("/").body == b"made"


def test_non_utf8_directory_is_served(start, tmp_path_factory):
    directory = os.fsencode(tmp_path_factory.mktemp("latin")) + b"/caf\xe9"
    library = os.fsencode(tmp_path_factory.mktemp("lib")) + b"/l\xefb"
    for path in (directory, library):
        os.mkdir(path)
    with open(library + b"/text.py", "w") as file:
        file.write("text = b'found'\n")
    with open(directory + b"/good.py", "w") as file:
        file.write(
            "import os, sys\nfrom text import text\n\n\n"
            "def application(environ, start_response):\n"
            "    start_response('200 OK', [])\n"
            "    return [text, b' ', os.getcwdb(), b' ', os.fsencode(__file__)]\n"
        )
    for more in ((), ("--preload",)):
        flags = ("--workers", "1", "--pythonpath", os.fsdecode(library), *more)
        server = start("good", os.fsdecode(directory), flags).ready()
        assert server.get("/").body == b"found " + directory + b" " + directory + b"/good.py"


def test_missing_module_in_a_non_utf8_directory_is_reported(python, tmp_path):
    directory = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(directory)
    code, text = check(python, os.fsdecode(directory), "nothing_here")
    assert code == 78, text
    assert "there is no module nothing_here in" in text
    assert "caf\\udce9" in text


def bootstrap(python, *arguments):
    """Runs the bootstrap alone: exit status, stderr, and what it wrote to the control socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, tempfile.TemporaryFile() as errors:
        child = os.posix_spawn(
            python,
            [str(word) for word in (python, "-c", BOOTSTRAP.read_text(), *arguments)],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, errors.fileno(), 2),
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), 3),
            ],
        )
        theirs.close()
        ours.settimeout(20)
        message = ours.recv(100_000).decode()
        _, status = os.waitpid(child, 0)
        errors.seek(0)
        return os.WEXITSTATUS(status), errors.read().decode(), message


def old_interpreters():
    """Interpreters that cannot run a worker, if this machine has any."""
    root = pathlib.Path(os.environ.get("PYENV_ROOT") or pathlib.Path.home() / ".pyenv") / "versions"
    found = [
        path
        for version in ("2.7*", "3.6*", "3.7*", "3.8*", "pypy*", "*t")
        for path in root.glob(version + "/bin/python")
    ]
    return sorted(found) or [None]


@pytest.mark.parametrize("old", old_interpreters(), ids=str)
def test_unsupported_interpreter_is_refused_in_one_sentence(old):
    if old is None:
        pytest.skip("SKIPPED: no interpreter older than 3.9, free-threaded or PyPy on this machine")
    code, errors, message = bootstrap(old, "/nonexistent.so")
    assert (code, errors) == (78, "")
    assert message.startswith(f"R{old} (")
    assert "rgun needs CPython 3.9 or later" in message
    assert "app.python" in message
    assert "\n" not in message


@pytest.mark.parametrize("old", old_interpreters()[:1], ids=str)
def test_daemon_reports_an_unsupported_interpreter(project, old):
    if old is None:
        pytest.skip("SKIPPED: no interpreter older than 3.9, free-threaded or PyPy on this machine")
    code, text = check(old, project(good=GOOD), "good")
    assert code == 78, text
    assert f"{old} (CPython 2.7" in text or "rgun needs CPython 3.9 or later" in text


def test_unloadable_extension_is_reported(python, tmp_path):
    broken = tmp_path / "rgun_worker.abi3.so"
    broken.write_bytes(b"not an extension")
    for path in (broken, tmp_path / "missing.so"):
        code, errors, message = bootstrap(python, path)
        assert (code, errors) == (78, "")
        assert message.startswith("R")
        assert "cannot load the extension" in message
        assert str(path) in message


def test_bootstrap_uses_no_python_3_syntax():
    # A cheap guard where no old interpreter is: nothing of Python 3 only.
    source = BOOTSTRAP.read_text()
    for modern in ('f"', "f'", ":=", "nonlocal ", "async ", "print(", " -> "):
        assert modern not in source


def test_extension_does_not_link_libpython():
    readelf = subprocess.run(
        ["readelf", "--dynamic", str(daemon().parent / "rgun_worker.abi3.so")],
        capture_output=True,
        text=True,
        check=True,
    )
    needed = [line for line in readelf.stdout.splitlines() if "(NEEDED)" in line]
    assert needed
    assert not [line for line in needed if "python" in line]


def test_worker_runs_on_the_interpreter_under_test(server, python):
    told = server.get("/who").json()
    assert pathlib.Path(told["executable"]) == pathlib.Path(python)
    assert told["prefix"] == (sys.prefix if python == sys.executable else told["prefix"])


@pytest.mark.parametrize(
    ("source", "target", "headline"),
    [
        ("raise ValueError('hunter2')", "app", r"importing app raised ValueError \(/.*/app\.py, line 1\)"),
        (
            "import json\n\ndef connect():\n    json.loads('hunter2')\n\nconnect()\n",
            "app",
            r"importing app raised json\.decoder\.JSONDecodeError \(.*json/decoder\.py, line [0-9]+\)",
        ),
        ("x = 1\nclass hunter2\n", "app", r"importing app raised SyntaxError \(.*/app\.py, line 2\)"),
        (
            "def __getattr__(name):\n    raise AttributeError('hunter2')",
            "app:missing",
            r"app\.target: module app has no attribute missing; correct app\.target",
        ),
        (
            "raise ModuleNotFoundError('hunter2', name='app')",
            "app",
            r"app\.target: there is no module app; correct app\.target",
        ),
        ("number = 5", "app:number", r"app\.target: app:number is an object of type int, .*"),
    ],
)
def test_failure_headline_has_type_and_place_but_no_message(fake, project, source, target, headline):
    worker = fake.spawn(target, project(app=source))
    *_, line = worker.next("failed")
    assert re.fullmatch(headline, line), line
    assert "hunter2" not in line


@pytest.mark.parametrize("preload", [(), ("--preload",)])
def test_main_module_can_be_run_again_by_multiprocessing(start, preload):
    server = start("main_module", APPS, ("--workers", "1", *preload))
    server.wait_for("worker 0 is ready")
    told = server.get("/").json()
    file = pathlib.Path(told["file"])
    assert file.is_file()
    assert file.parent == daemon().parent.resolve()
    assert {method: number for method, (number, _) in told["started"].items()} == {
        "spawn": 42,
        "forkserver": 42,
        "fork": 42,
    }


def test_main_module_does_nothing_when_run(python):
    file = daemon().parent / "rgun_main.py"
    done = subprocess.run([str(python), str(file)], capture_output=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_dotenv_searches_beside_the_calling_file(python, start, project):
    found = subprocess.run([str(python), "-c", "import dotenv"], capture_output=True, check=False)
    if found.returncode != 0:
        pytest.skip("SKIPPED: this interpreter has no python-dotenv")
    directory = project(
        shop__wsgi="""
        from dotenv import find_dotenv

        found = find_dotenv()

        def application(environ, start_response):
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [found.encode()]
        """
    )
    (directory / "shop" / ".env").write_text("NAME=value\n")
    server = start("shop.wsgi", directory).ready()
    assert server.get("/").body.decode() == str(directory / "shop" / ".env")
