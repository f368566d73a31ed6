"""Serves an application with bjoern, which has no command line: `serve_bjoern.py MODULE:ATTR PORT WORKERS`.

Started by servers.py, in the application's directory. Workers are forked after listening and share the
socket, as in bjoern's README; the parent waits for them.
"""

import importlib
import os
import signal
import sys

import bjoern


def main():
    """Listens, forks all but one worker, and serves."""
    target, port, workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    sys.path.insert(0, os.getcwd())
    module, _, name = target.partition(":")
    application = getattr(importlib.import_module(module), name or "application")
    bjoern.listen(application, "127.0.0.1", port, listen_backlog=4096)
    if workers == 1:
        bjoern.run()
        return
    children = []
    for _ in range(workers):
        pid = os.fork()
        if pid == 0:
            bjoern.run()
            os._exit(0)
        children.append(pid)

    def stop(_number, _frame):
        for pid in children:
            os.kill(pid, signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    for pid in children:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
