"""The WSGI environ: PEP 3333, "environ Variables" and "Unicode Issues"."""

import pytest
from support.http_client import Connection
from support.paths import HELLO


def environ(server, target="/environ", method="GET", **more):
    """Returns the environ of one request."""
    return server.request(method, target, **more).json()


def test_environ_is_a_dict_with_all_keys_of_pep_3333(server):
    values = environ(server)
    assert values["_exact_dict"] is True
    assert values["REQUEST_METHOD"] == "GET"
    assert values["SCRIPT_NAME"] == ""
    assert values["PATH_INFO"] == "/environ"
    assert values["QUERY_STRING"] == ""
    assert values["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert values["SERVER_NAME"]
    assert values["SERVER_PORT"] == "80"
    assert values["wsgi.version"] == [1, 0]
    assert values["wsgi.url_scheme"] == "http"
    assert values["wsgi.multithread"] is False
    assert values["wsgi.multiprocess"] is False
    assert values["wsgi.run_once"] is False
    assert values["wsgi.input_terminated"] is True
    assert values["SERVER_SOFTWARE"].startswith("rgun/")
    assert values["_types"]["wsgi.version"] == "tuple"
    strings = {name for name in values["_types"] if name.isupper() or name == "wsgi.url_scheme"}
    assert {values["_types"][name] for name in strings} == {"str"}


def test_several_threads_set_multithread(threaded_server):
    values = environ(threaded_server)
    assert values["wsgi.multithread"] is True
    assert values["wsgi.multiprocess"] is False


def test_several_workers_set_multiprocess(start):
    server = start("cases", HELLO, ("--workers", "2")).wait_ready()
    assert environ(server)["wsgi.multiprocess"] is True


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/environ/a%20b", "/environ/a b"),
        ("/environ/%C3%A6", "/environ/\u00c3\u00a6"),
        ("/environ/%e7%85%8e", "/environ/\u00e7\u0085\u008e"),
        ("/environ/a%2Fb", "/environ/a/b"),
        ("/environ/100%25", "/environ/100%"),
        ("/environ/%zz%2", "/environ/%zz%2"),
        ("/environ//a/../b/./c", "/environ//a/../b/./c"),
        ("/environ/a+b;c=1,2", "/environ/a+b;c=1,2"),
    ],
)
def test_path_info_is_the_decoded_path_as_latin_1(server, target, path):
    values = environ(server, target)
    assert values["PATH_INFO"] == path
    assert values["RAW_URI"] == values["REQUEST_URI"] == target


def test_query_string_is_not_decoded(server):
    values = environ(server, "/environ?a=%20&b=%C3%A6&c")
    assert values["QUERY_STRING"] == "a=%20&b=%C3%A6&c"
    assert values["RAW_URI"] == values["REQUEST_URI"] == "/environ?a=%20&b=%C3%A6&c"
    assert values["PATH_INFO"] == "/environ"


@pytest.mark.parametrize(
    ("target", "script", "path"),
    [
        ("/shop/environ", "/shop", "/environ"),
        # The proxy has removed the prefix already.
        ("/environ", "/shop", "/environ"),
        # A prefix matches whole segments only.
        ("/environ/shopping", "/shop", "/environ/shopping"),
    ],
)
def test_root_path_is_script_name_and_not_in_path_info(rooted, target, script, path):
    values = environ(rooted, target)
    assert (values["SCRIPT_NAME"], values["PATH_INFO"]) == (script, path)


def test_root_path_alone_leaves_path_info_empty(rooted):
    # For an empty PATH_INFO the application lists its cases.
    assert b"/environ\t" in rooted.get("/shop").body


@pytest.fixture(scope="module")
def rooted(start_shared):
    return start_shared("cases", HELLO, ("--workers", "1", "--root-path", "/shop")).wait_ready()


def test_headers_become_http_variables(server):
    values = environ(server, headers=[("X-One", "1"), ("accept-LANGUAGE", "da"), ("X-Latin", "cr\xe8me")])
    assert values["HTTP_X_ONE"] == "1"
    assert values["HTTP_ACCEPT_LANGUAGE"] == "da"
    assert values["HTTP_X_LATIN"] == "cr\xe8me"
    assert values["HTTP_HOST"] == "example.org"


def test_repeated_headers_are_joined(server):
    values = environ(
        server,
        headers=[("X-One", "1"), ("X-One", "2"), ("Accept", "a"), ("Accept", "b"), ("X-One", "3")],
    )
    assert values["HTTP_X_ONE"] == "1,2,3"
    assert values["HTTP_ACCEPT"] == "a,b"


