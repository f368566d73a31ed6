"""The log outside systemd: readable lines on a terminal, JSON with `--log-format json`."""

import json
import os
import pty
import re
import select
import subprocess

from support.paths import HELLO, daemon_binary
from support.waiting import DEADLINE


def read_until(descriptor, text):
    """Returns the terminal's output until `text` appears or all programs have closed it."""
    shown = b""
    while text not in shown:
        assert select.select([descriptor], [], [], DEADLINE)[0], f"no {text!r} in {shown!r}"
        try:
            shown += os.read(descriptor, 65536)
        except OSError:  # EIO: no process has the terminal open
            break
    return shown


def log_on_terminal(python, tmp_path, **variables):
    """Starts a daemon on a terminal; returns its output until the worker is ready."""
    descriptor, terminal = pty.openpty()
    flags = ("--chdir", HELLO, "--python", python, "--bind", f"unix:{tmp_path}/s.sock")
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    process = subprocess.Popen(
        [str(word) for word in (daemon_binary(), "cases", *flags)],
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
        env={**environment, "TERM": "xterm", **variables},
    )
    os.close(terminal)
    try:
        return read_until(descriptor, b"reloads)").decode()
    finally:
        process.terminate()
        process.wait(DEADLINE)
        os.close(descriptor)


def test_terminal_gets_lines_without_fields(python, tmp_path):
    shown = log_on_terminal(python, tmp_path, NO_COLOR="1")
    assert re.search(r"^ready on unix:\S+/s\.sock after ", shown, re.MULTILINE), shown
    assert "rgun.worker" not in shown
    assert "\x1b" not in shown


def test_terminal_gets_colours_without_no_color(python, tmp_path):
    assert "\x1b[32mready\x1b[0m" in log_on_terminal(python, tmp_path)


def test_dumb_terminal_gets_no_colours(python, tmp_path):
    assert "\x1b" not in log_on_terminal(python, tmp_path, TERM="dumb")


def test_json_log_has_typed_fields(start):
    server = start("cases", HELLO, ("--log-format", "json"))
    entry = json.loads(server.wait_for_log("worker 0 is ready"))
    assert (entry["level"], entry["rgun.worker"]) == ("info", 0)
    assert isinstance(entry["rgun.duration_us"], int)


def test_printed_lines_are_json_with_the_worker(start, tmp_path):
    text = """print("starts", flush=True)\nprint('{"event": "own"}', flush=True)\n"""
    (tmp_path / "printing.py").write_text(text + "def application(environ, start_response):\n    pass\n")
    server = start("printing", tmp_path, ("--log-format", "json"))
    entry = json.loads(server.wait_for_log('"message":"starts"'))
    assert (entry["level"], entry["rgun.worker"], entry["message"]) == ("info", 0, "starts")
    assert server.wait_for_log('"event"').strip() == '{"event": "own"}'
