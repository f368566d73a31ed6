"""The tiers; `tests/run --help` describes them."""

import os
import re
import shutil
import subprocess
import sys
import threading

from tiers.commands import BUILD, PROFILE, TARGET, TOP, output, run_quietly, stream
from tiers.counts import (
    CARGO_CLOSING,
    E2E_CLOSING,
    GUARDS_CLOSING,
    PYTEST_CLOSING,
    cargo_count,
    e2e_count,
    plain_count,
    pytest_count,
)
from tiers.requirements import environment_with, interpreters, required, ruff, tools_python
from tiers.tier import JOBS

PYTHON_FILES = ["packaging", "src", "tests"]
PYTEST = ["-m", "pytest", "-p", "no:cacheprovider", "-q"]
PYTEST_ENVIRONMENT = {"RGUN_BUILD_DIR": BUILD, "PYTHONDONTWRITEBYTECODE": "1"}
# The profile of the packages under test.
PACKAGES_PROFILE = os.environ.get("PROFILE") or PROFILE
# The engines and suites of e2e, see tests/e2e/run.
MACHINES = [
    ("container", "bookworm"),
    ("container", "trixie"),
    ("container", "forky"),
    ("uml", "trixie"),
]


def build(tier):
    """Builds daemon and extension with the profile of the tests, once for all tiers; False if that fails."""
    if build.done is None:
        build.done = stream(["make", "--no-print-directory", "build", f"PROFILE={PROFILE}"])[0] == 0
    if not build.done:
        tier.verdict("build", False)
    return build.done


build.done = None


def unit(tier):
    command = ["cargo", "test", "--locked", "--package", "rgun", "--package", "rgun-channel", "--lib"]
    tier.runner("cargo test --lib", command, {}, CARGO_CLOSING, cargo_count)
    tier.runner("tests/guards", [tools_python(), "tests/guards/run"], {}, GUARDS_CLOSING, plain_count)
    check_format(tier)


def check_format(tier):
    tier.check("cargo fmt", "cargo", "fmt", "--all", "--check")
    tier.check("ruff check", *ruff(), "check", *PYTHON_FILES)
    tier.check("ruff format", *ruff(), "format", "--check", *PYTHON_FILES)


