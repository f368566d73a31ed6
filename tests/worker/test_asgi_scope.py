"""The scope of ASGI requests."""

import pytest
from support.asgi_exchanges import json_of, latin, spawn

APPLICATION = "asgi_cases"


def test_scope_has_the_keys_and_values_of_uvicorn(worker):
    scope = json_of(
        worker.fetch(
            "/scope?a=%20b",
            "POST",
            [(b"host", b"h"), (b"x-two", b"1"), (b"x-two", b"2"), (b"x_under", b"kept")],
            b"body",
            peer=("192.0.2.7", 4711),
        )
    )
    assert scope.pop("keys") == [
        *("type", "asgi", "http_version", "server", "client", "scheme", "root_path", "headers", "state"),
        *("method", "path", "raw_path", "query_string", "extensions"),
    ]
    headers = [tuple(latin(part) for part in pair) for pair in scope.pop("headers")]
    name, request_id = headers.pop()
    assert (name, request_id[:3]) == (b"x-request-id", b"id-")
    assert headers == [(b"host", b"h"), (b"x-two", b"1"), (b"x-two", b"2"), (b"x_under", b"kept")]
    extensions = scope.pop("extensions")
    assert extensions.pop("rgun") == {"request_id": request_id.decode()}
    assert set(extensions) == {
        *("http.response.pathsend", "http.response.zerocopysend"),
        *("http.response.early_hint", "http.response.trailers"),
    }
    assert latin(scope.pop("raw_path")) == b"/scope"
    assert latin(scope.pop("query_string")) == b"a=%20b"
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ["127.0.0.1", 8000],
        "client": ["192.0.2.7", 4711],
        "scheme": "http",
        "root_path": "",
        "state": {"from": "lifespan", "list": []},
        "method": "POST",
        "path": "/scope",
    }


def test_without_app_pathsend_the_scope_lacks_the_extension(fake, python):
    worker = spawn(fake, python, "asyncio", pathsend=False)
    for _ in range(2):
        extensions = json_of(worker.fetch("/scope"))["extensions"]
        assert set(extensions) == {
            *("rgun", "http.response.zerocopysend", "http.response.early_hint", "http.response.trailers"),
        }


def test_scope_values_are_not_taken_from_earlier_requests(worker):
    long = b"l" * 300
    for host, accept in [(b"a", b"x"), (b"a", b"x"), (b"b", b"x"), (b"b", long), (b"b", long), (b"a", None)]:
        fields = [(b"host", host), (b"accept", accept)] if accept else [(b"host", host)]
        headers = json_of(worker.fetch("/scope", headers=fields))["headers"]
        assert [tuple(latin(part) for part in pair) for pair in headers[:-1]] == fields
    # Ports with a common low byte.
    for client in [("192.0.2.1", 64), ("192.0.2.1", 64), ("192.0.2.2", 64), ("192.0.2.2", 128), ("::1", 64)]:
        assert json_of(worker.fetch("/scope", peer=client))["client"] == list(client)
        assert json_of(worker.fetch("/scope", peer=("", 0)))["client"] is None
    # Paths of equal length, with equal endings, and too long for the cache.
    for path in ["/a/the-same", "/b/the-same", "/b/the-same", *["/" + "a" * 99] * 2, "/a%41/the-same"]:
        scope = json_of(worker.fetch("/scope" + path))
        assert (scope["path"], latin(scope["raw_path"]).decode()) == (
            "/scope" + path.replace("%41", "A"),
            "/scope" + path,
        )
    # An empty path (CONNECT, RFC 9112 section 3.2.3) matches no cached one.
    for number in range(100):
        worker.fetch("/scope/" + "l" * 99 + str(number))
    assert json_of(worker.fetch(""))["path"] == ""


@pytest.mark.parametrize(
    "change",
    ["replace", "remove", "exchange", "own-add", "own-exchange", "own-replace", "asgi-replace"],
)
def test_changed_extensions_are_not_those_of_the_next_request(worker, change):
    def fetch(query):
        asgi, extensions = json_of(worker.fetch(f"/spoil_extensions?{query}"))
        return asgi, extensions, extensions["rgun"].pop("request_id")

    *first, first_id = fetch("nothing")
    *changed, changed_id = fetch(change)
    *after, after_id = fetch("nothing")
    assert first == changed == after
    assert len({first_id, changed_id, after_id}) == 3


