"""ASGI WebSockets in the worker: scope, receive, send, credit, and memory of idle ones."""

import pytest
from support.asgi_exchanges import (
    disconnect,
    disconnect_event,
    handshake,
    json_of,
    latin,
    only_message,
    open_gate,
    open_websocket,
    recorded,
    run_websocket,
    spawn,
)
from support.fake_channel import (
    BODY,
    CHUNKS,
    CLOSE,
    DONE,
    END,
    MESSAGE_COST,
    MORE,
    RESPOND,
    TEXT,
    WINDOW_UPDATE,
)
from support.processes import resident_kib
from support.waiting import wait_until

APPLICATION = "websocket_cases"

WINDOW = 64 * 1024
STEP = WINDOW // 4
RESPONSE_WINDOW = 1024 * 1024


# ------------------------------------------------ scope


def test_scope_has_the_keys_and_values_of_uvicorn(worker):
    headers = [
        (b"host", b"h"),
        (b"sec-websocket-protocol", b"chat.v2,  chat.v1 "),
        (b"sec-websocket-protocol", b"other"),
    ]
    scope = only_message(worker, "/scope?a=%20b", headers=headers, peer=("192.0.2.7", 4711))
    assert scope.pop("keys") == [
        *("type", "asgi", "http_version", "scheme", "server", "client", "root_path", "path", "raw_path"),
        *("query_string", "headers", "subprotocols", "state", "extensions"),
    ]
    *sent, (name, request_id) = [tuple(latin(part) for part in pair) for pair in scope.pop("headers")]
    assert (sent, name) == (headers, b"x-request-id")
    assert scope["extensions"].pop("rgun") == {"request_id": request_id.decode()}
    assert latin(scope.pop("raw_path")) == b"/scope"
    assert latin(scope.pop("query_string")) == b"a=%20b"
    assert scope == {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "ws",
        "server": ["127.0.0.1", 8000],
        "client": ["192.0.2.7", 4711],
        "root_path": "",
        "path": "/scope",
        "subprotocols": ["chat.v2", "chat.v1", "other"],
        "state": {"from": "lifespan", "list": []},
        "extensions": {"websocket.http.response": {}},
    }


def test_scope_over_tls_is_wss_without_subprotocols(worker):
    scope = only_message(worker, "/p/%C3%A6", https=True)
    assert (scope["scheme"], scope["subprotocols"], scope["path"]) == ("wss", [], "/p/æ")
    # An ordinary HTTP request over TLS still has the scheme https.
    assert json_of(worker.fetch("/scope", https=True))["scheme"] == "https"


def test_changes_to_the_scope_do_not_reach_later_websockets(worker):
    assert only_message(worker, "/spoil") == [None] * 3
    assert only_message(worker, "/spoil") == [None] * 3


def test_path_begins_with_the_root_path(fake, python):
    worker = spawn(fake, python, "asyncio", "websocket_cases", root_path="/root")
    scope = only_message(worker, "/p")
    assert (scope["root_path"], scope["path"], latin(scope["raw_path"])) == ("/root", "/root/p", b"/root/p")


# ------------------------------------------------ receive


def test_message_has_either_text_or_bytes(worker):
    exchange = open_websocket(worker, "/events?keys")
    for content in ("text", b"bytes", "", b"", "æ€😀"):
        worker.message(exchange, content)
    worker.disconnect(exchange, code=4321, reason="gänzlich".encode())
    open_gate(worker, "keys")
    answer = worker.wait_done(exchange)
    assert (answer.raised, answer.closed) == ([], None)
    assert recorded(worker) == [
        {"type": "websocket.receive", "text": "text"},
        {"type": "websocket.receive", "bytes": {"bytes": "bytes"}},
        {"type": "websocket.receive", "text": ""},
        {"type": "websocket.receive", "bytes": {"bytes": ""}},
        {"type": "websocket.receive", "text": "æ€😀"},
        # Each further receive() returns the disconnect again.
        *[disconnect_event(4321, "gänzlich")] * 3,
    ]


