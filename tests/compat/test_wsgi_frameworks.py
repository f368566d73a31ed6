"""Flask and Django applications under WSGI."""

import importlib.util

import pytest
from forms import FORM, MULTIPART, source_of
from support.interpreters import require_module
from support.paths import COMPAT_APPS


@pytest.fixture(scope="module")
def flask(start_shared, python):
    require_module(python, "flask")
    return start_shared("with_flask", COMPAT_APPS).wait_ready()


@pytest.fixture(scope="module")
def django(start_shared, python):
    require_module(python, "django")
    return start_shared("with_django", COMPAT_APPS).wait_ready()


def test_flask_serves_pages_and_redirects(flask):
    assert flask.get("/").body == b"<h1>Flask</h1>"
    assert flask.get("/nothing").status == 404
    assert flask.request("HEAD", "/").status == 200
    assert flask.request("OPTIONS", "/")["allow"]


def test_flask_reads_forms_and_json(flask):
    result = flask.request("POST", "/form?x=%C3%A6", body=FORM, headers=MULTIPART).json()
    assert result == {"fields": {"name": "æble"}, "size": 300_000, "args": {"x": "æ"}}
    sent = b'{"a": [1, 2, "\xc3\xa6"]}'
    result = flask.request("POST", "/json", body=sent, headers=[("Content-Type", "application/json")]).json()
    assert result == {"a": [1, 2, "æ"]}


def test_flask_streams_and_sends_files(flask):
    assert flask.get("/stream").body == b"0 /stream\n1 /stream\n2 /stream\n"
    response = flask.get("/file")
    assert response.body == source_of("with_flask")
    part = flask.get("/file", headers=[("Range", "bytes=10-19")])
    assert (part.status, part.body) == (206, source_of("with_flask")[10:20])
    assert flask.get("/file", headers=[("If-None-Match", response["etag"])]).status == 304
    assert flask.get("/memory").body == b"m" * 100_000


def test_flask_sessions_work(flask):
    response = flask.get("/count")
    assert response.body == b"1"
    cookie = response["set-cookie"].split(";")[0]
    assert flask.get("/count", headers=[("Cookie", cookie)]).body == b"2"


def test_flask_answers_500_and_logs_an_exception(flask):
    response = flask.get("/error")
    assert response.status == 500
    assert b"Internal Server Error" in response.body
    flask.wait_for_log("ValueError: flask view")


def test_django_serves_pages(django):
    assert django.get("/").body == b"Django /"
    assert django.get("/p/%C3%A6/").body == "æ".encode()
    assert django.get("/p/x")["location"] == "/p/x/"
    assert django.get("/nothing").status == 404
    assert django.request("HEAD", "/")["content-length"] == "8"


def test_django_reads_forms_and_bodies(django):
    result = django.request("POST", "/form", body=FORM, headers=MULTIPART).json()
    assert result == {"fields": {"name": "æble"}, "size": 300_000}
    assert django.request("POST", "/body", body=b"line\n" * 30_000).json() == {"lines": 30_000}


def test_django_streams_and_sends_files(django):
    assert django.get("/stream").body == b"0\n1\n2\n"
    response = django.get("/file")
    assert response.body == source_of("with_django")
    assert response["content-length"] == str(len(response.body))
    etag = django.get("/")["etag"]
    assert django.get("/", headers=[("If-None-Match", etag)]).status == 304


def test_django_answers_500_for_an_exception(django):
    assert django.get("/fail").status == 500
    assert django.get("/").status == 200


@pytest.mark.parametrize("target", ["with_django:application", "with_django:asgi"])
def test_django_https_redirect_stops_behind_a_tls_proxy(start, python, target):
    require_module(python, "django")
    server = start(target, COMPAT_APPS, env={"SSL_REDIRECT": "1"}).wait_ready()
    # The headers that nginx sends for a client that came over TLS.
    of_nginx = [("X-Forwarded-Proto", "https"), ("X-Forwarded-For", "198.51.100.9, 192.0.2.7")]
    answer = server.get("/where", headers=of_nginx)
    assert answer.status == 200
    assert answer.json() == {"url": "https://example.org/where", "client": "192.0.2.7"}
    plain = server.get("/where", headers=[("X-Forwarded-Proto", "http")])
    assert (plain.status, plain["location"]) == (301, "https://example.org/where")
    assert server.get("/where").status == 301


def test_missing_frameworks_are_reported_as_skipped():
    missing = [name for name in ("flask", "django") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"SKIPPED: no {' and no '.join(missing)} here")
