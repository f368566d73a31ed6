"""Django with Channels: static files, forms, sessions, and groups shared by HTTP and WebSockets."""

import contextlib
import json

import httpx
import pytest
from support.paths import CLIENTS_APPS
from support.records import wait_for_records
from support.waiting import DEADLINE
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect


@pytest.fixture(scope="module")
def django(serving):
    return serving("django")


@pytest.fixture
def client(django):
    with httpx.Client(base_url=django.url, timeout=DEADLINE) as client:
        yield client


def sign_in(client):
    """Signs in as a browser does, with the CSRF token."""
    token = client.get("/sign-in").text
    form = {"name": "ada", "password": "a secret", "csrfmiddlewaretoken": token}
    return client.post("/sign-in", data=form, headers={"referer": str(client.base_url)})


@contextlib.contextmanager
def chat(django, room, name, client=None):
    """A WebSocket in a chat room, with the client's cookies; checks the user's name."""
    cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items()) if client else ""
    headers = {"Cookie": cookies} if cookies else {}
    with connect(f"{django.ws}/ws/chat/{room}", origin=django.url, additional_headers=headers) as socket:
        assert json.loads(socket.recv(DEADLINE)) == {"you": name}
        yield socket


def test_static_files_are_served(client):
    response = client.get("/static/hello.txt")
    assert response.content == (CLIENTS_APPS / "with_django/static/hello.txt").read_bytes()
    assert response.headers["content-type"] == "text/plain"
    assert int(response.headers["content-length"]) == len(response.content)
    unchanged = {"If-Modified-Since": response.headers["last-modified"]}
    assert client.get("/static/hello.txt", headers=unchanged).status_code == 304
    assert client.get("/static/nothing.txt").status_code == 404


def test_form_without_its_csrf_token_is_403(client):
    assert client.post("/sign-in", data={"name": "ada", "password": "a secret"}).status_code == 403


def test_session_is_kept_between_requests(client):
    assert client.get("/whoami").text == ""
    assert sign_in(client).text == "ada"
    assert client.get("/whoami").text == "ada"


def test_disconnect_cancels_an_async_view(django, client, marker):
    client.timeout = 0.3
    with pytest.raises(httpx.ReadTimeout):
        client.get(f"/poll/{marker}")
    assert wait_for_records(django, marker) == ["cancelled"]


def test_websocket_has_the_user_of_the_session(django, client, marker):
    sign_in(client)
    with chat(django, marker, "ada", client) as ada, chat(django, marker + "-else", "") as other:
        ada.send("hello")
        assert ada.recv(DEADLINE) == "ada: hello"
        other.send("hello")
        assert other.recv(DEADLINE) == "somebody: hello"


def test_channel_group_receives_from_members_and_http(django, client, marker):
    sign_in(client)
    with chat(django, marker, "ada", client) as ada, chat(django, marker + "-else", "") as outsider:
        with chat(django, marker, "") as other:
            ada.send("hello")
            assert [socket.recv(DEADLINE) for socket in (ada, other)] == ["ada: hello"] * 2
            client.post(f"/announce/{marker}")
            assert [socket.recv(DEADLINE) for socket in (ada, other)] == ["from HTTP"] * 2
        assert ada.recv(DEADLINE) == "somebody left"
        outsider.send("alone")
        assert outsider.recv(DEADLINE) == "somebody: alone"


def test_handshake_from_another_origin_is_403(django):
    url = f"{django.ws}/ws/echo"
    with pytest.raises(InvalidStatus) as caught, connect(url, origin="http://evil.example"):
        pass
    assert caught.value.response.status_code == 403
