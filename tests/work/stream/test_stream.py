"""What is put comes out, in its order, within its bound; one consumer, in lists or one by one."""

import gc
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from postresponse.exceptions import ConfigurationError, NotAFunction, StreamClosed, StreamFull, StreamInUse
from postresponse.work import Stream

pytestmark = pytest.mark.anyio


async def all_of(stream: Stream[Any]) -> list[Any]:
    with anyio.fail_after(10):
        return [item async for item in stream]


async def turns(count: int = 10) -> None:
    """Let everybody go on who can."""
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


class Put:
    """Puts one item, and says what came of it."""

    def __init__(self, stream: Stream[Any], item: Any) -> None:
        self.stream, self.item = stream, item
        self.said: str = "waits"
        self.scope = anyio.CancelScope()

    async def __call__(self) -> None:
        with self.scope:
            try:
                await self.stream.put(self.item)
                self.said = "in"
            except StreamClosed as error:
                self.said = error.reason
                return
        if self.scope.cancelled_caught:
            self.said = "cancelled"


# -- through it -------------------------------------------------------------------------------------------------------


async def test_what_was_put_and_done_before_there_was_a_consumer_is_delivered() -> None:
    stream: Stream[int] = Stream("s1")
    for number in range(5):
        await stream.put(number)
    assert stream.done()
    assert (stream.closed, stream.over, stream.waiting) == (True, False, 5)
    assert await all_of(stream) == [0, 1, 2, 3, 4]
    assert (stream.over, stream.taken, stream.put_count, stream.waiting) == (True, 5, 5, 0)
    assert await all_of(stream) == []
    assert not stream.done()


async def test_a_producer_and_a_consumer_pass_ten_thousand_items_through_a_little_room() -> None:
    stream: Stream[int] = Stream("s1", maxsize=7)
    most = 0

    async def produce() -> None:
        nonlocal most
        for number in range(10_000):
            await stream.put(number)
            most = max(most, stream.waiting)
        stream.done()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(produce)
        assert await all_of(stream) == list(range(10_000))
    assert most == 7
    assert stream.history == [9997, 9998, 9999]
    assert (stream.put_count, stream.taken, stream.waiting, stream.dropped) == (10_000, 10_000, 0, 0)


@pytest.mark.parametrize("history", [0, 1, 3, 10])
@pytest.mark.parametrize("put", [0, 2, 8])
@pytest.mark.parametrize("take", [0, 1, 5, 8])
async def test_the_last_items_that_were_put_are_kept_wherever_they_are(history: int, put: int, take: int) -> None:
    stream: Stream[int] = Stream("s1", history=history)
    stream.put_nowait(*range(put))
    taken = iter(range(take))
    items = aiter(stream)
    for _ in taken:
        if not stream.waiting:
            break
        await anext(items)
    assert stream.history == list(range(put))[max(0, put - history) :]
    stream.abort()
    assert stream.history == list(range(put))[max(0, put - history) :]


async def test_a_task_may_be_made_of_a_put() -> None:
    stream: Stream[int] = Stream("s1", maxsize=2)
    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(stream.put, number)
        await turns()
        stream.done()
        assert sorted(await all_of(stream)) == [0, 1, 2, 3]


async def test_puts_wait_for_room_and_have_it_in_their_order() -> None:
    stream: Stream[int] = Stream("s1", maxsize=2)
    puts = [Put(stream, number) for number in range(6)]
    async with anyio.create_task_group() as tasks:
        for put in puts:
            tasks.start_soon(put)
            await turns()
        assert [put.said for put in puts] == ["in", "in", "waits", "waits", "waits", "waits"]
        assert (stream.waiting, stream.producers_waiting) == (2, 4)
        items, got = aiter(stream), []
        for last_in in range(3, 6):
            got.append(await anext(items))
            await turns()
            assert [put.said for put in puts] == ["in"] * last_in + ["waits"] * (6 - last_in)
            assert stream.waiting == 2
        puts[5].scope.cancel()
        await turns()
        assert puts[5].said == "cancelled"
        stream.done()
        got += [item async for item in items]
    assert got == [0, 1, 2, 3, 4]
    assert stream.put_count == 5


