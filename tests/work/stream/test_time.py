"""Limits of hours, kept to the second, on a clock that jumps to whatever is due next."""

from typing import Any

import anyio
import pytest

from postresponse.exceptions import StreamClosed, StreamIdle
from postresponse.work import Stream
from tests.work.stream.test_threads import Thread
from tests.work.test_virtual_clock import HOUR, run

pytestmark = pytest.mark.parametrize("backend", ["asyncio", "trio"])


def test_an_idle_stream_ends_an_hour_after_the_last_activity(backend: str) -> None:
    async def main() -> None:
        stream: Stream[int] = Stream("s1", idle_timeout=HOUR)
        began, got = anyio.current_time(), []

        async def produce() -> None:
            for number in range(3):
                await anyio.sleep(HOUR - 1)
                await stream.put(number)

        async def consume() -> None:
            async for item in stream:
                got.append(item)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(produce)
            with pytest.raises(StreamIdle, match="the stream 's1' is closed: nothing moved in it for 3600 s"):
                await consume()
        assert anyio.current_time() - began == pytest.approx(3 * (HOUR - 1) + HOUR)
        assert (got, stream.closed) == ([0, 1, 2], True)
        with pytest.raises(StreamClosed, match="nothing moved"):
            await stream.put(3)

    run(backend, main)


def test_an_idle_stream_is_no_timeout_of_its_items_and_tells_its_producers(backend: str) -> None:
    async def main() -> None:
        stream: Stream[int] = Stream("s1", maxsize=2, idle_timeout=HOUR)
        began, heard = anyio.current_time(), []

        async def produce() -> None:
            with pytest.raises(StreamClosed, match="nothing moved"):
                await stream.put_all(range(5))
            heard.append(anyio.current_time() - began)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(produce)
        assert heard == [pytest.approx(HOUR)]
        await stream.consume(heard.append, None, lambda error: heard.append(type(error)))  # type: ignore[arg-type]
        assert heard[1:] == [0, 1, StreamIdle]

    run(backend, main)


def test_to_take_is_activity_and_lists_are_taken(backend: str) -> None:
    async def main() -> None:
        stream: Stream[int] = Stream("s1", batch_size=1, idle_timeout=HOUR)
        stream.put_nowait(1, 2)
        await anyio.sleep(HOUR / 2)
        items = aiter(stream)
        assert await anext(items) == [1]
        began = anyio.current_time()
        await anyio.sleep(HOUR - 1)
        assert not stream.closed
        await anyio.sleep(2)
        assert stream.closed
        assert await anext(items) == [2]
        with pytest.raises(StreamIdle):
            await anext(items)
        assert anyio.current_time() - began == pytest.approx(HOUR + 1)

    run(backend, main)


def test_a_stream_that_ends_in_time_is_not_watched_any_more(backend: str) -> None:
    async def main() -> None:
        began = anyio.current_time()
        stream: Stream[int] = Stream("s1", idle_timeout=HOUR)
        stream.put_nowait(1)
        stream.done()
        assert [item async for item in stream] == [1]
        assert stream._idling is not None
        assert stream._idling._call_off is None
        await anyio.sleep(1)
        assert anyio.current_time() - began == pytest.approx(1)

    run(backend, main)


def test_one_that_was_made_elsewhere_counts_from_its_consumer_on(backend: str) -> None:
    stream: Stream[int] = Stream("s1", idle_timeout=HOUR)
    stream.put_nowait(1)

    async def main() -> None:
        await anyio.sleep(HOUR)
        began = anyio.current_time()
        got: list[Any] = []
        await stream.consume(got.append, None, got.append)
        assert (got[0], type(got[1])) == (1, StreamIdle)
        assert anyio.current_time() - began == pytest.approx(HOUR)

    run(backend, main)


def test_a_thread_is_activity(backend: str) -> None:
    async def main() -> None:
        stream: Stream[int] = Stream("s1", idle_timeout=HOUR)
        await anyio.sleep(HOUR / 2)
        # The loop stands still meanwhile, or its clock would jump.
        assert Thread(lambda: stream.put_nowait(1)).ended() is None
        assert Thread(lambda: stream.put_sync(2)).ended() is None
        await anyio.sleep(HOUR - 1)
        assert not stream.closed
        await anyio.sleep(2)
        assert stream.closed

    run(backend, main)


def test_a_list_waits_to_be_full_from_its_first_item_on(backend: str) -> None:
    async def main() -> None:
        stream: Stream[int] = Stream("s1", batch_size=3, batch_wait=60.0)
        began = anyio.current_time()
        got: list[tuple[list[int], int]] = []

        async def produce() -> None:
            for number in range(5):
                await anyio.sleep(25)
                await stream.put(number)
            await anyio.sleep(HOUR)
            stream.done()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(produce)
            async for items in stream:
                got.append((items, round(anyio.current_time() - began)))
        assert got == [([0, 1, 2], 75), ([3, 4], 160)]

    run(backend, main)


def test_a_consumer_has_its_time_and_no_second_more(backend: str) -> None:
    async def main() -> None:
        stream: Stream[int] = Stream("s1")
        began = anyio.current_time()
        got: list[int] = []

        async def produce() -> None:
            for number in range(4):
                await anyio.sleep(HOUR / 2 - 1)
                await stream.put(number)
            stream.done()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(produce)
            assert not await stream.consume(got.append, timeout=HOUR)
            assert got == [0, 1]
            assert anyio.current_time() - began == pytest.approx(HOUR)
            assert await stream.consume(got.append, timeout=2 * HOUR)
        assert got == [0, 1, 2, 3]

    run(backend, main)
