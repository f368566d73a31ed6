"""The records of applications under test about a request, found by a marker that only one test uses."""

import json

from .waiting import wait_until


def hello_events(server, marker, what=None):
    """Returns the events that tests/apps/hello has recorded under `?id=marker`, of one kind or of all."""
    found = server.get(f"/events?id={marker}").json()
    return found if what is None else [event for event in found if event["what"] == what]


def wait_for_records(server, marker, count=1):
    """Waits until an application of tests/compat/clients has `count` records; returns all of them."""

    def read():
        found = server.get(f"/seen/{marker}").json()
        return len(found) >= count and found

    return wait_until(f"{count} records of {marker}\n{server.log()}", read)


def process_facts(worker):
    """Returns facts about a worker's process, from the application tests/worker/apps/watched."""
    status, body = worker.get("/who")
    assert status == 200
    return json.loads(body)
