"""Prepares what the benchmarks need, once, under target/bench: the venv of peers, the limit, the shop, files.

Called by `run` before it measures. A part that cannot be prepared is reported and left out; prepared
parts are kept until their recipe changes.
"""

import hashlib
import json
import os
import platform
import random
import shutil
import subprocess
import sys
from pathlib import Path

from load import MIB
from servers import Tools
from tiers.requirements import interpreters

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
APPS = HERE.parent / "apps"

REQUIREMENTS = HERE / "requirements.txt"
# The CPython of which every peer has a wheel.
PYTHON = "3.13"
# Required programs and their Debian packages.
DEBIAN = {
    "wrk": "wrk",
    "taskset": "util-linux",
    "openssl": "openssl",
    "h2load": "nghttp2-client",
    "nginx": "nginx-light",
}
LIBEV = "libev-dev"
# The crates of this directory, in the order of the fields of Tools.
PROGRAMS = ("limit", "websocket", "handshake")
# File names and their sizes.
STATIC_FILES = {"10KiB.bin": 10 * 1024, "1MiB.bin": MIB}


def say(text):
    """Prints progress to stderr; stdout has only the tables."""
    print(text, file=sys.stderr, flush=True)


def skipped(what, why):
    """Announces a part that is omitted."""
    say(f"SKIPPED {what}: {why}")


def run(*command, **options):
    """Runs `command` quietly; its output is shown only if it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout


def install_programs():
    """Installs missing programs if run as root on Debian; otherwise exits with the command to run."""
    missing = [package for program, package in DEBIAN.items() if not shutil.which(program)]
    if not missing:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise SystemExit(
            f"the benchmarks need {' and '.join(missing)}: sudo apt-get install {' '.join(missing)}"
        )
    say(f"installing {' '.join(missing)}")
    run("apt-get", "update")
    run("apt-get", "install", "-y", "--no-install-recommends", *missing)


def find_python():
    """Returns this machine's CPython of the version PYTHON, or this interpreter with a loud message."""
    found = dict(interpreters()).get(PYTHON)
    if found is None:
        skipped(
            f"CPython {PYTHON}",
            f"not on this machine; on {platform.python_version()} some peers may be missing. --python PATH",
        )
    return found or sys.executable


def pinned():
    """Returns the requirements, by the name of their distribution."""
    lines = (line.partition("#")[0].strip() for line in REQUIREMENTS.read_text().splitlines())
    return {line.partition("==")[0]: line for line in lines if line}


def program_of(distribution):
    """Returns the name by which servers.py and workloads know a distribution."""
    return distribution.removesuffix("-server")


