"""Bodies of WSGI requests that travel as descriptors, and of responses in the slab."""

import os
import signal
import textwrap

import pytest
from support.fake_channel import CHUNKS

APPLICATION = """
    def application(environ, start_response):
        start_response("200 OK", [])
        return [environ["wsgi.input"].read(), b" and the end"]
"""
BODY, CANCEL = b"B", b"F"


def command(kind, exchange):
    """Encodes a command about an exchange."""
    return kind + exchange.to_bytes(8, "little")


@pytest.fixture
def wsgi_worker(fake, tmp_path):
    """A WSGI worker with one thread."""
    (tmp_path / "reads_body.py").write_text(textwrap.dedent(APPLICATION))
    return fake.spawn("reads_body", tmp_path, interface="wsgi").wait_ready()


def spooled(content):
    """Returns a descriptor of a file with this content."""
    descriptor = os.memfd_create("body")
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def test_request_assigned_again_has_its_last_body(wsgi_worker):
    for _ in range(100):
        exchange = wsgi_worker.exchange + 1
        first, last = spooled(b"first"), spooled(b"last!")
        # The worker's threads find all messages and the frame when they continue, in any order.
        os.kill(wsgi_worker.pid, signal.SIGSTOP)
        assert os.WIFSTOPPED(os.waitpid(wsgi_worker.pid, os.WUNTRACED)[1])
        wsgi_worker.send(command(BODY, exchange), first)
        wsgi_worker.send(command(CANCEL, exchange))
        wsgi_worker.send(command(BODY, exchange), last)
        assert wsgi_worker.submit("/", "POST", body=b"last!", spooled=True) == exchange
        os.kill(wsgi_worker.pid, signal.SIGCONT)
        assert wsgi_worker.result(exchange) == (200, b"last! and the end")
        os.close(first)
        os.close(last)
    assert wsgi_worker.stop() == 0


def test_queued_bodies_of_all_sizes_arrive(wsgi_worker):
    bodies = [
        bytes([65 + n]) * size for n, size in enumerate((5000, 0, 1, 4095, 4096, 4097, 65_536, 3, 8192))
    ]
    # The worker finds one request when it wakes, and the others when it has ended that one.
    os.kill(wsgi_worker.pid, signal.SIGSTOP)
    assert os.WIFSTOPPED(os.waitpid(wsgi_worker.pid, os.WUNTRACED)[1])
    sent = {wsgi_worker.submit("/", "POST", body=body): body for body in bodies}
    os.kill(wsgi_worker.pid, signal.SIGCONT)
    for exchange, body in sent.items():
        assert wsgi_worker.result(exchange) == (200, body + b" and the end")
    assert wsgi_worker.stop() == 0


def test_response_from_16_kib_uses_the_slab_while_it_has_room(wsgi_worker):
    end = b" and the end"

    def n_chunks(size):
        """Has the worker respond with a body of this size; returns the number of chunks used."""
        body = bytes(size - len(end))
        assert wsgi_worker.result(wsgi_worker.submit("/", "POST", body=body)) == (200, body + end)
        return len(wsgi_worker.unacked[-1][2])

    wsgi_worker.is_slow = True
    # As many bytes as a slot may send without an acknowledgement.
    assert [n_chunks(16_384) for _ in range(CHUNKS + 1)] == [1] * CHUNKS + [0]
    wsgi_worker.acknowledge()
    assert [n_chunks(size) for size in (16_383, 16_384, 65_536)] == [0, 1, 1]
    wsgi_worker.acknowledge()
    assert wsgi_worker.stop() == 0
