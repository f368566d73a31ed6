"""What the benches need, made once under target/bench: the venv of peers, the limit, the shop, the files.

Used by `run` before anything is measured. What cannot be had is said loudly and left out; what was made
stays and is made again only when its recipe changes. It measures nothing and starts no server.
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

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
APPS = HERE.parent / "apps"

# Newest of each: a comparison with yesterday's peers convinces nobody. Versions are in the result.
# Not gunicorn[fast]: its C parser saves 8 % of gunicorn's CPU, but makes pip choose an older gunicorn.
PEERS = ["gunicorn", "uvicorn[standard]", "granian"]
# C extensions without wheels for every Python: nice to have. setuptools is for fastwsgi's pkg_resources.
OPTIONAL = {"bjoern": ["bjoern"], "fastwsgi": ["setuptools<81", "fastwsgi"]}
# Debian's names of what the optional ones and the load need.
DEBIAN = {"wrk": "wrk", "taskset": "util-linux"}
LIBEV = "libev-dev"


def say(text):
    """Progress, on stderr: stdout is the table's."""
    print(text, file=sys.stderr, flush=True)


def skipped(what, why):
    """The one form in which something left out is announced."""
    say(f"SKIPPED {what}: {why}")


def run(*command, **options):
    """Runs `command` quietly; its output is shown only if it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout


def install_programs():
    """wrk and taskset from Debian, installed if we may; without them there is no bench."""
    missing = [package for program, package in DEBIAN.items() if not shutil.which(program)]
    if not missing:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise SystemExit(
            f"the benches need {' and '.join(missing)}: sudo apt-get install {' '.join(missing)}"
        )
    say(f"installing {' '.join(missing)}")
    run("apt-get", "update")
    run("apt-get", "install", "-y", "--no-install-recommends", *missing)


def make_venv(base, python):
    """The venv of the peers, made by `python`; returns it, and why which optional peers did not build."""
    wanted = json.dumps(
        [PEERS, OPTIONAL, run(python, "-VV"), (APPS / "shop" / "requirements.txt").read_text()]
    )
    venv, stamp = base / "venv", base / "venv" / "bench-stamp.json"
    if stamp.exists():
        stored = json.loads(stamp.read_text())
        if stored["wanted"] == wanted:
            return venv, stored["missing"]
    say(f"making {venv} with {python}: Django, {', '.join(PEERS)}, {', '.join(OPTIONAL)}")
    # The shop's own program makes the venv, so that its Django is the one that users get.
    shutil.rmtree(venv, ignore_errors=True)
    prepare_shop(base, venv, python)
    pip = [venv / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(*pip, *PEERS)
    missing = {}
    if os.geteuid() == 0 and shutil.which("apt-get"):
        try:
            run("apt-get", "install", "-y", "--no-install-recommends", LIBEV)
        except RuntimeError as error:
            say(f"{LIBEV} cannot be installed, bjoern will not build: {str(error)[-200:]}")
    for name, packages in OPTIONAL.items():
        try:
            run(*pip, *packages)
            run(venv / "bin" / "python", "-c", f"import {name}")
        except RuntimeError as error:
            missing[name] = f"does not build or import: {str(error).splitlines()[-1][-200:]}"
    stamp.write_text(json.dumps({"wanted": wanted, "missing": missing}))
    return venv, missing


def prepare_shop(base, venv, python):
    """The shop, by its own program; quick when done."""
    run(APPS / "shop" / "prepare", venv, base / "shop", env={**os.environ, "PYTHON": str(python)})


def make_program(base, name):
    """Builds the crate `name` beside this file: `limit`, the static answer, or `websocket`, the clients.

    None if there is no cargo.
    """
    if not shutil.which("cargo"):
        return None
    run("cargo", "build", "--release", "--locked", "--target-dir", base / name, cwd=HERE / name)
    return base / name / "release" / f"bench-{name}"


def make_file(base, mib):
    """A file of `mib` MiB whose blocks differ, and its SHA-256."""
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


def prepare(base, python, rgun):
    """Everything; returns the Tools."""
    install_programs()
    base.mkdir(parents=True, exist_ok=True)
    venv, missing = make_venv(base, python)
    prepare_shop(base, venv, python)
    limit, websocket = make_program(base, "limit"), make_program(base, "websocket")
    for name, program in (("limit", limit), ("websocket", websocket)):
        if program is None:
            missing[name] = "no cargo on PATH"
    if not Path(rgun).exists():
        missing["rgun"] = f"no such file {rgun}: run `make optimized` first, or give --rgun PATH"
    for name, why in missing.items():
        skipped(name, why)
    return Tools(str(venv / "bin"), str(rgun), str(limit), str(websocket), missing)


def describe(tools, cores):
    """The machine and the versions, for the result."""
    names = [
        "gunicorn",
        "uvicorn",
        "uvloop",
        "httptools",
        "websockets",
        "granian",
        "bjoern",
        "fastwsgi",
        "Django",
    ]
    code = (
        "import importlib.metadata as m, json, sys, contextlib\n"
        "found = {'python': sys.version.split()[0]}\n"
        f"for name in {names!r}:\n"
        "    with contextlib.suppress(m.PackageNotFoundError): found[name] = m.version(name)\n"
        "print(json.dumps(found))\n"
    )
    versions = json.loads(run(f"{tools.bin}/python", "-c", code))
    if "rgun" not in tools.missing:
        versions["rgun"] = run(tools.rgun, "--version").strip()
    cpus = Path("/proc/cpuinfo").read_text()
    models = [line.partition(":")[2].strip() for line in cpus.splitlines() if line.startswith("model name")]
    siblings = Path(f"/sys/devices/system/cpu/cpu{cores[0]}/topology/thread_siblings_list")
    return {
        "versions": versions,
        "kernel": platform.release(),
        "cpu": models[0] if models else platform.machine(),
        "cpus": os.cpu_count(),
        "load_before": os.getloadavg(),
        "server_core": cores[0],
        "client_core": cores[1],
        "server_core_siblings": siblings.read_text().strip() if siblings.exists() else "",
    }
