"""Access to the machine under test: systemd, journal, HTTP, processes, cgroups.

Runs as root inside a throw-away machine (tests/e2e/machine), never on a developer's own.
"""

import contextlib
import json
import pathlib
import re
import socket
import subprocess
import time

import pytest
from support import http_client
from support.load import Load
from support.processes import children
from support.waiting import wait_until

HERE = pathlib.Path(__file__).resolve().parent
PACKAGE = HERE.parent / "rgun.deb"
SHOP = HERE.parent / "shop"
CONFIG = pathlib.Path("/etc/rgun/rgun.toml")
STATE = pathlib.Path("/var/lib/rgun")
SERVICE = "rgun.service"
SOCKET = "rgun.socket"
ADDRESS = ("127.0.0.1", 8000)
DROP_IN = pathlib.Path("/run/systemd/system/rgun.service.d/test.conf")


# ---------------------------------------------------------------- commands and systemd


def run(*command, check=True, timeout=60):
    """Runs a command; returns the completed process with its output as text. A failure shows the output."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def systemctl(*arguments, check=True, timeout=60):
    """Runs systemctl; a failure shows the end of the journal."""
    done = run("systemctl", *arguments, check=False, timeout=timeout)
    if check and done.returncode != 0:
        tail = run("journalctl", "-u", SERVICE, "-n", "30", "--no-pager", "-o", "short", check=False).stdout
        raise AssertionError(f"systemctl {' '.join(arguments)}: exit {done.returncode}\n{done.stderr}{tail}")
    return done


def show(prop, unit=SERVICE):
    """Returns a property of a unit."""
    return run("systemctl", "show", "-p", prop, "--value", unit).stdout.strip()


def systemd_version():
    """Returns the major version: 252, 257, ..."""
    return int(re.search(r"systemd (\d+)", run("systemctl", "--version").stdout)[1])


def main_pid():
    """Returns the daemon's process id, 0 if it does not run."""
    return int(show("MainPID"))


def configure(
    target, directory, *, workers=2, threads=1, python="/usr/bin/python3", env=None, more="", extra=""
):
    """Writes /etc/rgun/rgun.toml; `more` are lines of [workers], `extra` further sections."""
    pairs = ", ".join(f"{name} = {json.dumps(value)}" for name, value in (env or {}).items())
    CONFIG.write_text(
        f"[app]\ntarget = {json.dumps(target)}\ndirectory = {json.dumps(str(directory))}\n"
        f"python = {json.dumps(python)}\nenv = {{ {pairs} }}\n\n"
        f"[workers]\ncount = {workers}\nthreads = {threads}\n{more}\n\n{extra}"
    )


def restart():
    """Runs `systemctl restart rgun`, with the start counters reset."""
    systemctl("reset-failed", SERVICE, SOCKET, check=False)
    systemctl("restart", SERVICE)


def status_text():
    """Returns the daemon's STATUS= line, as `systemctl status` shows it."""
    return show("StatusText")


def reload(check=True):
    """Runs `systemctl reload rgun`, which waits for the outcome."""
    return systemctl("reload", SERVICE, check=check, timeout=120)


def deploy(directory, version, code=""):
    """Replaces the module `release` of an application atomically: VERSION, then any code."""
    new = pathlib.Path(directory) / "release.py.new"
    new.write_text(f"VERSION = {version!r}\n{code}\n")
    new.rename(new.with_suffix(""))


@contextlib.contextmanager
def drop_in(text):
    """Runs the block with these additional lines in [Service]."""
    DROP_IN.parent.mkdir(parents=True, exist_ok=True)
    DROP_IN.write_text(f"[Service]\n{text}\n")
    systemctl("daemon-reload")
    try:
        restart()
        yield
    finally:
        DROP_IN.unlink()
        systemctl("daemon-reload")
        restart()


# ---------------------------------------------------------------- journal


def journal_cursor():
    """Returns a cursor to the end of the journal."""
    return run("journalctl", "-n", "0", "--show-cursor", "-q").stdout.split("-- cursor:")[1].strip()


def journal(since=None, **fields):
    """Returns entries with these fields as dictionaries, oldest first: journal(since, RGUN_WORKER=1).

    Filtered here and not by journalctl, which before systemd 253 loses the first matching entry when a match
    is combined with --after-cursor.
    """
    run("journalctl", "--sync")
    after = [f"--after-cursor={since}"] if since else []
    lines = run("journalctl", "-q", "--no-pager", "-o", "json", "--all", *after).stdout.splitlines()
    entries = [json.loads(line) for line in lines]
    return [entry for entry in entries if all(str(fields[name]) in values(entry, name) for name in fields)]


def values(entry, name):
    """Returns all values of a field, which an entry may have several times."""
    found = entry.get(name, [])
    return found if isinstance(found, list) else [found]


