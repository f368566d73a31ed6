"""send() of ASGI requests: frames, back-pressure, heads, bodies."""

import pytest
from support.asgi_exchanges import json_of, open_gate, spawn
from support.fake_channel import BODY, CHUNKS, END, RESPOND
from support.waiting import wait_until

APPLICATION = "asgi_cases"


def test_message_may_be_any_mapping_with_any_strings(worker):
    answer = worker.fetch("/written_oddly")
    assert (answer.status, answer.body) == (201, b"part part part end")
    assert (b"x-way", b"odd") in answer.fields


def test_small_response_is_one_frame_and_its_end(worker):
    answer = worker.fetch("/scope")
    assert [(kind, bool(flags & END)) for kind, flags, _ in answer.frames] == [(RESPOND, True), (BODY, True)]


def test_body_parts_are_sent_immediately(worker):
    assert worker.fetch("/parts").body == b"012"
    exchange = worker.submit("/paced?send")
    answer = worker.wait_for_response(exchange, lambda answer: answer.body, "the first part is sent")
    assert (answer.status, answer.body, answer.end) == (200, b"first", False)
    open_gate(worker, "send")
    assert worker.wait_done(exchange).body == b"firstlast"


def test_empty_part_sends_the_head(worker):
    exchange = worker.submit("/head_only?head")
    answer = worker.wait_for_response(exchange, lambda answer: answer.status, "the head is sent")
    assert (answer.status, answer.body) == (201, b"")
    open_gate(worker, "head")
    assert worker.wait_done(exchange).body == b"done"


@pytest.mark.parametrize("size", [65_536, 66_048, 1_000_192, 10_000_128])
def test_large_bodies_arrive_whole_with_their_length(worker, size):
    answer = worker.fetch(f"/large?{size}")
    assert answer.body == bytes(range(256)) * (size // 256)
    if size > 65_536:
        assert dict(answer.fields)[b"content-length"] == str(size).encode()


def test_slow_client_suspends_only_its_own_send(worker):
    worker.is_slow = True
    try:
        exchange = worker.submit("/flood")
        worker.wait_for_response(
            exchange, lambda answer: len(answer.body) >= 1024 * 1024, "the window is full"
        )
        sent = json_of(worker.fetch("/seen"))[0]
        assert 20 <= sent < 24, "one MiB in parts of 50,000"
        assert len(worker.responses[exchange].body) < 1_200_000
        # Each acknowledgement lets the application send more.
        worker.acknowledge()
        worker.wait_for_response(
            exchange, lambda answer: len(answer.body) > 1_200_000, "the worker sends more"
        )
    finally:
        worker.is_slow = False
        worker.acknowledge()
    assert len(worker.wait_done(exchange).body) == 200 * 50_000


def test_exhausted_slab_suspends_only_large_sends(worker):
    worker.is_slow = True
    try:
        # Together more than the slab; each exchange may have 1 MiB unacknowledged.
        exchanges = [worker.submit(f"/large?{3 * 1024 * 1024}") for _ in range(4)]
        wait_until(
            "all chunks are in use",
            lambda: worker.collect() or sum(len(n) for _, _, n in worker.unacked) == CHUNKS,
        )
        assert json_of(worker.fetch("/ignore")) == "ignored"
    finally:
        worker.is_slow = False
        worker.acknowledge()
    for exchange in exchanges:
        assert len(worker.wait_done(exchange).body) == 3 * 1024 * 1024


def test_body_from_16_kib_uses_the_slab_while_it_has_room(worker):
    worker.is_slow = True
    try:
        sizes = [15_872, 16_384, 65_536]
        for size in sizes:
            assert worker.fetch(f"/large?{size}").body == bytes(range(256)) * (size // 256)
        assert [len(chunks) for _, used, chunks in worker.unacked if used] == [0, 1, 1]
        exchanges = [worker.submit(f"/large?{3 * 1024 * 1024}") for _ in range(4)]
        wait_until(
            "all chunks are in use",
            lambda: worker.collect() or sum(len(n) for _, _, n in worker.unacked) == CHUNKS,
        )
        assert worker.fetch("/large?65536").body == bytes(range(256)) * 256
    finally:
        worker.is_slow = False
        worker.acknowledge()
    for exchange in exchanges:
        worker.wait_done(exchange)


def test_full_ring_loses_no_frame(fake, python, loop):
    worker = spawn(fake, python, loop, APPLICATION, concurrency=20)
    exchanges = [worker.submit("/large?15872") for _ in range(20)]
    # Nothing is read yet, and twenty bodies below the slab's threshold do not fit into the ring.
    wait_until(
        "the worker has sent frames", lambda: worker.slot_of(exchanges[-1]) is None or worker.has_completion()
    )
    for exchange in exchanges:
        assert len(worker.wait_done(exchange).body) == 15_872


def test_disconnect_ends_a_suspended_send(worker):
    worker.is_slow = True
    try:
        exchange = worker.submit("/flood")
        worker.wait_for_response(
            exchange, lambda answer: len(answer.body) >= 1024 * 1024, "the window is full"
        )
        worker.disconnect(exchange)
        answer = worker.wait_done(exchange)
    finally:
        worker.is_slow = False
        worker.acknowledge()
    assert answer.raised == []
    assert json_of(worker.fetch("/seen")) == [200], "send() does nothing once the client has disconnected"


@pytest.mark.parametrize("status", [204, 304])
def test_bodiless_statuses_have_no_body(worker, status):
    answer = worker.fetch(f"/status?{status}")
    assert (answer.status, answer.body, answer.raised) == (status, b"", [])


def test_head_has_the_length_of_get_and_no_body(worker):
    answer = worker.fetch("/status?200", "HEAD")
    assert (answer.body, dict(answer.fields)[b"content-length"]) == (b"", b"6")
    answer = worker.fetch("/length?7-7", "HEAD")
    assert (answer.body, dict(answer.fields)[b"content-length"]) == (b"", b"7")


def test_headers_are_normalized_and_hop_by_hop_fields_dropped(worker):
    assert worker.fetch("/headers").fields == [
        (b"x-upper", b"trimmed"),
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
        (b"x-array", b"view"),
        (b"x-latin", b"\xe9"),
    ]
    assert worker.fetch("/generated_headers").fields == [(b"x-a", b"v"), (b"x-b", b"v")]
    answer = worker.fetch("/no_headers")
    assert (answer.fields, answer.body) == ([], b"")


def test_constant_headers_are_sent_with_each_response(worker):
    kind, length = (b"content-type", b"text/plain"), (b"content-length", b"4")
    expected = {
        "both": (200, [kind, length]),
        "reversed": (200, [length, kind]),
        "one": (200, [kind]),
        "created": (201, [kind, length]),
        "no_content": (204, [kind]),
    }
    for name in [*expected, *expected, *(name for name in expected for _ in range(3))]:
        answer = worker.fetch(f"/constant_head?{name}")
        assert (answer.status, answer.fields) == expected[name], name
        assert answer.body == (b"" if answer.status == 204 else b"four")


def test_header_that_changes_in_place_is_sent_anew(worker):
    for number in (b"1", b"2", b"3"):
        answer = worker.fetch("/constant_head?changing")
        assert answer.fields == [(b"content-type", b"text/plain"), (b"x-number", number)]


def test_body_may_be_a_bytearray_or_memoryview(worker):
    assert worker.fetch("/views").body == b"array view"


def test_send_can_run_in_a_task(worker):
    assert worker.fetch("/sends_from_tasks").body == b"012"
