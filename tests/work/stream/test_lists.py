"""Lists: as long as asked for, in their time, and a short one before the end."""

from typing import Any

import anyio
import pytest

from postresponse.work import Stream
from tests.work.stream.test_stream import all_of, turns

pytestmark = pytest.mark.anyio


async def test_a_short_last_list_comes_before_the_end_without_waiting() -> None:
    stream: Stream[int] = Stream("s1", batch_size=2, batch_wait=3600.0)
    stream.put_nowait(1, 2, 3)
    stream.done()
    assert await all_of(stream) == [[1, 2], [3]]
    late: Stream[int] = Stream("s2", batch_size=3, batch_wait=3600.0)
    said: list[Any] = []

    async def consume() -> None:
        await late.consume(said.append, lambda: said.append("end"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consume)
        await late.put(1)
        await turns()
        await late.put(2)
        await turns()
        assert said == []
        late.done()
    assert said == [[1, 2], "end"]


async def test_a_list_is_what_is_there_where_it_does_not_wait() -> None:
    stream: Stream[int] = Stream("s1", batch_size=3)
    stream.put_nowait(*range(4))
    items = aiter(stream)
    assert [await anext(items), await anext(items)] == [[0, 1, 2], [3]]
    stream.put_nowait(4)
    assert await anext(items) == [4]
    stream.done()
    assert [item async for item in items] == []
    assert (stream.taken, stream.history) == (5, [2, 3, 4])


async def test_lists_that_the_room_is_too_small_for_are_as_long_as_it_is() -> None:
    stream: Stream[int] = Stream("s1", maxsize=3, batch_size=5, batch_wait=3600.0)

    async def produce() -> None:
        await stream.put_all(range(8))
        stream.done()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(produce)
        assert await all_of(stream) == [[0, 1, 2], [3, 4, 5], [6, 7]]


async def test_a_consumer_that_is_cancelled_while_a_list_fills_loses_nothing() -> None:
    stream: Stream[int] = Stream("s1", batch_size=3, batch_wait=3600.0)
    stream.put_nowait(1, 2)
    with anyio.move_on_after(0.02) as scope:
        async for _ in stream:
            raise AssertionError
    assert (scope.cancelled_caught, stream.waiting, stream.closed) == (True, 2, False)
    stream.put_nowait(3)
    stream.done()
    assert await all_of(stream) == [[1, 2, 3]]
