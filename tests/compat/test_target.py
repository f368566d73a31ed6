"""app.target: how applications are found and loaded, and how failures are reported."""

import os
import pathlib
import subprocess
import sys

import pytest
from support.daemon import run_check
from support.interpreters import unsupported_interpreters
from support.paths import COMPAT_APPS, daemon_binary

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
    code, text = run_check(python, project(good=GOOD), target)
    assert code == 0, text


@pytest.mark.parametrize("target", ["good:application", "good:wsgi_object", "good:WsgiClass", "good:make()"])
def test_wsgi_callables_of_every_shape_answer(start, project, target):
    assert start(target, project(good=GOOD)).wait_ready().get("/").body == b"good"


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
    code, text = run_check(python, project(good=GOOD), target)
    assert code == 0, text
    assert "asgi" in text.lower()


def test_interface_asgi_overrides_detection(python, project):
    code, text = run_check(python, project(good=GOOD), "good:app", "--interface", "asgi")
    assert code == 0, text
    assert "asgi" in text.lower()


def test_coroutine_function_is_refused_as_wsgi(python, project):
    for target in ("good:asgi", "good:asgi_object"):
        code, text = run_check(python, project(good=GOOD), target, "--worker-class", "gthread")
        assert code == 78
        assert f"app.interface: {target} is an ASGI application, and the setting" in text


def test_interface_wsgi_overrides_detection(python, project):
    code, text = run_check(python, project(good=GOOD), "good:asgi_by_parameters", "--interface", "wsgi")
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
    code, text = run_check(python, directory, target)
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
    code, text = run_check(python, project(broken=source), "broken")
    assert code != 0, text
    for word in words:
        assert word in text
    # The message of a SyntaxError in the target names the line; there is no traceback.
    assert text.count("Traceback (most recent call last)") == ("SyntaxError" not in words)
    assert "<rgun>" not in text
    assert "importlib" not in text


def test_exception_in_a_factory_is_reported(python, project):
    code, text = run_check(python, project(good=GOOD), "good:make_trouble()")
    assert code != 0, text
    assert "calling good:make_trouble() raised RuntimeError: no database" in text
    assert 'raise RuntimeError("no database")' in text


def test_application_starts_in_its_directory(probe):
    facts = probe.get("/identity").json()
    assert facts["path"][0] == facts["cwd"] == str(COMPAT_APPS)
    assert "" not in facts["path"]
    assert facts["argv"] == ["rgun"]
    assert facts["main"] is True
    assert facts["faulthandler"] is True
    assert facts["control_is_inherited"] is False


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
    server = start("good", directory, flags).wait_ready()
    assert server.get("/").body == b"of the first"


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
        server = start("good", os.fsdecode(directory), flags).wait_ready()
        assert server.get("/").body == b"found " + directory + b" " + directory + b"/good.py"


def test_missing_module_in_a_non_utf8_directory_is_reported(python, tmp_path):
    directory = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(directory)
    code, text = run_check(python, os.fsdecode(directory), "nothing_here")
    assert code == 78, text
    assert "there is no module nothing_here in" in text
    assert "caf\\udce9" in text


@pytest.mark.parametrize("old", unsupported_interpreters()[:1], ids=str)
def test_daemon_reports_an_unsupported_interpreter(project, old):
    if old is None:
        pytest.skip("SKIPPED: no interpreter older than 3.9, free-threaded or PyPy on this machine")
    code, text = run_check(old, project(good=GOOD), "good")
    assert code == 78, text
    assert f"{old} (CPython 2.7" in text or "rgun needs CPython 3.9 or later" in text


def test_worker_runs_on_the_interpreter_under_test(server, python):
    facts = server.get("/who").json()
    assert pathlib.Path(facts["executable"]) == pathlib.Path(python)
    assert facts["prefix"] == (sys.prefix if python == sys.executable else facts["prefix"])


@pytest.mark.parametrize("preload", [(), ("--preload",)])
def test_main_module_can_be_run_again_by_multiprocessing(start, preload):
    server = start("main_module", COMPAT_APPS, ("--workers", "1", *preload))
    server.wait_for_log("worker 0 is ready")
    facts = server.get("/").json()
    file = pathlib.Path(facts["file"])
    assert file.is_file()
    assert file.parent == daemon_binary().parent.resolve()
    assert {method: number for method, (number, _) in facts["started"].items()} == {
        "spawn": 42,
        "forkserver": 42,
        "fork": 42,
    }


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
    server = start("shop.wsgi", directory).wait_ready()
    assert server.get("/").body.decode() == str(directory / "shop" / ".env")