def make_venv(base, python):
    """Makes the venv of the peers; returns its path, and why each failed peer was not installed."""
    requirements = (REQUIREMENTS, APPS / "shop" / "requirements.txt")
    wanted = json.dumps([run(python, "-VV"), *(path.read_text() for path in requirements)])
    venv, stamp = base / "venv", base / "venv" / "bench-stamp.json"
    if stamp.exists():
        stored = json.loads(stamp.read_text())
        if stored["wanted"] == wanted:
            return venv, stored["missing"]
    say(f"making {venv} with {python}: Django, {', '.join(pinned())}")
    # The shop's program makes the venv, so that Django has the version that the shop's users get.
    shutil.rmtree(venv, ignore_errors=True)
    prepare_shop(base, venv, python)
    pip = [venv / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if os.geteuid() == 0 and shutil.which("apt-get"):
        try:
            run("apt-get", "install", "-y", "--no-install-recommends", LIBEV)
        except RuntimeError as error:
            say(f"{LIBEV} cannot be installed, bjoern will not build: {str(error)[-200:]}")
    missing = {}
    for distribution, requirement in pinned().items():
        name = program_of(distribution)
        try:
            run(*pip, "--constraint", REQUIREMENTS, requirement)
            run(venv / "bin" / "python", "-c", f"import {name}")
        except RuntimeError as error:
            missing[name] = f"does not install or import: {str(error).splitlines()[-1][-200:]}"
    stamp.write_text(json.dumps({"wanted": wanted, "missing": missing}))
    return venv, missing


def prepare_shop(base, venv, python):
    """Prepares the shop by its own program, which is quick if the shop is prepared already."""
    run(APPS / "shop" / "prepare", venv, base / "shop", env={**os.environ, "PYTHON": str(python)})


def make_program(base, name):
    """Builds the crate `name` of this directory: `limit`, the static response, or one of the clients.

    Returns None if there is no cargo.
    """
    if not shutil.which("cargo"):
        return None
    run("cargo", "build", "--release", "--locked", "--target-dir", base / name, cwd=HERE / name)
    return base / name / "release" / f"bench-{name}"


def make_file(base, mib):
    """Makes a file of `mib` MiB whose blocks differ; returns it and its SHA-256."""
    path = base / f"{mib}MiB.bin"
    digest = hashlib.sha256()
    blocks = (random.Random(block).randbytes(MIB) for block in range(mib))
    if path.exists() and path.stat().st_size == mib * MIB:
        digest.update(path.read_bytes())
    else:
        with open(base / "file.new", "wb") as file:
            for block in blocks:
                digest.update(block)
                file.write(block)
        os.replace(base / "file.new", path)
    return path, digest.hexdigest()


def make_certificate(base):
    """Makes a certificate of 127.0.0.1 with an ECDSA key; returns both paths."""
    certificate, key = base / "certificate.pem", base / "key.pem"
    if not certificate.exists():
        run(
            *["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"],
            *["-nodes", "-days", "3650", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
            *["-keyout", key, "-out", certificate],
        )
    return certificate, key


def make_static(base):
    """Makes the files of the static workloads, which any user may read."""
    directory = base / "static"
    directory.mkdir(exist_ok=True)
    for name, size in STATIC_FILES.items():
        (directory / name).write_bytes(b"x" * size)


def prepare(base, python, rgun):
    """Prepares everything and returns the Tools."""
    install_programs()
    base.mkdir(parents=True, exist_ok=True)
    venv, missing = make_venv(base, python)
    prepare_shop(base, venv, python)
    make_static(base)
    programs = {name: make_program(base, name) for name in PROGRAMS}
    for name, program in programs.items():
        if program is None:
            missing[name] = "no cargo on PATH"
    if not Path(rgun).exists():
        missing["rgun"] = f"no such file {rgun}: run `make optimized` first, or give --rgun PATH"
    for name, why in missing.items():
        skipped(name, why)
    paths = (venv / "bin", rgun, *programs.values(), *make_certificate(base))
    return Tools(*map(str, paths), missing)


def build_of(rgun):
    """Returns the name of rgun's build, which is that of its directory (Makefile), or "unknown"."""
    name = Path(rgun).resolve().parent.name
    return name if name in ("optimized", "release", "fast", "debug") else "unknown"


def describe(tools, cores):
    """Describes the machine and the versions, for the result."""
    names = [*pinned(), "Django"]
    code = (
        "import importlib.metadata as m, json, sys, contextlib\n"
        "found = {'python': sys.version.split()[0]}\n"
        f"for name in {names!r}:\n"
        "    with contextlib.suppress(m.PackageNotFoundError): found[name] = m.version(name)\n"
        "print(json.dumps(found))\n"
    )
    versions = json.loads(run(f"{tools.bin}/python", "-c", code))
    if "rgun" not in tools.missing:
        versions["rgun"] = run(tools.rgun, "--version").split()[-1]
    # Prints its version to stderr.
    nginx = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=False).stderr
    versions["nginx"] = nginx.rpartition("/")[2].strip()
    cpus = Path("/proc/cpuinfo").read_text()
    models = [line.partition(":")[2].strip() for line in cpus.splitlines() if line.startswith("model name")]
    siblings = Path(f"/sys/devices/system/cpu/cpu{cores[0]}/topology/thread_siblings_list")
    return {
        "versions": versions,
        "build": build_of(tools.rgun),
        "kernel": platform.release(),
        "cpu": models[0] if models else platform.machine(),
        "cpus": os.cpu_count(),
        "load_before": os.getloadavg(),
        "server_core": cores[0],
        "client_core": cores[1],
        "server_core_siblings": siblings.read_text().strip() if siblings.exists() else "",
    }