def test_messages_keep_their_order(worker):
    exchange = open_websocket(worker, "/echo")
    sent = []
    for number in range(300):
        sent.append(f"{number}" if number % 2 else b"%d" % number)
        worker.message(exchange, sent[-1])
    worker.wait_for_response(exchange, lambda answer: answer.messages == sent, "echoed")
    disconnect(worker, exchange)


def test_message_parts_are_joined(worker):
    exchange = open_websocket(worker, "/echo")
    for byte in "æ€😀".encode():
        worker.message(exchange, bytes([byte]), more=True, text=True)
    worker.message(exchange, b"", text=True)
    worker.message(exchange, b"", more=True, text=False)
    worker.message(exchange, b"b")
    worker.wait_for_response(exchange, lambda answer: answer.messages == ["æ€😀", b"b"], "echoed")
    disconnect(worker, exchange)


@pytest.mark.parametrize("kind", ["text", "bytes"])
def test_message_of_16_mib_is_echoed(worker, kind):
    exchange = open_websocket(worker, "/echo")
    part = ("é" * 30_000).encode()
    for _ in range(279):
        worker.message(exchange, part, more=True, text=kind == "text")
        worker.wait_claimed()
    worker.message(exchange, part, text=kind == "text")
    answer = worker.wait_for_response(exchange, lambda answer: answer.messages, "echoed")
    (message,) = answer.messages
    assert (message.encode() if kind == "text" else message) == part * 280
    # The worker grants credit for the whole message, because the daemon limits its size.
    assert answer.credit > 279 * len(part)
    disconnect(worker, exchange)


def test_no_credit_is_granted_before_accept(worker):
    exchange = handshake(worker, "/undecided")
    assert json_of(worker.fetch("/forget")) == "forgotten"
    assert exchange not in worker.responses
    answer = disconnect(worker, exchange, 1006)
    # The client has disconnected, so no response is sent.
    assert (answer.frames, answer.raised) == ([(BODY, END | DONE, 0)], [])
    assert recorded(worker) == [disconnect_event(1006)]


@pytest.mark.parametrize("code", [1000, 1001, 1005, 1006, 1012])
def test_waiting_receive_gets_the_disconnect_code(worker, code):
    exchange = open_websocket(worker, "/echo")
    answer = disconnect(worker, exchange, code, b"why")
    assert (answer.raised, answer.closed) == ([], None)
    assert [kind for kind, _, _ in answer.frames] == [RESPOND, WINDOW_UPDATE, BODY]
    assert recorded(worker) == [disconnect_event(code, "why")]


def test_incomplete_message_is_never_received(worker):
    exchange = open_websocket(worker, "/echo")
    worker.message(exchange, "begun", more=True)
    assert disconnect(worker, exchange, 1006).messages == []
    assert recorded(worker) == [disconnect_event(1006)]


def test_receive_and_send_work_in_tasks(worker):
    exchange = open_websocket(worker, "/in_tasks")
    worker.wait_for_response(
        exchange, lambda answer: answer.messages == ['"timeout"'], "the receive is cancelled"
    )
    worker.message(exchange, "kept")
    assert worker.wait_done(exchange).messages == ['"timeout"', "kept", "0", "1", "2"]


def test_local_close_wakes_a_waiting_receive(worker):
    answer = run_websocket(worker, "/closes_while_receiving")
    assert (answer.closed, answer.raised) == ((4001, "enough"), [])
    assert recorded(worker) == [disconnect_event(4001, "enough")] * 2


