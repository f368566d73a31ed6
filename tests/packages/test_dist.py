"""The other files of `make dist`: tarball, bill of materials, checksums."""

import hashlib
import json
import os
import subprocess
import sys

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from support.daemon import Daemon
from support.paths import TOP
from venv_with_rgun import run


@pytest.fixture(scope="module")
def bill(only):
    """The path of the bill of materials."""
    return only("rgun-*.cdx.json")


def test_checksums_are_those_of_all_files(dist):
    lines = [line.split(maxsplit=1) for line in (dist / "SHA256SUMS").read_text().splitlines()]
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in dist.glob("rgun*")}
    assert {name: checksum for checksum, name in lines} == found


def test_bill_of_materials_is_valid_cyclonedx(bill):
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill.read_text()) is None


def test_bill_of_materials_lists_what_is_linked(bill):
    names = {component["name"] for component in json.loads(bill.read_text())["components"]}
    assert {"tokio", "hyper", "rustls", "aws-lc-sys", "pyo3", "rgun-channel", "rgun-worker"} <= names
    # Dependencies of a build script, a macro and a test.
    assert not {"cc", "thiserror-impl", "rcgen"} & names


def test_copyright_has_the_licence_of_each_crate(bill, dist):
    copyright = (dist.parent / "copyright").read_text()
    for component in json.loads(bill.read_text())["components"]:
        if not component["name"].startswith("rgun-"):
            assert f"Files: crates/{component['name']}-{component['version']}/*\n" in copyright


def test_tarball_runs_from_any_directory(only, tmp_path):
    tarball = only("rgun-*-linux.tar.gz")
    run(["tar", "--extract", "--strip-components=1", "--file", tarball, "--directory", tmp_path])
    program = [tmp_path / "bin/rgun"]
    welcome = tmp_path / "share/rgun/welcome"
    daemon = Daemon("welcome", chdir=welcome, bind="127.0.0.1:0", python=sys.executable, program=program)
    try:
        assert daemon.wait_ready().get("/").status == 200
    finally:
        daemon.stop()


def test_second_packaging_gives_the_same_bytes(dist, tmp_path):
    environment = {**os.environ, "MAKEFLAGS": "", "PYTHONDONTWRITEBYTECODE": "1"}
    command = ["make", "--no-print-directory", "dist", f"DIST={tmp_path}"]
    done = subprocess.run(command, cwd=TOP, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "SHA256SUMS").read_text() == (dist / "SHA256SUMS").read_text()


FOREIGN = "aarch64-unknown-linux-gnu"


def make(*arguments):
    """Runs make without performing anything; returns the completed process."""
    environment = {**os.environ, "MAKEFLAGS": "", "PROFILE": "release"}
    command = ["make", "--dry-run", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=TOP, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("triple", "machine", "debian"),
    [(FOREIGN, "aarch64", "arm64"), ("x86_64-unknown-linux-gnu", "x86_64", "amd64")],
)
def test_packages_have_the_name_of_their_machine(monkeypatch, triple, machine, debian):
    monkeypatch.setenv("TARGET_TRIPLE", triple)
    program = TOP / "packaging/machine"
    assert run([program]).strip() == machine
    assert run([program, "debian"]).strip() == debian


def test_packages_of_another_machine_have_own_directories():
    done = make(f"TARGET_TRIPLE={FOREIGN}", "wheel")
    assert done.returncode == 0, done.stderr
    assert f"target/optimized-{FOREIGN}" in done.stdout
    assert f"target/dist-{FOREIGN}" in done.stdout


def test_another_machine_needs_the_release_profile():
    done = make(f"TARGET_TRIPLE={FOREIGN}", "PROFILE=fast", "dist")
    assert done.returncode == 2
    assert "TARGET_TRIPLE needs PROFILE=release" in done.stderr
