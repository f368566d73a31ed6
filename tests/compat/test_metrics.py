"""The metrics as Prometheus reads them: its own parser, and the rates that an autoscaler uses."""

import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.http_client import Connection
from support.ports import free_port
from support.waiting import wait_until

APPLICATION = """
import time

def app(environ, start_response):
    time.sleep(0.2)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


@pytest.fixture
def serving(start, tmp_path):
    """A daemon with one thread, and the port of its metrics."""
    (tmp_path / "slowly.py").write_text(APPLICATION)
    port = free_port()
    env = {"RGUN_METRICS_BIND": f"127.0.0.1:{port}"}
    daemon = start("slowly:app", chdir=tmp_path, env=env).wait_ready()
    return daemon, port


def scrape(port):
    """Returns the families by name, as Prometheus' parser finds them, and checks their form."""
    with Connection(("127.0.0.1", port)) as connection:
        response = connection.request("GET", "/metrics")
    assert response.status == 200
    families = list(text_string_to_metric_families(response.body.decode()))
    names = [family.name for family in families]
    assert len(set(names)) == len(names)
    for family in families:
        assert family.name.startswith("rgun_")
        assert family.documentation.endswith(".")
        assert family.type in ("counter", "gauge", "histogram"), family
        assert family.samples, family
        assert all(sample.name.startswith(family.name) for sample in family.samples), family
    return {family.name: family for family in families}


def value(families, name, **labels):
    """Returns the value of a sample."""
    (found,) = (
        sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    )
    return found


def test_prometheus_parser_reads_every_family(serving):
    daemon, port = serving
    assert daemon.get("/").status == 200
    families = scrape(port)
    assert families["rgun_http_responses"].type == "counter"
    assert value(families, "rgun_http_responses_total", **{"class": "2xx"}) == 1
    assert value(families, "rgun_workers", state="ready") == 1
    bounds = [
        float(sample.labels["le"])
        for sample in families["rgun_queue_wait_seconds"].samples
        if sample.name.endswith("_bucket")
    ]
    assert bounds == sorted(set(bounds))
    assert bounds[-1] == float("inf")


def test_waits_of_queued_requests_show_a_lack_of_workers(serving):
    daemon, port = serving
    clients = [threading.Thread(target=daemon.get, args=("/",)) for _ in range(4)]
    for client in clients:
        client.start()
    wait_until("requests wait", lambda: value(scrape(port), "rgun_requests_queued") > 0)
    for client in clients:
        client.join()
    families = scrape(port)
    assert value(families, "rgun_queue_wait_seconds_count") == 4
    # One request did not wait, the others waited 0.2 s for each one before them.
    assert value(families, "rgun_queue_wait_seconds_sum") > 0.5
    assert value(families, "rgun_queue_wait_seconds_bucket", le="0.131072") == 1
