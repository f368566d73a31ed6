"""The proxies that the manual shows, with the configurations in packaging/examples."""

import hashlib
import http.client
import json
import pathlib
import shutil
import ssl
import tempfile
import uuid

import pytest
from proxies import Proxy, Relay
from support.certificate import make_certificate
from support.daemon import Daemon, stop_all
from support.paths import CLIENTS_APPS
from support.waiting import DEADLINE, wait_until
from websockets.sync.client import connect

# The client's address. Proxies connect from another loopback address.
CLIENT = "127.0.0.9"

HTTP_PROXIES = ("nginx", "caddy", "haproxy", "apache")
STREAM_PROXIES = ("nginx-stream", "haproxy-tcp")


@pytest.fixture(scope="module")
def home():
    """A directory that a proxy's unprivileged workers can enter."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="rgun-proxies-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def serve(path, *flags, env=None):
    """Starts a daemon on TCP and a unix socket, which trusts only the address of the proxies."""
    flags = ("--workers", "1", "--forwarded-allow-ips", "127.0.0.1", "--bind", "127.0.0.1:0", *flags)
    daemon = Daemon("proxied:application", *flags, chdir=CLIENTS_APPS, bind=f"unix:{path}", env=env)
    return daemon.wait_ready()


@pytest.fixture(scope="module")
def daemon(home):
    daemon = serve(home / "rgun.sock")
    yield daemon
    stop_all([daemon])


@pytest.fixture(scope="module")
def proxied_daemon(home):
    """A daemon that requires PROXY headers."""
    daemon = serve(home / "proxied.sock", "--proxy-protocol")
    yield daemon
    stop_all([daemon])


def run(name, home, upstream):
    directory = home / f"{name}-{uuid.uuid4().hex}"
    directory.mkdir()
    directory.chmod(0o777)
    return Proxy(name, directory, upstream)


@pytest.fixture(
    scope="module", params=[f"{name} {transport}" for name in HTTP_PROXIES for transport in ("tcp", "unix")]
)
def proxy(request, home, daemon):
    """Each proxy that speaks HTTP to rgun, over TCP and over a unix socket."""
    name, transport = request.param.split()
    path = None if transport == "tcp" else home / f"{name}.sock"
    relay = Relay(daemon.unix_path if path else daemon.tcp_address, path)
    try:
        proxy = run(name, home, relay.address)
        proxy.relay = relay
        yield proxy
        proxy.stop()
    finally:
        relay.stop()


@pytest.fixture(scope="module", params=STREAM_PROXIES)
def stream_proxy(request, home, proxied_daemon):
    """Each proxy that forwards connections with a PROXY header."""
    proxy = run(request.param, home, proxied_daemon.tcp_address)
    yield proxy
    proxy.stop()


@pytest.fixture(scope="module", params=STREAM_PROXIES)
def tls_proxy(request, home):
    """Each proxy that forwards connections, to a daemon with TLS after the PROXY header."""
    # Certificate and key in one file, as HAProxy requires.
    certificate = home / "certificate.pem"
    certificate.write_text(
        "".join(part.read_text() for part in make_certificate(home / "tls", "shop.example"))
    )
    env = {"RGUN_TLS_CERT": str(certificate)}
    daemon = serve(home / f"tls-{request.param}.sock", "--proxy-protocol", env=env)
    try:
        proxy = run(request.param, home, daemon.tcp_address)
        yield proxy
        proxy.stop()
    finally:
        stop_all([daemon])


def connection(proxy):
    return http.client.HTTPConnection("127.0.0.1", proxy.port, DEADLINE, source_address=(CLIENT, 0))


def get(client, path="/", **fields):
    """Returns the response and its decoded JSON."""
    client.request("GET", path, headers={name.replace("_", "-"): value for name, value in fields.items()})
    response = client.getresponse()
    return response, json.loads(response.read())


def fetch(proxy, **fields):
    client = connection(proxy)
    try:
        return get(client, **fields)
    finally:
        client.close()


def test_client_scheme_host_and_id_are_reported(proxy):
    response, seen = fetch(proxy, Host="shop.example")
    assert (seen["client"], seen["scheme"]) == (CLIENT, "http")
    assert seen["headers"]["host"] == "shop.example"
    assert response.getheader("x-request-id") == seen["id"] == seen["headers"]["x-request-id"]
    # The proxy chose the id; one of rgun's would have 22 digits.
    assert len(seen["id"]) > 22


def test_forwarding_fields_of_the_client_are_not_trusted(proxy):
    _, seen = fetch(
        proxy,
        Host="shop.example",
        X_Forwarded_For="198.51.100.9",
        X_Forwarded_Proto="https",
        X_Request_ID="chosen",
        Forwarded="for=198.51.100.9;proto=https",
    )
    assert (seen["client"], seen["scheme"]) == (CLIENT, "http")
    assert seen["id"] != "chosen"


def test_host_port_and_prefix_of_the_client_are_replaced(proxy):
    _, seen = fetch(
        proxy,
        Host="shop.example",
        X_Forwarded_Host="evil.example",
        X_Forwarded_Port="666",
        X_Forwarded_Prefix="/evil",
    )
    headers = seen["headers"]
    # With proxy.fields, rgun would use the last value.
    assert headers.get("x-forwarded-host", "shop.example").split(",")[-1].strip() == "shop.example"
    assert headers.get("x-forwarded-port", str(proxy.port)) == str(proxy.port)
    assert "evil" not in headers.get("x-forwarded-prefix", "")


def test_connections_to_rgun_are_reused(proxy):
    before = proxy.relay.connections
    for _ in range(3):
        client = connection(proxy)
        for _ in range(10):
            assert get(client)[0].status == 200
        client.close()
    assert proxy.relay.connections - before <= 3


def test_websocket_messages_pass_in_both_directions(proxy):
    with connect(f"ws://127.0.0.1:{proxy.port}/ws", open_timeout=DEADLINE) as socket:
        for message in ("text", b"binary", "x" * 100_000):
            socket.send(message)
            assert socket.recv(DEADLINE) == message


def test_upload_reaches_the_application_while_it_is_sent(proxy, daemon):
    name, block = uuid.uuid4().hex, b"0123456789abcdef" * 65536
    client = connection(proxy)
    client.putrequest("POST", f"/upload?{name}")
    client.putheader("Content-Length", str(32 * len(block)))
    client.endheaders()
    for _ in range(8):
        client.send(block)

    def is_received():
        return daemon.get(f"/progress?{name}").json() > len(block)

    wait_until("the first part is received", is_received)
    for _ in range(24):
        client.send(block)
    seen = json.loads(client.getresponse().read())
    digest = hashlib.sha256(block * 32).hexdigest()
    assert seen == {"length": 32 * len(block), "digest": digest}
    client.close()


def test_proxy_header_names_the_client(stream_proxy):
    client = connection(stream_proxy)
    for _ in range(3):
        _, seen = get(client, X_Forwarded_For="198.51.100.9", X_Forwarded_Proto="https")
        assert (seen["client"], seen["scheme"]) == (CLIENT, "http")
        assert seen["headers"]["x-forwarded-for"] == "198.51.100.9"
    client.close()


def test_websocket_works_after_a_proxy_header(stream_proxy):
    with connect(f"ws://127.0.0.1:{stream_proxy.port}/ws", open_timeout=DEADLINE) as socket:
        socket.send("x" * 100_000)
        assert socket.recv(DEADLINE) == "x" * 100_000


def test_health_checks_are_not_logged(stream_proxy, proxied_daemon):
    fetch(stream_proxy)
    assert "PROXY header" not in proxied_daemon.log()


def test_tls_follows_the_proxy_header(tls_proxy):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    address = "127.0.0.1", tls_proxy.port
    client = http.client.HTTPSConnection(
        *address, context=context, source_address=(CLIENT, 0), timeout=DEADLINE
    )
    _, seen = get(client)
    assert (seen["client"], seen["scheme"]) == (CLIENT, "https")
    client.close()
