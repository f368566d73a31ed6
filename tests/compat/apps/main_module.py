"""Uses of the worker's main module: its file, and processes of multiprocessing."""

import json
import multiprocessing
import sys


def double(number):
    """Returns twice the number, and the main module's file in the calling process."""
    return 2 * number, sys.modules["__main__"].__file__


def application(environ, start_response):
    """Returns the main module's file, and the result of double() for each start method."""
    result = {"file": sys.modules["__main__"].__file__, "started": {}}
    for method in ("spawn", "forkserver", "fork"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            result["started"][method] = pool.apply(double, (21,))
    body = json.dumps(result).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
