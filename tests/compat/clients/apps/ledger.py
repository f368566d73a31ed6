"""What the applications write down, and the gates at which their requests wait; per worker process."""

import asyncio
import collections

# By a marker that only one test uses.
SEEN = collections.defaultdict(list)
GATES = collections.defaultdict(asyncio.Event)


async def gated(marker):
    """Two parts of a stream: the second only when another request has opened the gate."""
    yield "first\n"
    await GATES[marker].wait()
    yield "second\n"


async def ticks(marker):
    """Server-sent events without an end; how the stream ended is written down."""
    try:
        number = 0
        while True:
            yield f"id: {number}\ndata: tick {number}\n\n"
            number += 1
            await asyncio.sleep(0.01)
    finally:
        SEEN[marker].append("stream closed")


def numbers(count):
    """That many lines, from an asynchronous generator."""

    async def lines():
        for number in range(count):
            yield f"{number}\n"

    return lines()
