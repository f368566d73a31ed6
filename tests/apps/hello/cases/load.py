"""Cases that take time, hold the GIL or use memory."""

import ctypes
import os
import threading
import time

from .registry import (
    MIB,
    answer_json,
    case,
    event,
    query,
)

active = 0


max_active = 0


active_lock = threading.Lock()


@case("sleep")
def sleep(environ, start_response):
    """Sleeps `?ms=` milliseconds; reports the current and the highest number of such requests."""
    global active, max_active
    with active_lock:
        active += 1
        max_active = max(max_active, active)
        now = active
    try:
        event(environ, "sleeping")
        time.sleep(query(environ, "ms", 100) / 1000)
    finally:
        with active_lock:
            active -= 1
    event(environ, "slept")
    return answer_json(start_response, {"pid": os.getpid(), "active": now, "max_active": max_active})


@case("spin")
def spin(environ, start_response):
    """Computes in Python for `?ms=` milliseconds."""
    end = time.monotonic() + query(environ, "ms", 100) / 1000
    count = 0
    while time.monotonic() < end:
        count += 1
    return answer_json(start_response, {"pid": os.getpid(), "count": count})


@case("hold-gil")
def hold_gil(environ, start_response):
    """Sleeps `?ms=` milliseconds in C while holding the GIL."""
    event(environ, "holding")
    # PyDLL, unlike CDLL, does not release the GIL around the call.
    ctypes.PyDLL(None).usleep(query(environ, "ms", 100) * 1000)
    return answer_json(start_response, {"pid": os.getpid()})


kept = []


@case("memory")
def memory(environ, start_response):
    """Allocates and touches `?mib=` MiB; leaks them with `?keep=1`."""
    block = b"x" * (query(environ, "mib", 10) * MIB)
    if query(environ, "keep", 0):
        kept.append(block)
    return answer_json(start_response, {"pid": os.getpid(), "kept_mib": sum(map(len, kept)) // MIB})
