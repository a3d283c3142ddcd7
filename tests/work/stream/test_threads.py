"""Producers on threads, and on another event loop than the consumer's."""

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from postresponse.exceptions import StreamClosed, StreamFull, WrongThread
from postresponse.work import Stream
from tests.work.stream.test_stream import all_of
from tests.work.waiting import auntil, until


class Thread(threading.Thread):
    """A thread whose error is not lost."""

    def __init__(self, run: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self.work = run
        self.failed: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.work()
        except BaseException as error:
            self.failed = error

    def ended(self) -> BaseException | None:
        self.join(10)
        assert not self.is_alive()
        return self.failed


@contextmanager
def many_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@pytest.mark.anyio
async def test_threads_put_and_wait_and_no_item_is_lost_or_too_many() -> None:
    stream: Stream[tuple[int, int]] = Stream("s1", maxsize=5)
    most = 0

    def produce(who: int) -> None:
        nonlocal most
        for number in range(500):
            stream.put_sync((who, number), timeout=20)
            most = max(most, stream.waiting)

    def finish() -> None:
        for thread in threads:
            thread.join()
        stream.done()

    with many_switches():
        threads = [Thread(lambda who=who: produce(who)) for who in range(4)]  # type: ignore[misc]
        last = Thread(finish)
        got = await all_of(stream)
        assert last.ended() is None
    assert [thread.failed for thread in threads] == [None] * 4
    assert most <= 5
    for who in range(4):
        assert [number for each, number in got if each == who] == list(range(500))
    assert stream.taken == stream.put_count == 2000


@pytest.mark.anyio
async def test_threads_that_do_not_wait_never_go_above_the_bound() -> None:
    stream: Stream[int] = Stream("s1", maxsize=7)
    counts, full = [0] * 4, threading.Event()
    most = 0

    def produce(who: int) -> None:
        nonlocal most
        for _ in range(400):
            try:
                stream.put_nowait(*range(1 + who))
                counts[who] += 1 + who
            except StreamFull:
                full.set()
                time.sleep(0)
            most = max(most, stream.waiting)

    got = 0
    with many_switches():
        threads = [Thread(lambda who=who: produce(who)) for who in range(4)]  # type: ignore[misc]

        async def count(item: int) -> None:
            nonlocal got
            got += 1
            await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.consume, count)
            await auntil(lambda: not any(thread.is_alive() for thread in threads))
            stream.done()
    assert [thread.failed for thread in threads] == [None] * 4
    assert most <= 7
    assert got == sum(counts) == stream.taken


@pytest.mark.anyio
async def test_a_thread_and_a_task_put_beside_each_other() -> None:
    stream: Stream[int] = Stream("s1", maxsize=3)

    async def produce() -> None:
        for number in range(1000):
            await stream.put(number)
        await anyio.to_thread.run_sync(thread.join)
        stream.done()

    def puts() -> None:
        for number in range(1000):
            stream.put_sync(1000 + number)

    with many_switches():
        thread = Thread(puts)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(produce)
            got = await all_of(stream)
    assert thread.failed is None
    assert sorted(got) == list(range(2000))
    assert [number for number in got if number < 1000] == list(range(1000))


@pytest.mark.anyio
async def test_a_thread_wakes_a_consumer_and_ends_it() -> None:
    stream: Stream[int] = Stream("s1")

    def produce() -> None:
        until(lambda: stream._sleeper is not None)
        stream.put_nowait(1)
        until(lambda: stream.taken == 1 and stream._sleeper is not None)
        stream.put_sync(2)
        until(lambda: stream.taken == 2)
        stream.error(LookupError())

    thread = Thread(produce)
    got: list[int] = []

    async def consume() -> None:
        async for item in stream:
            got.append(item)

    with pytest.raises(LookupError):
        await consume()
    assert (got, thread.ended()) == ([1, 2], None)


@pytest.mark.anyio
async def test_a_thread_that_waits_for_room_has_it_or_is_told() -> None:
    stream: Stream[int] = Stream("s1", maxsize=1)
    stream.put_nowait(1)
    first = Thread(lambda: stream.put_sync(2))
    await auntil(lambda: stream.producers_waiting == 1)
    second = Thread(lambda: stream.put_sync(3))
    await auntil(lambda: stream.producers_waiting == 2)
    late = Thread(lambda: stream.put_sync(4, timeout=0.01))
    assert isinstance(await anyio.to_thread.run_sync(late.ended), StreamFull)
    items = aiter(stream)
    assert [await anext(items), await anext(items)] == [1, 2]
    assert first.ended() is None
    assert second.ended() is None
    third = Thread(lambda: stream.put_sync(5))
    await auntil(lambda: stream.producers_waiting == 1)
    del items
    error = await anyio.to_thread.run_sync(third.ended)
    assert isinstance(error, StreamClosed)
    assert error.reason == "its consumer broke off"


@pytest.mark.anyio
async def test_a_put_that_would_block_the_event_loop_is_refused() -> None:
    stream: Stream[int] = Stream("s1")
    with pytest.raises(WrongThread, match=r"put_sync\(\) waits, .* await put\(\)"):
        stream.put_sync(1)
    assert stream.waiting == 0


def test_without_an_event_loop_there_is_no_waiting() -> None:
    stream: Stream[int] = Stream("s1", maxsize=1)
    stream.put_nowait(1)
    with pytest.raises(WrongThread, match="put_sync"):
        stream.put(2).send(None)
    assert stream.producers_waiting == 0
    consumption: Any = stream.consume(print)
    with pytest.raises(WrongThread, match=r"consume\(\)"):
        consumption.send(None)
    first: Any = anext(aiter(stream))
    with pytest.raises(WrongThread, match="a stream is consumed on an event loop"):
        first.send(None)
    assert not stream.closed


def test_a_producer_on_another_event_loop_waits_there() -> None:
    stream: Stream[int] = Stream("s1", maxsize=2)

    async def produce() -> None:
        for number in range(300):
            await stream.put(number)
        stream.done()

    thread = Thread(lambda: asyncio.run(produce()))
    assert anyio.run(all_of, stream, backend="trio") == list(range(300))
    assert thread.ended() is None


def test_the_loop_of_a_waiting_consumer_may_end_before_it() -> None:
    stream: Stream[int] = Stream("s1", maxsize=1)

    async def leave() -> None:
        async def consume() -> None:
            await stream.consume(print)

        with anyio.move_on_after(0.01):
            await consume()

    asyncio.run(leave())
    stream.put_nowait(1)
    stream.done()
    assert anyio.run(all_of, stream) == [1]


@pytest.mark.anyio
async def test_a_thread_ends_a_stream_that_is_watched() -> None:
    stream: Stream[int] = Stream("s1", idle_timeout=60.0)
    assert Thread(stream.done).ended() is None
    assert stream._idling is not None
    await auntil(lambda: stream._idling is not None and stream._idling._call_off is None)
    assert await all_of(stream) == []


def test_a_put_that_need_not_wait_is_a_coroutine_to_whoever_drives_it() -> None:
    stream: Stream[int] = Stream("s1")
    stream.put_nowait(0)  # the first makes room
    asyncio.run(stream.put(1))
    done = stream.put(2)
    with pytest.raises(StopIteration):
        done.send(None)
    with pytest.raises(LookupError):
        done.throw(LookupError())
    done.close()
    assert stream.waiting == 3
