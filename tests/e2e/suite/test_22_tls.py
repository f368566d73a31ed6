"""TLS on a systemd socket, with keys that only root can read: the units of tls.md."""

import hashlib
import pathlib
import ssl

import host
import pytest
from support import http_client
from support.certificate import make_certificate

UNITS = pathlib.Path("/run/systemd/system")
HTTPS = ("127.0.0.1", 8443)
# As in packaging/doc/tls.md.
SOCKET = """
[Unit]
Description=HTTPS socket of the rgun application server

[Socket]
ListenStream=127.0.0.1:8443
FileDescriptorName=https
Service=rgun.service
Backlog=4096
NoDelay=yes
"""
SERVICE = """
[Unit]
Requires=rgun-https.socket
[Service]
Sockets=rgun.socket rgun-https.socket
"""
CREDENTIALS = (
    "[Service]\nLoadCredential=tls.crt:/root/tls/tls.crt\nLoadCredential=tls.key:/root/tls/tls.key\n"
)
LISTENERS = "[listen.http]\n[listen.https]\ntls = true\n"


def replace_certificate(directory, name):
    """Makes a certificate of `name`, whose key only root can read; returns the fingerprint."""
    certificate, key = make_certificate(directory, name)
    key.chmod(0o600)
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.read_text())).hexdigest()


@pytest.fixture(scope="module", autouse=True)
def app(live_app):
    """live.py with a second socket for HTTPS, whose certificate and key are credentials."""
    replace_certificate(pathlib.Path("/root/tls"), "first.example")
    (UNITS / "rgun-https.socket").write_text(SOCKET)
    drop_ins = UNITS / "rgun.service.d"
    drop_ins.mkdir(parents=True, exist_ok=True)
    (drop_ins / "https.conf").write_text(SERVICE)
    (drop_ins / "credentials.conf").write_text(CREDENTIALS)
    host.configure("live", live_app, extra=LISTENERS)
    host.systemctl("daemon-reload")
    host.systemctl("stop", host.SERVICE, host.SOCKET)
    host.systemctl("start", host.SOCKET, "rgun-https.socket")
    host.restart()
    yield live_app
    for file in ("rgun.service.d/https.conf", "rgun.service.d/credentials.conf", "rgun-https.socket"):
        (UNITS / file).unlink()
    host.configure("live", live_app)
    host.systemctl("stop", host.SERVICE, host.SOCKET, "rgun-https.socket")
    host.systemctl("daemon-reload")
    host.systemctl("start", host.SOCKET)


def connect():
    """Returns a connection over TLS, and the fingerprint of its certificate."""
    context = ssl._create_unverified_context()
    connection = http_client.Connection(HTTPS)
    connection.socket = context.wrap_socket(connection.socket)
    return connection, hashlib.sha256(connection.socket.getpeercert(binary_form=True)).hexdigest()


def test_https_socket_serves_with_credentials_of_the_unit(app):
    connection, fingerprint = connect()
    with connection:
        assert connection.request("GET", "/").text == "1"
    assert (
        fingerprint
        == hashlib.sha256(ssl.PEM_cert_to_DER_cert(pathlib.Path("/root/tls/tls.crt").read_text())).hexdigest()
    )
    assert host.get("/").text == "1", "the other socket speaks plain HTTP"


def test_http_2_is_negotiated_over_tls(app):
    command = (
        "curl",
        "--silent",
        "--insecure",
        "--write-out",
        "%{http_version} %{http_code}",
        "--output",
        "-",
    )
    done = host.run(*command, "https://127.0.0.1:8443/")
    assert done.stdout == "12 200", done.stdout


def test_plain_http_on_the_tls_port_is_answered_with_400(app):
    answer = host.request("GET", "/", address=HTTPS)
    assert answer.status == 400
    assert "https" in answer.text.lower()


def test_restart_with_a_new_certificate_loses_no_connection(app):
    fingerprint = replace_certificate(pathlib.Path("/root/tls"), "second.example")
    with host.load() as load:
        host.restart()
        load.wait_for_more(50)
    assert not load.faults, load
    connection, presented = connect()
    with connection:
        assert connection.request("GET", "/").status == 200
    assert presented == fingerprint


def test_reload_uses_new_files_and_keeps_open_connections(app):
    directory = pathlib.Path("/etc/rgun/tls")
    replace_certificate(directory, "third.example")
    host.run("chgrp", "-R", "rgun", str(directory))
    (directory / "tls.key").chmod(0o640)
    files = f'[tls]\ncert = "{directory}/tls.crt"\nkey = "{directory}/tls.key"\n'
    redirect = "[http]\nredirect_to_https = true\n"
    host.configure("live", app, extra=LISTENERS + files + redirect)
    host.reload()
    connection, third = connect()
    with connection:
        assert connection.request("GET", "/").status == 200
        fourth = replace_certificate(directory, "fourth.example")
        host.run("chgrp", "-R", "rgun", str(directory))
        (directory / "tls.key").chmod(0o640)
        host.reload()
        assert connection.request("GET", "/").status == 200, "the connection survives the reload"
    connection, presented = connect()
    with connection:
        assert presented == fourth != third
    answer = host.get("/path?query")
    assert answer.status in (301, 308)
    assert answer["location"].startswith("https://127.0.0.1")


def test_reload_with_a_foreign_key_fails_and_changes_nothing(app):
    directory = pathlib.Path("/etc/rgun/tls")
    _, before = connect()
    certificate = (directory / "tls.crt").read_text()
    replace_certificate(directory, "fifth.example")
    host.run("chgrp", "-R", "rgun", str(directory))
    (directory / "tls.key").chmod(0o640)
    (directory / "tls.crt").write_text(certificate)
    assert host.reload(check=False).returncode != 0
    connection, after = connect()
    with connection:
        assert connection.request("GET", "/").status == 200
    assert after == before
