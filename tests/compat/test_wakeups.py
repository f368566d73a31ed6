"""No request is forgotten while daemon and workers spin, fall asleep and wake each other."""

import random
import threading
import time

import pytest
from support.load import KeepAliveClient

CLIENTS = 24
ROUNDS = 25
MAX_SECONDS = 10

# More than the daemon takes to notice that requests come one at a time.
SERIAL_REQUESTS = 2000
# Longer than a spin of daemon or worker, so that pauses end before, at and after its end.
MAX_PAUSE = 60e-6

SIMPLE = """
    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["PATH_INFO"].encode()]
"""

APPLICATION = """
    import asyncio, time

    async def application(scope, receive, send):
        if scope["type"] != "http":
            raise ValueError(scope["type"])
        kind, _, microseconds = scope["path"][1:].partition("/")
        if kind == "wait":
            await asyncio.sleep(int(microseconds) / 1e6)
        elif kind == "block":
            time.sleep(int(microseconds) / 1e6)
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": scope["path"].encode()})
"""


def run_client(address, seed, times):
    """Sends bursts of requests and pauses; notes the time of each response, or infinity for a failure."""
    rng = random.Random(seed)
    client = KeepAliveClient(address, MAX_SECONDS)
    try:
        for _ in range(ROUNDS):
            for _ in range(rng.randrange(1, 6)):
                target = f"/{rng.choice(['wait', 'block', 'at-once'])}/{rng.randrange(400)}"
                begun = time.monotonic()
                response = client.request("GET", target)
                assert (response.status, response.body) == (200, target.encode())
                times.append(time.monotonic() - begun)
            time.sleep(rng.random() * 0.002)
    except (OSError, AssertionError) as error:
        print(f"client {seed}: {error!r}")
        times.append(float("inf"))
    finally:
        client.close()


@pytest.mark.parametrize("workers", [1, 8])
def test_bursts_and_pauses_leave_no_request_behind(project, start, workers):
    daemon = start(
        "racing:application", project(racing=APPLICATION), ("--workers", str(workers))
    ).wait_ready()
    times = []
    threads = [
        threading.Thread(target=run_client, args=(daemon.unix_path, seed, times)) for seed in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(times) < MAX_SECONDS


@pytest.mark.parametrize("workers", [1, 8])
def test_serial_requests_with_pauses_are_answered(project, start, workers):
    daemon = start("simple:application", project(simple=SIMPLE), ("--workers", str(workers))).wait_ready()
    rng = random.Random(workers)
    client = KeepAliveClient(daemon.unix_path, MAX_SECONDS)
    for number in range(SERIAL_REQUESTS):
        response = client.request("GET", f"/{number}")
        assert (response.status, response.body) == (200, b"/%d" % number)
        end = time.perf_counter() + rng.random() * MAX_PAUSE
        while time.perf_counter() < end:
            pass
    client.close()
