"""A virtual environment, and the daemon that pip installed into it."""

import os
import subprocess
import sys

from support.daemon import Daemon


class Environment:
    """A new virtual environment of an interpreter."""

    def __init__(self, path, python, *flags):
        self.path = path
        run([python, "-m", "venv", *flags, path])

    def run(self, program, *arguments, **more):
        """Runs a program of the environment; returns its output, and fails if the program fails."""
        return run([self.path / program, *arguments], **more)

    def pip(self, *arguments, **more):
        """Runs the tests' pip for this environment."""
        return run([sys.executable, "-m", "pip", "--python", self.path / "bin/python", *arguments], **more)

    def serve(self, *arguments, chdir, program=("bin/rgun",), bind="127.0.0.1:0", env=None):
        """Starts the daemon of this environment with the command `program`, in the foreground."""
        command = (self.path / program[0], *program[1:])
        return Daemon(*arguments, chdir=chdir, bind=bind, program=command, python=None, env=env)


def run(command, **more):
    """Runs a command; returns its output, and fails with the output if the command fails."""
    done = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**clean_environment(), **more.pop("env", {})},
        **more,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout.strip()


def clean_environment():
    """Returns the variables of this process without RGUN_* and those that name another Python environment.

    RGUN_BUILD_DIR, which the tests set, would make the source distribution take programs instead of building
    them.
    """
    foreign = ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "CONDA_PREFIX", "PYTHONPATH", "PYTHONHOME")
    return {
        name: value
        for name, value in os.environ.items()
        if name not in foreign and not name.startswith("RGUN_")
    }