def lint(tier):
    check_format(tier)
    clippy = ["cargo", "clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]
    tier.check("clippy", *clippy)
    rustdoc = ["cargo", "doc", "--locked", "--workspace", "--no-deps", "--document-private-items"]
    tier.check("rustdoc", *rustdoc, RUSTDOCFLAGS="-D warnings")
    if shutil.which("cargo-deny"):
        # Without advisories, which would need a network.
        tier.check("cargo deny", "cargo", "deny", "--locked", "check", "bans", "licenses", "sources")
    else:
        tier.skip("cargo deny", "not installed (cargo install cargo-deny; ten minutes of compiling)")


def rust(tier):
    if build(tier):
        command = ["cargo", "test", "--locked", "--profile", PROFILE, "--no-fail-fast"]
        # The tests with real sockets wait most of the time.
        environment = {"RUST_TEST_THREADS": os.environ.get("RUST_TEST_THREADS") or str(JOBS)}
        tier.runner("cargo test", command, environment, CARGO_CLOSING, cargo_count)


def loom(tier):
    # Loom gets its own target directory: in the common one the flag would recompile everything, twice.
    command = ["cargo", "test", "--locked", "--release", "--package", "rgun-channel", "--lib"]
    environment = {
        "RUSTFLAGS": "--cfg loom",
        "CARGO_TARGET_DIR": TARGET / "loom",
        "CARGO_PROFILE_RELEASE_LTO": "off",
    }
    tier.runner("loom", command, environment, CARGO_CLOSING, cargo_count)


def guards(tier):
    tree = output(
        "cargo", "tree", "--locked", "--package", "rgun", "--edges", "normal,build", "--prefix", "none"
    )
    python = sorted({line.split()[0] for line in tree.splitlines() if re.match(r"(pyo3|python3?)", line)})
    tier.verdict("the daemon's dependencies have no Python in them", not python, " ".join(python))

    if build(tier):
        needed = re.findall(
            r"\(NEEDED\).*\[(.+)\]", output("readelf", "--dynamic", BUILD / "rgun_worker.abi3.so")
        )
        foreign = [
            name
            for name in needed
            if not re.match(r"(libc|libm|libgcc_s|ld-linux.*|libpthread|libdl)\.so", name)
        ]
        tier.verdict(
            "the extension needs nothing but the C library", needed and not foreign, " ".join(foreign)
        )

    tier.runner("tests/guards", [tools_python(), "tests/guards/run"], {}, GUARDS_CLOSING, plain_count)

    for page in sorted((TOP / "packaging" / "man").iterdir()):
        done = subprocess.run(
            ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", page],
            env={**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "90"},
            capture_output=True,
            text=True,
            check=False,
        )
        tier.verdict(
            f"{page.name} renders without a warning", done.returncode == 0 and not done.stderr, done.stderr
        )

    shipped = (TOP / "packaging/etc/rgun.toml").read_text()
    manual = (TOP / "packaging/man/rgun.toml.5").read_text()
    keys = re.findall(r"^#?([a-z_]+) = ", shipped, re.M)
    described = re.findall(r"^\.It Li ([a-z_]+)$", manual, re.M)
    missing = sorted(set(keys) ^ set(described))
    tier.verdict(
        "the manual has the keys of the shipped configuration", keys and not missing, " ".join(missing)
    )


def pytest_jobs(tier, *paths):
    """Yields a job for each interpreter, once the environment of its tests is made."""
    found = interpreters()
    if not found:
        tier.verdict("a CPython >= 3.9 on this machine", False)
    for version, python in found:
        inside = environment_with(TARGET / "tests" / f"{tier.name}-{version}", python, *required(tier.name))
        yield f"{tier.name} on {version}", [inside, *PYTEST, *paths], PYTEST_ENVIRONMENT


def worker(tier):
    if build(tier):
        tier.runners(pytest_jobs(tier, "tests/worker"), PYTEST_CLOSING, pytest_count)


def compat(tier):
    if build(tier):
        tier.runners(compat_jobs(tier), PYTEST_CLOSING, pytest_count)


def compat_jobs(tier):
    # The longest job is first. The newest versions of the frameworks need CPython 3.11.
    newest = [python for version, python in interpreters() if tuple(map(int, version.split("."))) >= (3, 11)]
    folders = [f"tests/compat/{folder}" for folder in ("clients", "deployments")]
    if newest:
        inside = environment_with(TARGET / "tests" / "clients", newest[-1], *required("compat/clients"))
        yield " and ".join(folders), [inside, *PYTEST, "-rfEs", *folders], PYTEST_ENVIRONMENT
    else:
        tier.skip("tests/compat/clients", "there is no CPython >= 3.11 on this machine")
    # pytest loads conftest.py of tests/compat for both; the applications' own tests need no daemon.
    yield from pytest_jobs(
        tier, *(f"--ignore={path}" for path in folders), "tests/compat", "tests/apps/hello"
    )


def bench(tier):
    inside = environment_with(TARGET / "tests" / "bench", sys.executable, "pytest")
    command = [inside, *PYTEST, "tests/bench"]
    tier.runner("pytest tests/bench", command, PYTEST_ENVIRONMENT, PYTEST_CLOSING, pytest_count)


def make(target):
    """Returns the command that builds something with the profile of the packages under test."""
    return ["make", "--no-print-directory", target, f"PROFILE={PACKAGES_PROFILE}"]


def packages(tier):
    code, _ = stream(make("dist"))
    tier.verdict(" ".join(make("dist")), code == 0)
    if code:
        return
    inside = environment_with(TARGET / "tests" / "packages", sys.executable, *required("packages"))
    pythons = ":".join(python for _, python in interpreters())
    # A test builds the packages again, with the same profile.
    profile = {"PROFILE": PACKAGES_PROFILE}
    environment = {**PYTEST_ENVIRONMENT, **profile, "RGUN_DIST": TARGET / "dist", "RGUN_PYTHONS": pythons}
    command = [inside, *PYTEST, "tests/packages"]
    tier.runner("pytest tests/packages", command, environment, PYTEST_CLOSING, pytest_count)


def prepare_machines():
    """Downloads and unpacks the machines of e2e in the background; returns the thread.

    If that fails, `e2e` tries again and reports it.
    """
    machine = ["nice", "tests/e2e/machine/run", "--build-only"]
    commands = [[*machine, "--engine", engine, "--suite", suite] for engine, suite in MACHINES]
    thread = threading.Thread(target=lambda: [run_quietly(command, {}) for command in commands], daemon=True)
    thread.start()
    return thread


def e2e(tier):
    code, _ = stream(make("deb"))
    tier.verdict(" ".join(make("deb")), code == 0)
    if code:
        return
    deb = TOP / output(*make("print-deb"), "--silent").strip()
    command = ["tests/e2e/run", "--deb", deb]
    jobs = [
        (f"e2e on {suite} ({engine})", [*command, "--engine", engine, "--suite", suite], {})
        for engine, suite in MACHINES
    ]
    tier.runners(jobs, E2E_CLOSING, e2e_count, at_once=len(jobs))
    tier.runner("tests/chaos", ["tests/chaos/run", "--deb", deb, "--short"], {}, E2E_CLOSING, e2e_count)
