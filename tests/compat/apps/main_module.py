"""What libraries make of the worker's main module: dotenv's test, and multiprocessing's spawned processes."""

import json
import multiprocessing
import sys


def double(number):
    """For another process."""
    return 2 * number, sys.modules["__main__"].__file__


def application(environ, start_response):
    """The file, and what comes of running a function in a process that each method starts."""
    told = {"file": sys.modules["__main__"].__file__, "started": {}}
    for method in ("spawn", "forkserver", "fork"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            told["started"][method] = pool.apply(double, (21,))
    body = json.dumps(told).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
