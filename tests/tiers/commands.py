"""Commands of the tiers, and the directories that they use."""

import os
import pathlib
import subprocess
import time

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or TOP / "target").absolute()
# The cargo profile of the tests: its programs are nearly as fast as those of release, and build much faster.
PROFILE = "fast"
BUILD = TARGET / PROFILE


def stream(command, environment=None):
    """Runs a command at the top of the tree, prints its output as it comes, and returns status and lines."""
    command = [str(word) for word in command]
    print("$", " ".join(command), flush=True)
    child = subprocess.Popen(
        command,
        cwd=TOP,
        env={**os.environ, **{name: str(value) for name, value in (environment or {}).items()}},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    lines = []
    for line in child.stdout:
        print(line, end="", flush=True)
        lines.append(line.rstrip("\n"))
    return child.wait(), lines


def run_quietly(command, environment):
    """Runs a command at the top of the tree; returns its status, its output as lines, and its seconds."""
    began = time.monotonic()
    done = subprocess.run(
        [str(word) for word in command],
        cwd=TOP,
        env={**os.environ, **{name: str(value) for name, value in environment.items()}},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return done.returncode, done.stdout.splitlines(), time.monotonic() - began


def output(*command):
    """Returns what a command prints; raises if it fails."""
    return subprocess.run(
        [str(word) for word in command], cwd=TOP, check=True, capture_output=True, text=True
    ).stdout
