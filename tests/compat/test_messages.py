"""The messages that an operator sees: whole outputs, with their exit status.

messages.txt has a command after each `$ ` and, below it, what the command prints. UPDATE_DOCS=1 writes
the outputs; read the difference as the operator will.
"""

import os
import pathlib
import re
import shlex
import textwrap

SNAPSHOT = pathlib.Path(__file__).parent / "messages.txt"
APPLICATION = """
    def application(environ, start_response):
        start_response("200 OK", [])
        return [b"served"]
"""
FILES = {
    "app.py": APPLICATION,
    "importing.py": "import a_module_that_is_not_here\n",
    "aio.py": "async def application(scope, receive, send):\n    pass\n",
    "app.toml": '[app]\ntarget = "app"\n',
    "list.toml": '[app]\ntarget = "app"\n[listen]\nbind = "127.0.0.1:1,127.0.0.1:2"\n',
    "level.toml": '[app]\ntarget = "app"\n[log]\nlevel = "INFO"\n',
    "zero.toml": '[app]\ntarget = "app"\n[limits]\nrequest_line = "0"\n',
    "hypercorn.toml": 'bind = ["0.0.0.0:8000"]\nworkers = 4\naccesslog = "-"\n',
    "pyproject.toml": '[project]\nname = "shop"\n[tool.ruff]\nline-length = 88\n',
}


def commands(text):
    """Returns the commands of the snapshot."""
    return [line[2:] for line in text.splitlines() if line.startswith("$ ")]


def run(place, command):
    """Runs a command, and returns what it prints, without the facts that differ from run to run."""
    words = shlex.split(command)
    env = {}
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        env[name] = value
    assert words.pop(0) == "rgun"
    serves = not words or words[0] not in ("reload", "help", "stop")
    if words[:1] == ["check"] and os.geteuid() == 0:
        words += ["--user", "root"]
    if serves and "--python" not in words:
        words += ["--python", str(place.python)]
    status, output = place.run(*words, env=env)
    output = output.replace("; checked as root\n", "\n").replace(str(place.python), "PYTHON")
    output = output.replace(str(place.directory), "DIR")
    output = re.sub(r"^\d{4}-\S+Z +", "", output, flags=re.M)
    output = re.sub(r"CPython 3\.\S+", "CPython 3", output)
    output = re.sub(r"listening on 127\.0\.0\.1:\d+", "listening on 127.0.0.1:PORT", output)
    # Fields of the log.
    output = re.sub(r" rgun\.\w+=\S+", "", output)
    return f"$ {command}\n{output.rstrip()}\nexit status {status}\n"


def test_messages_are_those_of_the_snapshot(place):
    for name, text in FILES.items():
        (place.directory / name).write_text(textwrap.dedent(text))
    expected = SNAPSHOT.read_text()
    found = "\n".join(run(place, command) for command in commands(expected))
    if os.environ.get("UPDATE_DOCS"):
        SNAPSHOT.write_text(found)
        return
    assert found == expected
