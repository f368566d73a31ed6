"""WSGI responses: start_response(), write(), iterables, lengths (PEP 3333, RFC 9110)."""

import time
import urllib.parse

import pytest
from support.records import hello_events
from support.waiting import wait_until


def test_list_of_one_chunk_is_a_complete_response(server):
    response = server.get("/iterate/tuple")
    assert (response.status, response.body, response.complete) == (200, b"one\n", True)
    assert response["content-length"] == "4"


def test_list_of_several_chunks_is_joined(server):
    response = server.get("/iterate/list")
    assert response.body == b"one\ntwo\n"
    assert response["content-length"] == "8"


def test_empty_list_is_an_empty_body(probe):
    response = probe.get("/empty_list")
    assert (response.status, response.body, response.complete) == (200, b"", True)
    assert response["content-length"] == "0"


@pytest.mark.parametrize(("count", "size"), [(2, 70_000), (300, 700), (50, 70_000), (1, 9_000_000)])
def test_large_lists_arrive_whole(probe, count, size):
    response = probe.get(f"/big_list?n={count}&size={size}")
    expected = b"".join(b"%07d" % index * (size // 7) for index in range(count))
    assert response.body == expected
    assert response["content-length"] == str(len(expected))


def test_large_list_below_content_length_is_500(probe):
    assert probe.get("/big_list_short").status == 500
    probe.wait_for_log("the application promised 300000 bytes of body and sent 200000")


def test_subclass_of_list_is_iterated_and_closed(probe):
    assert probe.get("/list_subclass").body == b"from the iterator\n"
    assert "subclass closed" in probe.get("/events").json()


def test_object_with_only_getitem_is_iterable(probe):
    assert probe.get("/old_iteration").body == b"one\ntwo\n"


def test_iterable_is_sent_chunk_by_chunk(server):
    with server.connect() as connection:
        connection.send(b"GET /iterate?n=3&size=8&delay=0.3 HTTP/1.1\r\nHost: h\r\n\r\n")
        status, headers = connection.head()
        assert (status, ("transfer-encoding", "chunked") in headers) == (200, True)
        times = []
        for _ in range(3):
            assert connection.chunk() == b"chunk 0\n".replace(b"0", str(len(times)).encode())
            times.append(time.monotonic())
        assert connection.chunk() == b""
        assert times[1] - times[0] > 0.2
        assert times[2] - times[1] > 0.2


def test_write_sends_immediately(server):
    with server.connect() as connection:
        connection.send(b"GET /write?n=2&delay=0.4 HTTP/1.1\r\nHost: h\r\n\r\n")
        connection.head()
        assert connection.chunk() == b"written 0\n"
        first = time.monotonic()
        assert connection.chunk() == b"written 1\n"
        assert time.monotonic() - first > 0.2
        assert connection.chunk() == b""


def test_written_bytes_precede_iterated_ones(server):
    assert server.get("/write/then-iterate").body == b"written\niterated\n"


def test_content_length_limits_written_plus_iterated_bytes(probe):
    with probe.connect() as connection:
        assert connection.request("GET", "/write_beyond_length").body == b"123456"
        assert connection.request("GET", "/pid").status == 200


def test_write_accepts_only_bytes(probe):
    response = probe.get("/write_not_bytes")
    assert response.status == 400
    assert b"write() takes bytes, not str" in response.body


def test_wrong_arguments_of_start_response_raise_type_error(probe):
    none, one, four, twice, unknown, no_data, two = probe.get("/arguments").json()
    assert "missing 2 required positional arguments: 'status' and 'headers'" in none
    assert "missing 1 required positional argument: 'headers'" in one
    assert "takes from 2 to 3 positional arguments but 4 were given" in four
    assert "multiple values for argument 'status'" in twice
    assert "unexpected keyword argument 'because'" in unknown
    assert "missing 1 required positional argument: 'data'" in no_data
    assert "takes 1 positional arguments but 2 were given" in two


def test_write_and_start_response_fail_after_their_request(probe):
    assert probe.get("/write_after_end").body == b"ok\n"
    result = probe.get("/use_kept")
    assert [text[:24] for text in result.json()] == ["the response is complete"] * 2
    assert result.status == 200


def test_write_of_more_than_the_slab_arrives_whole(probe):
    assert len(probe.get("/write_long?mib=12").body) == 12 * 1048576


def test_application_may_be_a_generator(server, marker):
    assert server.get(f"/iterate/generator?id={marker}").body == b"one\ntwo\n"
    assert [event["what"] for event in hello_events(server, marker)] == ["entered", "finally"]


def test_start_response_may_be_called_before_the_first_chunk(server):
    assert server.get("/start-response/late").body == b"late\n"


def test_empty_iterable_is_an_empty_body_closed_once(server, marker):
    response = server.get(f"/iterate/empty?id={marker}")
    assert (response.status, response.body, response.complete) == (200, b"", True)
    wait_until("close()", lambda: hello_events(server, marker, "close"))
    assert len(hello_events(server, marker, "close")) == 1


def test_empty_chunks_do_not_end_the_body(server):
    assert server.get("/iterate/empty-chunks").body == b"one\ntwo\n"


@pytest.mark.parametrize(
    "case", ["iterate", "iterate/empty-chunks", "length/exact", "head", "raise/middle", "raise/first"]
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_close_is_called_exactly_once(server, marker, case, method):
    server.request(method, f"/{case}?id={marker}")
    wait_until("close()", lambda: hello_events(server, marker, "close"))
    assert len(hello_events(server, marker, "close")) == 1


def test_client_does_not_wait_for_close(probe, tmp_path):
    path = tmp_path / "go"
    with probe.connect() as connection:
        # The response is complete while close() waits for the file that is written next.
        assert connection.request("GET", f"/slow_close?path={path}").body == b"complete\n"
        path.write_text("")
        wait_until("close() returns", lambda: "closed slowly" in probe.get("/events").json())


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_generator_runs_to_its_end_past_content_length(probe, method):
    probe.request(method, "/after_last_chunk")
    wait_until(
        "the code after yield", lambda: f"after the last chunk of {method}" in probe.get("/events").json()
    )


# --- status ---


@pytest.mark.parametrize(("case", "status"), [("bare", 200), ("odd", 299), ("teapot", 418), ("beyond", 999)])
def test_any_final_status_is_sent(probe, case, status):
    assert probe.get(f"/status/{case}").status == status


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("interim", "interim response"),
        ("switching", "interim response"),
        ("early", "interim response"),
        ("words", "does not begin with three digits"),
        ("glued", "does not begin with three digits"),
        ("short", "does not begin with three digits"),
        ("empty", "does not begin with three digits"),
        ("bytes", "status is bytes, not str"),
        ("int", "status is int, not str"),
    ],
)
def test_invalid_status_is_500(probe, case, why):
    before = probe.log().count(why)
    assert probe.get(f"/status/{case}").status == 500
    probe.wait_for_log(why, before + 1)


@pytest.mark.parametrize("code", [200, 201, 301, 400, 404, 500, 503])
def test_statuses_are_passed_through(server, code):
    response = server.get(f"/status/{code}")
    assert (response.status, response.body) == (code, f"{code}\n".encode())


# --- headers ---


def test_headers_keep_order_and_repetition(server):
    response = server.get("/headers/duplicate")
    assert response.all("set-cookie") == ["a=1; Path=/", "b=2; Path=/"]
    assert response.all("link") == ["</a>", "</b>"]


def test_latin_1_and_empty_values_arrive(server, probe):
    assert server.get("/headers/latin1")["x-latin"] == "cr\xe8me"
    assert server.get("/headers/empty")["x-empty"] == ""
    assert probe.get("/header/tab")["x-tab"] == "a\tb"
    assert probe.get("/header/spaces")["x-spaces"] == "padded"


def test_many_headers_arrive(server):
    response = server.get("/headers/many?n=90&size=300")
    assert [response[f"x-many-{index}"] for index in range(90)] == ["v" * 300] * 90


def test_largest_number_of_headers_arrives(probe):
    response = probe.get("/header/as-many-as-possible")
    assert response.status == 200
    assert len(response.all("x-many")) == 4095


def test_application_overrides_date_and_server(server):
    response = server.get("/headers/own-date")
    assert response.all("date") == ["Thu, 01 Jan 1970 00:00:00 GMT"]
    assert response.all("server") == ["cases"]


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("newline", "control characters"),
        ("nul", "control characters"),
        ("control", "control characters"),
        ("name-space", "is not a token"),
        ("name-empty", "is not a token"),
        ("name-colon", "is not a token"),
        ("name-newline", "is not a token"),
        ("unicode", "outside ISO-8859-1"),
        ("bytes-name", "name is bytes, not str"),
        ("bytes-value", "X-Bad is bytes, not str"),
        ("int", "Content-Length is int, not str"),
        ("triple", "not a (name, value) tuple"),
        ("not-a-pair", "not a (name, value) tuple"),
        ("tuple", "headers are tuple, not a list"),
        ("none", "headers are NoneType, not a list"),
        ("huge", "longer than 65535 bytes"),
        ("many-huge", "headers have"),
        ("too-many", "the response has 4096 headers, more than the maximum of 4095"),
        ("negative-length", "Content-Length is not a number: -1"),
        ("plus-length", "Content-Length is not a number: +3"),
    ],
)
def test_invalid_header_is_500(probe, case, why):
    before = probe.log().count(why)
    response = probe.get(f"/header/{case}")
    assert response.status == 500
    assert not response.all("x-injected")
    probe.wait_for_log(why, before + 1)


