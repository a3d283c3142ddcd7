"""What it costs to pass a thousand items from one task to another, with room for 64 of them.

Everybody has one producer and one consumer on one event loop, and does nothing with an item; the first has no channel
in between, and its consumer runs its producer. Time is that of the processor.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

from postresponse.work import Stream
from tests.benchmarks.runner import Case, Contender, Subject, package

__all__ = ["growth_lists", "passed"]

ROOM: Final = 64
ITEMS: Final = 1000
TARGET: Final = 2.5


class Passing(Subject):
    """Items that pass, thousands at a time.

    Args:
        do: Passes so many.
    """

    def __init__(self, do: Callable[[int], Awaitable[int]]) -> None:
        self._do = do
        self._runner = asyncio.Runner()

    def seconds(self, count: int) -> float:
        return self._runner.run(self._timed(count * ITEMS))

    async def _timed(self, count: int) -> float:
        begun = time.process_time()
        passed = await self._do(count)
        taken = time.process_time() - begun
        assert passed == count
        return taken

    def close(self) -> None:
        self._runner.close()


async def generated(count: int) -> int:
    async def produce() -> AsyncIterator[int]:
        for number in range(count):
            yield number

    passed = 0
    async for _ in produce():
        passed += 1
    return passed


async def by_hand(count: int) -> int:
    """A deque and a future on either side, all in two loops: it ends, and knows nothing else."""
    queue: deque[int] = deque()
    loop = asyncio.get_running_loop()
    room: asyncio.Future[None] | None = None
    there: asyncio.Future[None] | None = None
    is_done = False

    async def produce() -> None:
        nonlocal room, there, is_done
        for number in range(count):
            if len(queue) >= ROOM:
                room = loop.create_future()
                await room
            queue.append(number)
            if there is not None:
                there.set_result(None)
                there = None
        is_done = True
        if there is not None:
            there.set_result(None)

    task = loop.create_task(produce())
    passed = 0
    while True:
        while queue:
            queue.popleft()
            passed += 1
            if room is not None:
                room.set_result(None)
                room = None
        if is_done:
            break
        there = loop.create_future()
        await there
    await task
    return passed


class Least:
    """The same as a class with a method on either side, which is what it takes to be called from elsewhere."""

    def __init__(self) -> None:
        self._queue: deque[int] = deque()
        self._room: asyncio.Future[None] | None = None
        self._there: asyncio.Future[None] | None = None
        self.is_done = False

    async def put(self, item: int) -> None:
        if len(self._queue) >= ROOM:
            self._room = asyncio.get_running_loop().create_future()
            await self._room
        self._queue.append(item)
        self._tell()

    def done(self) -> None:
        self.is_done = True
        self._tell()

    def _tell(self) -> None:
        if self._there is not None:
            self._there.set_result(None)
            self._there = None

    async def items(self) -> AsyncIterator[int]:
        queue = self._queue
        while True:
            while queue:
                yield queue.popleft()
                if self._room is not None:
                    self._room.set_result(None)
                    self._room = None
            if self.is_done:
                return
            self._there = asyncio.get_running_loop().create_future()
            await self._there


async def by_methods(count: int) -> int:
    least = Least()

    async def produce() -> None:
        for number in range(count):
            await least.put(number)
        least.done()

    task = asyncio.get_running_loop().create_task(produce())
    passed = 0
    async for _ in least.items():
        passed += 1
    await task
    return passed


async def through(put: Callable[[int], Awaitable[object]], get: Callable[[], Awaitable[object]], count: int) -> int:
    async def produce() -> None:
        for number in range(count):
            await put(number)
        await put(-1)

    task = asyncio.get_running_loop().create_task(produce())
    passed = 0
    while await get() != -1:
        passed += 1
    await task
    return passed


async def with_queue(count: int) -> int:
    queue: asyncio.Queue[int] = asyncio.Queue(ROOM)
    return await through(queue.put, queue.get, count)


async def with_janus(count: int) -> int:
    queue = package("janus").Queue(ROOM)
    try:
        return await through(queue.async_q.put, queue.async_q.get, count)
    finally:
        await queue.aclose()


async def with_anyio(count: int) -> int:
    send, receive = package("anyio").create_memory_object_stream(ROOM)
    with send, receive:
        return await through(send.send, receive.receive, count)


async def streamed(produce: Callable[[Stream[int], int], Awaitable[object]], size: int | None, count: int) -> int:
    stream: Stream[int] = Stream("s1", maxsize=ROOM, batch_size=size)

    async def all_of_them() -> None:
        await produce(stream, count)
        stream.done()

    task = asyncio.get_running_loop().create_task(all_of_them())
    passed = 0
    if size is None:
        async for _ in stream:
            passed += 1
    else:
        async for items in stream:
            passed += len(items)
    await task
    return passed


async def consumed(produce: Callable[[Stream[int], int], Awaitable[object]], count: int) -> int:
    stream: Stream[int] = Stream("s1", maxsize=ROOM)

    async def all_of_them() -> None:
        await produce(stream, count)
        stream.done()

    task = asyncio.get_running_loop().create_task(all_of_them())
    await stream.consume(_nothing)
    await task
    return stream.taken


def _nothing(item: int) -> None:
    pass


async def each(stream: Stream[int], count: int) -> None:
    for number in range(count):
        await stream.put(number)


async def all_at_once(stream: Stream[int], count: int) -> None:
    await stream.put_all(range(count))


def _row(name: str, do: Callable[[int], Awaitable[int]], target: float | None = TARGET) -> Contender:
    return Contender(name, "ours", partial(Passing, do), target=target)


def passed() -> Sequence[Case]:
    """A thousand items."""
    return [
        Case(
            f"1,000 items, room for {ROOM}",
            [
                Contender("async generator, no channel", "limit", partial(Passing, generated)),
                Contender("a deque and a future a side", "minimum", partial(Passing, by_hand)),
                Contender("the same, with a method on either side", "minimum", partial(Passing, by_methods)),
                Contender("asyncio.Queue", "peer", partial(Passing, with_queue)),
                Contender("janus", "peer", partial(Passing, with_janus), ("janus",)),
                Contender("anyio memory stream", "peer", partial(Passing, with_anyio), ("anyio",)),
                _row("Stream, put and async for", partial(streamed, each, None)),
                _row("Stream, put_all and async for", partial(streamed, all_at_once, None)),
                _row("Stream, put and consume", partial(consumed, each)),
                _row("Stream, put_all and consume", partial(consumed, all_at_once)),
                _row("Stream, put_all and lists of 32", partial(streamed, all_at_once, 32)),
            ],
        )
    ]


def growth_lists() -> Sequence[Case]:
    """From lists of one item to lists of all that there is room for."""
    rows: list[tuple[str, Any]] = [("put, lists", each), ("put_all, lists", all_at_once)]
    return [
        Case(
            f"{size}",
            [
                Contender("async generator, no channel", "limit", partial(Passing, generated)),
                *(_row(name, partial(streamed, produce, size), None) for name, produce in rows),
            ],
        )
        for size in (1, 4, 16, 64)
    ]
