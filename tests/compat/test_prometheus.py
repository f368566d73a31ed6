"""prometheus_client in multiprocess mode, with a fake daemon."""

import pytest
from support.fake_daemon import encode_child_exited
from support.waiting import wait_until


def test_prometheus_gauge_of_a_dead_worker_is_removed(fake, project, tmp_path, monkeypatch):
    pytest.importorskip("prometheus_client")
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(metrics))
    directory = project(
        measured="""
            from prometheus_client import Gauge, multiprocess

            running = Gauge("running", "Requests that run", multiprocess_mode="livesum")

            def child_exit(server, worker):
                multiprocess.mark_process_dead(worker.pid)

            def application(environ, start_response):
                running.inc()
                start_response("200 OK", [])
                return [b"counted"]
        """
    )
    hooks = {"child_exit": "measured:child_exit"}
    first, second = (
        fake.spawn("measured", directory, hooks=hooks, number=number, incarnation=number + 1).wait_ready()
        for number in range(2)
    )
    files = []
    for worker in (first, second):
        assert worker.get("/") == (200, b"counted")
        files.append(metrics / f"gauge_livesum_{worker.pid}.db")
    assert all(file.exists() for file in files)
    first.kill()
    second.send(encode_child_exited(first.pid, 0, 1))
    wait_until("the gauge of the dead worker is gone", lambda: not files[0].exists())
    assert files[1].exists()
