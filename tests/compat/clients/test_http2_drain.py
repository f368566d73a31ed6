"""HTTP/2 while the daemon drains: each request is served, or GOAWAY makes it safe to repeat.

The daemon sends two GOAWAY frames (RFC 9113 §6.8).
"""

import hashlib
import json
import os
import time

import pytest
from support.http2_frames import (
    ACK,
    END_STREAM,
    MAX_STREAM_ID,
    PREFACE,
    Error,
    FrameClient,
    Kind,
    frame,
    request,
    settings,
)

BLOCK_BYTES = 65536
INITIAL_WINDOW_SIZE = 4


@pytest.fixture
def server(start):
    return start("streams:application")


def status_byte(client, stream):
    """Returns the byte that encodes the status in a response's header block: 0x88 is 200."""
    return client.read_kind(Kind.HEADERS, stream).payload[0]


def begin_download(server, blocks):
    """Opens a connection on which the response of stream 1 waits for credit from the client."""
    client = FrameClient(server.tcp_address, PREFACE + settings((INITIAL_WINDOW_SIZE, 0)))
    client.send(request(1, f"/download/{blocks}"))
    assert status_byte(client, 1) == 0x88
    return client


def give_credit(client, stream, size):
    """Lets the daemon send `size` bytes on a stream."""
    update = size.to_bytes(4, "big")
    client.send(frame(Kind.WINDOW_UPDATE, 0, 0, update), frame(Kind.WINDOW_UPDATE, 0, stream, update))


def body_of(frames, stream):
    """Returns the body in the DATA frames of a stream."""
    return b"".join(part.payload for part in frames if (part.kind, part.stream) == (Kind.DATA, stream))


def test_goaway_follows_the_end_of_a_short_response(server):
    """Even a client that gives up at a GOAWAY, as httpx does, gets the response whole."""
    with begin_download(server, 2) as client:
        server.terminate()
        server.wait_for_log("stopping")
        give_credit(client, 1, 2 * BLOCK_BYTES)
        rest = client.read_to_end()
        ends = [number for number, part in enumerate(rest) if part.stream == 1 and part.flags & END_STREAM]
        goaways = [number for number, part in enumerate(rest) if part.kind == Kind.GOAWAY]
        assert len(ends) == 1
        assert ends[0] < goaways[0]
        assert [rest[number].last_stream for number in goaways] == [1]
    assert server.stop() == 0


def test_client_that_ignores_ping_gets_the_second_goaway(server):
    with begin_download(server, 2) as client:
        server.terminate()
        first = client.read_kind(Kind.GOAWAY)
        assert (first.last_stream, first.error) == (MAX_STREAM_ID, Error.NO_ERROR)
        client.read_kind(Kind.PING)
        # A request that the client may have sent before it received the GOAWAY.
        client.send(request(3, "/counts"))
        assert status_byte(client, 3) == 0x88
        began = time.monotonic()
        second = client.read_kind(Kind.GOAWAY)
        assert (second.last_stream, second.error) == (3, Error.NO_ERROR)
        assert time.monotonic() - began < 5
        # A stream above the last one is ignored; the stream under way is served to its end.
        client.send(request(5, "/counts"))
        give_credit(client, 1, 2 * BLOCK_BYTES)
        rest = client.read_to_end()
        assert body_of(rest, 1) == bytes(range(256)) * 512
        assert not [part for part in rest if part.stream == 5]
    assert server.stop() == 0


