"""The HAProxy examples of packaging/doc/health.md: no request reaches a server that has stopped."""

import contextlib
import re
import shutil
import subprocess
import time

import httpx
import pytest
from frameworks import FRAMEWORKS
from support.certificate import make_certificate
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


# The host name in the guide's lines for TLS, and the path of the certificates there.
TLS_NAME, TLS_ROOTS = "www.example", "/etc/ssl/certs/ca-certificates.crt"


@contextlib.contextmanager
def balancer(servers, directory, root=None):
    """Runs HAProxy with the guide's configuration for the servers; yields the frontend's URL.

    With `root`, the certificate that the servers have, HAProxy speaks TLS and HTTP/2 to them.
    """
    guide = (TOP / "packaging/doc/health.md").read_text()
    text, with_tls = re.findall(r"```haproxy\n(.*?)```", guide, re.S)
    if root is not None:
        assert TLS_ROOTS in with_tls
        with_tls = with_tls.replace(TLS_ROOTS, str(root))
        text, count = re.subn(r" +default-server .*\n", lambda _: with_tls, text)
        assert count == 1, text
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
@pytest.mark.parametrize("has_tls", [False, True], ids=["plain", "TLS and HTTP/2"])
def test_no_request_fails_while_a_server_leaves(start, tmp_path, has_tls):
    config = tmp_path / "rgun.toml"
    config.write_text(CONFIG)
    flags, root = ["--config", config, "--access-log"], None
    if has_tls:
        root, key = make_certificate(tmp_path, TLS_NAME)
        flags += ["--certfile", root, "--keyfile", key]
    servers = [start(FRAMEWORKS["starlette"], *flags) for _ in range(2)]
    with balancer(servers, tmp_path, root) as url, httpx.Client(base_url=url, timeout=DEADLINE) as client:

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
    servers[1].wait_for_log('rgun.protocol="HTTP/2.0"' if has_tls else 'rgun.protocol="HTTP/1.1"')
