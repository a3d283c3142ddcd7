"""The filter for services that are degraded, on a clock that jumps to whatever is due next."""

import math
import threading
from typing import Any

import anyio
import pytest

from postresponse.exceptions import ConfigurationError, NotAFunction
from postresponse.messaging import DegradedFilter, Delivery, Receiver
from postresponse.messaging.receiver import Filter, Next
from postresponse.messaging.transports.memory import MemoryTransport
from postresponse.work import TaskSupervisor
from tests.messaging.receiving import Handled, message
from tests.work.conftest import Told
from tests.work.test_virtual_clock import run

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


class Health:
    """Degraded for so many questions.

    Attributes:
        asked: When it was, in seconds from the first time.
    """

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[float] = []

    async def __call__(self) -> Any:
        self.asked.append(anyio.current_time())
        answer = self.answers.pop(0) if self.answers else False
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def seconds(self) -> list[Any]:
        return [pytest.approx(at - self.asked[0]) for at in self.asked]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


async def until(holds: Any) -> None:
    """Wait on the clock that jumps: each look is a while later."""
    with anyio.fail_after(24 * 3600):
        while not holds():  # noqa: ASYNC110 (nothing tells)
            await anyio.sleep(1)


@BACKENDS
def test_each_deferral_waits_its_delay_and_is_told_of_by_a_change_of_state_alone(
    backend: str, supervisor: TaskSupervisor, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    health, handled, queue = Health(True, True, True), Handled(), MemoryTransport()

    async def main() -> None:
        receiver = Receiver(queue, handled, filters=[DegradedFilter(health, delay=600.0)], supervisor=supervisor)
        queue.send(message("tea"))
        receiver.start()
        await until(lambda: handled.payloads)
        await receiver.astop()

    run(backend, main)
    assert health.seconds == [0, 600, 1200, 1800]
    assert [each.deferrals for each in handled.deliveries] == [3]
    assert said(caplog) == [
        "memory: the service is degraded, and messages are put back",
        "memory: the service is degraded no more",
    ]


@BACKENDS
def test_the_delay_is_no_part_of_the_time_that_handling_may_take(
    backend: str, supervisor: TaskSupervisor, told: Told
) -> None:
    health, handled, queue = Health(True), Handled(), MemoryTransport()

    async def slow(delivery: Delivery, next: Next, /) -> None:
        await anyio.sleep(20)
        await next(delivery)

    async def main() -> None:
        filters: list[Filter] = [slow, DegradedFilter(health, delay=3600.0)]
        receiver = Receiver(queue, handled, filters=filters, timeout=30.0, attempts=1, supervisor=supervisor)
        queue.send(message("tea"))
        receiver.start()
        await until(lambda: handled.payloads)
        await receiver.astop()

    run(backend, main)
    assert health.seconds == [0, 3620]
    assert queue.dead == []


@BACKENDS
def test_what_handling_takes_behind_a_pause_is_bounded_still(
    backend: str, supervisor: TaskSupervisor, told: Told
) -> None:
    queue, handled = MemoryTransport(), Handled()
    seen: list[float] = []

    async def pauses(delivery: Any, next: Any) -> None:
        began = anyio.current_time()
        try:
            assert not await receiver.pausing(3600)
            await anyio.sleep_forever()
        finally:
            seen.append(anyio.current_time() - began)

    async def main() -> None:
        queue.send(message("tea"))
        receiver.start()
        await until(lambda: queue.dead)
        await receiver.astop()

    receiver = Receiver(queue, handled, filters=[pauses], timeout=30.0, attempts=1, supervisor=supervisor)
    run(backend, main)
    assert seen == [pytest.approx(3630)]


@BACKENDS
def test_a_pause_cuts_the_delay_short_and_the_message_is_put_back_once(
    backend: str, supervisor: TaskSupervisor, told: Told
) -> None:
    health, handled, queue = Health(True), Handled(), MemoryTransport()

    async def main() -> None:
        receiver = Receiver(queue, handled, filters=[DegradedFilter(health, delay=3600.0)], supervisor=supervisor)
        queue.send(message("tea"))
        receiver.start()
        await until(lambda: health.asked)
        receiver.pause()
        await until(lambda: receiver.in_flight == 0)
        assert (len(queue), anyio.current_time() - health.asked[0] < 60) == (1, True)
        receiver.resume()
        await until(lambda: handled.payloads)
        assert anyio.current_time() - health.asked[0] < 60
        await receiver.astop()

    run(backend, main)
    assert [each.deferrals for each in handled.deliveries] == [1]


@BACKENDS
def test_a_stop_cuts_the_delay_short_and_the_message_is_as_it_was(
    backend: str, supervisor: TaskSupervisor, told: Told
) -> None:
    health, handled, queue = Health(True), Handled(), MemoryTransport()

    async def main() -> None:
        receiver = Receiver(queue, handled, filters=[DegradedFilter(health, delay=3600.0)], supervisor=supervisor)
        queue.send(message("tea"))
        receiver.start()
        await until(lambda: health.asked)
        began = anyio.current_time()
        await receiver.astop(60.0)
        assert anyio.current_time() - began < 1
        (left,) = await queue.take(5)
        assert (left.deferrals, left.attempts) == (0, 0)

    run(backend, main)


@BACKENDS
def test_a_question_that_raises_counts_as_degraded_and_is_told_of_once(
    backend: str, supervisor: TaskSupervisor, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    health = Health(ValueError("no"), ValueError("no"), True, False)
    handled, queue = Handled(), MemoryTransport()

    async def main() -> None:
        receiver = Receiver(queue, handled, filters=[DegradedFilter(health)], supervisor=supervisor)
        queue.send(message("tea"))
        receiver.start()
        await until(lambda: handled.payloads)
        await receiver.astop()

    run(backend, main)
    assert health.seconds == [0, 5, 10, 15]
    assert said(caplog) == [
        "memory: is_degraded failed, and the service counts as degraded",
        "memory: the service is degraded no more",
    ]


@pytest.mark.anyio
async def test_a_sync_question_is_asked_on_a_thread(supervisor: TaskSupervisor, told: Told) -> None:
    threads: list[bool] = []

    def is_degraded() -> bool:
        threads.append(threading.current_thread() is threading.main_thread())
        return len(threads) == 1

    handled, queue = Handled(), MemoryTransport()
    receiver = Receiver(queue, handled, filters=[DegradedFilter(is_degraded, delay=0.0)], supervisor=supervisor)
    queue.send(message("tea"))
    receiver.start()
    with anyio.fail_after(5):
        while not handled.payloads:  # noqa: ASYNC110 (nothing tells)
            await anyio.sleep(0.001)
    await receiver.astop()
    assert threads == [False, False]
    assert handled.deliveries[0].deferrals == 1


@BACKENDS
def test_with_no_deferral_allowed_a_message_is_given_up_at_once(
    backend: str, supervisor: TaskSupervisor, told: Told
) -> None:
    health, handled, queue = Health(True), Handled(), MemoryTransport()

    async def main() -> None:
        receiver = Receiver(queue, handled, filters=[DegradedFilter(health, max_deferrals=0)], supervisor=supervisor)
        queue.send(message("tea"))
        receiver.start()
        await until(lambda: queue.dead)
        await receiver.astop()

    run(backend, main)
    assert health.seconds == [0]


@pytest.mark.parametrize(
    ("options", "error", "found"),
    [
        ({"is_degraded": True}, NotAFunction, "is_degraded: expected a function, found True"),
        ({"delay": -1}, ConfigurationError, "delay: expected seconds from 0, found -1"),
        ({"delay": math.nan}, ConfigurationError, "delay: expected seconds as a number"),
        ({"max_deferrals": -1}, ConfigurationError, "max_deferrals: expected a whole number from 0 on, found -1"),
        ({"max_deferrals": True}, ConfigurationError, "max_deferrals: expected a whole number from 0 on, found True"),
        ({"max_deferrals": 1.5}, ConfigurationError, "max_deferrals: expected a whole number"),
    ],
)
def test_an_option_that_cannot_be_is_refused(options: dict[str, Any], error: type[Exception], found: str) -> None:
    given: dict[str, Any] = {"is_degraded": bool, **options}
    with pytest.raises(error, match=found):
        DegradedFilter(given.pop("is_degraded"), **given)
