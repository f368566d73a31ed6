"""The HAProxy example of packaging/doc/health.md: no request reaches a server that has stopped."""

import contextlib
import re
import shutil
import subprocess
import time

import httpx
import pytest
from frameworks import FRAMEWORKS
from support.paths import TOP
from support.ports import free_port
from support.waiting import DEADLINE, wait_until

HAPROXY = shutil.which("haproxy", path="/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin")

CONFIG = """
[health]
path = "/-/healthz"
[timeouts]
drain_delay = "4s"
"""


@contextlib.contextmanager
def balancer(servers, directory):
    """Runs HAProxy with the guide's configuration for the servers; yields the frontend's URL."""
    guide = (TOP / "packaging/doc/health.md").read_text()
    text = re.search(r"```haproxy\n(.*?)```", guide, re.S)[1]
    port = free_port()
    text = text.replace("bind :8080", f"bind 127.0.0.1:{port}")
    for number, server in enumerate(servers, 1):
        address = "{}:{}".format(*server.tcp_address)
        text, count = re.subn(rf"server app{number} \S+", f"server app{number} {address}", text)
        assert count == 1, text
    config = directory / "haproxy.cfg"
    config.write_text(text)
    process = subprocess.Popen([HAPROXY, "-db", "-f", str(config)])
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(DEADLINE)


@pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")
def test_no_request_fails_while_a_server_leaves(start, tmp_path):
    config = tmp_path / "rgun.toml"
    config.write_text(CONFIG)
    servers = [start(FRAMEWORKS["starlette"], "--config", config) for _ in range(2)]
    with balancer(servers, tmp_path) as url, httpx.Client(base_url=url, timeout=DEADLINE) as client:

        def is_up():
            with contextlib.suppress(httpx.TransportError):
                return client.get("/json").status_code == 200
            return False

        wait_until("HAProxy sends requests to a server", is_up)
        servers[0].terminate()
        servers[0].wait_for_log("stopping: serving for another 4s")
        statuses = set()
        until = time.monotonic() + DEADLINE
        while servers[0].process.poll() is None:
            assert time.monotonic() < until, servers[0].log()
            # A connection for each request: HAProxy chooses a server per connection.
            statuses.add(httpx.get(f"{url}/json", timeout=DEADLINE).status_code)
        assert servers[0].stop() == 0
        statuses.add(client.get("/json").status_code)
    assert statuses == {200}