@pytest.mark.parametrize("part", ["scope", "extensions", "rgun"])
def test_kept_scope_keeps_its_request_id(worker, part):
    n_kept = len(json_of(worker.fetch(f"/keep_scope?{part}")))
    kept = [json_of(worker.fetch(f"/keep_scope?{part}")) for _ in range(3)]
    assert [len(ids) for ids in kept] == [n_kept + 1, n_kept + 2, n_kept + 3]
    assert len(set(kept[-1])) == n_kept + 3
    assert kept[-1][:-1] == kept[-2]


def test_request_id_of_a_proxy_is_in_the_headers_once(worker):
    fields = [(b"x-request-id", b"of-a-proxy"), (b"host", b"h")]
    headers = json_of(worker.fetch("/scope", headers=fields))["headers"]
    assert [tuple(latin(part) for part in pair) for pair in headers] == fields


def test_scope_has_the_values_that_a_proxy_reports(worker):
    scope = json_of(worker.fetch("/scope?q", root_path="/shop", server_port=8443))
    assert (scope["root_path"], scope["server"]) == ("/shop", ["127.0.0.1", 8443])
    assert (scope["path"], latin(scope["raw_path"])) == ("/shop/scope", b"/shop/scope")
    scope = json_of(worker.fetch("/scope"))
    assert (scope["root_path"], scope["server"], scope["path"]) == ("", ["127.0.0.1", 8000], "/scope")


def test_scope_values_have_the_specified_types(worker):
    types = json_of(worker.fetch("/types", headers=[(b"host", b"h")], peer=("::1", 1)))
    assert types["header"] == ["list", "tuple"]
    assert (types["server"], types["client"]) == ("tuple", "tuple")
    assert (types["raw_path"], types["query_string"]) == ("bytes", "bytes")
    assert (types["path"], types["method"], types["root_path"]) == ("str", "str", "str")


def test_scope_has_version_scheme_and_method(worker):
    scope = json_of(worker.fetch("/scope", "BREW", version=10, https=True))
    assert (scope["http_version"], scope["scheme"], scope["method"]) == ("1.0", "https", "BREW")
    assert scope["client"] is None
    assert json_of(worker.fetch("/scope", version=20))["http_version"] == "2"


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ("/p/%C3%A6", "/p/æ"),
        ("/p/%2F%20%25", "/p// %"),
        ("/p/%ff", "/p/\N{REPLACEMENT CHARACTER}"),
        ("/p/%zz%4", "/p/%zz%4"),
        ("/p/æ", "/p/æ"),
        ("*", "*"),
    ],
)
def test_paths_are_decoded_and_raw_paths_are_not(worker, raw, path):
    scope = json_of(worker.fetch(raw))
    assert scope["path"] == path
    assert latin(scope["raw_path"]) == raw.encode()


def test_changes_to_the_scope_do_not_reach_later_requests(worker):
    assert json_of(worker.fetch("/spoil"))[:3] == [None, None, None]
    # The copies are shallow, as in uvicorn.
    again = json_of(worker.fetch("/spoil"))
    assert (again[:3], again[3]) == ([None, None, None], 2)
    worker.fetch("/scope")


@pytest.mark.parametrize(
    ("listener", "server"),
    [(("::", "80", ""), ["::", 80]), (("localhost", "80", "/run/x.sock"), ["/run/x.sock", None])],
)
def test_scope_server_is_the_listener(fake, python, listener, server):
    worker = spawn(fake, python, "asyncio", listener=listener)
    assert json_of(worker.fetch("/scope"))["server"] == server


def test_path_begins_with_the_root_path(fake, python):
    worker = spawn(fake, python, "asyncio", root_path="/root")
    scope = json_of(worker.fetch("/p/%C3%A6"))
    assert (scope["root_path"], scope["path"]) == ("/root", "/root/p/æ")
    assert latin(scope["raw_path"]) == b"/root/p/%C3%A6"


def test_root_path_that_the_proxy_keeps_is_not_repeated(fake, python):
    worker = spawn(fake, python, "asyncio", root_path="/root")
    for target, path in [
        ("/root/p", "/root/p"),
        ("/root", "/root"),
        ("/%72oot/p", "/root/p"),
        ("/rooted", "/root/rooted"),
        ("/", "/root/"),
    ]:
        assert json_of(worker.fetch(target))["path"] == path, target
    assert latin(json_of(worker.fetch("/root/%70"))["raw_path"]) == b"/root/%70"
