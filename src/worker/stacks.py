"""The Python part of stacks.rs: writes the stacks of the process to a descriptor of the daemon.

Embedded into the extension and loaded on the first request for stacks (src/worker/stacks.rs). Runs
with the GIL held; if some code holds the GIL for long, the daemon sends the stacks signal instead.
"""

import os
import sys


def write_all(descriptor):
    """Writes the stacks of all threads except the calling one."""
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
    """Writes the stack of one thread with source lines. Returns False if there is no such thread."""
    import threading
    import traceback

    frame = sys._current_frames().get(ident)
    if frame is None:
        return False
    stack = traceback.extract_stack(frame)
    # Drop the frames before the application: the bootstrap, and the module threading for slots
    # above 0.
    while stack and (stack[0].filename.startswith("<") or stack[0].filename == threading.__file__):
        del stack[0]
    text = f"Thread 0x{ident:016x} (most recent call last):\n" + "".join(stack.format())
    write(descriptor, text.encode("utf-8", "backslashreplace"))
    return True


def write(descriptor, text):
    """Writes all of the text."""
    while text:
        text = text[os.write(descriptor, text) :]
