"""The modules of the Python interpreters under test, and interpreters that rgun does not support."""

import functools
import os
import pathlib
import subprocess


@functools.cache
def has_module(python, name):
    """Returns whether an interpreter can import a module."""
    code = ["-W", "ignore", "-c", f"import {name}"]
    return subprocess.run([str(python), *code], capture_output=True, check=False).returncode == 0


def require_module(python, name):
    """Skips the test if the interpreter cannot import the module."""
    import pytest

    if not has_module(python, name):
        pytest.skip(f"SKIPPED: {python} has no {name}")


def unsupported_interpreters():
    """Returns pyenv's interpreters that cannot run a worker (old, free-threaded, PyPy), or [None]."""
    root = pathlib.Path(os.environ.get("PYENV_ROOT") or pathlib.Path.home() / ".pyenv") / "versions"
    found = [
        path
        for version in ("2.7*", "3.6*", "3.7*", "3.8*", "pypy*", "*t")
        for path in root.glob(version + "/bin/python")
    ]
    return sorted(found) or [None]
