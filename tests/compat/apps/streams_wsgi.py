"""WSGI streams that wait for another request, from Flask and from write()."""

import collections
import threading

from flask import Flask, Response, request

GATES = collections.defaultdict(threading.Event)
flask = Flask(__name__)


@flask.route("/events")
def events():
    """Sends `first`, waits, then sends an event. If `first` is empty, the head waits too."""
    marker, first = request.args["id"], request.args["first"]

    def parts():
        yield first
        GATES[marker].wait()
        yield "data: late\n\n"

    return Response(parts(), mimetype="text/event-stream")


@flask.route("/open")
def allow():
    GATES[request.args["id"]].set()
    return "open"


def application(environ, start_response):
    if environ["PATH_INFO"] != "/write":
        return flask(environ, start_response)
    write = start_response("200 OK", [("Content-Type", "text/event-stream")])
    write(b": open\n\n")
    GATES[environ["QUERY_STRING"]].wait()
    return [b"data: late\n\n"]
