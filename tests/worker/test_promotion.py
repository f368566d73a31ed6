"""workers.refork: a worker that has served becomes a zygote."""

import os

import pytest
from support.paths import WORKER_APPS
from support.processes import n_threads
from support.records import process_facts
from support.waiting import wait_until


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("forked", [False, True])
def test_promoted_worker_becomes_a_zygote(fake, threads, forked):
    if forked:
        worker = fake.fork(
            fake.spawn("watched", WORKER_APPS, zygote=True, threads=threads).wait_ready()
        ).wait_ready()
    else:
        worker = fake.spawn("watched", WORKER_APPS, threads=threads).wait_ready()
    for _ in range(3):
        process_facts(worker)
    # Starts the background thread.
    assert "in start" in worker.ask_stacks()
    worker.send(b"P")
    worker.next_report("promoted")
    worker.wait_ready()
    assert worker.warnings() == []
    # The kernel may still list a joined thread.
    wait_until("the promoted worker has one thread", lambda: n_threads(worker.pid) == 1)
    assert "rgun: zygote [watched:application]" in worker.proc("cmdline")
    children = [fake.fork(worker, number=number, incarnation=20 + number).wait_ready() for number in range(2)]
    for child in children:
        facts = process_facts(child)
        assert facts["pid"] == child.pid
        # The worker has inherited its zygote's records.
        assert facts["seen"][:3] == ["/who"] * 3
        assert facts["parent"] == os.getpid()
    # A promoted worker's child can be promoted, too.
    children[0].send(b"P")
    children[0].wait_ready()
    assert process_facts(fake.fork(children[0], incarnation=30).wait_ready())["seen"][:4] == ["/who"] * 4
    assert children[1].stop() == 0
    assert worker.stop() == 0


def test_promoted_worker_unmaps_its_shared_memory(fake):
    worker = fake.spawn("watched", WORKER_APPS).wait_ready()
    process_facts(worker)
    assert "memfd:fake" in worker.proc("maps")
    worker.send(b"P")
    worker.wait_ready()
    maps = [line for line in worker.proc("maps").splitlines() if "memfd:fake" in line]
    # Only the reactor's page stays, which forked workers need.
    assert len(maps) == 1


def test_worker_that_is_not_a_zygote_refuses_to_fork(fake):
    worker = fake.spawn("watched", WORKER_APPS).wait_ready()
    with pytest.raises(AssertionError, match="not a zygote"):
        fake.fork(worker, incarnation=2)
    assert process_facts(worker)["pid"] == worker.pid
