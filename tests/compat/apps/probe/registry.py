"""The cases by path, the application that calls them, and helpers of several cases."""

import json
from urllib.parse import parse_qs

CASES = {}


EVENTS = []


TEXT = ("Content-Type", "text/plain")


kept = []


def case(function):
    """Registers the function under its name."""
    CASES["/" + function.__name__] = function
    return function


def application(environ, start_response):
    """Calls the case of the path."""
    return CASES[environ["PATH_INFO"]](environ, start_response)


def query(environ, name, default=""):
    """Returns a query parameter."""
    return parse_qs(environ["QUERY_STRING"]).get(name, [default])[-1]


def respond_json(start_response, value):
    """Responds with JSON."""
    body = json.dumps(value).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def plain(start_response, body=b"ok\n"):
    """Responds with text."""
    start_response("200 OK", [TEXT, ("Content-Length", str(len(body)))])
    return [body]


@case
def events(environ, start_response):
    """Returns the recorded events."""
    return respond_json(start_response, EVENTS)