def test_hop_by_hop_headers_are_dropped_with_one_warning(probe):
    for _ in range(3):
        response = probe.get("/hop_by_hop")
        assert response.body == b"ok\n"
        assert response["x-kept"] == "yes"
        names = {name for name, value in response.headers if value == "x"}
        assert names == set()
    probe.wait_for_log("hop-by-hop header Connection")
    assert probe.log().count("hop-by-hop") == 1


# --- lengths ---


def test_content_length_matching_the_chunks_is_kept(server):
    response = server.get("/length/exact")
    assert (response["content-length"], response.body) == ("8", b"one\ntwo\n")


def test_body_below_content_length_does_not_look_complete(server):
    response = server.get("/length/too-short-body")
    # If both frames reach the daemon together, it can still answer 500.
    assert (response.status, response.complete) in ((200, False), (500, True))
    server.wait_for_log("the application promised 100 bytes of body and sent 6")


def test_body_over_content_length_is_cut_and_connection_kept(server):
    with server.connect() as connection:
        assert connection.request("GET", "/length/too-long-body").body == b"12345"
        assert connection.is_open()
    server.wait_for_log("more body than its Content-Length of 5")


@pytest.mark.parametrize("case", ["bad", "twice"])
def test_invalid_content_length_is_500(server, case):
    assert server.get(f"/length/{case}").status == 500


