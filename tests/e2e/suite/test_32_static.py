"""`[[static]]` and `app.sendfile_roots` under the packaged unit: RestrictSUIDSGID= refuses openat2(2)."""

import gzip
import os
import pathlib
import shutil

import host
import pytest

SITE = pathlib.Path("/srv/site")
MEDIA = pathlib.Path("/srv/media")
LARGE = bytes(range(256)) * 4096
MOUNT = '[[static]]\nurl = "/{name}/"\ndirectory = "/srv/site"\nfollow_links = {links}\n{more}\n'


@pytest.fixture(autouse=True, scope="module")
def files(enabled):
    """Files, links and an application, all readable by the user rgun; three mounts of one directory."""
    app = pathlib.Path("/srv/files")
    app.mkdir(exist_ok=True)
    shutil.copy(host.HERE / "files_app.py", app)
    for path, content in {
        SITE / "css/a.css": b"body {}\n",
        SITE / "docs/index.html": b"<p>docs",
        SITE / "app.js": b"var a;",
        SITE / "app.js.gz": gzip.compress(b"var a;"),
        SITE / "large.bin": LARGE,
        SITE / "denied.txt": b"x",
        MEDIA / "report.pdf": b"%PDF",
        pathlib.Path("/srv/secret.txt"): b"secret",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (SITE / "denied.txt").chmod(0)
    for link, target in {
        SITE / "in": "css/../css/a.css",
        SITE / "styles": "css",
        SITE / "out": "../secret.txt",
        SITE / "absolute": "/srv/secret.txt",
        SITE / "process": "/proc/self/cwd",
        MEDIA / "latest.pdf": "report.pdf",
        MEDIA / "out.pdf": "../secret.txt",
    }.items():
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    if not (SITE / "fifo").exists():
        os.mkfifo(SITE / "fifo")
    mounts = [
        MOUNT.format(name="static", links="false", more='index = ["index.html"]\nprecompressed = true'),
        MOUNT.format(name="inside", links='"inside"', more=""),
        MOUNT.format(name="all", links="true", more=""),
    ]
    host.configure("files_app", app, extra="\n".join(mounts))
    roots = f'sendfile_roots = {{ "/protected/" = "{MEDIA}" }}\n'
    host.CONFIG.write_text(host.CONFIG.read_text().replace("[app]\n", f"[app]\n{roots}", 1))
    host.restart()


def test_unit_refuses_openat2():
    assert host.show("RestrictSUIDSGID") == "yes"
    assert host.get("/openat2").text == "Function not implemented"


def test_files_are_served_with_their_fields():
    for _ in range(3):
        response = host.get("/static/css/a.css")
        assert (response.status, response.text) == (200, "body {}\n")
        assert response["content-type"] == "text/css; charset=utf-8"
    large = host.get("/static/large.bin")
    assert (large.status, large.body) == (200, LARGE)
    part = host.get("/static/large.bin", headers=[("Range", "bytes=1000-1999")])
    assert (part.status, part.body) == (206, LARGE[1000:2000])
    coded = host.get("/static/app.js", headers=[("Accept-Encoding", "gzip")])
    assert coded["content-encoding"] == "gzip"
    assert gzip.decompress(coded.body) == b"var a;"
    head = host.request("HEAD", "/static/css/a.css")
    assert (head.status, head["content-length"]) == (200, "8")


def test_conditional_request_is_answered_304():
    etag = host.get("/static/css/a.css")["etag"]
    response = host.get("/static/css/a.css", headers=[("If-None-Match", etag)])
    assert (response.status, response.body) == (304, b"")


def test_directory_has_an_index_and_a_redirect():
    assert host.get("/static/docs/").text == "<p>docs"
    redirect = host.get("/static/docs")
    assert (redirect.status, redirect["location"]) == (301, "./docs/")
    assert host.get("/static/css/").status == 404


def test_other_paths_are_refused():
    for path, status in {"no": 404, "css/a.css/x": 404, "fifo": 404, "denied.txt": 403, ".env": 404}.items():
        assert host.get(f"/static/{path}").status == status, path


@pytest.mark.parametrize(
    ("mount", "followed"),
    [
        ("static", set()),
        ("inside", {"in", "styles/a.css"}),
        ("all", {"in", "styles/a.css", "out", "absolute"}),
    ],
)
def test_links_are_followed_as_configured(mount, followed):
    texts = {"in": "body {}\n", "styles/a.css": "body {}\n", "out": "secret", "absolute": "secret"}
    for path in [*texts, "process/usr/bin/rgun"]:
        response = host.get(f"/{mount}/{path}")
        if path in followed:
            assert (response.status, response.text) == (200, texts[path]), path
        else:
            assert response.status == 404, path


def test_replaced_file_is_served_at_once():
    for text in ("first", "second"):
        new = SITE / "new"
        new.write_text(text)
        new.rename(SITE / "changing.txt")
        assert host.get("/static/changing.txt").text == text
    (SITE / "changing.txt").unlink()
    assert host.get("/static/changing.txt").status == 404


def test_application_sends_files_of_its_roots():
    for field in (
        f"X-Sendfile={MEDIA}/report.pdf",
        "X-Accel-Redirect=/protected/report.pdf",
        "X-Accel-Redirect=/protected/latest.pdf",
    ):
        response = host.get(f"/send?{field}")
        assert (response.status, response.body) == (200, b"%PDF"), field
    for field in (f"X-Sendfile={MEDIA}/out.pdf", "X-Accel-Redirect=/protected/no.pdf"):
        assert host.get(f"/send?{field}").status == 404, field
    response = host.get("/send?X-Accel-Redirect=/protected/report.pdf", headers=[("Range", "bytes=1-3")])
    assert (response.status, response.body) == (206, b"PDF")


def test_drop_in_of_the_documentation_allows_openat2():
    with host.drop_in("RestrictSUIDSGID=no"):
        assert host.get("/openat2").text != "Function not implemented"
        assert host.get("/static/css/a.css").status == 200
