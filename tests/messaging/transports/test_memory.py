"""The queue in memory, beside what all transports do."""

import threading
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from postresponse.exceptions import ConfigurationError, MessageRefused
from postresponse.messaging import Receiver
from postresponse.messaging.delivery import Result, Settled
from postresponse.messaging.transports.memory import MemoryTransport
from postresponse.work import TaskSupervisor
from tests.messaging.receiving import Handled, message
from tests.work.conftest import Told
from tests.work.test_virtual_clock import run

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@BACKENDS
def test_what_failed_comes_again_to_the_second_without_being_asked_for(
    backend: str, supervisor: TaskSupervisor, told: Told
) -> None:
    queue, woken = MemoryTransport(), []

    async def main() -> None:
        began = anyio.current_time()
        await queue.open(lambda: woken.append(1))
        for number in range(3):
            queue.send(message(number))
        taken = list(await queue.take(3))
        assert [each.payload for each in taken] == [0, 1, 2]
        await queue.settle([Settled(each, Result.FAILED, "no", 3600.0 * (3 - each.payload)) for each in taken])
        for hour in (1, 2, 3):
            woken.clear()
            await anyio.sleep(3599 + 3600 * (hour - 1) - (anyio.current_time() - began))
            assert (woken, list(await queue.take(5))) == ([], [])
            await anyio.sleep(2)
            (again,) = await queue.take(5)
            assert (woken, again.payload, again.attempts) == ([1], 3 - hour, 1)
        await queue.aclose()

    run(backend, main)
    assert len(queue) == 0


@BACKENDS
def test_what_waits_for_its_next_attempt_outlives_its_receiver(
    backend: str, supervisor: TaskSupervisor, told: Told
) -> None:
    queue, handled = MemoryTransport(), Handled()

    async def main() -> None:
        await queue.open(lambda: None)
        queue.send(message("tea"))
        (taken,) = await queue.take(1)
        await queue.settle([Settled(taken, Result.FAILED, "no", 60.0)])
        await queue.aclose()
        assert len(queue) == 1
        receiver = Receiver(queue, handled, supervisor=supervisor)
        receiver.start()
        await anyio.sleep(59)
        assert handled.payloads == []
        await anyio.sleep(2)
        assert handled.payloads == ["tea"]
        await receiver.astop()

    run(backend, main)


@BACKENDS
def test_nothing_wakes_what_is_closed(backend: str) -> None:
    queue, woken = MemoryTransport(), []

    async def main() -> None:
        await queue.open(lambda: woken.append(1))
        queue.send(message(1))
        (taken,) = await queue.take(1)
        await queue.settle([Settled(taken, Result.FAILED, "no", 60.0)])
        await queue.aclose()
        woken.clear()
        queue.send(message(2))
        await anyio.sleep(120)
        assert woken == []

    run(backend, main)
    assert len(queue) == 2


@pytest.mark.anyio
async def test_messages_are_put_there_from_any_thread() -> None:
    queue = MemoryTransport("orders")

    def send(first: int) -> None:
        for number in range(first, first + 200):
            queue.send(message(number))

    threads = [threading.Thread(target=send, args=(first,)) for first in range(0, 1000, 200)]
    for thread in threads:
        thread.start()
    taken: list[Any] = []
    while len(taken) < 1000:
        taken += await queue.take(10)
        await anyio.lowlevel.checkpoint()
    for thread in threads:
        thread.join()
    payloads = [each.payload for each in taken]
    assert sorted(payloads) == list(range(1000))
    assert [each for each in payloads if each < 200] == list(range(200))  # of one thread in its order


@pytest.mark.parametrize("name", ["", None, 7])
def test_a_name_that_is_none_is_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="name: expected a text"):
        MemoryTransport(name)


@pytest.mark.parametrize("given", ["tea", None, message(delay=1.0)])
def test_only_a_message_that_is_due_is_sent(given: Any) -> None:
    with pytest.raises(MessageRefused):
        MemoryTransport().send(given)
