"""Facts about processes from /proc, and named pipes."""

import os
import pathlib


def is_running(pid):
    """Whether a process runs; a zombie does not."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(") ")[2][0] not in "ZX"


def exists(pid):
    """Whether there is such a process, zombies included."""
    return os.path.exists(f"/proc/{pid}")


def children(pid):
    """Process ids of the living children of `pid`, in ascending order."""
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text(errors="replace").rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state not in "ZX":
            found.append(int(stat.parent.name))
    return sorted(found)


def n_threads(pid):
    """The number of threads of a process."""
    return len(os.listdir(f"/proc/{pid}/task"))


def wchan(pid):
    """The kernel function in which a process sleeps; "" where the kernel does not say."""
    try:
        return pathlib.Path(f"/proc/{pid}/wchan").read_text(encoding="ascii").strip("0")
    except OSError:
        return ""


def resident_kib(pid, field="VmRSS"):
    """The resident memory of a process in KiB, or a part of it; 0 for a zombie.

    Raises OSError if there is no such process.
    """
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) if f"{field}:" in status else 0


def make_fifo(directory, name):
    """Makes a named pipe and returns its path; a reader blocks until there is a writer."""
    os.mkfifo(directory / name)
    return directory / name
