"""The source distribution: it builds with cargo, and says what is missing without it."""

import os
import sys

import pytest
from support.paths import TOP
from venv_with_rgun import Environment, run

TARGET = TOP / os.environ.get("CARGO_TARGET_DIR", "target")


@pytest.fixture
def own(tmp_path):
    """A virtual environment of the interpreter that runs the tests: the build is the same for each."""
    return Environment(tmp_path / "own", sys.executable, "--without-pip")


def test_sdist_builds_with_cargo(own, sdist):
    # In the target directory of the repository, cargo would mistake these crates for the repository's, whose
    # paths within the workspace are the same, and would later miss changes in the repository.
    environment = {"CARGO_TARGET_DIR": str(TARGET / "tests" / "sdist"), "RGUN_CARGO_PROFILE": "dev"}
    own.pip("install", sdist, env=environment)
    assert own.run("bin/python", "-m", "rgun", "--version").startswith("rgun ")
    assert own.run("bin/rgun", "check", "--user", "root", "wsgiref.simple_server:demo_app")


def test_sdist_without_cargo_names_the_remedy(tmp_path, sdist):
    # Without isolation, the build takes hatchling from the environment of the tests.
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-build-isolation",
        "--no-deps",
        "--no-cache-dir",
        sdist,
    ]
    with pytest.raises(AssertionError, match=r"install Rust 1\.91 or newer"):
        run(command, cwd=tmp_path, env={"PATH": str(tmp_path)})
