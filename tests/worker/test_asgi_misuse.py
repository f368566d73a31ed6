"""Applications that violate ASGI: they get uvicorn's exceptions, their clients a 500 or a reset."""

import json

import pytest
from support.asgi_exchanges import failure_of
from support.fake_channel import END, RAISED, RESPOND
from support.paths import WORKER_APPS


@pytest.fixture(scope="module")
def worker(fakes, python):
    """One worker for all tests; no test ends it."""
    worker = fakes().spawn("asgi_misuses", WORKER_APPS).wait_ready()
    pid = worker.pid
    yield worker
    assert worker.pid == pid
    assert worker.stop() == 0, worker.daemon.output()
    # Reported to the daemon and not printed.
    assert "Traceback" not in worker.daemon.output(), worker.daemon.output()
    assert "never" not in worker.daemon.output()


@pytest.mark.parametrize("case", ["raises", "raises_prepared"])
def test_exception_before_the_first_byte_sends_no_head(worker, case):
    answer = worker.fetch(f"/{case}")
    assert (answer.status, answer.body) == (0, b"")
    assert failure_of(answer).startswith("ValueError: ")
    assert f"in {case}\n" in answer.trace
    # The traceback has only frames of the application.
    assert "<rgun>" not in answer.trace
    assert "asyncio" not in answer.trace
    assert answer.trace.count("Traceback") == 1


def test_exception_during_the_body_truncates_the_body(worker):
    answer = worker.fetch("/raises_late")
    assert (answer.status, answer.body) == (200, b"part")
    assert failure_of(answer) == "ValueError: in the body"


def test_exception_after_the_response_is_reported(worker):
    answer = worker.fetch("/raises_after")
    assert (answer.status, answer.body, answer.end) == (200, b"whole", True)
    assert failure_of(answer) == "ValueError: after the end"


@pytest.mark.parametrize(
    ("case", "summary"),
    [
        ("exits", "SystemExit: 3"),
        ("exits_naming_its_caller", "SystemExit: left in exits_naming_its_caller"),
        ("exits_naming_its_frame", "SystemExit: left in exits_naming_its_frame"),
        ("exits_with_a_proxy", "SystemExit: with a proxy"),
        ("cancels_itself", "CancelledError"),
    ],
)
def test_exits_and_cancellations_fail_only_their_request(worker, case, summary):
    assert summary in failure_of(worker.fetch(f"/{case}"))


@pytest.mark.parametrize(
    ("case", "status", "summary"),
    [
        ("nothing", 0, "ASGI callable returned without starting response."),
        ("start_only", 0, "ASGI callable returned without completing response."),
        ("incomplete", 200, "ASGI callable returned without completing response."),
        ("no_trailers", 200, "ASGI callable returned without completing response."),
        ("returns", 200, "ASGI callable should return None, but returned 'a value'."),
        ("returns_only", 0, "ASGI callable should return None, but returned 'a value'."),
    ],
)
def test_returning_early_or_a_value_is_an_error(worker, case, status, summary):
    answer = worker.fetch(f"/{case}")
    assert (answer.status, failure_of(answer)) == (status, summary)


EXPECTED = "RuntimeError: Expected ASGI message '{}', but got '{}'."
COMPLETED = "RuntimeError: Unexpected ASGI message '{}' sent, after response already completed."
START, BODY = "http.response.start", "http.response.body"
INVALID_NAME = "RuntimeError: Invalid HTTP header name."
INVALID_VALUE = "RuntimeError: Invalid HTTP header value."


@pytest.mark.parametrize(
    ("case", "status", "summary"),
    [
        ("body_first", 0, EXPECTED.format(START, BODY)),
        ("twice", 0, EXPECTED.format(BODY, START)),
        ("start_in_body", 200, EXPECTED.format(BODY, START)),
        ("after_end", 200, COMPLETED.format(BODY)),
        ("other", 0, EXPECTED.format(BODY, "websocket.send")),
        ("debug", 0, EXPECTED.format(START, "http.response.debug")),
        ("trailers_unannounced", 200, COMPLETED.format("http.response.trailers")),
        ("file_in_body", 200, EXPECTED.format(BODY, "http.response.pathsend")),
        ("no_type", 0, "KeyError: 'type'"),
        ("no_status", 0, "KeyError: 'status'"),
        ("not_a_dict", 0, "TypeError: "),
        ("none", 0, "TypeError: "),
        ("status_text", 0, "TypeError: http.response.start: status is str, not int"),
        ("status_100", 0, "RuntimeError: http.response.start: status 100 is not allowed"),
        ("status_1000", 0, "RuntimeError: http.response.start: status 1000 is not allowed"),
        ("name_text", 0, "TypeError: a header's name is str, not bytes"),
        ("value_text", 0, "TypeError: a header's value is str, not bytes"),
        ("name_space", 0, INVALID_NAME),
        ("name_empty", 0, INVALID_NAME),
        ("name_newline", 0, INVALID_NAME),
        ("value_newline", 0, INVALID_VALUE),
        ("value_nul", 0, INVALID_VALUE),
        ("triple", 0, "ValueError: headers contain (b'x-a', b'b', b'c'), which is not a pair"),
        ("single", 0, "ValueError: headers contain b'x-a', which is not a pair"),
        ("headers_number", 0, "TypeError: 'int' object is not iterable"),
        ("length_word", 0, "ValueError: Content-Length is not a number: many"),
        ("lengths_differ", 0, "RuntimeError: two Content-Length headers that differ"),
        ("headers_huge", 0, "ValueError: the response's headers have 24"),
        ("headers_many", 0, "ValueError: more than 4095 headers"),
        ("headers_countless", 0, "ValueError: more than 4095 headers"),
        ("links_many", 0, "ValueError: more than 4095 headers"),
        ("body_text", 0, "TypeError: the body of http.response.body is str, not bytes"),
        ("body_none", 0, "TypeError: the body of http.response.body is NoneType, not bytes"),
        ("body_number", 0, "TypeError: the body of http.response.body is int, not bytes"),
        ("path_number", 0, "TypeError: "),
        ("hint_text", 0, "TypeError: a link of http.response.early_hint is str, not bytes"),
        ("hint_newline", 0, INVALID_VALUE),
    ],
)
def test_invalid_messages_raise_in_the_application(worker, case, status, summary):
    answer = worker.fetch(f"/misuse?{case}")
    assert answer.status == status
    assert failure_of(answer).startswith(summary)
    assert "in sends\n" in answer.trace, "raised by the send() call"
    assert (answer.hints, answer.file) == ([], None)