def test_messages_before_a_local_close_are_still_received(worker):
    exchange = open_websocket(worker, "/closes_with_unread_messages?unread")
    worker.message(exchange, "before")
    worker.message(exchange, "also before")
    worker.wait_claimed()
    open_gate(worker, "unread")
    worker.wait_for_response(exchange, lambda answer: answer.closed, "closed")
    worker.message(exchange, "after")
    # The client's close frame does not change the code.
    worker.disconnect(exchange, code=1000, reason=b"answered")
    open_gate(worker, "unread")
    worker.wait_done(exchange)
    assert [event.get("text") or event["code"] for event in recorded(worker)] == [
        "before",
        "also before",
        1000,
    ]
    assert recorded(worker)[-1] == disconnect_event(1000)


@pytest.mark.parametrize("frame", ["text", "parts", "reason"])
def test_text_that_is_not_utf8_is_a_protocol_error(fakes, python, frame):
    fake = fakes()
    worker = spawn(fake, python, "asyncio", "websocket_cases")
    exchange = open_websocket(worker, "/echo")
    if frame == "reason":
        worker.disconnect(exchange, code=1000, reason=b"\xff")
    else:
        worker.message(exchange, b"\xc3", text=True, more=frame == "parts")
        if frame == "parts":
            worker.message(exchange, b"(", text=True)
    assert worker.wait() == 70
    assert "is not UTF-8" in fake.output()


# ------------------------------------------------ credit for received messages


def drain(worker, exchange, gate):
    """Ends a WebSocket whose application receives only when its gate opens."""
    worker.disconnect(exchange, code=1005)

    def is_over():
        open_gate(worker, gate)
        worker.collect()
        return worker.responses[exchange].done

    wait_until("the application has received the disconnect", is_over)


def test_credit_grows_as_the_application_receives(worker):
    exchange = open_websocket(worker, "/sizes?credit-16")
    # Credit is granted with the accept.
    assert worker.responses[exchange].frames == [(RESPOND, 0, 101), (WINDOW_UPDATE, 0, 0)]
    assert worker.responses[exchange].credit == WINDOW
    for _ in range(60):
        worker.message(exchange, b"m" * (1024 - MESSAGE_COST))
    for times in range(1, 4):
        open_gate(worker, "credit-16")
        worker.wait_for_response(
            exchange, lambda answer, n=times: answer.credit >= WINDOW + n * STEP, "more credit is granted"
        )
        assert worker.responses[exchange].credit == WINDOW + times * STEP
    drain(worker, exchange, "credit-16")


