"""rgun behind nginx on a unix socket, configured as in packaging/doc/nginx.md."""

import hashlib
import os
import pathlib

import host
import pytest
from support.waiting import wait_until
from support.websocket_client import WebSocket, collect_close_codes

FRONT = ("127.0.0.1", 8080)
# Sends X-Forwarded-Proto: https, like a TLS listener.
SECURE = ("127.0.0.1", 8081)
UNIT = "front.service"
# `map`, `upstream` and `location` of nginx.md, in a minimal configuration.
CONFIGURATION = """
user www-data;
pid /run/front.pid;
error_log stderr;
events {}
http {
    access_log off;
    map $http_upgrade $connection_upgrade {
        default upgrade;
        ''      '';
    }
    upstream rgun {
        server unix:/run/rgun.sock;
        keepalive 16;
    }
    server {
        listen 127.0.0.1:8080;
        client_max_body_size 100m;
        location / {
            proxy_pass http://rgun;
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Request-ID $request_id;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
        }
    }
    server {
        listen 127.0.0.1:8081;
        location / {
            proxy_pass http://rgun;
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto https;
            proxy_set_header Connection "";
        }
    }
}
"""
SOCKET_DROP_IN = pathlib.Path("/run/systemd/system/rgun.socket.d/unix.conf")


@pytest.fixture(scope="module", autouse=True)
def app(live_app):
    """live.py on a unix socket that nginx may open, and nginx in front of it."""
    host.configure("live", live_app)
    SOCKET_DROP_IN.parent.mkdir(parents=True, exist_ok=True)
    SOCKET_DROP_IN.write_text("[Socket]\nListenStream=/run/rgun.sock\nSocketGroup=www-data\n")
    host.systemctl("daemon-reload")
    host.systemctl("stop", host.SERVICE, host.SOCKET)
    host.systemctl("start", host.SOCKET)
    host.restart()
    pathlib.Path("/run/front.conf").write_text(CONFIGURATION)
    host.run("systemd-run", f"--unit={UNIT}", "nginx", "-c", "/run/front.conf", "-g", "daemon off;")
    wait_until("nginx listens", lambda: not refused())
    yield live_app
    host.systemctl("stop", UNIT)
    SOCKET_DROP_IN.unlink()
    host.systemctl("stop", host.SERVICE, host.SOCKET)
    host.systemctl("daemon-reload")
    # systemd does not remove the socket file (RemoveOnStop=).
    pathlib.Path("/run/rgun.sock").unlink()
    host.systemctl("start", host.SOCKET)


def refused():
    """Returns whether nginx does not listen yet."""
    try:
        get("/")
    except ConnectionRefusedError:
        return True
    return False


def get(path):
    return host.request("GET", path, address=FRONT)


def test_reloads_and_a_restart_cause_no_502_at_nginx(app):
    with host.load(address=FRONT) as load:
        for version in (2, 3):
            host.deploy(app, version)
            host.reload()
            assert get("/").text == str(version)
            load.wait_for_more(100)
        host.systemctl("restart", host.SERVICE)
        load.wait_for_more(100)
    assert not load.faults, load
    assert load.bodies == {b"1", b"2", b"3"}


def test_websocket_through_nginx_closes_with_1012_on_reload(app):
    sockets = [WebSocket(FRONT, "/ws") for _ in range(10)]
    old = {socket.read_text().split()[0] for socket in sockets}
    assert old == {get("/").text}
    sockets[0].send("hello")
    assert sockets[0].read_text() == "hello"
    codes = collect_close_codes(sockets)
    host.deploy(app, 9)
    host.reload()
    assert codes(30) == [1012] * 10
    with WebSocket(FRONT, "/ws") as again:
        assert again.read_text().startswith("9 ")


def test_upload_through_nginx_arrives_byte_for_byte(app, shop_data):
    host.configure("shop.wsgi", "/srv/shop", env={"SHOP_DATA": str(shop_data)})
    host.reload()
    content = os.urandom(20 << 20)
    answer = host.request("PUT", "/upload/raw?name=front.bin", content, address=FRONT)
    assert answer.status == 200, answer.text
    assert hashlib.sha256(content).hexdigest() in answer.text


@pytest.mark.parametrize("target", ["shop.wsgi", "shop.asgi"])
def test_https_redirect_is_not_repeated_behind_a_tls_proxy(target, shop_data):
    host.configure(target, "/srv/shop", env={"SHOP_DATA": str(shop_data), "SHOP_SSL_REDIRECT": "1"})
    host.reload()
    answer = host.request("GET", "/", address=SECURE)
    assert answer.status == 200, answer.headers
    answer = get("/")
    assert (answer.status, answer["location"]) == (301, "https://127.0.0.1/")


def test_access_entry_names_the_client_behind_the_proxy(app):
    host.configure("live", app, extra="[log]\naccess = true\n")
    # Not a reload, because open connections keep their log settings.
    host.restart()
    since = host.journal_cursor()
    answer = host.request("GET", "/", headers={"X-Forwarded-For": "192.0.2.66"}, address=FRONT)
    identity = answer["x-request-id"]
    (entry,) = wait_until(
        "the request is in the journal", lambda: host.journal(since, RGUN_REQUEST_ID=identity)
    )
    assert entry["RGUN_CLIENT"] == "192.0.2.66", (
        "loopback is trusted, so the client is the one in X-Forwarded-For"
    )
