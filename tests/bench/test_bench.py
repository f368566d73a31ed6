"""Tests of the benchmarks (pytest tests/bench); they run without peers.

A harness that accepts a wrong response, misses a child's CPU time, or starts its clock late would make every
table worthless.
"""

import http.server
import json
import sys
import threading
import time

import environment
import load
import process
import pytest
import report
import servers
import workloads
from goals import GOALS


@pytest.fixture
def answering():
    """A function that starts an HTTP/1.1 server which responds with `function(handler)`; returns its port."""
    started = []

    def start(function):
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_request(self):
                status, body = function(self)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = handle_request

            def log_message(self, *_):
                """Logs nothing."""

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        started.append(server)
        return server.server_address[1]

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def test_percentile_is_the_nearest_rank():
    assert load.percentile(range(1, 101), 0.99) == 99
    assert load.percentile(range(1, 101), 0.5) == 50
    assert load.percentile([7], 0.99) == 7


def test_ideal_queue_of_two_servers_delays_third_request():
    arrivals = [(0.0, "/long"), (0.0, "/long"), (0.01, "/short")]
    times = load.ideal(arrivals, {"/long": 0.1, "/short": 0.001}, 2)
    assert times["/long"] == [0.1, 0.1]
    assert times["/short"] == [pytest.approx(0.091)]


def test_arrivals_are_reproducible_and_have_their_rates():
    arrivals = load.schedule(3, 100, {"/short": 200, "/long": 20})
    assert arrivals == load.schedule(3, 100, {"/short": 200, "/long": 20})
    assert arrivals == sorted(arrivals)
    assert sum(path == "/short" for _, path in arrivals) == pytest.approx(20_000, rel=0.05)


def test_open_loop_latency_counts_from_intended_start(answering):
    # Five requests of 50 ms, one at a time: the last one takes at least 250 ms.
    turn = threading.Lock()

    def one_at_a_time(_):
        with turn:
            time.sleep(0.05)
        return 200, b"ok"

    done = load.open_loop(answering(one_at_a_time), [(0.0, "/short")] * 5, 2, 0, max_lag=1)
    assert max(done.times["/short"]) >= 0.25
    assert min(done.times["/short"]) < 0.2


def test_status_other_than_200_fails_the_open_loop(answering):
    with pytest.raises(process.BenchError, match="status 503"):
        load.open_loop(answering(lambda _: (503, b"")), [(0.0, "/short")], 1, 0, max_lag=1)


def test_upload_that_lost_bytes_fails(answering):
    def lossy(handler):
        size = int(handler.headers["Content-Length"])
        while size:
            size -= len(handler.rfile.read(min(size, 1 << 16)))
        return 200, json.dumps({"size": 1, "sha256": None}).encode()

    with pytest.raises(process.BenchError, match="arrived as 1"):
        load.upload(answering(lossy), 1)


def test_download_with_wrong_bytes_or_length_fails(answering):
    port = answering(lambda _: (200, b"x" * 1000))
    buffer = memoryview(bytearray(4096))
    load.download(port, buffer, 1000)
    with pytest.raises(process.BenchError, match="SHA-256"):
        load.download(port, buffer, 1000, sha256="0" * 64)
    with pytest.raises(process.BenchError, match="instead of 2000"):
        load.download(port, buffer, 2000)


BUSY = """
import subprocess, sys, time
burn = "import time\\nend = time.process_time() + 0.2\\nwhile time.process_time() < end: pass"
subprocess.run([sys.executable, "-c", burn])
child = subprocess.Popen([sys.executable, "-c", burn + "\\ntime.sleep(60)"], start_new_session=True)
exec(burn)
print("done", flush=True)
time.sleep(60)
"""


def test_cpu_time_includes_children_and_stop_ends_them(tmp_path):
    with open(tmp_path / "log", "w+") as log:
        with process.Server([sys.executable, "-c", BUSY], tmp_path, None, 0, [0], log) as server:
            deadline = time.monotonic() + 20
            while server.cpu_seconds() < 0.6:
                assert time.monotonic() < deadline, f"{server.cpu_seconds()} s of CPU were seen, not 0.6"
                time.sleep(0.01)
            pids = set(process.tree(server.process.pid))
            assert len(pids) == 2
        assert not any(server.is_ours(pid) for pid in pids)


def test_server_that_exits_at_startup_is_reported_with_output(tmp_path):
    with open(tmp_path / "log", "w+") as log:
        argv = [sys.executable, "-c", "raise SystemExit('no such module')"]
        with process.Server(argv, tmp_path, None, 1, [0], log) as server:
            with pytest.raises(process.BenchError, match=r"exited with 1.*no such module"):
                server.wait_ready("/")


def rows(**rates):
    """Returns rows of the hello table with these rates."""
    figures = {
        "cpu_us_per_request": 5.0,
        "cpu_us_same_core": 5.0,
        "p50_ms": 1.0,
        "p99_ms": 2.0,
        "pss_mib": 20.0,
        "boot_ms": 30.0,
    }
    made = {}
    for name, values in rates.items():
        rounds = [{"requests_per_s": value, **figures} for value in values]
        made[name] = {"rounds": rounds, "invalid": "", "summary": report.summarize(rounds)}
    return made