async def test_what_waits_for_room_when_it_is_done_was_put_before() -> None:
    stream: Stream[int] = Stream("s1", maxsize=1)
    early = [Put(stream, number) for number in range(3)]
    async with anyio.create_task_group() as tasks:
        for put in early:
            tasks.start_soon(put)
            await turns()
        stream.done()
        with pytest.raises(StreamClosed, match="the stream 's1' is closed: its producers are done"):
            await stream.put(3)
        assert await all_of(stream) == [0, 1, 2]
    assert [put.said for put in early] == ["in"] * 3


async def test_all_are_put_at_once_or_none() -> None:
    stream: Stream[int] = Stream("s1", maxsize=300)
    stream.put_nowait()
    stream.put_nowait(*range(298))
    with pytest.raises(StreamFull, match="has no room for 3 more: 298 of 300 wait in it") as full:
        stream.put_nowait(1, 2, 3)
    assert (full.value.waiting, full.value.maxsize, full.value.items, stream.waiting) == (298, 300, 3, 298)
    stream.put_nowait(298, 299)
    with pytest.raises(StreamFull):
        stream.put_nowait(300)
    assert await anext(aiter(stream)) == 0
    assert stream.closed  # the iterator was dropped
    small: Stream[int] = Stream("s2", maxsize=2)
    with pytest.raises(StreamFull):
        small.put_nowait(1, 2, 3)
    small.put_nowait(1, 2)
    assert small.waiting == 2


async def test_nobody_overtakes_those_that_wait() -> None:
    stream: Stream[int] = Stream("s1", maxsize=1)
    first, second = Put(stream, 0), Put(stream, 1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first)
        await turns()
        tasks.start_soon(second)
        await turns()
        items = aiter(stream)
        assert await anext(items) == 0
        with pytest.raises(StreamFull):
            stream.put_nowait(2)
        assert await anext(items) == 1
        stream.put_nowait(2)
        stream.done()
        assert [item async for item in items] == [2]


@pytest.mark.parametrize("is_async", [True, False])
async def test_all_of_an_iterable_are_put_and_counted(is_async: bool) -> None:
    stream: Stream[int] = Stream("s1", maxsize=3)

    async def numbers() -> AsyncIterator[int]:
        for number in range(600):
            yield number

    async def produce() -> None:
        assert await stream.put_all(numbers() if is_async else range(600)) == 600
        stream.done()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(produce)
        assert await all_of(stream) == list(range(600))


async def test_an_async_source_is_closed_when_the_stream_is() -> None:
    said = []

    async def numbers() -> AsyncIterator[int]:
        try:
            for number in range(9):
                yield number
        finally:
            said.append("finally")

    stream: Stream[int] = Stream("s1", maxsize=2)

    async def produce() -> None:
        with pytest.raises(StreamClosed, match="its consumer broke off"):
            await stream.put_all(numbers())
        assert said == ["finally"]

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(produce)
        async for _ in stream:
            break


# -- one consumer -----------------------------------------------------------------------------------------------------


async def test_a_second_consumer_is_refused() -> None:
    stream: Stream[int] = Stream("s1")
    stream.put_nowait(1, 2)
    items, early = aiter(stream), aiter(stream)
    assert await anext(items) == 1
    with pytest.raises(StreamInUse):
        await anext(early)
    for second in (lambda: aiter(stream), stream.events):
        with pytest.raises(StreamInUse, match="the stream 's1' has a consumer, and takes no second one"):
            second()
    with pytest.raises(StreamInUse):
        await stream.consume(print)
    stream.done()
    assert [item async for item in items] == [2]


async def test_a_consumer_that_has_not_begun_may_be_replaced() -> None:
    stream: Stream[int] = Stream("s1")
    items = aiter(stream)
    del items
    stream.put_nowait(1)
    stream.done()
    assert await all_of(stream) == [1]


async def test_a_consumer_that_is_cancelled_while_it_waits_loses_nothing() -> None:
    stream: Stream[int] = Stream("s1")
    got: list[int] = []
    with anyio.move_on_after(0.02) as scope:
        async for item in stream:
            got.append(item)
    assert (scope.cancelled_caught, stream.closed) == (True, False)
    stream.put_nowait(1, 2)
    items = aiter(stream)
    assert [await anext(items), await anext(items)] == [1, 2]
    with anyio.move_on_after(0.02):
        await anext(items)
    stream.put_nowait(3)
    stream.done()
    assert [item async for item in items] == [3]  # the same one goes on


