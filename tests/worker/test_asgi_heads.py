"""When the head of an ASGI response is sent: with a body that follows at once, otherwise alone."""

import subprocess

import pytest
from support.fake_channel import BODY, END, RAISED, RESPOND
from support.paths import WORKER_APPS


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def worker(fakes, python, request):
    """One worker for all tests, on each event loop."""
    if request.param == "uvloop" and subprocess.run([python, "-c", "import uvloop"], check=False).returncode:
        pytest.skip(f"SKIPPED: {python} has no uvloop")
    worker = fakes().spawn("asgi_heads", WORKER_APPS, loop=request.param).wait_ready()
    yield worker
    assert worker.stop() == 0, worker.daemon.output()
    assert "Traceback" not in worker.daemon.output(), worker.daemon.output()


def begin(worker, path, *request, **more):
    """Submits a request and waits for the head of its response."""
    exchange = worker.submit(path, *request, **more)
    answer = worker.wait_for_response(exchange, lambda answer: answer.status, "a head")
    assert not answer.done
    return exchange, answer


def open_gate(worker, name):
    assert worker.fetch(f"/open/{name}").body == b"open"


@pytest.mark.parametrize("case", ["at_once", "after_a_round"])
def test_immediate_body_is_in_the_frame_of_its_head(worker, case):
    for _ in range(20):
        answer = worker.fetch(f"/{case}")
        assert [frame[0] for frame in answer.frames][:1] == [RESPOND]
        assert (answer.frames[0][1] & END, answer.body) == (END, b"all"), answer


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_head_is_sent_before_a_late_body(worker, method):
    exchange, answer = begin(worker, f"/late/{method}", method)
    assert (answer.status, answer.frames, answer.body) == (200, [(RESPOND, 0, 200)], b"")
    open_gate(worker, f"late/{method}")
    answer = worker.wait_done(exchange)
    assert answer.body == (b"xxxx" if method == "GET" else b"")
    assert answer.raised == []


def test_head_sent_alone_has_no_content_length(worker):
    exchange, _ = begin(worker, "/late/large?200000")
    open_gate(worker, "late/large")
    answer = worker.wait_done(exchange)
    assert (len(answer.body), answer.fields) == (200_000, [])


@pytest.mark.parametrize("case", ["late_with_status/204?204", "late_with_status/304?304", "late_and_empty/0"])
def test_response_without_a_body_ends_with_its_head(worker, case):
    exchange, answer = begin(worker, f"/{case}")
    assert (answer.end, answer.body) == (True, b"")
    open_gate(worker, case.partition("?")[0])
    answer = worker.wait_done(exchange)
    assert ([frame[0] for frame in answer.frames], answer.raised) == ([RESPOND, BODY], [])


def test_file_can_follow_a_head_without_body(worker):
    exchange, _ = begin(worker, "/late_file/1")
    open_gate(worker, "late_file/1")
    answer = worker.wait_done(exchange)
    assert answer.file == (0, (WORKER_APPS / "asgi_heads.py").stat().st_size)
    assert ([frame[0] for frame in answer.frames][:2], answer.fields) == ([RESPOND, BODY], [])


def test_trailers_can_follow_a_head_without_body(worker):
    exchange, _ = begin(worker, "/late_trailers/1")
    open_gate(worker, "late_trailers/1")
    answer = worker.wait_done(exchange)
    assert (answer.body, answer.trailers) == (b"body", [(b"x-sum", b"4")])


def test_denial_head_is_sent_before_its_late_body(worker):
    exchange, answer = begin(worker, "/denies_late/1", websocket=True)
    assert answer.status == 401
    open_gate(worker, "denies_late/1")
    assert worker.wait_done(exchange).body == b"denied"


def test_exception_right_after_the_start_sends_no_head(worker):
    answer = worker.fetch("/raises_at_once")
    assert (answer.status, answer.raised) == (0, ["ValueError: at once"])


def test_exception_after_the_head_is_reported(worker):
    exchange, _ = begin(worker, "/raises_late/1")
    open_gate(worker, "raises_late/1")
    answer = worker.wait_done(exchange)
    assert ([frame[0] for frame in answer.frames], answer.raised) == ([RESPOND, RAISED], ["ValueError: late"])


def test_missing_body_is_reported_after_a_complete_head(worker):
    exchange, answer = begin(worker, "/returns_late/1")
    assert answer.end
    open_gate(worker, "returns_late/1")
    assert worker.wait_done(exchange).raised == ["ASGI callable returned without completing response."]
