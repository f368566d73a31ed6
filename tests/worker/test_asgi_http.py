"""ASGI over HTTP, the worker's side: scope, receive, send, tasks, back-pressure, disconnects, deadlines."""

import json
import os
import signal
import subprocess

import pytest
from conftest import APPS, eventually
from fake_channel import BODY, CHUNKS, END, RESPOND, TO_THE_END, UNKNOWN_LENGTH

SYSFS = "/sys/kernel/mm/transparent_hugepage/enabled"


def spawn(fake, python, loop, target="asgi_cases", chdir=APPS, **more):
    """A ready worker on a loop; skips, loudly, where the interpreter has none."""
    if loop == "uvloop" and subprocess.run([python, "-c", "import uvloop"], check=False).returncode:
        pytest.skip(f"SKIPPED: {python} has no uvloop")
    return fake.spawn(target, chdir, loop=loop, **more).ready()


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def loop(request):
    return request.param


@pytest.fixture(scope="module")
def worker(fakes, python, loop):
    """One worker for the tests of this file."""
    worker = spawn(fakes(), python, loop)
    yield worker
    assert worker.stop() == 0, worker.daemon.output()
    assert "Traceback" not in worker.daemon.output(), worker.daemon.output()
    assert "never awaited" not in worker.daemon.output()
    assert "Task was destroyed" not in worker.daemon.output()


def told(answer):
    """The JSON of an answer."""
    assert (answer.status, answer.raised) == (200, []), answer
    return json.loads(answer.body)


def latin(value):
    return value["bytes"].encode("latin-1")


def open_gate(worker, name):
    assert told(worker.ask(f"/open_gate?{name}")) == "open"


# ------------------------------------------------ messages


def test_message_may_be_any_mapping_with_any_strings(worker):
    answer = worker.ask("/written_oddly")
    assert (answer.status, answer.body) == (201, b"part part part end")
    assert (b"x-way", b"odd") in answer.fields


# ------------------------------------------------ scope


