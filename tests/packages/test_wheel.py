"""The wheel, installed as users install it, on each interpreter."""

import textwrap
import zipfile

import pytest
from venv_with_rgun import Environment, run

WSGI = """
import sys

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{WORD} from {sys.prefix}".encode()]
"""
ASGI = """
import sys

async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"asgi from {sys.prefix}".encode()})
"""
MISSING = "ModuleNotFoundError: No module named 'missing_package'"


@pytest.fixture
def write(tmp_path):
    """A function that writes the application `main:app`, and returns its directory."""
    directory = tmp_path / "project"
    directory.mkdir()

    def write(text):
        (directory / "main.py").write_text(textwrap.dedent(text))
        return directory

    return write


def test_wsgi_application_gets_the_environments_interpreter(environment, start, write):
    daemon = start(environment, "main:app", chdir=write(f"WORD = 'wsgi'{WSGI}"))
    assert daemon.wait_ready().get("/").body.decode() == f"wsgi from {environment.path}"


def test_asgi_application_gets_the_environments_interpreter(environment, start, write):
    daemon = start(environment, "main:app", chdir=write(ASGI))
    assert daemon.wait_ready().get("/").body.decode() == f"asgi from {environment.path}"


def test_module_starts_the_program_of_its_environment(environment, start, write):
    module = ("bin/python", "-m", "rgun")
    daemon = start(environment, "main:app", chdir=write(f"WORD = 'wsgi'{WSGI}"), program=module)
    assert daemon.wait_ready().get("/").body.decode() == f"wsgi from {environment.path}"


def test_python_flag_overrides_the_environment(environment, bare, start, write):
    chdir = write(f"WORD = 'wsgi'{WSGI}")
    daemon = start(environment, "main:app", "--python", bare.path / "bin/python", chdir=chdir)
    assert daemon.wait_ready().get("/").body.decode() == f"wsgi from {bare.path}"


def test_reload_command_loads_new_code(environment, start, write, tmp_path):
    chdir = write(f"WORD = 'old'{WSGI}")
    runtime = tmp_path / "run"
    runtime.mkdir()
    where = {"RUNTIME_DIRECTORY": str(runtime)}
    daemon = start(environment, "main:app", chdir=chdir, env=where).wait_ready()
    write(f"WORD = 'new'{WSGI}")
    environment.run("bin/rgun", "reload", env=where)
    assert daemon.get("/").body.startswith(b"new ")


def test_sighup_with_broken_code_keeps_the_old(environment, start, write):
    daemon = start(environment, "main:app", chdir=write(f"WORD = 'old'{WSGI}")).wait_ready()
    write("import missing_package")
    daemon.reload()
    daemon.wait_for_log(MISSING)
    assert daemon.get("/").body.startswith(b"old ")


def test_module_and_program_print_one_version(environment):
    printed = environment.run("bin/python", "-m", "rgun", "--version")
    assert printed == environment.run("bin/rgun", "--version")
    assert printed.startswith("rgun ")


def test_module_passes_on_the_exit_status(environment):
    with pytest.raises(AssertionError, match="ended with 64"):
        environment.run("bin/python", "-m", "rgun", "--no-such-flag")


def test_module_without_its_program_exits_with_69(bare, wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked", [n for n in archive.namelist() if n.startswith("rgun/")])
    with pytest.raises(AssertionError, match="ended with 69") as error:
        bare.run("bin/python", "-m", "rgun", env={"PYTHONPATH": str(tmp_path / "unpacked")})
    assert "reinstall the package rgun" in str(error.value)


def test_module_under_a_prefix_finds_its_program(bare, wheel, start, write, tmp_path):
    prefix = tmp_path / "prefix"
    bare.pip("install", "--no-index", "--prefix", prefix, wheel)
    (packages,) = prefix.glob("lib/python3.*/site-packages")
    # The interpreter that runs the module also runs the workers, although it is not beside the program.
    chdir = write(f"WORD = 'wsgi'{WSGI}")
    variables = {"PYTHONPATH": str(packages), "PATH": "/usr/bin:/bin"}
    daemon = start(bare, "main:app", chdir=chdir, program=("bin/python", "-m", "rgun"), env=variables)
    assert daemon.wait_ready().get("/").body.decode() == f"wsgi from {bare.path}"


def test_uninstall_leaves_nothing(bare, wheel, listing):
    before = listing(bare.path)
    bare.pip("install", "--no-index", wheel)
    assert bare.path / "bin/rgun" in listing(bare.path) - before
    bare.pip("uninstall", "--yes", "rgun")
    assert listing(bare.path) == before


def test_manual_is_where_man_looks(environment):
    pages = run(
        ["man", "--where", "rgun", "rgun.toml"], env={"PATH": f"{environment.path}/bin:/usr/bin:/bin"}
    )
    assert pages.splitlines() == [
        f"{environment.path}/share/man/man1/rgun.1",
        f"{environment.path}/share/man/man5/rgun.toml.5",
    ]


def test_completions_are_where_shells_look(environment):
    for path in (
        "bash-completion/completions/rgun",
        "fish/vendor_completions.d/rgun.fish",
        "zsh/site-functions/_rgun",
    ):
        assert (environment.path / "share" / path).is_file(), path


def test_link_from_elsewhere_finds_the_extension(environment, start, write, tmp_path):
    # As pipx and `uv tool install` link it; the environment of such a link contains rgun only.
    link = tmp_path / "bin" / "rgun"
    link.parent.mkdir()
    link.symlink_to(environment.path / "bin/rgun")
    Environment(write(f"WORD = 'wsgi'{WSGI}") / ".venv", environment.path / "bin/python", "--without-pip")
    daemon = start(environment, "main:app", chdir=tmp_path / "project", program=(link,))
    assert daemon.wait_ready().get("/").body.decode() == f"wsgi from {tmp_path}/project/.venv"
