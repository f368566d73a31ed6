"""The TLS session as applications see it: Apache's variables in WSGI, the TLS extension in ASGI."""

import json
import ssl
import subprocess
import sys
import urllib.request

import pytest
from support.daemon import Daemon
from support.waiting import DEADLINE

APPLICATION = """
import json

NAMES = ("HTTPS", "wsgi.url_scheme")


def wsgi(environ, start_response):
    keys = {name: value for name, value in environ.items() if name.startswith("SSL_") or name in NAMES}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(keys).encode()]


async def asgi(scope, receive, send):
    assert scope["type"] == "http"
    body = {"scheme": scope["scheme"], "tls": scope["extensions"].get("tls")}
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})
"""


def openssl(place, *arguments):
    """Runs openssl in a directory."""
    command = ("openssl", *arguments)
    subprocess.run(command, cwd=place, check=True, capture_output=True, timeout=DEADLINE)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with the application, and certificates of server, client and the client's CA."""
    place = tmp_path_factory.mktemp("tls")
    (place / "app.py").write_text(APPLICATION)
    (place / "client.ext").write_text("extendedKeyUsage=clientAuth\n")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    openssl(place, "req", "-x509", *key, "-keyout", "server.key", "-out", "server.crt", *names)
    openssl(place, "req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=Test CA")
    subject = ("-utf8", "-subj", "/O=Example, Inc./CN=Zoë")
    openssl(place, "req", *key, "-keyout", "client.key", "-out", "client.csr", *subject)
    signed = ("-CA", "ca.crt", "-CAkey", "ca.key", "-set_serial", "0x0A1B", "-extfile", "client.ext")
    openssl(place, "x509", "-req", "-in", "client.csr", *signed, "-out", "client.crt")
    return place


def fetch(place, target, client=None):
    """Serves an application, and returns its answer to one request over TLS."""
    flags = ("--certfile", place / "server.crt", "--keyfile", place / "server.key")
    flags += ("--ca-certs", place / "ca.crt", "--cert-reqs", "1", "--workers", "1")
    daemon = Daemon(target, *flags, chdir=place, bind="127.0.0.1:0", python=sys.executable)
    try:
        _, port = daemon.wait_ready().tcp_address
        context = ssl.create_default_context(cafile=place / "server.crt")
        if client:
            context.load_cert_chain(place / f"{client}.crt", place / f"{client}.key")
        with urllib.request.urlopen(
            f"https://localhost:{port}/", context=context, timeout=DEADLINE
        ) as response:
            return json.load(response)
    finally:
        daemon.stop()


def test_environ_over_tls_has_apaches_variables(place):
    values = fetch(place, "app:wsgi")
    assert values.pop("SSL_CIPHER").startswith("TLS_")
    assert values == {
        "HTTPS": "on",
        "wsgi.url_scheme": "https",
        "SSL_PROTOCOL": "TLSv1.3",
        "SSL_TLS_SNI": "localhost",
        "SSL_CLIENT_VERIFY": "NONE",
    }


def test_environ_describes_the_client_certificate(place):
    values = fetch(place, "app:wsgi", client="client")
    assert values["SSL_CLIENT_VERIFY"] == "SUCCESS"
    # PEP 3333: the bytes of UTF-8, decoded as ISO-8859-1.
    subject = values["SSL_CLIENT_S_DN"].encode("latin-1").decode()
    assert subject == "CN=Zoë,O=Example\\, Inc."
    assert values["SSL_CLIENT_I_DN"] == "CN=Test CA"
    assert values["SSL_CLIENT_M_SERIAL"] == "0A1B"
    assert values["SSL_CLIENT_V_END"].endswith(" GMT")
    sent = ssl.PEM_cert_to_DER_cert((place / "client.crt").read_text())
    assert ssl.PEM_cert_to_DER_cert(values["SSL_CLIENT_CERT"]) == sent


def test_scope_over_tls_has_the_tls_extension(place):
    scope = fetch(place, "app:asgi", client="client")
    assert scope["scheme"] == "https"
    tls = scope["tls"]
    assert tls["tls_version"] == 0x0304
    assert tls["cipher_suite"] in (0x1301, 0x1302, 0x1303)
    assert tls["client_cert_name"] == "CN=Zoë,O=Example\\, Inc."
    assert tls["client_cert_error"] is None
    [sent] = tls["client_cert_chain"]
    assert ssl.PEM_cert_to_DER_cert(sent) == ssl.PEM_cert_to_DER_cert((place / "client.crt").read_text())
    server = ssl.PEM_cert_to_DER_cert((place / "server.crt").read_text())
    assert ssl.PEM_cert_to_DER_cert(tls["server_cert"]) == server


def test_scope_without_client_certificate_has_an_empty_chain(place):
    tls = fetch(place, "app:asgi")["tls"]
    assert (tls["client_cert_chain"], tls["client_cert_name"]) == ([], None)