def test_scope_has_the_keys_and_values_of_uvicorn(worker):
    scope = told(
        worker.ask(
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
    assert headers == [(b"host", b"h"), (b"x-two", b"1"), (b"x-two", b"2"), (b"x_under", b"kept")]
    extensions = scope.pop("extensions")
    assert set(extensions) == {
        *("http.response.pathsend", "http.response.early_hint", "http.response.trailers"),
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


def test_scope_values_are_not_taken_from_earlier_requests(worker):
    long = b"l" * 300
    for host, accept in [(b"a", b"x"), (b"a", b"x"), (b"b", b"x"), (b"b", long), (b"b", long), (b"a", None)]:
        fields = [(b"host", host), (b"accept", accept)] if accept else [(b"host", host)]
        headers = told(worker.ask("/scope", headers=fields))["headers"]
        assert [tuple(latin(part) for part in pair) for pair in headers] == fields
    # Ports of which a part is the same.
    for client in [("192.0.2.1", 64), ("192.0.2.1", 64), ("192.0.2.2", 64), ("192.0.2.2", 128), ("::1", 64)]:
        assert told(worker.ask("/scope", peer=client))["client"] == list(client)
    # Of the same length, with the same end; longer than any that is remembered.
    for path in ["/a/the-same", "/b/the-same", "/b/the-same", *["/" + "a" * 99] * 2, "/a%41/the-same"]:
        scope = told(worker.ask("/scope" + path))
        assert (scope["path"], latin(scope["raw_path"]).decode()) == (
            "/scope" + path.replace("%41", "A"),
            "/scope" + path,
        )
    # Whatever was asked for before, an empty one (of CONNECT, RFC 9112 section 3.2.3) is none of them.
    for number in range(100):
        worker.ask("/scope/" + "l" * 99 + str(number))
    assert told(worker.ask(""))["path"] == ""


def test_scope_values_have_the_specified_types(worker):
    types = told(worker.ask("/types", headers=[(b"host", b"h")], peer=("::1", 1)))
    assert types["header"] == ["list", "tuple"]
    assert (types["server"], types["client"]) == ("tuple", "tuple")
    assert (types["raw_path"], types["query_string"]) == ("bytes", "bytes")
    assert (types["path"], types["method"], types["root_path"]) == ("str", "str", "str")


def test_scope_has_version_scheme_and_method(worker):
    scope = told(worker.ask("/scope", "BREW", version=10, https=True))
    assert (scope["http_version"], scope["scheme"], scope["method"]) == ("1.0", "https", "BREW")
    assert scope["client"] is None
    assert told(worker.ask("/scope", version=20))["http_version"] == "2"


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
    scope = told(worker.ask(raw))
    assert scope["path"] == path
    assert latin(scope["raw_path"]) == raw.encode()


def test_changes_to_the_scope_do_not_reach_later_requests(worker):
    assert told(worker.ask("/spoil"))[:3] == [None, None, None]
    # Shallow copies, as uvicorn's.
    again = told(worker.ask("/spoil"))
    assert (again[:3], again[3]) == ([None, None, None], 2)
    worker.ask("/scope")


@pytest.mark.parametrize(
    ("listener", "server"),
    [(("::", "80", ""), ["::", 80]), (("localhost", "80", "/run/x.sock"), ["/run/x.sock", None])],
)
def test_scope_server_is_the_listener(fake, python, listener, server):
    worker = spawn(fake, python, "asyncio", listener=listener)
    assert told(worker.ask("/scope"))["server"] == server


def test_path_begins_with_the_root_path(fake, python):
    worker = spawn(fake, python, "asyncio", root_path="/root")
    scope = told(worker.ask("/p/%C3%A6"))
    assert (scope["root_path"], scope["path"]) == ("/root", "/root/p/æ")
    assert latin(scope["raw_path"]) == b"/root/p/%C3%A6"


# ------------------------------------------------ receive


def test_missing_body_is_one_empty_event(worker):
    assert told(worker.ask("/one_part")) == [0, False]


def test_inline_body_is_one_event(worker):
    answer = worker.ask("/echo", "POST", body=b"b" * 60_000)
    assert (answer.body, dict(answer.fields)[b"x-parts"]) == (b"b" * 60_000, b"[60000]")


def test_streamed_body_is_requested_on_first_receive(worker):
    exchange = worker.submit("/slow_reader?parts", "POST", length=30)
    assert told(worker.ask("/forget")) == "forgotten"
    assert exchange not in worker.answers, "taken before receive()"
    open_gate(worker, "parts")
    answer = worker.until(exchange, lambda answer: answer.taken, "taken")
    assert answer.taken == 256 * 1024
    for number in range(3):
        worker.part(exchange, b"0123456789", end=number == 2)
        open_gate(worker, "parts")
    assert told(worker.whole(exchange)) == 30


def test_credit_grows_as_the_application_receives(worker):
    exchange = worker.submit("/slow_reader?window", "POST", length=UNKNOWN_LENGTH)
    open_gate(worker, "window")
    worker.until(exchange, lambda answer: answer.taken == 256 * 1024, "taken")
    for _ in range(4):
        worker.part(exchange, b"p" * 65_536)
    # A slow application: what has not been received is not taken anew.
    assert told(worker.ask("/one_part")) == [0, False]
    assert worker.answers[exchange].taken <= 5 * 65_536
    for number in range(3):
        eventually(lambda: open_gate(worker, "window") or worker.collect() or True, "open")
        worker.until(exchange, lambda answer, n=number: answer.taken >= (4 + n + 1) * 65_536, "taken on")
    worker.part(exchange, b"end", end=True)
    for _ in range(3):
        open_gate(worker, "window")
    assert told(worker.whole(exchange)) == 4 * 65_536 + 3


def test_body_of_unknown_length_may_end_with_an_empty_part(worker):
    exchange = worker.submit("/echo", "POST", length=UNKNOWN_LENGTH)
    worker.until(exchange, lambda answer: answer.taken, "taken")
    worker.part(exchange, b"all")
    worker.part(exchange, b"", end=True)
    assert worker.whole(exchange).body == b"all"


def test_long_upload_arrives_whole(worker):
    exchange = worker.submit("/echo", "POST", length=3_000_000)
    sent = 0
    while sent < 3_000_000:
        answer = worker.until(exchange, lambda answer, n=sent: answer.taken > n, "taken")
        while sent < min(answer.taken, 3_000_000):
            size = min(60_000, answer.taken - sent, 3_000_000 - sent)
            worker.part(exchange, b"%c" % (sent % 251) * size, end=sent + size == 3_000_000)
            sent += size
            # The ring is not endless.
            worker.until_claimed()
    answer = worker.whole(exchange)
    assert len(answer.body) == 3_000_000


def test_ignored_body_does_not_disturb_the_next_request(worker):
    exchange = worker.submit("/ignore", "POST", length=100_000)
    assert told(worker.whole(exchange)) == "ignored"
    # What comes too late is nobody's.
    worker.part(exchange, b"late", end=True)
    worker.disconnect(exchange)
    assert told(worker.ask("/ignore")) == "ignored"


def test_receive_after_the_body_waits_for_the_disconnect(worker):
    exchange = worker.submit("/events", "POST", body=b"x")
    worker.ask("/ignore")
    worker.disconnect(exchange)
    answer = worker.whole(exchange)
    assert (answer.status, answer.raised) == (0, []), "sent to nobody"
    assert told(worker.ask("/seen")) == [
        {"type": "http.request", "body": {"bytes": "x"}, "more_body": False},
        {"type": "http.disconnect"},
    ]


@pytest.mark.parametrize("early", [True, False])
def test_half_close_is_a_disconnect_after_the_body(worker, early):
    exchange = worker.submit("/events_then_answer", "POST", length=4)
    worker.until(exchange, lambda answer: answer.taken, "taken")
    if early:
        worker.half_close(exchange)
    worker.part(exchange, b"body", end=True)
    if not early:
        worker.half_close(exchange)
    assert told(worker.whole(exchange)) == [
        {"type": "http.request", "body": {"bytes": "body"}, "more_body": False},
        {"type": "http.disconnect"},
    ]


@pytest.mark.parametrize("query", ["", "?begin", "?begin-and-raise"])
def test_returning_after_a_half_close_is_no_error(worker, query):
    exchange = worker.submit(f"/begins_and_leaves{query}")
    worker.half_close(exchange)
    answer = worker.whole(exchange)
    assert (answer.body, answer.raised) == (b"half" if query else b"", [""])


def test_exception_after_a_half_close_is_reported(worker):
    exchange = worker.submit("/begins_and_leaves?begin-and-fail")
    worker.half_close(exchange)
    assert worker.whole(exchange).raised == ["ValueError: not for that"]


def test_disconnect_during_the_body_is_received_at_once(worker):
    exchange = worker.submit("/events", "POST", length=1000)
    worker.until(exchange, lambda answer: answer.taken, "taken")
    worker.part(exchange, b"half")
    worker.disconnect(exchange)
    worker.whole(exchange)
    assert told(worker.ask("/seen"))[-1] == {"type": "http.disconnect"}


def test_receive_after_the_response_is_a_disconnect(worker):
    assert worker.ask("/after_complete").body == b"complete"
    assert [event["type"] for event in told(worker.ask("/seen"))] == [
        *("http.request", "http.disconnect", "http.disconnect")
    ]


def test_cancelled_receive_loses_no_event(worker):
    exchange = worker.submit("/receive_in_tasks", "POST", length=4)
    worker.until(exchange, lambda answer: answer.body == b"timeout", "given up")
    worker.part(exchange, b"body", end=True)
    assert worker.whole(exchange).body == b"timeoutbody"


# ------------------------------------------------ send


def test_small_response_is_one_frame_and_its_end(worker):
    answer = worker.ask("/scope")
    assert [(kind, bool(flags & END)) for kind, flags, _ in answer.frames] == [(RESPOND, True), (BODY, True)]


def test_body_parts_are_sent_immediately(worker):
    assert worker.ask("/parts").body == b"012"
    exchange = worker.submit("/paced?send")
    answer = worker.until(exchange, lambda answer: answer.body, "sent")
    assert (answer.status, answer.body, answer.end) == (200, b"first", False)
    open_gate(worker, "send")
    assert worker.whole(exchange).body == b"firstlast"


def test_empty_part_sends_the_head(worker):
    exchange = worker.submit("/head_only?head")
    answer = worker.until(exchange, lambda answer: answer.status, "sent")
    assert (answer.status, answer.body) == (201, b"")
    open_gate(worker, "head")
    assert worker.whole(exchange).body == b"done"


@pytest.mark.parametrize("size", [65_536, 66_048, 1_000_192, 10_000_128])
def test_large_bodies_arrive_whole_with_their_length(worker, size):
    answer = worker.ask(f"/large?{size}")
    assert answer.body == bytes(range(256)) * (size // 256)
    if size > 65_536:
        assert dict(answer.fields)[b"content-length"] == str(size).encode()


def test_slow_client_suspends_only_its_own_send(worker):
    worker.is_slow = True
    try:
        exchange = worker.submit("/flood")
        worker.until(exchange, lambda answer: len(answer.body) >= 1024 * 1024, "filled the window")
        sent = told(worker.ask("/seen"))[0]
        assert 20 <= sent < 24, "one MiB in parts of 50,000"
        assert len(worker.answers[exchange].body) < 1_200_000
        # Each acknowledgement lets it go on.
        worker.acknowledge()
        worker.until(exchange, lambda answer: len(answer.body) > 1_200_000, "went on")
    finally:
        worker.is_slow = False
        worker.acknowledge()
    assert len(worker.whole(exchange).body) == 200 * 50_000


def test_exhausted_slab_suspends_only_large_sends(worker):
    worker.is_slow = True
    try:
        # More than the slab has, in exchanges that each may have a MiB on the way.
        exchanges = [worker.submit(f"/large?{3 * 1024 * 1024}") for _ in range(4)]
        eventually(
            lambda: worker.collect() or sum(len(n) for _, _, n in worker.unacked) == CHUNKS, "all is lent"
        )
        assert told(worker.ask("/ignore")) == "ignored"
    finally:
        worker.is_slow = False
        worker.acknowledge()
    for exchange in exchanges:
        assert len(worker.whole(exchange).body) == 3 * 1024 * 1024


def test_full_ring_loses_no_frame(worker):
    exchanges = [worker.submit("/large?65536") for _ in range(8)]
    # Nobody takes anything: eight times 64 KiB do not fit into the ring.
    eventually(lambda: worker.slot_of(exchanges[-1]) is None or worker.has_completion(), "begun")
    for exchange in exchanges:
        assert len(worker.whole(exchange).body) == 65_536


def test_disconnect_ends_a_suspended_send(worker):
    worker.is_slow = True
    try:
        exchange = worker.submit("/flood")
        worker.until(exchange, lambda answer: len(answer.body) >= 1024 * 1024, "filled the window")
        worker.disconnect(exchange)
        answer = worker.whole(exchange)
    finally:
        worker.is_slow = False
        worker.acknowledge()
    assert answer.raised == []
    assert told(worker.ask("/seen")) == [200], "send() does nothing once the client has gone"


@pytest.mark.parametrize("status", [204, 304])
def test_bodiless_statuses_have_no_body(worker, status):
    answer = worker.ask(f"/status?{status}")
    assert (answer.status, answer.body, answer.raised) == (status, b"", [])


def test_head_has_no_body_and_the_length_of_get(worker):
    answer = worker.ask("/status?200", "HEAD")
    assert (answer.body, dict(answer.fields)[b"content-length"]) == (b"", b"6")
    answer = worker.ask("/length?7-7", "HEAD")
    assert (answer.body, dict(answer.fields)[b"content-length"]) == (b"", b"7")


def test_headers_are_lowercased_trimmed_without_hop_by_hop(worker):
    assert worker.ask("/headers").fields == [
        (b"x-upper", b"trimmed"),
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
        (b"x-array", b"view"),
        (b"x-latin", b"\xe9"),
    ]
    assert worker.ask("/generated_headers").fields == [(b"x-a", b"v"), (b"x-b", b"v")]
    answer = worker.ask("/no_headers")
    assert (answer.fields, answer.body) == ([], b"")


def test_body_may_be_a_bytearray_or_memoryview(worker):
    assert worker.ask("/views").body == b"array view"


def test_send_can_run_in_a_task(worker):
    assert worker.ask("/sends_from_tasks").body == b"012"


# ------------------------------------------------ extensions


def test_pathsend_passes_the_descriptor(worker):
    exchange = worker.submit("/file")
    answer = worker.whole(exchange)
    assert answer.file == (0, 11)
    assert dict(answer.fields)[b"content-length"] == b"11"
    worker.next("file")
    with open(worker.files.pop(exchange), "rb") as file:
        assert file.read() == b"from a file"


def test_pathsend_of_a_grown_file_sends_its_content_length(worker, tmp_path):
    file = tmp_path / "log"
    file.write_bytes(b"line\n" * 1000)
    answer = worker.ask(f"/path?4000,{file}")
    assert (answer.raised, answer.file, answer.end) == ([], (0, 4000), True)
    assert answer.fields == [(b"content-length", b"4000")]


def test_pathsend_with_content_length_zero_sends_nothing(worker, tmp_path):
    file = tmp_path / "log"
    file.write_bytes(b"first line\n")
    answer = worker.ask(f"/path?0,{file}")
    assert (answer.raised, answer.file, answer.body, answer.end) == ([], None, b"", True)


def test_pathsend_of_a_shrunk_file_raises_before_the_head(worker, tmp_path):
    file = tmp_path / "log"
    file.write_bytes(b"x" * 99)
    answer = worker.ask(f"/path?100,{file}")
    assert (answer.status, answer.file) == (0, None)
    assert "Response content shorter than Content-Length" in answer.raised[0]


def test_pathsend_of_an_empty_file_is_an_empty_body(worker, tmp_path):
    file = tmp_path / "empty"
    file.write_bytes(b"")
    answer = worker.ask(f"/path?,{file}")
    assert (answer.fields, answer.file, answer.body) == ([(b"content-length", b"0")], None, b"")


@pytest.mark.parametrize("path", ["/proc/version", SYSFS])
def test_pathsend_of_a_pseudo_file_sends_until_its_end(worker, path):
    if not os.path.exists(path):
        pytest.skip(f"SKIPPED: no {path} here")
    answer = worker.ask(f"/path?,{path}")
    assert (answer.raised, answer.file, answer.fields) == ([], (0, TO_THE_END), [])
    size = os.stat(path).st_size
    answer = worker.ask(f"/path?{size},{path}")
    # The application has announced what is not so.
    assert answer.status == 0
    assert "than Content-Length" in answer.raised[0]


def test_pathsend_of_a_fifo_does_not_block_the_loop(worker, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    answer = worker.ask(f"/path?,{tmp_path}/fifo")
    assert "not a regular file" in answer.raised[0]


@pytest.mark.parametrize(
    ("path", "why"), [("/no_file", "FileNotFoundError"), ("/directory", "not a regular file")]
)
def test_pathsend_of_a_missing_file_or_directory_raises(worker, path, why):
    answer = worker.ask(path)
    assert answer.status == 0
    assert why in answer.raised[0]


def test_pathsend_for_head_sends_no_file(worker):
    answer = worker.ask("/file", "HEAD")
    assert (answer.file, answer.body, dict(answer.fields)[b"content-length"]) == (None, b"", b"11")


def test_early_hints_are_sent_before_the_head(worker):
    answer = worker.ask("/hints")
    assert answer.hints == [[(b"link", b"</a.css>; rel=preload"), (b"link", b"</b.js>")]]
    assert [kind for kind, _, _ in answer.frames] == [5, 1, 2]


def test_trailers_end_the_response(worker):
    answer = worker.ask("/trailers")
    assert (answer.body, answer.trailers) == (b"body", [(b"x-one", b"1"), (b"x-two", b"2")])
    assert [(kind, bool(flags & END)) for kind, flags, _ in answer.frames] == [
        *((1, False), (6, True), (2, True))
    ]


def test_trailers_wait_for_credit(worker):
    worker.is_slow = True
    try:
        exchange = worker.submit("/large_trailers")
        answer = worker.until(exchange, lambda answer: len(answer.body) >= 1024 * 1024, "window is full")
        assert answer.trailers is None
    finally:
        worker.is_slow = False
        worker.acknowledge()
    answer = worker.whole(exchange)
    assert (len(answer.body), answer.trailers) == (6_000_000, [(b"x-one", b"1")])


# ------------------------------------------------ tasks


def test_request_runs_in_its_own_task_and_context(worker, loop):
    for _ in range(2):
        _, name, module, before, is_task = told(worker.ask("/task"))
        assert (name, before, is_task) == ("rgun", "unset", True)
        assert module.partition(".")[0] == loop


def test_timeouts_and_task_groups_work(worker):
    assert told(worker.ask("/timeout")) == "in time"


def test_requests_run_concurrently(worker):
    worker.ask("/forget")
    exchanges = [worker.submit("/at_once?meet") for _ in range(3)]
    assert [told(worker.whole(exchange)) for exchange in exchanges] == [3, 3, 3]


def test_concurrent_requests_use_separate_slots(worker):
    for round in range(2):
        exchanges = [worker.submit(f"/paced?all{round}") for _ in range(7)]
        for exchange in exchanges:
            worker.until(exchange, lambda answer: answer.body, "begun")
        slots = {worker.slot_of(exchange) for exchange in exchanges}
        assert len(slots) == 7
        assert None not in slots
        open_gate(worker, f"all{round}")
        assert {worker.whole(exchange).body for exchange in exchanges} == {b"firstlast"}
    assert {worker.slot(number, 0) for number in range(8)} == {0}


def test_thousand_requests_are_each_answered_once(worker):
    for _ in range(125):
        exchanges = [worker.submit("/echo", "POST", body=b"%d" % number) for number in range(8)]
        assert [worker.whole(exchange).body for exchange in exchanges] == [b"%d" % n for n in range(8)]


def test_work_after_the_response_keeps_only_the_slot(worker):
    exchange = worker.submit("/background?later")
    answer = worker.until(exchange, lambda answer: answer.end, "answered")
    assert (answer.body, answer.done) == (b"answered", False)
    assert worker.slot_of(exchange) is not None
    open_gate(worker, "later")
    worker.whole(exchange)
    assert told(worker.ask("/seen")) == ["worked on"]


# ------------------------------------------------ the end


def test_stop_waits_for_running_requests(fake, python, loop):
    worker = spawn(fake, python, loop)
    exchange = worker.submit("/echo", "POST", length=4)
    worker.until(exchange, lambda answer: answer.taken, "taken")
    worker.send(b"X")
    worker.part(exchange, b"body", end=True)
    assert worker.whole(exchange).body == b"body"
    assert worker.wait() == 0
    assert "lifespan: shutdown" in fake.output()


def test_stop_lets_a_streaming_response_finish(fake, python, loop):
    worker = spawn(fake, python, loop)
    worker.is_slow = True
    exchange = worker.submit("/flood")
    worker.until(exchange, lambda answer: len(answer.body) >= 1024 * 1024, "filled the window")
    worker.send(b"X")
    worker.is_slow = False
    worker.acknowledge()
    assert len(worker.whole(exchange).body) == 200 * 50_000
    assert worker.wait() == 0


LEAVING = """
    import functools, os, signal, sys

    def leave(number, frame):
        sys.exit(5)

    class Leaving:
        def leave(self, number, frame):
            sys.exit(5)

    HANDLERS = {
        "function": leave,
        "method": Leaving().leave,
        "lambda": lambda *given: sys.exit(5),
        "partial": functools.partial(lambda name, number, frame: sys.exit(5), "bound"),
        "default": lambda number, frame, code=5: sys.exit(code),
    }
    signal.signal(signal.SIGUSR1, HANDLERS[os.environ.get("HANDLER", "function")])

    def profile(frame, event, function):
        if event == "c_call" and function.__name__ == "_returned":
            sys.exit(5)

    async def application(scope, receive, send):
        if scope["type"] == "http":
            await receive()
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"one", "more_body": True})
            if scope["path"] == "/raise":
                os.kill(os.getpid(), signal.SIGUSR1)
            if scope["path"] == "/profile":
                sys.setprofile(profile)
            else:
                await receive()
            await send({"type": "http.response.body", "body": b"two"})
"""


def test_exit_in_a_signal_handler_ends_the_worker(fake, python, loop, project):
    worker = spawn(fake, python, loop, "leaving", project(leaving=LEAVING))
    exchange = worker.submit("/")
    worker.until(exchange, lambda answer: answer.body, "begun")
    # The request may have come to wait, or be about to: then the exit interrupts it.
    os.kill(worker.pid, signal.SIGUSR1)
    worker.disconnect(exchange)
    worker.whole(exchange)
    assert worker.wait() == 5


@pytest.mark.parametrize("handler", ["function", "method", "lambda", "partial", "default"])
def test_exit_in_a_handler_during_a_request_fails_that_request(fake, python, loop, project, handler):
    worker = spawn(fake, python, loop, "leaving", project(leaving=LEAVING), env={"HANDLER": handler})
    other = worker.submit("/", "POST", length=8)
    worker.until(other, lambda answer: answer.taken, "taken")
    worker.part(other, b"part")
    worker.until(other, lambda answer: answer.body, "begun")
    answer = worker.ask("/raise")
    assert (answer.body, answer.raised[0]) == (b"one", "SystemExit: 5")
    worker.part(other, b"part", end=True)
    assert worker.whole(other).body == b"onetwo"
    assert worker.wait() == 5


def test_exit_between_return_and_report_loses_neither(fake, python, loop, project):
    worker = spawn(fake, python, loop, "leaving", project(leaving=LEAVING))
    # In the server's own frames, as a signal handler's may be; there is no sending a signal at that instant.
    answer = worker.ask("/profile")
    assert (answer.body, answer.raised[0]) == (b"onetwo", "SystemExit: 5")
    assert worker.wait() == 5