def test_trailers_are_limited_across_messages(worker):
    answer = worker.fetch("/too_many_trailers")
    assert (answer.body, answer.trailers) == (b"body", None)
    assert failure_of(answer) == "ValueError: http.response.trailers: the trailers are too long"


def test_message_that_sends_while_it_is_read_is_rejected(worker):
    again = "RuntimeError: send() was called while another ASGI message was being read"
    answer = worker.fetch("/sends_in_headers")
    assert (answer.status, answer.body, failure_of(answer)) == (0, b"", again)
    answer = worker.fetch("/sends_in_truth")
    assert (answer.status, answer.body, failure_of(answer)) == (200, b"inner", again)
    assert answer.frames[:-1] == [(RESPOND, END, 200)]


@pytest.mark.parametrize("case", ["length", "length_in_parts"])
@pytest.mark.parametrize(
    ("sizes", "why"),
    [("10-12", "longer than Content-Length"), ("10-8", "shorter than Content-Length")],
)
def test_body_of_wrong_length_never_looks_complete(worker, case, sizes, why):
    exchange = worker.submit(f"/{case}?{sizes}")
    if case == "length_in_parts":
        worker.wait_for_response(exchange, lambda answer: answer.body, "the first part is sent")
        worker.fetch(f"/open_gate?{sizes}")
    answer = worker.wait_done(exchange)
    assert failure_of(answer) == f"RuntimeError: Response content {why}"
    # Without a head the daemon answers 500.
    assert (answer.status != 0) == (case == "length_in_parts")
    assert len(answer.body) < 10
    assert not any(flags & 1 for kind, flags, _ in answer.frames if kind != RAISED)


def test_body_of_the_declared_length_is_complete(worker):
    answer = worker.fetch("/length?10-10")
    assert (answer.status, answer.body, answer.raised) == (200, b"x" * 10, [])


def test_application_may_catch_the_error_and_respond(worker):
    answer = worker.fetch("/forgiven")
    assert json.loads(answer.body) == EXPECTED.format(START, BODY).partition(": ")[2]


def test_wrong_arguments_of_send_and_receive_raise_type_error(worker):
    none, two, unknown, one = json.loads(worker.fetch("/arguments").body)
    assert "missing 1 required positional argument: 'message'" in none
    assert "takes 1 positional arguments but 2 were given" in two
    assert "unexpected keyword argument 'massage'" in unknown
    assert "takes no arguments (1 given)" in one


def test_after_the_exchange_only_send_raises(worker):
    assert worker.fetch("/later").status == 200
    outcome, event = json.loads(worker.fetch("/use_kept").body)
    assert outcome == COMPLETED.format(BODY).partition(": ")[2]
    assert event == {"type": "http.disconnect"}


def test_child_returning_into_the_server_sends_no_response(worker):
    answer = worker.fetch("/forks")
    assert (answer.status, answer.body, answer.raised) == (200, b'"parent"', [])
    assert "a child process forked by the application returned into the server" in worker.daemon.output()


def test_frames_for_unknown_exchanges_are_ignored(worker):
    worker.part(1, b"x")
    worker.disconnect(1)
    worker.disconnect(1, cancel=True)
    assert worker.fetch("/scope").status == 200


@pytest.mark.parametrize(
    "frame",
    [b"short", bytes(24) + b"\x09" + bytes(23), bytes(24) + b"\x01" + bytes(10)],
    ids=["short", "unknown kind", "half a request"],
)
def test_protocol_error_ends_the_worker(fakes, python, frame):
    fake = fakes()
    worker = fake.spawn("asgi_cases", WORKER_APPS).wait_ready()
    worker.publish(frame)
    assert worker.wait() == 70
    assert "violated the channel's protocol" in fake.output()


def test_largest_head_has_room_for_content_length(worker):
    longest = 0
    for size in range(130_860, 130_920):
        answer = worker.fetch(f"/full_head?{size}")
        if answer.raised:
            assert failure_of(answer).startswith("ValueError: the response's headers have ")
        else:
            longest = size
            assert (b"content-length", b"2000000") in answer.fields
            assert len(answer.body) == 2_000_000
    assert 130_860 < longest < 130_919
