"""The bootstrap: interpreters that it refuses, its extension, and the report of a failed boot."""

import os
import re
import signal
import socket
import subprocess
import tempfile

import pytest
from support.interpreters import unsupported_interpreters
from support.paths import BOOTSTRAP, daemon_binary, extension


def bootstrap(python, *arguments):
    """Runs the bootstrap alone; returns exit status, stderr and the message on the socket."""
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


@pytest.mark.parametrize("old", unsupported_interpreters(), ids=str)
def test_unsupported_interpreter_is_refused_in_one_sentence(old):
    if old is None:
        pytest.skip("SKIPPED: no interpreter older than 3.9, free-threaded or PyPy on this machine")
    code, errors, message = bootstrap(old, "/nonexistent.so")
    assert (code, errors) == (78, "")
    assert message.startswith(f"R{old} (")
    assert "rgun needs CPython 3.9 or later" in message
    assert "app.python" in message
    assert "\n" not in message


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
    # Detects Python 3 syntax on machines that have no old interpreter.
    source = BOOTSTRAP.read_text()
    for modern in ('f"', "f'", ":=", "nonlocal ", "async ", "print(", " -> "):
        assert modern not in source


def test_extension_does_not_link_libpython():
    readelf = subprocess.run(
        ["readelf", "--dynamic", str(extension())],
        capture_output=True,
        text=True,
        check=True,
    )
    needed = [line for line in readelf.stdout.splitlines() if "(NEEDED)" in line]
    assert needed
    assert not [line for line in needed if "python" in line]


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
    *_, line = worker.next_report("failed")
    assert re.fullmatch(headline, line), line
    assert "hunter2" not in line


def test_main_module_does_nothing_when_run(python):
    file = daemon_binary().parent / "rgun_main.py"
    done = subprocess.run([str(python), str(file)], capture_output=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_sigint_before_the_extension_loads_kills_silently(python, tmp_path):
    """Before the extension is loaded, Python handles SIGINT."""
    extension = tmp_path / "slow.py"
    extension.write_text("")
    code = (
        "import os, signal, importlib.machinery\n"
        "class Slow(importlib.machinery.ExtensionFileLoader):\n"
        "    def create_module(self, spec):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        while True:\n"
        "            pass\n"
        "importlib.machinery.ExtensionFileLoader = Slow\n"
        f"exec(open({str(BOOTSTRAP)!r}).read())\n"
    )
    reading, writing = os.pipe()

    def become_a_worker():
        os.dup2(writing, 3)
        # The tests may run with SIGINT ignored, as a shell's background jobs do.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = subprocess.Popen(
        [str(python), "-c", code, str(extension)], preexec_fn=become_a_worker, close_fds=False
    )
    os.close(writing)
    try:
        assert process.wait(20) == -signal.SIGINT
    finally:
        process.kill()
    assert os.read(reading, 100) == b""
    os.close(reading)
