"""Django, four workers, a load of everything, and everything that can go wrong: no promise is broken.

Every request has one answer of an expected status with a complete and correct body, and one entry in the
journal under its id; in the end nobody is left behind, and the daemon is as small as before.
"""

import collections
import pathlib
import threading
import time

import host
import pytest
from clients import DAEMON, KINDS, Clients
from troubles import Troubles

HERE = pathlib.Path(__file__).resolve().parent
DIRECTORY = pathlib.Path("/srv/shop")
CLIENTS = 8
# Of ordinary requests, at least: a server that always answers 503 keeps every other promise here.
SERVED = 0.8
# A daemon's memory may grow by this much from its first load on, in MiB: allocators keep something.
GROWTH = 12

SETTINGS = """
[timeouts]
request = "2s"
queue = "10s"
boot = "20s"
drain = "5s"

[reload]
probe = "/api/status"

[log]
access = true
"""


@pytest.fixture
def site(shop_data):
    """The shop with views that go wrong, not yet served."""
    for file in (HERE / "site").iterdir():
        DIRECTORY.joinpath(file.name).write_bytes(file.read_bytes())
    (shop_data / "files").mkdir(exist_ok=True)
    host.run("chown", "rgun:rgun", str(shop_data / "files"))
    host.release(DIRECTORY, 1)
    return shop_data


@pytest.mark.parametrize("preload", [False, True], ids=["imported", "forked"])
def test_every_request_is_answered_and_logged_once(site, option, preload):
    seed = f"{option('seed')} {preload}"
    host.configure(
        "chaotic",
        DIRECTORY,
        workers=4,
        threads=2,
        env={"SHOP_DATA": str(site)},
        more=f'preload = {str(preload).lower()}\nmax_memory = "100MiB"',
        extra=SETTINGS,
    )
    processes = 5 if preload else 4
    # journald must not drop what is counted here.
    with host.drop_in("LogRateLimitIntervalSec=0"):
        host.wait_for("four workers", lambda: ready(processes), 30)
        since = host.journal_cursor()
        with Clients(seed, CLIENTS) as clients, Memory() as memory:
            troubles = Troubles(seed, DIRECTORY, clients)
            troubles.make(option("seconds") / 2)
            assert host.get("/chaos/version").json["version"] == troubles.version
        host.wait_for("four workers again", lambda: ready(processes), 40)
        account = Account(clients.asked, troubles.notes, host.journal(since))
        print(account)
        assert not account.complaints(), "\n".join(account.complaints()[:20])
        print(f"memory of the daemons, first and last in KiB: {list(memory.lives.values())}")
        assert memory.growth() < GROWTH << 10, memory.lives
        leftovers(processes)


def ready(processes):
    """Whether all workers serve, and nobody else is there."""
    return host.status().startswith("4/4 workers ready") and len(host.children(host.main_pid())) == processes


def leftovers(processes):
    """Nobody is left behind by the chaos; and nobody at all by a stop."""
    tree = host.cgroup_directory(host.show("ControlGroup"))
    leaves = [path for path in (tree / "workers").iterdir() if path.is_dir()]
    assert len(leaves) == processes, leaves
    assert len(host.processes_of("rgun")) == processes + 1
    host.systemctl("stop", host.SERVICE)
    assert host.show("Result") == "success"
    assert host.processes_of("rgun") == []
    assert not tree.exists()


class Memory:
    """Resident memory of the daemon, life by life: the first value under load and the last."""

    def __init__(self):
        self.lives = {}

    def __enter__(self):
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._stop.set()
        self._thread.join(20)

    def _watch(self):
        began = {}
        while not self._stop.wait(0.5):
            pid = host.main_pid()
            try:
                status = pathlib.Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            kib = int(status.partition("VmRSS:")[2].split()[0]) if "VmRSS:" in status else 0
            # Two seconds: buffers of connections and the allocator's arenas are there then.
            if kib and time.monotonic() - began.setdefault(pid, time.monotonic()) > 2:
                self.lives.setdefault(pid, [kib, kib])[1] = kib

    def growth(self):
        """Of the life that grew most, in KiB."""
        return max((last - first for first, last in self.lives.values()), default=0)


class Account:
    """All requests beside the journal."""

    def __init__(self, asked, notes, entries):
        self.asked = asked
        self.restarts = [(began, ended) for began, ended, name in notes if name == "restart"]
        self.by_id = collections.defaultdict(list)
        self.lost_entries = [text for text in host.messages(entries) if "lines are missing" in text]
        for entry in entries:
            if "RGUN_STATUS" in entry and entry.get("RGUN_REQUEST_ID", "") in asked:
                self.by_id[entry["RGUN_REQUEST_ID"]].append(entry)

    def complaints(self):
        """One sentence each; none is what is wanted."""
        found = list(self.lost_entries)
        for asked in self.asked.values():
            found += [f"{asked.id} ({asked.kind}): {what}" for what in self._about(asked)]
        ordinary = [asked for asked in self.asked.values() if KINDS[asked.kind][0]]
        good = sum(asked.status == KINDS[asked.kind][3] for asked in ordinary)
        if good < SERVED * len(ordinary):
            found.append(f"only {good} of {len(ordinary)} ordinary requests were served")
        return found

    def _about(self, asked):
        entries = self.by_id[asked.id]
        if asked.fault == "retry":
            # Closed between two requests: only a daemon that leaves does that, and it has not read this one.
            if not any(began - 1 < asked.ended < ended + 1 for began, ended in self.restarts):
                yield "a kept connection was closed without a restart"
            if entries:
                yield f"no answer, but {host.messages(entries)}"
            return
        if asked.fault == "broken":
            # What has begun to flow can only break off, visibly, when its worker is gone.
            if asked.kind != "stream":
                yield f"status {asked.status}, and then it broke off"
        elif asked.fault:
            yield asked.fault
        if len(entries) != 1:
            yield f"status {asked.status}, {len(entries)} entries: {host.messages(entries)}"
        elif entries[0]["RGUN_STATUS"] != str(asked.status):
            yield f"status {asked.status}, but {host.messages(entries)}"

    def __str__(self):
        answers = collections.Counter(
            f"{asked.status} {asked.fault}".strip() if asked.status else asked.fault
            for asked in self.asked.values()
        )
        told = ", ".join(f"{count} x {answer[:60]}" for answer, count in answers.most_common())
        late = max((asked.ended - asked.began for asked in self.asked.values()), default=0)
        daemon = sum(asked.status in DAEMON for asked in self.asked.values())
        return f"{len(self.asked)} requests: {told}; {daemon} by the daemon; the longest took {late:.1f} s"
