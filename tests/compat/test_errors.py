"""Faults of the application: the client gets a 500 or a reset, and the worker keeps serving."""

import pytest
from support.records import hello_events


@pytest.mark.parametrize("case", ["raise", "raise/after-start", "raise/first"])
def test_exception_before_the_first_byte_is_500_and_logged_once(server, case):
    before = server.log().count(f"cases.registry.CaseError: {case}")
    with server.connect() as connection:
        response = connection.request("GET", f"/{case}")
        assert (response.status, response.complete) == (500, True)
        assert connection.is_open()
    line = server.wait_for_log(f"500: cases.registry.CaseError: {case}")
    assert f"/{case}" in line
    # Twice: in the summary, and in the last line of the traceback.
    server.wait_for_log(f"cases.registry.CaseError: {case}", before + 2)
    assert server.log().count(f"cases.registry.CaseError: {case}") - before == 2
    server.wait_for_log(f'raise CaseError("{case}")')
    assert "<rgun>" not in server.log()


@pytest.mark.parametrize("case", ["raise/middle", "write/raise", "exc-info/after"])
def test_exception_after_the_first_byte_cuts_the_response(server, case):
    # If the first byte and the fault reach the daemon together, it can still answer 500.
    response = server.get(f"/{case}")
    assert (response.status, response.complete) in ((200, False), (500, True))
    server.wait_for_log(f"cases.registry.CaseError: {case}")
    assert server.get("/status/404").status == 404


def test_exception_in_close_is_logged_after_the_response(server):
    response = server.get("/raise/close")
    assert (response.status, response.body, response.complete) == (200, b"complete\n", True)
    server.wait_for_log("cases.registry.CaseError: raise/close")


def test_exceptions_in_body_and_close_are_both_logged(probe):
    assert probe.get("/raise_and_close").status == 500
    probe.wait_for_log("ValueError: first fault")
    probe.wait_for_log("ValueError: second fault")


def test_close_attribute_that_raises_is_500(probe):
    assert probe.get("/odd_close").status == 500
    probe.wait_for_log("no close for you")


@pytest.mark.parametrize(
    ("case", "name"), [("system-exit", "SystemExit: 3"), ("keyboard-interrupt", "KeyboardInterrupt")]
)
def test_exits_and_interrupts_fail_only_their_request(server, case, name):
    before = server.get("/who").json()["pid"]
    assert server.get(f"/raise/{case}").status == 500
    server.wait_for_log(name)
    assert server.get("/who").json()["pid"] == before


def test_unprintable_exception_is_logged_by_its_type(server):
    assert server.get("/raise/unprintable").status == 500
    server.wait_for_log("Unprintable")


def test_exception_text_with_surrogates_is_logged(probe):
    assert probe.get("/surrogate").status == 500
    probe.wait_for_log("ValueError: odd")


def test_exception_cause_is_in_the_traceback(probe):
    assert probe.get("/chained").status == 500
    probe.wait_for_log("KeyError: 'the cause'")
    probe.wait_for_log("The above exception was the direct cause")


def test_long_exception_text_is_shortened(probe):
    assert probe.get("/long_traceback").status == 500
    probe.wait_for_log("[...]")
    probe.wait_for_log("x end")
    assert "x" * 40_000 not in probe.log()


def test_endless_recursion_is_500(probe):
    assert probe.get("/deep").status == 500
    probe.wait_for_log("RecursionError")
    assert probe.get("/pid").status == 200


def test_exception_after_the_head_cuts_the_response(threaded_probe):
    with threaded_probe.connect() as connection:
        connection.send(b"GET /raise_on_request HTTP/1.1\r\nHost: h\r\n\r\n")
        assert connection.head()[0] == 200
        assert connection.chunk() == b"one\n"
        threaded_probe.get("/let_it_raise")
        assert connection.chunk() is None
    threaded_probe.wait_for_log("ValueError: as requested")


def test_exc_info_before_the_head_replaces_the_head(server):
    response = server.get("/exc-info/before")
    assert (response.status, response.body) == (500, b"replaced\n")
    assert response.all("x-first") == []
    assert response["x-second"] == "yes"


def test_exc_info_after_the_head_raises_that_exception(server, marker):
    response = server.get(f"/exc-info/after?id={marker}")
    assert (response.status, response.complete) in ((200, False), (500, True))
    assert b"must not be here" not in response.body
    (event,) = hello_events(server, marker)
    assert (event["what"], event["same"]) == ("raised again", True)


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("start-response/twice", "start_response() was called again without exc_info"),
        ("start-response/never", "without calling start_response()"),
        ("result/not-bytes", "yielded str, not bytes"),
        ("result/none", "returned NoneType, not an iterable"),
    ],
)
def test_violation_of_pep_3333_is_500_with_its_reason_logged(server, case, why):
    assert server.get(f"/{case}").status == 500
    server.wait_for_log(why)


def test_bytes_as_the_result_are_refused(probe):
    assert probe.get("/bytes_result").status == 500
    probe.wait_for_log("yielded int, not bytes")