def test_repeated_equal_content_length_is_sent_once(probe):
    assert probe.get("/header/same-length-twice").all("content-length") == ["3"]


# --- responses without a body ---


def test_head_has_the_headers_of_get_and_no_body(server):
    with server.connect() as connection:
        response = connection.request("HEAD", "/head")
        assert (response.status, response["content-length"]) == (200, "13")
        assert connection.request("HEAD", "/head/body")["content-length"] == "13"
        assert connection.request("HEAD", "/iterate/list")["content-length"] == "8"
        assert connection.request("HEAD", "/iterate").status == 200
        assert connection.request("HEAD", "/big?mib=3")["content-length"] == str(3 << 20)
        assert connection.is_open()


@pytest.mark.parametrize("case", ["status/204", "status/204/body"])
def test_204_has_neither_body_nor_length(server, case):
    with server.connect() as connection:
        response = connection.request("GET", f"/{case}")
        assert response.status == 204
        assert response.all("content-length") == []
        assert response.all("transfer-encoding") == []
        assert connection.is_open()


@pytest.mark.parametrize("case", ["status/304", "status/304/body"])
def test_304_has_no_body(server, case):
    with server.connect() as connection:
        assert connection.request("GET", f"/{case}").status == 304
        assert connection.is_open()


# --- large responses, slow clients ---