@pytest.mark.parametrize("batch_size", [None, 2])
async def test_a_consumer_that_breaks_off_frees_its_producers(batch_size: int | None) -> None:
    stream: Stream[int] = Stream("s1", maxsize=2, batch_size=batch_size)
    puts = [Put(stream, number) for number in range(7)]
    async with anyio.create_task_group() as tasks:
        for put in puts:
            tasks.start_soon(put)
            await turns()
        async for _ in stream:
            break
        assert stream.closed
        await turns()
    assert {put.said for put in puts} == {"in", "its consumer broke off"}
    assert puts[-1].said == "its consumer broke off"
    with pytest.raises(StreamClosed, match="broke off"):
        await stream.put(1)
    with pytest.raises(StreamClosed, match="broke off"):
        stream.put_nowait(1)
    assert stream.taken + stream.dropped == stream.put_count
    assert stream.waiting == 0


async def test_a_consumer_that_raises_or_is_cancelled_with_an_item_in_its_hands_has_broken_off() -> None:
    stream: Stream[int] = Stream("s1", maxsize=1)

    async def consume() -> None:
        async for _ in stream:
            raise LookupError

    stream.put_nowait(1)
    with pytest.raises(LookupError):
        await consume()
    assert stream.reason == "its consumer broke off"
    other: Stream[int] = Stream("s2", maxsize=1)
    other.put_nowait(1)
    with anyio.move_on_after(0.01):
        async for _ in other:
            await anyio.sleep_forever()
    assert other.reason == "its consumer broke off"


@pytest.mark.parametrize("batch_size", [None, 2])
async def test_an_iterator_may_be_closed(batch_size: int | None) -> None:
    stream: Stream[int] = Stream("s1", batch_size=batch_size)
    stream.put_nowait(1, 2, 3)
    items: Any = aiter(stream)
    await anext(items)
    await items.aclose()
    assert stream.reason == "its consumer closed it"
    assert [item async for item in items] == []
    await items.aclose()


# -- what it costs ----------------------------------------------------------------------------------------------------


@pytest.mark.timeout(300)
async def test_a_million_items_need_the_memory_of_a_few() -> None:
    stream: Stream[bytes] = Stream("s1", maxsize=64)

    async def produce() -> None:
        for number in range(1_000_000):
            await stream.put(b"%d" % number)
        stream.done()

    blocks = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(produce)
        count = 0
        async for _ in stream:
            count += 1
            if not count % 250_000:
                gc.collect()
                blocks.append(sys.getallocatedblocks())
    assert count == stream.taken == 1_000_000
    assert max(blocks) - min(blocks) < 500


async def test_nothing_is_left_to_the_collector() -> None:
    async def once(count: int) -> None:
        stream: Stream[list[int]] = Stream("s1", maxsize=8)

        async def produce() -> None:
            for number in range(count):
                await stream.put([number])
            stream.done()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(produce)
            async for _ in stream:
                pass

    await once(10)
    gc.collect()
    gc.disable()
    try:
        await once(10)
        few = gc.collect()
        await once(2000)
        assert gc.collect() <= few + 5
    finally:
        gc.enable()


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"maxsize": 0}, "maxsize: expected a whole number from 1 on, found 0"),
        ({"maxsize": True}, "maxsize"),
        ({"maxsize": 1.5}, "maxsize"),
        ({"batch_size": 0}, "batch_size: expected a whole number from 1 on, found 0"),
        ({"batch_size": 2, "batch_wait": -1}, "batch_wait: expected seconds from 0, found -1"),
        ({"batch_wait": 1.0}, "batch_wait: has no effect without a batch_size"),
        ({"idle_timeout": 0}, "idle_timeout: expected seconds above 0, found 0"),
        ({"idle_timeout": -1}, "idle_timeout"),
        ({"idle_timeout": "1"}, "idle_timeout"),
        ({"history": -1}, "history: expected a whole number from 0 on, found -1"),
    ],
)
async def test_an_option_that_cannot_be_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Stream("s1", **options)


@pytest.mark.parametrize("name", ["", "  ", None, 3])
async def test_a_stream_has_a_name(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="stream: expected a name"):
        Stream(name)


