"""Deployments of widely used projects and guides, in which only the server's name is changed.

Each *.txt file is a deployment, with the flags, values and paths of its project. A stand-in replaces the
application. The file's snapshot has the output of rgun, the response, and the output of `rgun migrate`.
UPDATE_DOCS=1 writes the snapshots.
"""

import json
import os
import pathlib
import re
import subprocess

import pytest
from command import Command, unit
from deployment import Deployment
from machine import Machine
from serving import Run

HERE = pathlib.Path(__file__).parent
FILES = sorted(HERE.glob("*.txt"))
# The directory to which `rgun migrate` writes, and the line that follows if it has written.
DIRECTORY = "/root/migrated"
MIGRATED = "$ rgun -c rgun.toml"


@pytest.fixture
def machine(request):
    """The machine of one deployment."""
    made = Machine(Deployment(HERE / f"{request.param}.txt"))
    yield made
    made.close()


@pytest.mark.parametrize("machine", [path.stem for path in FILES], indirect=True)
def test_deployment_serves_or_is_refused_as_expected(machine):
    # First, because run_with_rgun() changes the name in the deployment's files.
    migration = migrate(machine)
    text, response = run_with_rgun(machine)
    text += migration
    if MIGRATED in migration:
        text += serve_migrated(machine, response)
    text = machine.normalize(text)
    if os.environ.get("UPDATE_DOCS"):
        machine.deployment.write_expected(text)
    else:
        assert text == machine.deployment.expected


def test_forty_deployments_are_tried():
    assert len(FILES) >= 40


def run_with_rgun(machine):
    """Runs the command with rgun as the server; returns the transcript and the response."""
    if machine.deployment.kind == "migrate":
        return "", None
    found = machine.command()
    shown = "" if machine.deployment.kind == "script" else f"$ {found.line}\n"
    log, response, status = Run(machine.start(found), machine.address(), machine.is_https).result()
    return f"{shown}{log}\n{answer(response)}exit status {status}\n\n", response


def answer(response):
    return f"GET /shop?page=2: {response[0]} {json.dumps(response[1])}\n" if response else ""


def rgun(machine, *arguments, env=None):
    """Runs a command of rgun that ends by itself; returns its output and its exit status."""
    done = subprocess.run(
        [str(machine.at("/usr/bin/rgun")), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
        cwd=machine.at("/root"),
        env={**machine.environment(Command("")), **(env or {})},
    )
    return done.stdout, done.returncode


def migrate(machine):
    """Runs `rgun migrate` on the deployment's files, or on its command; returns the transcript."""
    names = machine.deployment.migrated_files
    files = [machine.write_start_script() if name == "command" else machine.at(name) for name in names]
    python = machine.at(machine.deployment.venv or "/usr/local") / "bin" / "python"
    options = ["--python", python] if any(path.suffix == ".py" for path in files) else []
    output, status = rgun(machine, "migrate", "--write", machine.at(DIRECTORY), *options, *files)
    output = re.sub(r"^(---|@@) .*\n|^Then: (.*\n)*", "", output, flags=re.M)
    shown = " ".join(map(str, files))
    is_written = (machine.at(DIRECTORY) / "rgun.toml").exists()
    return f"$ rgun migrate {shown}\n{output}{MIGRATED if is_written else f'exit status {status}'}\n"


def serve_migrated(machine, response):
    """Serves with the migrated configuration; returns the transcript."""
    configuration = machine.at(DIRECTORY) / "rgun.toml"
    drop_in = machine.at(DIRECTORY) / "rgun.service.d/migrated.conf"
    found = unit(drop_in.read_text() if drop_in.exists() else "")
    found.directory = machine.at("/root")
    text = configuration.read_text()
    for key, value in (
        ("target", machine.deployment.target()),
        ("directory", machine.at(machine.deployment.directory)),
    ):
        if not re.search(rf"^{key} = ", text, re.M):
            found.env[f"RGUN_APP_{key.upper()}"] = str(value)
    as_root = ["--user", "root"] if os.geteuid() == 0 else []
    checked, status = rgun(machine, "check", *as_root, "-c", configuration, env=found.env)
    assert status == 0, checked
    address = machine.address()
    bind = f"127.0.0.1:{machine.port}" if machine.port else f"unix:{address}"
    found.line = f"exec rgun -c {configuration} --bind {bind}"
    log, migrated, status = Run(machine.start(found), address, machine.is_https).result()
    log = "\n".join(line for line in log.split("\n") if "listening on" not in line)
    same = "the same response\n" if migrated == response else answer(migrated)
    return f"{log}\n{same}exit status {status}\n"
