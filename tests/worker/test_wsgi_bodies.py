"""Request bodies that travel as descriptors, as WSGI applications read them."""

import os
import signal
import textwrap

import pytest

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
