"""The data of packaging/doc/performance.md: selected from the results of `run --page`, kept as JSON.

The file names the machine's processor, kernel and number of cores, but neither its host name nor a path.
"""

import json
import re
import statistics
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).resolve().parent / "performance.json"

# The figures of a row: what a server does in a second, and what it needs for that.
RATES = ("requests_per_s", "messages_per_s")
COSTS = ("cpu_us_per_request", "cpu_us_per_message", "connection_kib", "django_pss_mib")
MEMORY = ("connection_kib", "django_pss_mib")
DISTURBANCES = ("foreign_busy", "stolen")
KEPT = (*RATES, *COSTS, *DISTURBANCES, "client_busy")
MACHINE = ("cpu", "cpus", "kernel", "build", "load_before")
# Shares of a core above which a row is marked: other processes ran, or the hypervisor took the core away.
MAX_DISTURBANCE = {"foreign_busy": 0.15, "stolen": 0.03}

A_PATH = re.compile(r"(?<!\w)/[\w./-]+")
A_LIST = re.compile(r"\[\s+([^\[\]{}]+?)\s+\]")


def select(result, workloads):
    """Returns the page's part of a result of `run`, whose rows are those of `workloads` that have a label."""
    machine = {name: result["machine"][name] for name in MACHINE}
    machine["load_before"] = round(machine["load_before"][0], 2)
    # Without the suffix, which names a distribution's or a host's own build.
    machine["kernel"] = re.match(r"[\d.]*\d|", machine["kernel"])[0]
    rows = []
    for name, servers in result["workloads"].items():
        workload = workloads[name]
        if workload.page:
            described = {"workload": name, "label": workload.page, "title": workload.title}
            described.update(note=workload.note, subject=workload.subject, reference=workload.reference)
            rows.append({**described, "servers": {key: kept(row) for key, row in servers.items()}})
    return {
        "when": result["when"],
        "rounds": result["rounds"],
        "seconds": result["seconds"],
        "machine": machine,
        "versions": result["machine"]["versions"],
        "skipped": {name: A_PATH.sub("...", why) for name, why in result["skipped"].items()},
        "rows": rows,
    }


def kept(row):
    """Returns the figures of one server that the page needs: for each the values of all rounds."""
    if row["invalid"]:
        return {"invalid": A_PATH.sub("...", row["invalid"])}
    names = [name for name in KEPT if name in row["rounds"][0]]
    return {name: [rounded(figures[name]) for figures in row["rounds"]] for name in names}


def rounded(value):
    """Rounds to five significant digits."""
    return float(f"{value:.5g}")


def text(data):
    """Formats the data as JSON, with each list on one line."""
    lists = A_LIST.sub(lambda found: f"[{' '.join(found[1].split())}]", json.dumps(data, indent=1))
    return lists + "\n"


def read(path=DATA):
    """Reads the data, and returns it with its rows as Row."""
    data = json.loads(Path(path).read_text())
    return {**data, "rows": [Row(**row) for row in data["rows"]]}


@dataclass(frozen=True)
class Ratio:
    """How many times better the subject is than `rival`: the median over the rounds, and half their range."""

    rival: str
    median: float
    spread: float

    @property
    def verdict(self):
        """Returns "ahead", "behind", or "level" if the difference is not larger than the spread."""
        if abs(self.median - 1) <= self.spread:
            return "level"
        return "ahead" if self.median > 1 else "behind"


@dataclass(frozen=True)
class Row:
    """One workload: the figures of its servers."""

    workload: str
    label: str
    title: str
    note: str
    subject: str
    reference: str
    servers: dict

    @property
    def valid(self):
        """Returns the servers that completed all rounds, with their figures."""
        return {name: figures for name, figures in self.servers.items() if "invalid" not in figures}

    def figure(self, names):
        """Returns the one of `names` that this row's servers have; None if there is none."""
        first = next(iter(self.valid.values()), {})
        return next((name for name in names if name in first), None)

    @property
    def rate(self):
        """Returns the name of the figure of which more is better; None for rows about memory."""
        return self.figure(RATES)

    @property
    def cost(self):
        """Returns the name of the figure of which less is better."""
        return self.figure(COSTS)

    def ratio(self, name, rival):
        """Returns the Ratio of figure `name` to a server, round by round, so that slow drifts cancel out.

        None if either is invalid.
        """
        mine, theirs = self.valid.get(self.subject), self.valid.get(rival)
        if not mine or not theirs or name is None:
            return None
        pairs = zip(mine[name], theirs[name])
        better = [one / other if name in RATES else other / one for one, other in pairs]
        return Ratio(rival, statistics.median(better), (max(better) - min(better)) / 2)

    def best(self, name):
        """Returns the Ratio to the best rival in figure `name`; None without rivals."""
        rivals = {
            server: statistics.median(figures[name])
            for server, figures in self.valid.items()
            if name and server not in (self.subject, self.reference)
        }
        if not rivals:
            return None
        choose = max if name in RATES else min
        return self.ratio(name, choose(rivals, key=rivals.get))

    @property
    def disturbance(self):
        """Returns the largest shares of a core that something else used; empty if all rounds were quiet."""
        worst = {}
        for name in DISTURBANCES:
            seen = max((max(figures.get(name, [0])) for figures in self.valid.values()), default=0)
            if seen > MAX_DISTURBANCE[name]:
                worst[name] = seen
        return worst
