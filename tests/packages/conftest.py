"""Fixtures of the packages tier: the files that `make dist` built, and environments that have the wheel."""

import os
import pathlib

import pytest
from support.daemon import stop_all
from support.fixtures import python
from support.paths import TOP
from venv_with_rgun import Environment

__all__ = ["python"]


@pytest.fixture(scope="session")
def dist():
    """The directory of the packages: RGUN_DIST, else target/dist."""
    return pathlib.Path(os.environ.get("RGUN_DIST", TOP / "target" / "dist"))


@pytest.fixture(scope="session")
def only(dist):
    """A function that returns the file that matches a pattern; the test fails if none or several match."""

    def only(pattern):
        found = list(dist.glob(pattern))
        assert len(found) == 1, f"{len(found)} files {dist}/{pattern}: run `make dist`"
        return found[0]

    return only


@pytest.fixture(scope="session")
def wheel(only):
    """The path of the wheel."""
    return only("rgun-*.whl")


@pytest.fixture(scope="session")
def sdist(only):
    """The path of the source distribution."""
    return only("rgun-*[0-9].tar.gz")


@pytest.fixture(scope="module")
def environment(tmp_path_factory, python, wheel):
    """A virtual environment into which its own pip has installed the wheel."""
    made = Environment(tmp_path_factory.mktemp("venv") / "v", python)
    made.run("bin/python", "-m", "pip", "install", "--no-index", wheel)
    return made


@pytest.fixture
def bare(tmp_path, python):
    """A virtual environment without any package, not even pip."""
    return Environment(tmp_path / "bare", python, "--without-pip")


@pytest.fixture
def start():
    """A function that starts daemons, which are stopped at the end of the test."""
    daemons = []

    def start(environment, *arguments, **more):
        daemons.append(environment.serve(*arguments, **more))
        return daemons[-1]

    yield start
    stop_all(daemons)


@pytest.fixture
def listing():
    """A function that returns the files below a directory; pip leaves empty directories."""
    return lambda directory: {path for path in directory.rglob("*") if not path.is_dir()}