def test_ratios_use_medians_and_skip_invalid_rows():
    workload = workloads.WORKLOADS["hello"]
    made = rows(limit=[200.0, 220.0, 180.0], rgun=[150.0, 160.0, 10.0], granian=[75.0, 75.0, 75.0])
    made["bjoern"] = {"rounds": [], "invalid": "round 1: wrk counted errors: 3 status"}
    report.ratios(workload, made)
    assert made["granian"]["rgun_is"] == 2
    assert made["rgun"]["of_limit"] == 0.75
    text = report.table("hello", workload, made)
    assert "INVALID bjoern: round 1: wrk counted errors: 3 status" in text
    assert "2.00 x" in text


def test_lower_is_better_inverts_the_ratio():
    workload = workloads.WORKLOADS["rss-idle"]
    made = {}
    for name, value in (("rgun", 70.0), ("granian", 140.0)):
        made[name] = {
            "rounds": [1],
            "invalid": "",
            "summary": {workload.main: {"median": value, "spread": 0}},
        }
    report.ratios(workload, made)
    assert made["granian"]["rgun_is"] == 2


def test_goals_print_reached_or_missed():
    made = {"hello": rows(rgun=[150.0], granian=[75.0])}
    text = report.goals(GOALS, made)
    assert "reached  hello req/s >= 1.4 x granian: 2.00" in text
    assert "reached  hello CPU us/req <= 7: 5.00" in text
    assert "MISSED" in report.goals((("hello", "requests_per_s", ">=", 3, "granian"),), made)
    assert report.goals(GOALS, {}) == ""


def test_goal_may_name_a_row_other_than_rgun():
    made = {"hello": rows(rgun=[150.0], granian=[75.0])}
    text = report.goals((("hello", "requests_per_s", "<=", 80, None, "granian"),), made)
    assert "reached  hello req/s <= 80 (granian): 75.00" in text


def test_goal_with_several_peers_compares_with_the_best():
    wanted = (("hello", "requests_per_s", ">=", 1.5, ("granian", "uvicorn")),)
    made = {"hello": rows(rgun=[150.0], granian=[75.0], uvicorn=[120.0])}
    assert "MISSED   hello req/s >= 1.5 x the best of granian and uvicorn: 1.25" in report.goals(wanted, made)
    less = (("hello", "requests_per_s", "<=", 1, ("granian", "uvicorn")),)
    assert "1 x the best of granian and uvicorn: 2.00" in report.goals(less, made)
    made["hello"]["uvicorn"]["invalid"] = "round 1: it fell over"
    assert report.goals(wanted, made) == ""
    del made["hello"]["uvicorn"]
    assert report.goals(wanted, made) == ""


def test_goal_without_a_figure_is_left_out():
    made = {"hello": rows(rgun=[150.0], granian=[75.0])}
    del made["hello"]["rgun"]["summary"]["pss_mib"]
    assert report.goals((("hello", "pss_mib", "<=", 1, "granian"),), made) == ""


def test_workloads_and_goals_name_known_servers_and_figures():
    for workload in workloads.WORKLOADS.values():
        assert set(workload.servers) <= set(servers.SERVERS)
        assert {workload.main, *workload.columns} <= set(report.HEADS)
    for name, figure, _, _, peer, *mine in GOALS:
        assert figure in workloads.WORKLOADS[name].columns
        peers = [peer] if isinstance(peer, str) else peer or ()
        assert {"rgun", *peers, *mine} <= set(workloads.WORKLOADS[name].servers)


def test_rgun_command_line_is_the_documented_one():
    programs = dict.fromkeys(environment.PROGRAMS, "")
    tools = servers.Tools(bin="/v/bin", rgun="/r/rgun", **programs, certificate="", key="", missing={})
    task = servers.Task("shop.wsgi:application", "/d", 8000, workers=4)
    assert " ".join(servers.SERVERS["rgun"](task, tools)) == (
        "/r/rgun shop.wsgi:application --bind 127.0.0.1:8000 --workers 4 "
        "--chdir /d --python /v/bin/python --log-level warning"
    )


def test_failed_handshake_client_invalidates_the_row(tmp_path):
    client = tmp_path / "client"
    client.write_text("#!/bin/sh\necho the handshake was Resumed instead of Full >&2\nexit 1\n")
    client.chmod(0o755)
    with pytest.raises(process.BenchError, match="Resumed instead of Full"):
        load.handshakes(client, 1, 1, 0.1)


def test_handshake_rate_uses_the_duration_the_client_reports(tmp_path):
    client = tmp_path / "client"
    client.write_text('#!/bin/sh\necho \'{"requests": 30, "seconds": 2}\'\n')
    client.chmod(0o755)
    counts = load.handshakes(client, 1, 1, 0.1)
    assert (counts["rate"], counts["requests"]) == (15, 30)
