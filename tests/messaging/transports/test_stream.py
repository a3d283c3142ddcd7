"""What a stream adds to a queue in memory: a bound, and whoever sends waits for room."""

from typing import Any

import anyio
import pytest

from postresponse.exceptions import ConfigurationError, MessageRefused, StreamClosed, StreamFull, StreamInUse
from postresponse.messaging import Message, Receiver
from postresponse.messaging.delivery import Result, Settled
from postresponse.messaging.transports.stream import StreamTransport
from postresponse.work import Stream, TaskSupervisor
from tests.messaging.receiving import Handled, message, running
from tests.work.conftest import Told
from tests.work.stream.test_stream import turns
from tests.work.waiting import auntil

pytestmark = pytest.mark.anyio


async def test_whoever_sends_waits_while_the_receiver_is_behind_or_paused(
    supervisor: TaskSupervisor, told: Told
) -> None:
    handled = Handled()
    release = handled.hold()
    stream: Stream[Message] = Stream("orders", maxsize=2)
    transport = StreamTransport(stream)
    receiver = Receiver(transport, handled, concurrency=1, supervisor=supervisor)
    put: list[int] = []

    async def produce() -> None:
        for number in range(6):
            await transport.asend(message(number))
            put.append(number)
        stream.done()

    async with running(receiver), anyio.create_task_group() as tasks:
        tasks.start_soon(produce)
        await auntil(lambda: len(put) == 3)
        await anyio.sleep(0.02)
        assert (put, len(transport), receiver.in_flight) == ([0, 1, 2], 2, 1)
        with pytest.raises(StreamFull):
            transport.send(message(9))
        receiver.pause()
        release()
        await auntil(lambda: receiver.in_flight == 0)
        await anyio.sleep(0.02)
        assert (put, handled.payloads) == ([0, 1, 2], [0])
        receiver.resume()
        await auntil(lambda: len(handled.payloads) == 6)
    assert handled.payloads == list(range(6))
    with pytest.raises(StreamClosed):
        transport.send(message(9))


async def test_what_comes_back_has_its_place_before_and_behind_what_the_stream_has() -> None:
    stream: Stream[Message] = Stream("orders")
    transport = StreamTransport(stream)
    await transport.open(lambda: None)
    for number in range(4):
        transport.send(message(number))
    first, second = await transport.take(2)
    transport.send(message(4))
    await transport.settle([Settled(first, Result.DEFERRED), Settled(second, Result.BACK)])
    transport.send(message(5))
    assert [each.payload for each in await transport.take(9)] == [1, 2, 3, 4, 0, 5]
    await transport.aclose()


async def test_it_is_the_one_consumer_while_it_is_open() -> None:
    stream: Stream[Message] = Stream("orders")
    transport = StreamTransport(stream)
    await transport.open(lambda: None)
    with pytest.raises(StreamInUse):
        aiter(stream)
    sent = message(1)
    transport.send(sent)
    await transport.aclose()
    await transport.aclose()
    items = aiter(stream)
    assert await anext(items) is sent
    with pytest.raises(StreamInUse):
        await transport.open(lambda: None)


async def test_a_receiver_is_woken_by_what_is_put_and_outlives_the_end(supervisor: TaskSupervisor, told: Told) -> None:
    handled = Handled()
    stream: Stream[Message] = Stream("orders")
    receiver = Receiver(StreamTransport(stream), handled, supervisor=supervisor)
    async with running(receiver):
        for number in range(3):
            await auntil(lambda: stream._sleeper is not None)
            await stream.put(message(number))
            await auntil(lambda number=number: len(handled.payloads) == number + 1)  # type: ignore[misc]
        stream.done()
        await turns()
        assert receiver.state == "running"
        await auntil(lambda: stream.over)
    assert handled.payloads == [0, 1, 2]


async def test_what_is_no_message_is_refused_or_dropped() -> None:
    with pytest.raises(ConfigurationError, match="stream: expected a Stream"):
        StreamTransport("orders")  # type: ignore[arg-type]
    stream: Stream[Any] = Stream("orders")
    transport = StreamTransport(stream)
    with pytest.raises(MessageRefused):
        transport.send("tea")  # type: ignore[arg-type]
    with pytest.raises(MessageRefused):
        await transport.asend(message(1, delay=5.0))
    stream.put_nowait("tea", message(2))
    await transport.open(lambda: None)
    assert [each.payload for each in await transport.take(5)] == [2]
    assert list(await transport.take(5)) == []
    await transport.aclose()
