"""Concurrency, streams and aborted requests of httpx, with a Starlette application."""

import asyncio
import hashlib
import time

import httpx
import pytest
from support.records import wait_for_records
from support.waiting import DEADLINE


@pytest.fixture(scope="module")
def server(serving):
    return serving("starlette")


def run(server, work):
    """Runs `work(client)` with an asynchronous client and returns its result."""

    async def with_client():
        async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE) as client:
            return await work(client)

    return asyncio.run(with_client())


def test_hundred_concurrent_requests_get_their_own_answers(server):
    async def work(client):
        return await asyncio.gather(*(client.get(f"/items/{number}?q={number}") for number in range(100)))

    answers = [response.json() for response in run(server, work)]
    assert answers == [{"n": number, "q": str(number)} for number in range(100)]


def test_cancelled_download_closes_the_stream(server, marker):
    async def work(client):
        arrived = asyncio.Event()

        async def download():
            async with client.stream("GET", f"/sse/{marker}") as response:
                async for _ in response.aiter_bytes():
                    arrived.set()

        task = asyncio.create_task(download())
        await asyncio.wait_for(arrived.wait(), DEADLINE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await client.get("/json")

    assert run(server, work).json() == {"framework": "starlette"}
    assert wait_for_records(server, marker) == ["stream closed"]


def test_long_polls_do_not_block_other_requests(server, marker):
    async def work(client):
        client.timeout = httpx.Timeout(DEADLINE)
        waiting = [asyncio.create_task(client.get(f"/poll/{marker}")) for _ in range(60)]
        began = time.monotonic()
        for _ in range(20):
            assert (await client.get("/json")).status_code == 200
        assert time.monotonic() - began < DEADLINE / 2
        assert not any(task.done() for task in waiting)
        await client.post(f"/open/{marker}")
        return await asyncio.gather(*waiting)

    assert [response.json() for response in run(server, work)] == ["news"] * 60


def test_slow_reader_receives_the_whole_stream(server):
    """The stream is larger than all buffers, so the application has to wait. No bytes are lost."""

    async def work(client):
        digest = hashlib.sha256()
        async with client.stream("GET", "/blocks/400") as response:
            # With full buffers, another request is still answered.
            assert (await client.get("/json")).status_code == 200
            async for part in response.aiter_bytes():
                digest.update(part)
        return digest.hexdigest()

    whole = b"".join(bytes([number % 256]) * 65_536 for number in range(400))
    assert run(server, work) == hashlib.sha256(whole).hexdigest()


def test_aborted_upload_does_not_affect_the_next_request(server):
    async def work(client):
        async def half():
            yield b"x" * 100_000
            raise ConnectionError("the client's own trouble")

        with pytest.raises(ConnectionError):
            await client.post("/raw", content=half())
        return await client.post("/raw", content=b"whole")

    assert run(server, work).json()["size"] == 5