def test_requests_that_race_with_goaway_are_served_or_ignored(server):
    """The client sends request after request, and answers the PING in the middle of them."""
    with begin_download(server, 1) as client:
        server.terminate()
        ping = client.read_kind(Kind.PING)
        before = b"".join(request(number, "/counts") for number in range(3, 21, 2))
        after = b"".join(request(number, "/counts") for number in range(21, 41, 2))
        client.send(before, frame(Kind.PING, ACK, 0, ping.payload), after)
        # Room for all responses, without frames on streams that the daemon ignores.
        client.send(settings((INITIAL_WINDOW_SIZE, BLOCK_BYTES)))
        client.send(frame(Kind.WINDOW_UPDATE, 0, 0, BLOCK_BYTES.to_bytes(4, "big")))
        rest = client.read_to_end()
        # Requests that the daemon reads together with the acknowledgement may be served too: h2
        # sends the GOAWAY after them.
        (second,) = [part for part in rest if part.kind == Kind.GOAWAY]
        assert second.last_stream >= 19
        served = [part.stream for part in rest if part.kind == Kind.HEADERS]
        assert sorted(served) == list(range(3, second.last_stream + 1, 2))
        assert not [part for part in rest if part.kind == Kind.RST_STREAM]
    assert server.stop() == 0


def test_upload_by_a_client_that_ignores_ping_is_received_whole(server):
    """The second GOAWAY is decided between two frames, however the bytes of the frames arrive."""
    # Fits into the default window of 65,535 bytes: the client acknowledges no SETTINGS.
    body = os.urandom(60_000)
    with FrameClient(server.tcp_address) as client:
        client.send(request(1, "/upload", "POST", end=False))
        parts = [frame(Kind.DATA, 0, 1, body[at : at + 2000]) for at in range(0, len(body), 2000)]
        data = b"".join(parts) + frame(Kind.DATA, END_STREAM, 1)
        assert client.is_usable()
        client.send(data[:10_000])
        server.terminate()
        client.read_kind(Kind.PING)
        sent, goaways = 10_000, 0
        # Sends parts of frames: 17 does not divide the size of a frame.
        while goaways == 0 and sent < len(data) - 1000:
            client.send(data[sent : sent + 17])
            sent += 17
            client.socket.settimeout(0.01)
            try:
                received = client.read()
                goaways += received is not None and received.kind == Kind.GOAWAY
            except TimeoutError:
                continue
        client.socket.settimeout(10)
        assert goaways == 1
        client.send(data[sent:])
        answer = json.loads(body_of(client.read_to_end(), 1))
        assert answer == {"length": len(body), "digest": hashlib.sha256(body).hexdigest()}
    assert server.stop() == 0


def test_late_acknowledgement_of_the_ping_is_ignored(server):
    with begin_download(server, 1) as client:
        server.terminate()
        ping = client.read_kind(Kind.PING)
        assert client.read_kind(Kind.GOAWAY).last_stream == 1
        client.send(frame(Kind.PING, ACK, 0, ping.payload))
        give_credit(client, 1, BLOCK_BYTES)
        rest = client.read_to_end()
        assert len(body_of(rest, 1)) == BLOCK_BYTES
        assert not [part for part in rest if part.kind == Kind.GOAWAY]
    assert server.stop() == 0
    assert "never sent" not in server.log()


def test_busy_client_that_ignores_goaway_does_not_delay_the_stop(server):
    """The client opens a stream after each response, and never answers the PING."""
    with FrameClient(server.tcp_address) as client:
        # Enough credit for all responses.
        client.send(frame(Kind.WINDOW_UPDATE, 0, 0, (1 << 30).to_bytes(4, "big")), request(1, "/counts"))
        status_byte(client, 1)
        server.terminate()
        began, number = time.monotonic(), 3
        client.send(request(number, "/counts"))
        while (received := client.read()) is not None:
            if (received.kind, received.stream) == (Kind.HEADERS, number):
                number += 2
                client.send(request(number, "/counts"))
        assert time.monotonic() - began < 8
        assert Kind.RST_STREAM not in {part.kind for part in client.frames}
    assert server.stop() == 0


def test_reload_sends_no_goaway(server):
    with FrameClient(server.tcp_address) as client:
        client.send(request(1, "/counts"))
        status_byte(client, 1)
        server.reload()
        server.wait_for_log("is ready", 2)
        client.send(request(3, "/counts"))
        assert status_byte(client, 3) == 0x88
        assert Kind.GOAWAY not in {part.kind for part in client.frames}