async def test_what_a_call_cannot_take_is_refused_and_changes_nothing() -> None:
    stream: Stream[Any] = Stream("s1")

    async def work() -> None: ...

    coroutine = work()
    with pytest.raises(NotAFunction, match=r"on_item: expected a function, found the coroutine .*work\(\)"):
        await stream.consume(coroutine)  # type: ignore[arg-type]
    for callbacks in ((None,), (print, 3), (print, None, "x")):
        with pytest.raises(NotAFunction, match="expected a function"):
            await stream.consume(*callbacks)
    with pytest.raises(ConfigurationError, match="timeout: expected seconds from 0"):
        await stream.consume(print, timeout=-1)
    with pytest.raises(ConfigurationError, match="put_all"):
        await stream.put_all(3)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="put_all"):
        await stream.put_all(work())  # type: ignore[arg-type]
    for no_error in ("failed", ValueError, None):
        with pytest.raises(ConfigurationError, match="expected an exception"):
            stream.error(no_error)  # type: ignore[arg-type]
    stream.put_nowait(1)
    stream.done()
    assert await all_of(stream) == [1]


async def test_it_tells_what_it_is() -> None:
    stream: Stream[int] = Stream("s1", maxsize=5, customer=7)
    stream.put_nowait(1, 2)
    assert (str(stream), dict(stream.context)) == ("s1 (customer=7)", {"customer": 7})
    assert repr(stream) == "<Stream s1 (customer=7), open; 2 of 5 wait, 0 were taken>"
    stream.abort("no more")
    assert repr(stream) == "<Stream s1 (customer=7), closed: no more; 0 of 5 wait, 0 were taken>"


async def test_what_a_source_gave_before_it_failed_is_put() -> None:
    def numbers(count: int) -> Iterator[int]:
        yield from range(count)
        raise LookupError

    stream: Stream[int] = Stream("s1", maxsize=5)
    with pytest.raises(LookupError):
        await stream.put_all(numbers(3))
    assert stream.waiting == 3
    stream.put_nowait(3, 4)  # and the room behind it is there
    with pytest.raises(StreamFull):
        stream.put_nowait(5)
    stream.done()
    assert await all_of(stream) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("count", range(12))
async def test_the_last_of_an_iterable_is_put_where_the_room_ends_with_it(count: int) -> None:
    stream: Stream[int] = Stream("s1", maxsize=4)

    async def produce() -> None:
        assert await stream.put_all(iter(range(count))) == count
        stream.done()
        assert await anyio.to_thread.run_sync(lambda: stream.done()) is False

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(produce)
        assert await all_of(stream) == list(range(count))


@pytest.mark.parametrize("ways", [("put", "put_all"), ("put_all", "put_all"), ("put", "put")])
async def test_two_producers_have_their_turns_and_their_orders(ways: tuple[str, ...]) -> None:
    stream: Stream[tuple[int, int]] = Stream("s1", maxsize=3)

    async def produce(who: int, way: str) -> None:
        if way == "put_all":
            await stream.put_all((who, number) for number in range(500))
        else:
            for number in range(500):
                await stream.put((who, number))

    async def produce_all() -> None:
        async with anyio.create_task_group() as both:
            for who, way in enumerate(ways):
                both.start_soon(produce, who, way)
        stream.done()

    most, got = 0, []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(produce_all)
        async for item in stream:
            most = max(most, stream.waiting)
            got.append(item)
            if not len(got) % 7:
                await turns(2)
    assert most <= 3
    for who in range(2):
        assert [number for each, number in got if each == who] == list(range(500))
    if "put" in ways or len(set(ways)) == 1:
        early = [each for each, _ in got[:300]]
        assert set(early) == {0, 1}  # nobody has it for himself


async def test_a_put_that_is_cancelled_in_its_first_turn_has_put_nothing() -> None:
    stream: Stream[int] = Stream("s1", maxsize=1)
    stream.put_nowait(0)
    early, late = Put(stream, 1), Put(stream, 2)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(early)
        tasks.start_soon(late)
        await turns(1)
        early.scope.cancel()
        await turns()
        assert (early.said, late.said, stream.producers_waiting) == ("cancelled", "waits", 1)
        stream.done()
        assert await all_of(stream) == [0, 2]
    assert stream.producers_waiting == 0
