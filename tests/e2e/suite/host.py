"""What the tests do to the machine and ask of it: systemd, journal, HTTP, processes, cgroups.

Runs as root inside a throw-away machine (tests/e2e/machine), never on a developer's own. Waiting is always
for something to become true, with a deadline and a sentence that says what did not.
"""

import contextlib
import dataclasses
import http.client
import json
import os
import pathlib
import re
import socket
import subprocess
import threading
import time

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
    """Run a command and return it completed, output as text; a failure shows what the command said."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def systemctl(*arguments, check=True, timeout=60):
    """Run systemctl; where it fails, the journal's end comes with the message."""
    done = run("systemctl", *arguments, check=False, timeout=timeout)
    if check and done.returncode != 0:
        tail = run("journalctl", "-u", SERVICE, "-n", "30", "--no-pager", "-o", "short", check=False).stdout
        raise AssertionError(f"systemctl {' '.join(arguments)}: exit {done.returncode}\n{done.stderr}{tail}")
    return done


def show(prop, unit=SERVICE):
    """One property of a unit."""
    return run("systemctl", "show", "-p", prop, "--value", unit).stdout.strip()


def systemd_version():
    """The number in front: 252, 257, ..."""
    return int(re.search(r"systemd (\d+)", run("systemctl", "--version").stdout)[1])


def wait_for(what, question, seconds=15.0, pause=0.05):
    """Ask until the answer is true, return it; after the deadline fail with `what` and the last answer."""
    deadline = time.monotonic() + seconds
    while True:
        answer = question()
        if answer:
            return answer
        if time.monotonic() >= deadline:
            raise AssertionError(f"after {seconds} s still not: {what} (last answer: {answer!r})")
        time.sleep(pause)


def holds(what, question, seconds, pause=0.05):
    """Ask for that long whether it is still true; fail with `what` as soon as it is not."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert question(), f"no longer: {what}"
        time.sleep(pause)


def main_pid():
    """The daemon's process id; 0 when there is none."""
    return int(show("MainPID"))


def configure(
    target, directory, workers=2, threads=1, python="/usr/bin/python3", env=None, more="", extra=""
):
    """Write /etc/rgun/rgun.toml as an operator would; `more`: lines of [workers], `extra`: sections."""
    pairs = ", ".join(f"{name} = {json.dumps(value)}" for name, value in (env or {}).items())
    CONFIG.write_text(
        f"[app]\ntarget = {json.dumps(target)}\ndirectory = {json.dumps(str(directory))}\n"
        f"python = {json.dumps(python)}\nenv = {{ {pairs} }}\n\n"
        f"[workers]\ncount = {workers}\nthreads = {threads}\n{more}\n\n{extra}"
    )


def restart():
    """`systemctl restart rgun`, with the counters of earlier tests forgotten."""
    systemctl("reset-failed", SERVICE, SOCKET, check=False)
    systemctl("restart", SERVICE)


def status():
    """The line that `systemctl status` shows of the daemon's own."""
    return show("StatusText")


def reload(check=True):
    """`systemctl reload rgun`, which waits for the verdict."""
    return systemctl("reload", SERVICE, check=check, timeout=120)


def release(directory, version, code=""):
    """Deploy: the module `release` of an application, with a VERSION and, after it, any code; in one step."""
    new = pathlib.Path(directory) / "release.py.new"
    new.write_text(f"VERSION = {version!r}\n{code}\n")
    new.rename(new.with_suffix(""))


@contextlib.contextmanager
def drop_in(text):
    """The service with these lines of [Service] on top, until the block ends."""
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
    """The place the journal has come to, for `journal`."""
    return run("journalctl", "-n", "0", "--show-cursor", "-q").stdout.split("-- cursor:")[1].strip()


def journal(since=None, **fields):
    """Entries with these fields as dictionaries, oldest first: journal(since, RGUN_WORKER=1).

    Selected here and not by journalctl: before systemd 253 a match together with --after-cursor loses the
    first entry that matches.
    """
    run("journalctl", "--sync")
    after = [f"--after-cursor={since}"] if since else []
    lines = run("journalctl", "-q", "--no-pager", "-o", "json", "--all", *after).stdout.splitlines()
    entries = [json.loads(line) for line in lines]
    return [entry for entry in entries if all(str(fields[name]) in values(entry, name) for name in fields)]


def values(entry, name):
    """All values of a field, which an entry may have several times."""
    found = entry.get(name, [])
    return found if isinstance(found, list) else [found]


def named(since, path):
    """The journal's entries about requests of this path, by the field that an operator would ask for."""
    return journal(since, RGUN_PATH=path)


def journal_of_service(since):
    """What the service wrote and what systemd wrote about it, as `journalctl -u` shows."""
    return [entry for entry in journal(since) if SERVICE in (entry.get("_SYSTEMD_UNIT"), entry.get("UNIT"))]


def messages(entries):
    """The MESSAGE texts; journalctl gives one with control characters as a list of bytes."""
    texts = []
    for entry in entries:
        text = entry.get("MESSAGE") or ""
        texts.append(bytes(text).decode(errors="replace") if isinstance(text, list) else text)
    return texts


def told(since):
    """What the journal of the service says since then, as one text."""
    return "\n".join(messages(journal_of_service(since)))


# ---------------------------------------------------------------- HTTP


@dataclasses.dataclass
class Answer:
    """One response, read to its end."""

    status: int
    headers: dict
    body: bytes

    @property
    def text(self):
        return self.body.decode()

    @property
    def json(self):
        return json.loads(self.body)