def test_empty_messages_use_credit(worker):
    gate = f"empty-{STEP // MESSAGE_COST}"
    exchange = open_websocket(worker, f"/sizes?{gate}")
    for _ in range(WINDOW // MESSAGE_COST):
        worker.message(exchange, "")
    json_of(worker.fetch("/forget"))
    assert worker.responses[exchange].credit == WINDOW, "nothing was received"
    open_gate(worker, gate)
    worker.wait_for_response(
        exchange, lambda answer: answer.credit == WINDOW + STEP, "more credit is granted"
    )
    drain(worker, exchange, gate)


def test_credit_bounds_consecutive_large_messages(worker):
    exchange = open_websocket(worker, "/sizes?pile-1")
    part = b"p" * 60_000
    for _ in range(3):
        worker.message(exchange, part, more=True)
    whole = 3 * (60_000 + MESSAGE_COST) + MESSAGE_COST
    worker.wait_for_response(
        exchange,
        lambda answer: answer.credit == whole - MESSAGE_COST + WINDOW,
        "credit for the message is granted at once",
    )
    worker.message(exchange, b"")
    # The message waits for the application, and with it the credit for the next one.
    worker.message(exchange, part, more=True)
    worker.wait_claimed()
    json_of(worker.fetch("/forget"))
    assert worker.responses[exchange].credit == whole - MESSAGE_COST + WINDOW
    open_gate(worker, "pile-1")
    worker.wait_for_response(
        exchange,
        lambda answer: answer.credit == whole + 60_000 + MESSAGE_COST + WINDOW,
        "credit for the next message",
    )
    drain(worker, exchange, "pile-1")


# ------------------------------------------------ send


@pytest.mark.parametrize("name", ["accept", "accept_none", "accept_empty"])
def test_accept_is_a_101_without_headers(worker, name):
    answer = run_websocket(worker, f"/script?{name}")
    assert (answer.status, answer.fields, answer.body) == (101, [], b"")
    assert answer.frames[:2] == [(RESPOND, 0, 101), (WINDOW_UPDATE, 0, 0)]


def test_accept_sends_subprotocol_and_application_headers(worker):
    assert run_websocket(worker, "/script?accept_all").fields == [
        (b"sec-websocket-protocol", b"chat.v2"),
        (b"x-upper", b"trimmed"),
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
    ]
    assert run_websocket(worker, "/script?accept_by_header").fields == [(b"sec-websocket-protocol", b"chat")]


def test_bytes_take_precedence_over_text(worker):
    answer = run_websocket(worker, "/script?messages")
    assert answer.messages == ["t", b"b", "æ€😀", b"array", "", b"", b"both"]
    assert answer.raised == []


@pytest.mark.parametrize("size", [1024, 65_536, 65_792, 1_000_192, 16 * 1024 * 1024])
def test_message_of_any_size_stays_one_message(worker, size):
    answer = run_websocket(worker, f"/large?{size}")
    assert answer.messages == [bytes(range(256)) * (size // 256), "é" * (size // 2)]
    frames = [flags for kind, flags, _ in answer.frames if kind == BODY]
    assert frames[-1] == TEXT
    assert all(flags in (0, MORE, TEXT, TEXT | MORE) for flags in frames)
    # A frame has at most sixteen chunks.
    assert (len(frames) > 2) == (size > 16 * 65_536)


@pytest.mark.parametrize("size", [0, 1000, 300_000])
def test_slow_client_suspends_only_its_own_send(worker, size):
    count = RESPONSE_WINDOW // (size + MESSAGE_COST) + 10
    worker.is_slow = True
    try:
        exchange = handshake(worker, f"/flood?{size}-{count}")

        def is_full():
            worker.collect()
            return sum(used for _, used, _ in worker.unacked) > RESPONSE_WINDOW

        wait_until("the window is full", is_full)
        assert recorded(worker)[0] < count - 5
        assert recorded(worker)[0] <= RESPONSE_WINDOW // (size + MESSAGE_COST) + 1
        n_frames = len(worker.responses[exchange].frames)
        json_of(worker.fetch("/scope"))
        assert len(worker.responses[exchange].frames) == n_frames, "sends on without credit"
    finally:
        worker.is_slow = False
        worker.acknowledge()
    answer = worker.wait_done(exchange)
    assert len(answer.messages) == count
    assert all(len(message) == size for message in answer.messages)


def test_exhausted_slab_suspends_send_without_loss(worker):
    worker.is_slow = True
    try:
        exchanges = [handshake(worker, f"/large?{3 * 1024 * 1024}") for _ in range(5)]
        wait_until(
            "all chunks are in use",
            lambda: worker.collect() or sum(len(n) for _, _, n in worker.unacked) == CHUNKS,
        )
        assert json_of(worker.fetch("/ignore")) == "ignored"
    finally:
        worker.is_slow = False
        worker.acknowledge()
    for exchange in exchanges:
        assert [len(message) for message in worker.wait_done(exchange).messages] == [3 << 20, 3 << 19]


# ------------------------------------------------ close, deny


@pytest.mark.parametrize(
    ("name", "end"),
    [("close", (1000, "")), ("close_none", (1000, "")), ("close_code", (4999, "g" * 121 + "é"))],
)
def test_close_carries_code_and_reason(worker, name, end):
    answer = run_websocket(worker, f"/script_then_receive?{name}")
    assert (answer.closed, answer.raised) == (end, [])
    # The close is sent before the application returns.
    assert answer.frames[-2:] == [(CLOSE, END, end[0]), (BODY, END | DONE, 0)]
    assert recorded(worker) == [disconnect_event(*end)] * 2


def test_close_before_accept_is_403(worker):
    answer = run_websocket(worker, "/script_then_receive?forbid")
    assert (answer.status, answer.fields, answer.body, answer.raised) == (403, [], b"", [])
    assert answer.frames == [(RESPOND, END, 403), (BODY, END | DONE, 0)]
    assert recorded(worker) == [disconnect_event(1006)] * 2


def test_denial_is_an_ordinary_response(worker):
    answer = run_websocket(worker, "/script_then_receive?deny")
    assert (answer.status, answer.fields) == (401, [(b"www-authenticate", b"Basic")])
    assert (answer.body, answer.raised) == (b"body", [])
    assert answer.frames == [(RESPOND, END, 401), (BODY, END | DONE, 0)]
    assert recorded(worker) == [disconnect_event(1006)] * 2
    answer = run_websocket(worker, "/script?deny_parts")
    assert (answer.status, answer.body, answer.raised) == (401, b"partpart", [])


# ------------------------------------------------ many idle WebSockets


def test_scope_dropped_by_the_application_is_freed(worker):
    exchange = open_websocket(worker, "/frugal")
    worker.message(exchange, "now")
    assert worker.wait_done(exchange).messages == ["true"]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_idle_websockets_use_every_slot_and_little_memory(fake, python, loop):
    n_sockets = 2000
    worker = spawn(fake, python, loop, "websocket_cases", concurrency=n_sockets)
    headers = [(b"host", b"example.org"), (b"user-agent", b"u" * 100), (b"cookie", b"c" * 200)]
    first = [open_websocket(worker, "/echo", headers=headers) for _ in range(100)]
    before = resident_kib(worker.pid, "RssAnon") * 1024
    rest = [handshake(worker, "/echo", headers=headers) for _ in range(n_sockets - 100)]
    for exchange in rest:
        worker.wait_for_response(exchange, lambda answer: answer.credit, "accepted")
    each = (resident_kib(worker.pid, "RssAnon") * 1024 - before) / len(rest)
    print(f"{loop}: {each:.0f} bytes for each idle WebSocket")
    assert each < 8192, "an idle WebSocket is its task, its scope and a few small objects"
    for exchange in (*first[:10], *rest[-10:]):
        worker.message(exchange, "still here?")
        worker.wait_for_response(exchange, lambda answer: answer.messages == ["still here?"], "answered")
    # A stopping worker serves its WebSockets until the daemon disconnects them.
    worker.send(b"X")
    for exchange in (*first, *rest):
        worker.disconnect(exchange, code=1012)
        worker.wait_for_response(exchange, lambda answer: answer.done, "ended")
        assert worker.responses[exchange].raised == []
    assert worker.wait() == 0


def test_websockets_may_use_every_slot(fake, python):
    worker = spawn(fake, python, "asyncio", "websocket_cases", interface="asgi", threads=30, concurrency=5)
    exchanges = [open_websocket(worker, "/echo") for _ in range(30)]
    for exchange in exchanges:
        disconnect(worker, exchange)


def test_broadcast_creates_few_waiters(fake, python):
    n_sockets = 1000
    worker = spawn(fake, python, "asyncio", "websocket_cases:counting", concurrency=n_sockets + 1)
    joined = [handshake(worker, "/joins") for _ in range(n_sockets)]
    for exchange in joined:
        worker.wait_for_response(exchange, lambda answer: answer.credit, "accepted")
    # The ring has room for about sixty messages.
    n_waits = only_message(worker, "/broadcasts?4000")
    for exchange in joined:
        assert worker.responses[exchange].messages == [b"s" * 4000]
    assert n_sockets // 2 < n_waits < 3 * n_sockets
