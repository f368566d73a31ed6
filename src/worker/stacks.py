"""The Python half of stacks: what the process is doing, written to a descriptor of the daemon's.

Embedded into the extension and loaded when the daemon first asks (src/worker/stacks.rs). Runs with the GIL,
so it harms nobody; whoever holds the GIL for long is seen by faulthandler's signal instead.
"""

import os
import sys


def write_all(descriptor):
    """Every thread but the one that was asked to write."""
    import faulthandler

    if not hasattr(os, "memfd_create"):
        faulthandler.dump_traceback(descriptor, all_threads=True)
        return
    with open(os.memfd_create("rgun-stacks"), "r+b", 0) as file:
        faulthandler.dump_traceback(file.fileno(), all_threads=True)
        file.seek(0)
        threads = file.read().split(b"\n\n")
    write(descriptor, b"\n\n".join(thread for thread in threads if not thread.startswith(b"Current thread")))


def write_one(descriptor, ident):
    """The thread with that identity, with the source lines; False if there is none."""
    import threading
    import traceback

    frame = sys._current_frames().get(ident)
    if frame is None:
        return False
    stack = traceback.extract_stack(frame)
    # What leads to the application: the bootstrap, and for further slots the module threading.
    while stack and (stack[0].filename.startswith("<") or stack[0].filename == threading.__file__):
        del stack[0]
    text = f"Thread 0x{ident:016x} (most recent call last):\n" + "".join(stack.format())
    write(descriptor, text.encode("utf-8", "backslashreplace"))
    return True


def write(descriptor, text):
    """All of it."""
    while text:
        text = text[os.write(descriptor, text) :]
