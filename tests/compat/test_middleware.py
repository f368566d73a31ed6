"""Heads of responses that pass Starlette's middleware, with a fake daemon."""

import pytest
from support.asgi_exchanges import spawn
from support.fake_channel import BODY, RESPOND
from support.interpreters import require_module
from support.paths import COMPAT_APPS


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_small_body_stays_with_its_head_through_middleware(fake, python, loop):
    require_module(python, "starlette")
    worker = spawn(fake, python, loop, "middleware", COMPAT_APPS)
    for count in range(4):
        for _ in range(20):
            answer = worker.fetch(f"/?{count}")
            # A middleware's response is a stream, whose end is a separate message.
            assert [kind for kind, *_ in answer.frames] == [RESPOND, BODY, BODY][: 3 if count else 2], answer
            assert answer.body == b"all"
    assert worker.stop() == 0