def test_repeated_cookies_are_joined_as_cookies(server):
    values = environ(server, headers=[("Cookie", "a=1"), ("Cookie", "b=2; c=3")])
    assert values["HTTP_COOKIE"] == "a=1; b=2; c=3"


@pytest.mark.parametrize("trusted", [True, False])
def test_trusted_proxy_sets_scheme_https_and_port(start, trusted):
    flags = () if trusted else ("--no-proxy-headers",)
    server = start("cases", HELLO, ("--workers", "1", *flags)).wait_ready()
    fields = [("X-Forwarded-Proto", "https"), ("X-Forwarded-For", "192.0.2.7")]
    values = environ(server, headers=fields)
    expected = ("https", "on", "443", "192.0.2.7") if trusted else ("http", None, "80", "")
    names = ("wsgi.url_scheme", "HTTPS", "SERVER_PORT", "REMOTE_ADDR")
    assert tuple(values.get(name) for name in names) == expected
    assert values["HTTP_X_FORWARDED_PROTO"] == "https"
    plain = environ(server)
    assert (plain["wsgi.url_scheme"], plain.get("HTTPS")) == ("http", None)


def test_forwarded_client_address_applies_to_its_request_only(server):
    for fields, address in [([("X-Forwarded-For", "192.0.2.7")], "192.0.2.7"), ([], "")] * 2:
        assert environ(server, headers=fields)["REMOTE_ADDR"] == address


def test_proxy_scheme_keeps_the_port_of_a_tcp_listener(start):
    server = start("cases", HELLO, ("--workers", "1", "--bind", "127.0.0.1:0")).wait_ready()
    address = server.tcp_address
    with Connection(address) as connection:
        values = connection.request("GET", "/environ", headers={"X-Forwarded-Proto": "https"}).json()
    assert (values["wsgi.url_scheme"], values["HTTPS"]) == ("https", "on")
    assert values["SERVER_PORT"] == str(address[1])


def test_header_names_with_underscores_can_be_allowed(start):
    server = start("cases", HELLO, ("--workers", "1", "--header-map", "dangerous")).wait_ready()
    values = environ(server, headers=[("X_Real_IP", "6.6.6.6"), ("X-Real-IP", "10.0.0.1"), ("Proxy", "evil")])
    assert sorted(values["HTTP_X_REAL_IP"].split(",")) == ["10.0.0.1", "6.6.6.6"]
    assert "HTTP_PROXY" not in values


def test_proxy_header_never_becomes_http_proxy(server):
    assert "HTTP_PROXY" not in environ(server, headers=[("Proxy", "http://evil"), ("PROXY", "x")])


def test_header_names_with_underscores_are_dropped(server):
    values = environ(
        server, headers=[("X_Real_IP", "6.6.6.6"), ("X-Real-IP", "10.0.0.1"), ("Content_Type", "evil")]
    )
    assert values["HTTP_X_REAL_IP"] == "10.0.0.1"
    assert "CONTENT_TYPE" not in values
    assert "HTTP_CONTENT_TYPE" not in values


def test_environ_values_are_not_taken_from_earlier_requests(server):
    long = "l" * 300
    for agent, accept in [("a", "x"), ("a", "x"), ("b", "x"), ("b", long), ("b", long), ("a", None)]:
        fields = [("User-Agent", agent), *([("Accept", accept)] if accept else [])]
        values = environ(server, headers=fields)
        assert (values["HTTP_USER_AGENT"], values.get("HTTP_ACCEPT")) == (agent, accept)
    # Paths of equal length, with equal endings, and too long for the cache.
    for path in ["/a/the-same", "/b/the-same", "/b/the-same", *["/" + "a" * 99] * 2, "/a%41/the-same"]:
        values = environ(server, "/environ" + path)
        decoded = path.replace("%41", "A")
        assert (values["PATH_INFO"], values["RAW_URI"]) == ("/environ" + decoded, "/environ" + path)


