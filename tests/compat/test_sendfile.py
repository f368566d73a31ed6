"""Files that applications name in X-Sendfile or X-Accel-Redirect, with the length of the file."""

import pytest
from support.interpreters import require_module

FILE = b"0123456789" * 5000


APPLICATIONS = pytest.mark.parametrize("name", ["flask", "django", "django_asgi"])


@pytest.fixture
def serve(start, python, tmp_path):
    """A function that serves an application with a directory of files, or without one."""
    require_module(python, "django")
    require_module(python, "flask")
    sent = tmp_path / "sent.txt"
    sent.write_bytes(FILE)

    def serve(name, *, with_roots):
        roots = f"['{tmp_path}']" if name == "flask" else f"{{'/protected/' = '{tmp_path}'}}"
        (tmp_path / "rgun.toml").write_text(f"[app]\nsendfile_roots = {roots}\n")
        flags = ("--workers", "1", *(("--config", tmp_path / "rgun.toml") if with_roots else ()))
        return start(f"with_sendfile:{name}", flags=flags, env={"SENT_FILE": str(sent)}).wait_ready()

    return serve


@APPLICATIONS
def test_named_file_is_sent_whatever_length_is_announced(serve, name):
    with serve(name, with_roots=True).connect() as client:
        response = client.request("GET", "/file")
        assert (response.status, response.body) == (200, FILE)
        assert response["content-type"].startswith("text/plain")
        part = client.request("GET", "/file", headers=[("Range", "bytes=10-19")])
        assert (part.status, part.body) == (206, FILE[10:20])
        assert client.request("GET", "/file", headers=[("If-None-Match", response["etag"])]).status == 304


@APPLICATIONS
def test_proxy_gets_the_name_with_an_empty_body(serve, name):
    daemon = serve(name, with_roots=False)
    with daemon.connect() as client:
        for _ in range(2):
            response = client.request("GET", "/file")
            assert (response.status, response.body, response["content-length"]) == (200, b"", "0")
            assert response.all("x-sendfile") or response.all("x-accel-redirect")
    assert "promised" not in daemon.log()


def test_short_body_without_a_named_file_is_a_500(serve):
    daemon = serve("django", with_roots=True)
    assert daemon.get("/short").status == 500
    daemon.wait_for_log("promised 5 bytes of body and sent 0")
