"""Django on four workers, a mixed load, and everything that can go wrong.

Every request has one response of an expected status with a complete and correct body, and one entry in the
journal under its id. In the end no process is left over, and the daemon has not grown.
"""

import collections
import pathlib
import threading
import time

import host
import pytest
from clients import DAEMON, KINDS, Clients
from support.processes import children, resident_kib
from support.waiting import wait_until
from troubles import Troubles

HERE = pathlib.Path(__file__).resolve().parent
DIRECTORY = pathlib.Path("/srv/shop")
CLIENTS = 8
# The minimum share of ordinary requests with their expected status: always answering 503 is not success.
MIN_SERVED = 0.8
# MiB that the daemon's memory may grow under load: allocators keep freed memory.
MAX_GROWTH_MIB = 12

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
    """The shop with faulty views, deployed but not yet served."""
    for file in (HERE / "site").iterdir():
        DIRECTORY.joinpath(file.name).write_bytes(file.read_bytes())
    (shop_data / "files").mkdir(exist_ok=True)
    host.run("chown", "rgun:rgun", str(shop_data / "files"))
    host.deploy(DIRECTORY, 1)
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
    # journald must not drop entries, because the audit counts them.
    with host.drop_in("LogRateLimitIntervalSec=0"):
        wait_until("four workers", lambda: ready(processes), 30)
        since = host.journal_cursor()
        with Clients(seed, CLIENTS) as clients, Memory() as memory:
            troubles = Troubles(seed, DIRECTORY, clients)
            troubles.run(option("seconds") / 2)
            assert host.get("/chaos/version").json()["version"] == troubles.version
        wait_until("four workers again", lambda: ready(processes), 40)
        audit = Audit(clients.records, troubles.notes, host.journal(since))
        print(audit)
        assert not audit.complaints(), "\n".join(audit.complaints()[:20])
        print(f"memory of the daemons, first and last in KiB: {list(memory.sizes.values())}")
        assert memory.growth() < MAX_GROWTH_MIB << 10, memory.sizes
        check_leftovers(processes)


def ready(processes):
    """Whether all workers are ready and the daemon has no other children."""
    return host.status_text().startswith("4/4 workers ready") and len(children(host.main_pid())) == processes


def check_leftovers(processes):
    """Checks that the test has left no process and no cgroup behind, and that a stop leaves none at all."""
    tree = host.cgroup_directory(host.show("ControlGroup"))
    leaves = [path for path in (tree / "workers").iterdir() if path.is_dir()]
    assert len(leaves) == processes, leaves
    assert len(host.processes_of("rgun")) == processes + 1
    host.systemctl("stop", host.SERVICE)
    assert host.show("Result") == "success"
    assert host.processes_of("rgun") == []
    assert not tree.exists()


class Memory:
    """Watches the resident memory of each daemon process: its first value under load and its last."""

    def __init__(self):
        self.sizes = {}

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
                kib = resident_kib(pid)
            except OSError:
                continue
            # After two seconds the buffers of connections and the allocator's arenas exist.
            if kib and time.monotonic() - began.setdefault(pid, time.monotonic()) > 2:
                self.sizes.setdefault(pid, [kib, kib])[1] = kib

    def growth(self):
        """Returns the largest growth of a process in KiB."""
        return max((last - first for first, last in self.sizes.values()), default=0)


class Audit:
    """Compares every request with its entry in the journal."""

    def __init__(self, records, notes, entries):
        self.records = records
        self.restarts = [(began, ended) for began, ended, name in notes if name == "restart"]
        self.by_id = collections.defaultdict(list)
        self.lost_entries = [text for text in host.messages(entries) if "lines are missing" in text]
        for entry in entries:
            if "RGUN_STATUS" in entry and entry.get("RGUN_REQUEST_ID", "") in records:
                self.by_id[entry["RGUN_REQUEST_ID"]].append(entry)

    def complaints(self):
        """Returns one sentence for each broken promise."""
        found = list(self.lost_entries)
        for record in self.records.values():
            found += [f"{record.id} ({record.kind}): {what}" for what in self._about(record)]
        ordinary = [record for record in self.records.values() if KINDS[record.kind][0]]
        good = sum(record.status == KINDS[record.kind][3] for record in ordinary)
        if good < MIN_SERVED * len(ordinary):
            found.append(f"only {good} of {len(ordinary)} ordinary requests were served")
        return found

    def _about(self, record):
        entries = self.by_id[record.id]
        if record.fault == "retry":
            # Only a daemon that stops closes a kept connection, and it has not read this request.
            if not any(began - 1 < record.ended < ended + 1 for began, ended in self.restarts):
                yield "a kept connection was closed without a restart"
            if entries:
                yield f"no answer, but {host.messages(entries)}"
            return
        if record.fault == "truncated":
            # Only a response that is sent in parts can end early, when its worker dies.
            if record.kind != "stream":
                yield f"status {record.status}, but the body was truncated"
        elif record.fault:
            yield record.fault
        if len(entries) != 1:
            yield f"status {record.status}, {len(entries)} entries: {host.messages(entries)}"
        elif entries[0]["RGUN_STATUS"] != str(record.status):
            yield f"status {record.status}, but {host.messages(entries)}"

    def __str__(self):
        answers = collections.Counter(
            f"{record.status} {record.fault}".strip() if record.status else record.fault
            for record in self.records.values()
        )
        counts = ", ".join(f"{count} x {answer[:60]}" for answer, count in answers.most_common())
        late = max((record.ended - record.began for record in self.records.values()), default=0)
        daemon = sum(record.status in DAEMON for record in self.records.values())
        return (
            f"{len(self.records)} requests: {counts}; {daemon} by the daemon; the longest took {late:.1f} s"
        )
