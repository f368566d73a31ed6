"""Serves an application with fastpysgi: `serve_fastpysgi.py MODULE:ATTR PORT WORKERS [CERTIFICATE KEY]`.

Its own command line sets neither the number of workers nor the limits. The values are those of its author's
entries in public comparisons; the limit of bodies is that of the upload bench. Started by servers.py, in the
application's directory.
"""

import importlib
import os
import sys

import fastpysgi


def main():
    """Serves until a signal ends it."""
    target, port, workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    sys.path.insert(0, os.getcwd())
    module, _, name = target.partition(":")
    application = getattr(importlib.import_module(module), name or "application")
    server = fastpysgi.server
    server.max_content_length = 1 << 30
    server.read_buffer_size = 256 * 1024
    server.backlog = 4096
    server.loop_timeout = 1
    if len(sys.argv) > 4:
        server.tls_list = [(sys.argv[4], sys.argv[5], None)]
    server.init(application, "127.0.0.1", port, loglevel=0, workers=workers)
    server.run()


if __name__ == "__main__":
    main()
