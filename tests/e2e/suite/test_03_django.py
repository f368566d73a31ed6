"""A Django project on the distribution's Django, with the shipped unit."""

import hashlib
import os
import stat
import time

import host
import pytest
from support.http_client import Connection
from support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("shop")

MIB = 1 << 20


def test_front_page_renders_template_and_database():
    answer = host.get("/")
    assert answer.status == 200
    assert "Darjeeling first flush" in answer.text


def test_json_keeps_non_ascii_characters():
    answer = host.get("/api/products?q=Sencha")
    assert answer["content-type"] == "application/json"
    assert [row["name"] for row in answer.json()["products"]] == ["Sencha 煎茶"]


def test_admin_redirects_to_its_login():
    answer = host.get("/admin/")
    assert answer.status == 302
    assert answer["location"].startswith("/admin/login/")


def test_form_upload_arrives_byte_for_byte(shop_data):
    content = os.urandom(3 * MIB)
    boundary = "b0undary"
    body = (
        (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="photo.bin"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        + content
        + f"\r\n--{boundary}--\r\n".encode()
    )
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    answer = host.request("POST", "/upload", body, headers=headers)
    assert answer.status == 200, answer.text
    (file,) = answer.json()["files"]
    assert file["sha256"] == hashlib.sha256(content).hexdigest()
    stored = [path for path in (shop_data / "uploads").rglob("photo*") if path.is_file()]
    assert [path.read_bytes() for path in stored] == [content]


def test_chunked_upload_arrives_byte_for_byte():
    content = os.urandom(8 * MIB)
    pieces = (content[start : start + 100_000] for start in range(0, len(content), 100_000))
    answer = host.request("POST", "/upload/raw?name=raw.bin", pieces)
    assert answer.status == 200, answer.text
    assert answer.json()["size"] == len(content)
    assert answer.json()["sha256"] == hashlib.sha256(content).hexdigest()


def test_download_is_the_file(shop_data):
    answer = host.get("/download/20", timeout=60)
    assert answer["content-length"] == str(20 * MIB)
    on_disk = (shop_data / "files" / "20.bin").read_bytes()
    assert hashlib.sha256(answer.body).digest() == hashlib.sha256(on_disk).digest()


def test_streaming_view_is_sent_in_parts():
    began = time.monotonic()
    with Connection(host.ADDRESS) as connection:
        connection.send(b"GET /stream?n=3&delay=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.head()[0] == 200
        assert b"chunk 0" in connection.chunk()
        first = time.monotonic() - began
        body, complete = connection.chunks()
    assert complete
    assert b"chunk 2" in body
    assert time.monotonic() - began >= 2 > first, "the first chunk waited for the last"


def test_view_that_raises_is_500_with_traceback_in_journal():
    since = host.journal_cursor()
    answer = host.get("/error")
    assert answer.status == 500
    wait_until(
        "the traceback is in the journal",
        lambda: "DemoError: this view raises on purpose" in host.service_log(since),
    )
    # Django has handled the exception, so this entry is rgun's only one about the request.
    (entry,) = host.journal(since, RGUN_STATUS=500)
    assert entry["RGUN_REQUEST_ID"] == answer["x-request-id"]
    assert entry["PRIORITY"] == "3"
    assert entry["MESSAGE"] == "GET /error 500: the application answered with an error"
    workers = [
        item.get("RGUN_WORKER") for item in host.journal(since) if "DemoError" in str(item.get("MESSAGE"))
    ]
    assert entry["RGUN_WORKER"] in workers, "the catalog points to the output of this worker"


def test_files_of_the_application_are_not_world_readable(shop_data):
    database = shop_data / "files"
    assert not stat.S_IMODE(database.stat().st_mode) & stat.S_IRWXO