def test_environ_has_the_fields_of_its_own_request_only(server):
    browser = [("User-Agent", "u"), ("Accept", "a"), ("Accept-Language", "l"), ("Accept-Encoding", "e")]
    browser += [("Referer", "r"), ("Origin", "o"), ("Content-Type", "text/x-test")]
    # A value that is too long for the cache, then a short one of the same field.
    repeated = [("Accept", "l" * 300), ("Accept", "a"), ("Referer", "r"), ("X-One", "1")]
    few = [("Accept", "a")]
    for fields in [few, browser, few, browser[:5], browser, repeated, few, repeated, [], browser]:
        expected = {}
        for name, value in fields:
            key = "CONTENT_TYPE" if name == "Content-Type" else "HTTP_" + name.upper().replace("-", "_")
            expected[key] = f"{expected[key]},{value}" if key in expected else value
        values = environ(server, headers=fields)
        sent = {key: value for key, value in values.items() if key.startswith(("HTTP_", "CONTENT_"))}
        del sent["HTTP_HOST"], sent["HTTP_X_REQUEST_ID"]
        assert sent == expected


def test_query_of_an_earlier_request_is_not_kept(server):
    for target, query in [("/environ?a=1", "a=1"), ("/environ", ""), ("/environ?a=1", "a=1")]:
        values = environ(server, target)
        assert (values["QUERY_STRING"], values["RAW_URI"], values["REQUEST_URI"]) == (query, target, target)


def test_content_type_and_length_have_no_http_prefix(server):
    values = environ(server, method="POST", body=b"12345", headers=[("Content-Type", "text/x-test")])
    assert values["CONTENT_TYPE"] == "text/x-test"
    assert values["CONTENT_LENGTH"] == "5"
    assert "HTTP_CONTENT_TYPE" not in values
    assert "HTTP_CONTENT_LENGTH" not in values


def test_request_without_a_body_has_no_content_length(server):
    values = environ(server)
    assert "CONTENT_LENGTH" not in values
    assert "CONTENT_TYPE" not in values


def test_declared_empty_body_has_content_length_zero(server):
    assert environ(server, method="POST", headers=[("Content-Length", "0")])["CONTENT_LENGTH"] == "0"


def test_chunked_body_has_a_length_and_no_transfer_encoding(server):
    with server.connect() as connection:
        connection.send(
            b"POST /environ HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
        )
        values = connection.response().json()
    assert values["CONTENT_LENGTH"] == "7"
    assert "HTTP_TRANSFER_ENCODING" not in values


def test_server_protocol_is_the_requests_version(server):
    assert environ(server, version="1.0")["SERVER_PROTOCOL"] == "HTTP/1.0"


@pytest.mark.parametrize(
    "method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "x-odd"]
)
def test_request_method_is_passed_unchanged(server, method):
    assert environ(server, method=method)["REQUEST_METHOD"] == method


def test_options_asterisk_has_an_empty_path(probe):
    # The KeyError of the application shows that it was called with the empty path.
    assert probe.request("OPTIONS", "*").status == 500
    probe.wait_for_log("KeyError: ''")


def test_unix_socket_client_has_no_remote_address(server):
    values = environ(server)
    assert values["REMOTE_ADDR"] == ""
    assert values["REMOTE_PORT"] == ""


def test_tcp_client_has_its_own_address_and_port(start):
    server = start("cases", HELLO, ("--workers", "1", "--bind", "127.0.0.1:0")).wait_ready()
    for client in ("127.0.0.1", "127.0.0.1", "127.0.0.2"):
        with Connection(server.tcp_address, source_address=(client, 0)) as connection:
            for _ in range(2):
                values = connection.request("GET", "/environ").json()
                port = connection.socket.getsockname()[1]
                assert (values["REMOTE_ADDR"], values["REMOTE_PORT"]) == (client, str(port))
    host, port = server.tcp_address
    assert (values["SERVER_NAME"], values["SERVER_PORT"]) == (host, str(port))


def test_request_id_is_in_environ_and_response(server):
    response = server.get("/environ")
    values = response.json()
    assert values["rgun.request_id"] == values["HTTP_X_REQUEST_ID"] == response["x-request-id"]


def test_changes_to_the_environ_do_not_reach_later_requests(server):
    assert server.get("/environ/writable").json() == {"seen": False}
    assert server.get("/environ/writable").json() == {"seen": False}
    values = environ(server)
    assert values["REQUEST_METHOD"] == "GET"
    assert "SERVER_NAME" in values


def test_wsgi_errors_reaches_the_log(server, marker):
    assert server.get(f"/errors?id={marker}").status == 200
    assert "wsgi.errors first" in server.wait_for_log(f"first {marker}")
    assert "æøå 煎茶" in server.wait_for_log(f"second {marker}")


def test_many_headers_arrive(server):
    headers = [(f"X-Number-{index}", str(index)) for index in range(80)]
    values = environ(server, headers=headers)
    assert [values[f"HTTP_X_NUMBER_{index}"] for index in range(80)] == [str(index) for index in range(80)]
