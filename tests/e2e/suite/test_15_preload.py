"""`workers.preload`: Django or its libraries are imported once, and workers are forked."""

import os
import pathlib
import signal

import host
import pytest
from support.processes import children
from support.waiting import wait_until

# The shop, with a page that reports the importing process.
MODULE = """
import json, os, time
from shop.wsgi import application as shop
import release
IMPORTED_BY = os.getpid()

def application(environ, start_response):
    if environ["PATH_INFO"] != "/facts":
        return shop(environ, start_response)
    time.sleep(0.1)  # so that two simultaneous requests reach two workers
    body = json.dumps({"pid": os.getpid(), "imported_by": IMPORTED_BY, "version": release.VERSION}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
"""
DIRECTORY = pathlib.Path("/srv/shop")


def serve(shop_data, preload):
    """Serves the shop with two workers and this value of `workers.preload`."""
    (DIRECTORY / "preloaded.py").write_text(MODULE)
    host.deploy(DIRECTORY, 1)
    environment = {"SHOP_DATA": str(shop_data)}
    host.configure("preloaded", DIRECTORY, env=environment, more=f"preload = {preload}")
    host.restart()
    wait_until("both workers are ready", lambda: host.status_text().startswith("2/2 workers ready"))


@pytest.fixture(scope="module", autouse=True)
def preloaded(shop_data):
    """The shop, preloaded."""
    serve(shop_data, "true")


def facts():
    """Returns /facts of both workers, by pid."""
    found = {}

    def both():
        for request in [host.in_background("GET", "/facts") for _ in range(2)]:
            answer = request.result().json()
            found[answer["pid"]] = answer
        return len(found) >= 2

    wait_until("two workers have answered", both, 10)
    return found


def test_forked_workers_share_an_import_and_the_daemons_tree():
    answers = facts()
    importers = {answer["imported_by"] for answer in answers.values()}
    assert len(importers) == 1, answers
    assert not importers & set(answers), "the zygote does not serve"
    assert set(children(host.main_pid())) == importers | set(answers)
    top = host.show("ControlGroup")
    places = {host.cgroup_of(pid) for pid in importers | set(answers)}
    assert len(places) == 3, places
    assert all(place.startswith(top + "/workers/") for place in places), places


def test_django_database_works_in_forked_workers():
    for _ in range(10):
        assert len(host.get("/api/products").json()["products"]) == 20
        assert host.get("/").status == 200


def test_dead_worker_is_forked_again_without_an_import():
    before = facts()
    victim, other = sorted(before)
    os.kill(victim, signal.SIGKILL)
    wait_until("another worker", lambda: set(facts()) - set(before), 10)
    after = facts()
    assert {answer["imported_by"] for answer in after.values()} == {before[other]["imported_by"]}


def test_dead_zygote_is_replaced_and_its_workers_serve():
    before = facts()
    (zygote,) = {answer["imported_by"] for answer in before.values()}
    with host.load("/api/status", clients=2) as load:
        os.kill(zygote, signal.SIGKILL)
        wait_until(
            "another zygote",
            lambda: set(children(host.main_pid())) - set(before) - {zygote},
        )
        load.wait_for_more(20)
    assert not load.faults, load
    assert set(facts()) == set(before)


def test_reload_starts_a_new_zygote_with_the_new_code():
    wait_until("three processes", lambda: len(children(host.main_pid())) == 3)
    before = set(children(host.main_pid()))
    with host.load("/api/status", clients=2) as load:
        host.deploy(DIRECTORY, 2)
        host.reload()
        assert host.get("/facts").json()["version"] == 2
        host.deploy(DIRECTORY, 3, 'raise LookupError("no database today")')
        assert host.reload(check=False).returncode != 0
        assert host.get("/facts").json()["version"] == 2
        load.wait_for_more(20)
    assert not load.faults, load
    wait_until("the new generation is alone", lambda: not before & processes() and len(processes()) == 3)


def processes():
    """Returns the pids of the zygote and its workers."""
    return set(children(host.main_pid()))


def test_with_a_list_only_libraries_are_preloaded(shop_data):
    serve(shop_data, '["django.core.handlers.wsgi", "django.db.models"]')
    answers = facts()
    assert all(answer["imported_by"] == pid for pid, answer in answers.items()), answers
    (zygote,) = processes() - set(answers)
    assert len(host.get("/api/products").json()["products"]) == 20
    with host.load("/api/status", clients=2) as load:
        os.kill(zygote, signal.SIGKILL)
        wait_until("another zygote", lambda: processes() - set(answers) - {zygote})
        host.deploy(DIRECTORY, 2)
        host.reload()
        assert host.get("/facts").json()["version"] == 2
        load.wait_for_more(20)
    assert not load.faults, load


def test_stop_leaves_no_process():
    host.systemctl("stop", host.SERVICE)
    assert host.show("Result") == "success"
    assert host.processes_of("rgun") == []
    host.deploy(DIRECTORY, 1)
