"""Serves an application with fastwsgi: `serve_fastwsgi.py MODULE:ATTR PORT WORKERS`.

Its own command line cannot raise the body limit that the upload bench needs. Started by servers.py, in the
application's directory.
"""

import importlib
import os
import sys

import fastwsgi


def main():
    """Serves until a signal ends it."""
    target, port, workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    sys.path.insert(0, os.getcwd())
    module, _, name = target.partition(":")
    application = getattr(importlib.import_module(module), name or "application")
    server = fastwsgi._Server()
    server.max_content_length = 1 << 30
    server.init(application, "127.0.0.1", port, workers=workers)
    server.run()


if __name__ == "__main__":
    main()