def request(method, path, body=None, headers=None, timeout=30.0, address=ADDRESS):
    """One request on a connection of its own; header names in lower case."""
    connection = http.client.HTTPConnection(*address, timeout=timeout)
    try:
        headers = {"Connection": "close", **(headers or {})}
        chunked = "Transfer-Encoding" in headers
        connection.request(method, path, body=body, headers=headers, encode_chunked=chunked)
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, response.read())
    finally:
        connection.close()


def get(path="/", **options):
    """GET it."""
    return request("GET", path, **options)


def started(path, **options):
    """A request that tells a file that it runs, and the process id of its worker, once it does."""
    mark = STATE / f"running-{time.monotonic_ns()}"
    running = Background("GET", f"{path}?{mark}", **options)
    pid = wait_for("a worker runs the request", lambda: mark.exists() and mark.read_text())
    return running, int(pid)


def slow(seconds):
    """A request that sleeps in a worker, and the process id of that worker, once it sleeps."""
    return started(f"/slow/{seconds}")


class Background:
    """A request in a thread of its own; `result()` gives the Answer or raises what happened."""

    def __init__(self, method, path, **options):
        self._outcome = None
        self._thread = threading.Thread(target=self._run, args=(method, path, options), daemon=True)
        self._thread.start()

    def _run(self, method, path, options):
        try:
            self._outcome = request(method, path, **options)
        except (OSError, http.client.HTTPException) as error:
            self._outcome = error

    def result(self, seconds=30.0):
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "the request is still waiting for its answer"
        if isinstance(self._outcome, Exception):
            raise AssertionError(f"the request got no answer: {self._outcome!r}")
        return self._outcome


CONNECTION_LOST = (ConnectionResetError, BrokenPipeError, http.client.RemoteDisconnected)


class Load:
    """Clients that ask all the time, half on kept connections and half on new ones, and account for each.

    A kept connection may be found closed by the server when the next request goes out on it (RFC 9112
    section 9.3.1): a client then asks again on a new connection, provided not one byte of an answer had
    come. These are counted in `retried`. Everything else that is not a complete 200 is in `faults`.
    """

    def __init__(self, path="/", clients=6, address=ADDRESS):
        self.path = path
        self.address = address
        self.answered = 0
        self.retried = 0
        self.faults = []
        self.servers = set()
        self.bodies = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._client, args=(index % 2 == 0,), daemon=True)
            for index in range(clients)
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        wait_for("the load is running", lambda: self.answered > 50 or self.faults)
        return self

    def __exit__(self, *exception):
        self._stop.set()
        for thread in self._threads:
            thread.join(40)
            if thread.is_alive():
                self.faults.append("a client was never answered")

    def more(self, count, seconds=30.0):
        """Wait until that many further requests have been answered."""
        goal = self.answered + count
        wait_for(f"{goal} requests answered", lambda: self.answered >= goal or self.faults, seconds)

    def _client(self, keeps):
        connection, reused = None, False
        while not self._stop.is_set():
            if connection is None:
                connection, reused = http.client.HTTPConnection(*self.address, timeout=30), False
            answering = False
            try:
                connection.request("GET", self.path, headers={} if keeps else {"Connection": "close"})
                response = connection.getresponse()
                answering = True
                body = response.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                connection = None
                with self._lock:
                    if reused and not answering and isinstance(error, CONNECTION_LOST):
                        self.retried += 1
                    else:
                        self.faults.append(repr(error))
                continue
            with self._lock:
                if response.status == 200:
                    self.answered += 1
                    if len(self.bodies) < 1000:
                        self.bodies.add(body)
                    self.servers.add(response.headers.get("X-Probe-Daemon") or body)
                else:
                    self.faults.append(f"{response.status} {body[:200]!r}")
            reused = True
            if not keeps or response.will_close:
                connection.close()
                connection = None

    def __str__(self):
        retried = f"{self.retried} retried on a new connection"
        return f"{self.answered} answered, {retried}, {len(self.faults)} faults {self.faults[:5]}"


def refused():
    """Whether the port is closed."""
    try:
        socket.create_connection(ADDRESS, timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def ask_in_vain(path):
    """Send a request without expecting much; returns a function that gives what comes back, if anything."""
    try:
        connection = socket.create_connection(ADDRESS, timeout=20)
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    except OSError:
        return lambda: b""

    def answer():
        received = b""
        with connection:
            try:
                while piece := connection.recv(65536):
                    received += piece
            except ConnectionError:
                pass
        return received

    return answer


# ---------------------------------------------------------------- processes and cgroups


def children(pid):
    """Process ids of the living children of `pid`."""
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state not in "ZX":
                found.append(int(stat.parent.name))
    return sorted(found)


def processes_of(user):
    """Process ids that run as this user."""
    uid = int(run("id", "-u", user).stdout)
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if process.stat().st_uid == uid:
                found.append(int(process.name))
    return found


def cgroup_of(pid):
    """The cgroup v2 path of a process, as the kernel tells it (cgroups(7))."""
    for line in pathlib.Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return line[3:]
    raise AssertionError(f"process {pid} is in no cgroup v2")


def cgroup_directory(path):
    """Where that cgroup is mounted."""
    return pathlib.Path("/sys/fs/cgroup") / path.lstrip("/")


def exists(pid):
    """Whether there is such a process."""
    return os.path.exists(f"/proc/{pid}")
