"""Records of the applications, and gates at which their requests wait; per worker process."""

import asyncio
import collections

# Both are keyed by the marker of a test.
SEEN = collections.defaultdict(list)
GATES = collections.defaultdict(asyncio.Event)


async def gated(marker):
    """Yields two parts, the second when another request has opened the gate."""
    yield "first\n"
    await GATES[marker].wait()
    yield "second\n"


async def ticks(marker):
    """Yields server-sent events without end and records the end of the stream."""
    try:
        number = 0
        while True:
            yield f"id: {number}\ndata: tick {number}\n\n"
            number += 1
            await asyncio.sleep(0.01)
    finally:
        SEEN[marker].append("stream closed")


def numbers(count):
    """Returns an asynchronous generator of `count` lines."""

    async def lines():
        for number in range(count):
            yield f"{number}\n"

    return lines()