@pytest.mark.parametrize("mib", [1, 5, 40])
def test_large_bodies_arrive_whole(server, mib):
    import hashlib

    assert server.get(f"/big?mib={mib}").body == b"x" * (mib << 20)
    response = server.get(f"/big/chunks?mib={min(mib, 5)}&size=50000")
    assert hashlib.sha256(response.body).hexdigest() == response["x-sha256"]


def test_slow_client_delays_no_other_and_loses_no_byte(threaded_server):
    with threaded_server.connect() as slow:
        slow.send(b"GET /big/chunks?mib=8&size=65536 HTTP/1.1\r\nHost: h\r\n\r\n")
        _, headers = slow.head()
        # The slow response occupies a thread and has used up its window, but not the slab.
        for _ in range(20):
            assert len(threaded_server.get("/big?mib=2").body) == 2 << 20
        body, complete = slow.chunks()
        import hashlib

        assert complete
        assert hashlib.sha256(body).hexdigest() == dict(headers)["x-sha256"]


def test_slow_readers_do_not_block_other_clients(server):
    """The daemon buffers whole responses, so the only thread is free for other requests."""
    unread = []
    for _ in range(4):
        connection = server.connect()
        connection.send(b"GET /big?mib=1 HTTP/1.1\r\nHost: h\r\n\r\n")
        assert connection.head()[0] == 200
        unread.append(connection)
    assert len(server.get("/big/chunks?mib=3").body) == 3 << 20
    for connection in unread:
        assert len(connection.read_exactly(1 << 20)) == 1 << 20
        connection.socket.close()


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize(
    ("status", "sent"),
    [
        *(("200 OK", "OK"), ("404 Not Found", "Not Found"), ("404 NOT FOUND", "NOT FOUND")),
        *(("299 Odd Reason", "Odd Reason"), ("499 Client Closed", "Client Closed"), ("599 A b\tc", "A b\tc")),
        *(("200", "OK"), ("200 ", "OK"), ("299", ""), ("299 ", ""), ("200 caf\xe9", "caf\xe9")),
        ("999 " + "x" * 5000, "x" * 5000),
    ],
)
def test_reason_phrase_of_the_application_is_sent(probe, status, sent, version):
    target = "/reason?status=" + urllib.parse.quote(status, encoding="latin-1")
    with probe.connect() as connection:
        response = connection.request("GET", target, version=version)
        assert (response.status, response.body) == (int(status[:3]), b"ok\n")
        assert connection.reason == sent


def test_reason_phrase_is_not_reused_on_the_connection(probe):
    with probe.connect() as connection:
        for status, sent in [("299 Odd", "Odd"), ("200 OK", "OK"), ("299", ""), ("404 Gone", "Gone")]:
            connection.request("GET", "/reason?status=" + urllib.parse.quote(status))
            assert connection.reason == sent


@pytest.mark.parametrize("bad", ["200 OK\r\nX-Evil: 1", "200 OK\n", "200 \x00", "200 \x1b[31m", "200 OK\x7f"])
def test_control_characters_in_a_reason_phrase_are_500(probe, bad):
    response = probe.get("/reason?status=" + urllib.parse.quote(bad, encoding="latin-1"))
    assert response.status == 500
    assert not response.all("x-evil")
    probe.wait_for_log("has control characters in its reason phrase (PEP 3333)")