def journal_of_service(since):
    """Returns the entries of the service and those of systemd about it, as `journalctl -u` does."""
    return [entry for entry in journal(since) if SERVICE in (entry.get("_SYSTEMD_UNIT"), entry.get("UNIT"))]


def messages(entries):
    """Returns the MESSAGE texts; journalctl has one with control characters as a list of bytes."""
    texts = []
    for entry in entries:
        text = entry.get("MESSAGE") or ""
        texts.append(bytes(text).decode(errors="replace") if isinstance(text, list) else text)
    return texts


def service_log(since):
    """Returns the messages of the service and about it since a cursor, as one text."""
    return "\n".join(messages(journal_of_service(since)))


# ---------------------------------------------------------------- HTTP


def request(method, path, body=b"", address=ADDRESS, **more):
    """Sends one request on a connection of its own and returns its response."""
    return http_client.request(address, method, path, body, **more)


def get(path="/", **more):
    """Sends one GET request on a connection of its own and returns its response."""
    return request("GET", path, **more)


def in_background(method, path, **more):
    """Sends one request on its own thread and returns a BackgroundRequest."""
    return http_client.BackgroundRequest(ADDRESS, method, path, **more)


def start_request(path, **more):
    """Sends a request in the background and waits until a worker runs it; returns it and the worker's pid.

    The applications of this suite write their pid into the file that the query names.
    """
    mark = STATE / f"running-{time.monotonic_ns()}"
    running = in_background("GET", f"{path}?{mark}", **more)
    pid = wait_until("a worker runs the request", lambda: mark.exists() and mark.read_text())
    return running, int(pid)


def start_slow_request(seconds):
    """Starts a request that sleeps in a worker; returns it and the worker's pid."""
    return start_request(f"/slow/{seconds}")


def load(path="/", clients=6, address=ADDRESS):
    """A continuous load of GET requests, as a context manager."""
    return Load(address, path, clients)


def port_is_closed():
    """Returns whether connections to the service's port are refused."""
    try:
        socket.create_connection(ADDRESS, timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def try_request(path):
    """Sends a request; returns all bytes up to the end of the connection."""
    with contextlib.suppress(ConnectionError), http_client.Connection(ADDRESS, 20) as connection:
        connection.send(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        connection.read_to_end()


# ---------------------------------------------------------------- processes and cgroups


def two_workers():
    """Returns the pids of the two workers, or None if the daemon has not exactly two children."""
    found = children(main_pid())
    return found if len(found) == 2 else None


def processes_of(user):
    """Returns the pids of a user's processes."""
    uid = int(run("id", "-u", user).stdout)
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if process.stat().st_uid == uid:
                found.append(int(process.name))
    return found


def cgroup_of(pid):
    """Returns the cgroup v2 path of a process (cgroups(7))."""
    for line in pathlib.Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return line[3:]
    raise AssertionError(f"process {pid} is in no cgroup v2")


def cgroup_directory(path):
    """Returns the directory of a cgroup."""
    return pathlib.Path("/sys/fs/cgroup") / path.lstrip("/")


def delegated_cgroup(*controllers):
    """Returns the service's cgroup directory; skips the test if it lacks one of these controllers."""
    directory = cgroup_directory(show("ControlGroup"))
    if not set(controllers) <= set((directory / "cgroup.controllers").read_text().split()):
        pytest.skip(f"no {' and '.join(controllers)} controller in this machine (the uml machine has them)")
    return directory


# ---------------------------------------------------------------- instances


class Instance:
    """The instance `name` of the templates, on its unix socket."""

    def __init__(self, name):
        self.name = name
        self.service, self.socket = f"rgun@{name}.service", f"rgun@{name}.socket"
        self.config = CONFIG.with_name(f"{name}.toml")
        self.address = f"/run/rgun-{name}.sock"

    def create(self, target, directory, workers=2):
        """Creates the user and the configuration, as rgun.units(7) says; starts nothing."""
        run("systemd-sysusers", "--inline", f'u rgun-{self.name} - "test" /var/lib/rgun-{self.name}')
        self.config.write_text(
            f'[app]\ntarget = "{target}"\ndirectory = "{directory}"\npython = "/usr/bin/python3"\n'
            f"[workers]\ncount = {workers}\n"
        )
        self.config.chmod(0o640)
        run("chgrp", f"rgun-{self.name}", str(self.config))

    def remove(self):
        """Stops and disables the units, and removes the configuration and all directories."""
        systemctl("disable", "--now", self.socket, self.service)
        systemctl("clean", "--what=all", self.service, check=False)
        self.config.unlink()

    def get(self, path):
        """Sends one GET request on a connection of its own and returns its response."""
        return get(path, address=self.address)

    def load(self):
        """A continuous load of GET requests, as a context manager."""
        return load(address=self.address)

    def main_pid(self):
        """Returns the daemon's process id, 0 if it does not run."""
        return int(show("MainPID", self.service))
