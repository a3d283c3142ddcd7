"""How a stream ends, and who is told what; `consume`, its time and its callbacks."""

import logging
import time
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from postresponse.exceptions import StreamClosed
from postresponse.work import Stream
from tests.work.stream.test_stream import Put, all_of, turns

pytestmark = pytest.mark.anyio


class Heard:
    """What a consumer was told."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def on_item(self, item: Any) -> None:
        self.said.append(item)

    def on_done(self) -> None:
        self.said.append("done")

    def on_error(self, error: BaseException) -> None:
        self.said.append(repr(error))

    async def aon_item(self, item: Any) -> None:
        await anyio.lowlevel.checkpoint()
        self.said.append(item)

    async def aon_done(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.said.append("done")

    async def aon_error(self, error: BaseException) -> None:
        await anyio.lowlevel.checkpoint()
        self.said.append(repr(error))


# -- errors -----------------------------------------------------------------------------------------------------------


async def test_an_error_comes_behind_the_items_and_once() -> None:
    stream: Stream[int] = Stream("s1")
    got: list[int] = []

    async def consume() -> None:
        async for item in stream:
            got.append(item)

    stream.put_nowait(1, 2)
    assert stream.error(LookupError("the source"))
    assert not stream.error(ValueError())
    assert not stream.done()
    with pytest.raises(LookupError, match="the source"):
        await consume()
    assert got == [1, 2]
    assert await all_of(stream) == []
    with pytest.raises(StreamClosed, match=r"its producers failed with LookupError\('the source'\)"):
        await stream.put(3)


async def test_an_error_wakes_a_consumer_that_waits() -> None:
    stream: Stream[int] = Stream("s1")
    async with anyio.create_task_group() as tasks:

        async def consume() -> None:
            with pytest.raises(LookupError):
                await all_of(stream)

        tasks.start_soon(consume)
        await turns()
        stream.error(LookupError())


async def test_what_ends_a_task_is_not_raised_in_another() -> None:
    stream: Stream[int] = Stream("s1")
    stream.error(KeyboardInterrupt())
    with pytest.raises(StreamClosed, match="its producers failed with KeyboardInterrupt") as closed:
        await all_of(stream)
    assert isinstance(closed.value.__cause__, KeyboardInterrupt)


@pytest.mark.parametrize("done", [False, True])
async def test_an_abort_drops_what_waits_and_ends_both_sides(done: bool) -> None:
    stream: Stream[int] = Stream("s1", maxsize=2)
    puts = [Put(stream, number) for number in range(4)]
    async with anyio.create_task_group() as tasks:
        for put in puts:
            tasks.start_soon(put)
            await turns()
        items = aiter(stream)
        assert await anext(items) == 0
        await turns()
        if done:
            stream.done()
        assert stream.abort("the disk is full")
        with pytest.raises(StreamClosed, match="the stream 's1' is closed: the disk is full") as closed:
            await anext(items)
    assert (closed.value.stream, closed.value.reason) == ("s1", "the disk is full")
    assert [put.said for put in puts] == ["in", "in", "in", "the disk is full"]
    assert (stream.put_count, stream.taken, stream.dropped, stream.waiting) == (3, 1, 2, 0)
    assert (stream.abort(), stream.done(), stream.reason) == (False, False, "the disk is full")


async def test_an_abort_wakes_a_consumer_that_waits() -> None:
    stream: Stream[int] = Stream("s1")
    heard = Heard()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.consume, heard.on_item, heard.on_done, heard.on_error)
        await turns()
        stream.put_nowait(1)
        await turns()
        stream.abort()
    assert heard.said == [1, """StreamClosed("the stream 's1' is closed: aborted")"""]


# -- consume ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("batch_size", [None, 2])
async def test_callbacks_have_the_items_and_then_the_end(is_async: bool, batch_size: int | None) -> None:
    stream: Stream[int] = Stream("s1", batch_size=batch_size)
    heard = Heard()
    stream.put_nowait(1, 2, 3)
    stream.done()
    callbacks: Any = (heard.aon_item, heard.aon_done) if is_async else (heard.on_item, heard.on_done)
    assert await stream.consume(*callbacks)
    assert heard.said == ([1, 2, 3, "done"] if batch_size is None else [[1, 2], [3], "done"])


@pytest.mark.parametrize("is_async", [True, False])
async def test_an_error_is_handed_over_or_raised(is_async: bool) -> None:
    heard = Heard()
    for on_error in (heard.aon_error if is_async else heard.on_error, None):
        stream: Stream[int] = Stream("s1")
        stream.put_nowait(1)
        stream.error(LookupError("the source"))
        if on_error is None:
            with pytest.raises(LookupError, match="the source"):
                await stream.consume(heard.on_item, heard.on_done)
        else:
            assert await stream.consume(heard.on_item, heard.on_done, on_error)
    assert heard.said == [1, "LookupError('the source')", 1]


@pytest.mark.parametrize("batch_size", [None, 1])
async def test_a_callback_that_raises_breaks_off_and_is_no_error_of_the_stream(batch_size: int | None) -> None:
    heard = Heard()

    def fails(item: Any) -> None:
        raise IndexError("mine")

    stream: Stream[int] = Stream("s1", maxsize=2, batch_size=batch_size)
    stream.put_nowait(1, 2)
    with pytest.raises(IndexError, match="mine"):
        await stream.consume(fails, heard.on_done, heard.on_error)
    assert (heard.said, stream.reason) == ([], "its consumer failed with IndexError('mine')")
    with pytest.raises(StreamClosed, match="its consumer failed"):
        await stream.put(3)


async def test_a_last_callback_that_raises_passes() -> None:
    def fails(*args: Any) -> None:
        raise IndexError("mine")

    done: Stream[int] = Stream("s1")
    done.done()
    with pytest.raises(IndexError, match="mine"):
        await done.consume(print, fails)
    failed: Stream[int] = Stream("s2")
    failed.error(LookupError())
    with pytest.raises(IndexError, match="mine"):
        await failed.consume(print, None, fails)


@pytest.mark.parametrize("batch_size", [None, 2])
async def test_a_timeout_ends_the_consumption_and_not_the_stream(batch_size: int | None) -> None:
    stream: Stream[int] = Stream("s1", batch_size=batch_size, batch_wait=0.0 if batch_size is None else 3600.0)
    heard = Heard()
    stream.put_nowait(1, 2, 3)
    assert await stream.consume(heard.on_item, heard.on_done, timeout=0.05) is False
    assert heard.said == ([1, 2, 3] if batch_size is None else [[1, 2]])
    assert not stream.closed
    stream.put_nowait(4)
    stream.done()
    assert await stream.consume(heard.on_item, heard.on_done)
    assert heard.said == ([1, 2, 3, 4, "done"] if batch_size is None else [[1, 2], [3, 4], "done"])


@pytest.mark.parametrize("batch_size", [None, 2])
async def test_the_time_of_a_consumer_ends_even_if_there_is_always_something(batch_size: int | None) -> None:
    stream: Stream[int] = Stream("s1", maxsize=4, batch_size=batch_size)
    count = 0

    def on_item(item: Any) -> None:
        nonlocal count
        count += 1
        while stream.waiting < 4:
            stream.put_nowait(count)

    stream.put_nowait(0, 0)
    with anyio.fail_after(5):
        assert await stream.consume(on_item, timeout=0.05) is False
    assert count > 100
    assert (stream.waiting, stream.closed) == (4, False)


async def test_a_timeout_lets_the_item_under_way_end() -> None:
    stream: Stream[int] = Stream("s1")
    heard: list[int] = []

    async def slow(item: int) -> None:
        await anyio.sleep(0.05)
        heard.append(item)

    stream.put_nowait(1, 2)
    assert await stream.consume(slow, timeout=0.01) is False
    assert (heard, stream.waiting, stream.closed) == ([1], 1, False)


@pytest.mark.parametrize("batch_size", [None, 1])
async def test_a_timeout_that_comes_in_the_last_item_is_not_waited_behind(batch_size: int | None) -> None:
    stream: Stream[int] = Stream("s1", batch_size=batch_size)
    stream.put_nowait(1)
    with anyio.fail_after(5):
        assert await stream.consume(lambda item: anyio.sleep(0.05), timeout=0.01) is False
    assert (stream.waiting, stream.closed, stream.taken) == (0, False, 1)
    many: Stream[int] = Stream("s2")
    many.put_nowait(*range(256))
    with anyio.fail_after(5):
        assert await many.consume(lambda item: time.sleep(0.02 if item == 255 else 0), timeout=0.01) is False


async def test_a_cancelled_consumption_leaves_the_stream_unless_it_has_something_in_its_hands() -> None:
    stream: Stream[int] = Stream("s1")
    with anyio.move_on_after(0.01):
        await stream.consume(print)
    assert not stream.closed
    stream.put_nowait(1)
    with anyio.move_on_after(0.01):
        await stream.consume(lambda item: anyio.sleep_forever())
    assert stream.closed


# -- an owner ---------------------------------------------------------------------------------------------------------


async def test_an_owner_that_leaves_closes_its_stream_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async with Stream[int]("s1", maxsize=2, customer=7) as stream:
        await stream.put(1)
        items = aiter(stream)
        assert await anext(items) == 1
        await stream.put_all([2, 3])
        late = Put(stream, 4)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(late)
            await turns()
            await stream.__aexit__(None, None, None)
    assert late.said == "its owner left it, and its producers were not done"
    assert [await anext(items), await anext(items)] == [2, 3]
    with pytest.raises(StreamClosed, match="its owner left it, and its producers were not done"):
        await anext(items)
    (line,) = caplog.records
    assert line.levelno == logging.WARNING
    assert line.getMessage() == (
        "the stream s1 (customer=7) is closed: its owner left it, and its producers were not done; 3 were put, 1 taken,"
        " and 2 wait"
    )


async def test_an_owner_that_leaves_a_stream_that_is_done_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with Stream[int]("s1") as stream:
        await stream.put(1)
        stream.done()
    assert await all_of(stream) == [1]
    assert caplog.records == []


async def test_a_consumption_that_is_cancelled_between_two_items_leaves_the_rest() -> None:
    stream: Stream[int] = Stream("s1")
    stream.put_nowait(*range(1000))
    got: list[int] = []

    def on_item(item: int) -> None:
        got.append(item)
        if item == 100:
            scope.cancel()

    with anyio.CancelScope() as scope:
        await stream.consume(on_item)
    assert scope.cancelled_caught
    assert not stream.closed
    stream.done()
    await stream.consume(got.append)
    assert got == list(range(1000))


async def test_a_consumer_that_is_cancelled_while_a_producer_is_about_to_go_on_leaves_the_rest() -> None:
    stream: Stream[int] = Stream("s1", maxsize=1)
    got: list[int] = []

    async def produce() -> None:
        await stream.put_all(range(10))
        stream.done()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(produce)
        await turns()
        for _ in range(10):
            with anyio.CancelScope() as scope:
                async for item in stream:
                    got.append(item)
                    if item % 3 == 2:
                        scope.cancel()
        got += await all_of(stream)
    assert got == list(range(10))
