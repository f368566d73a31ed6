"""Where the tests find the repository, their applications, and the programs under test."""

import os
import pathlib

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
TESTS = TOP / "tests"
HELLO = TESTS / "apps" / "hello"
WORKER_APPS = TESTS / "worker" / "apps"
COMPAT_APPS = TESTS / "compat" / "apps"
CLIENTS_APPS = TESTS / "compat" / "clients" / "apps"
BOOTSTRAP = TOP / "src" / "worker" / "bootstrap.py"


def daemon_binary():
    """Returns the path of rgun: RGUN_BIN, else in RGUN_BUILD_DIR, else in target/{release,fast,debug}."""
    if os.environ.get("RGUN_BIN"):
        return pathlib.Path(os.environ["RGUN_BIN"])
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", TOP / "target"))
    candidates = [target / profile for profile in ("release", "fast", "debug")]
    if os.environ.get("RGUN_BUILD_DIR"):
        candidates = [pathlib.Path(os.environ["RGUN_BUILD_DIR"])]
    for directory in candidates:
        if (directory / "rgun").exists() and (directory / "rgun_worker.abi3.so").exists():
            return directory / "rgun"
    raise FileNotFoundError(
        f"no rgun with rgun_worker.abi3.so beside it in {', '.join(map(str, candidates))}: run `make build`"
    )


def extension():
    """Returns the path of the Python extension, which is in the daemon's directory."""
    return daemon_binary().parent / "rgun_worker.abi3.so"
