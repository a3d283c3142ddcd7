"""What moves deliveries, over a transport that can be made to fail."""

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any
from uuid import uuid4

import anyio
import pytest

from postresponse.messaging import Backoff, Delivery
from postresponse.messaging.delivery import Result, Settled
from postresponse.messaging.pump import CLEAN_UP, Polls, Pump, State
from postresponse.messaging.retrying import Breaker
from tests.work.test_virtual_clock import run

pytestmark = pytest.mark.parametrize("backend", ["asyncio", "trio"])


class Unreliable:
    """A transport of so many messages, with calls that fail as often as told to.

    Attributes:
        calls: Each call that was made, by name, with the moment.
    """

    name = "the queue"

    def __init__(self, count: int = 0, *, polls: Polls | None = None) -> None:
        self.waiting = [Delivery(uuid4(), "orders", "book", "{}", handle=number) for number in range(count)]
        self.polls: Polls | None = polls
        self.failing: dict[str, int] = {}
        self.calls: list[tuple[str, float]] = []
        self.settled: list[tuple[int, Result]] = []
        self.lost = 0
        self.wake: Callable[[], None] = lambda: None
        self.limits: list[int] = []
        self.while_taking: Callable[[], object] = lambda: None
        self.hangs = False

    def _called(self, name: str) -> None:
        self.calls.append((name, anyio.current_time()))
        if self.failing.get(name, 0):
            self.failing[name] -= 1
            raise ConnectionError(f"no {name}")

    def count(self, name: str) -> int:
        return sum(called == name for called, _ in self.calls)

    def moments(self, name: str) -> list[float]:
        return [at for called, at in self.calls if called == name]

    async def open(self, wake: Callable[[], None]) -> None:
        self._called("open")
        self.wake = wake

    async def take(self, limit: int) -> Sequence[Delivery]:
        self._called("take")
        self.limits.append(limit)
        taken, self.waiting = self.waiting[:limit], self.waiting[limit:]
        self.while_taking()
        return taken

    async def settle(self, settled: Sequence[Settled]) -> int:
        self._called("settle")
        if self.hangs:
            await anyio.sleep_forever()
        self.settled += [(each.delivery.handle, each.result) for each in settled]
        return self.lost

    async def pause(self) -> None:
        self._called("pause")

    async def resume(self) -> None:
        self._called("resume")

    async def aclose(self) -> None:
        self._called("aclose")


async def at_once(deliveries: Sequence[Delivery], settle: Callable[[Settled], None]) -> None:
    for each in deliveries:
        settle(Settled(each, Result.DONE))


def pumped(transport: Any, deliver: Any = at_once, **options: Any) -> Pump:
    given: dict[str, Any] = {
        "capacity": 4,
        "batch": 1,
        "breaker": Breaker(Backoff(10.0, 40.0), anyio.current_time, lambda: 1.0),
        "backoff": Backoff(1.0, 8.0),
        **options,
    }
    return Pump(transport, deliver, **given)


def played(backend: str, pump: Pump, script: Callable[[], Any]) -> None:
    """Run *pump* beside *script*, and stop it at its end."""

    async def main() -> None:
        with anyio.fail_after(24 * 3600):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pump.run)
                await script()
                pump.stop()
        assert pump.state is State.STOPPED
        assert pump.in_flight == 0

    run(backend, main)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("call", ["open", "take"])
def test_a_transport_that_is_lost_is_tried_with_growing_pauses_and_told_of_once(
    backend: str, call: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    transport = Unreliable(1)
    transport.failing[call] = 6
    played(backend, pumped(transport), lambda: anyio.sleep(100))
    moments = transport.moments(call)[:7]
    pauses = [after - before for before, after in pairwise(moments)]
    for found, most in zip(pauses, [1, 2, 4, 8, 8, 8], strict=True):
        assert most / 2 <= found <= most + 0.001
    assert transport.settled == [(0, Result.DONE)]
    assert said(caplog) == ["the queue is lost, and is tried until it is back", "the queue is back"]


def test_what_could_not_be_settled_is_settled_later_and_takes_its_room_meanwhile(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    transport = Unreliable(6)
    transport.failing["settle"] = 3
    played(backend, pumped(transport), lambda: anyio.sleep(100))
    assert sorted(handle for handle, _ in transport.settled) == [0, 1, 2, 3, 4, 5]
    assert transport.limits[:2] == [4, 4]
    assert said(caplog) == ["the queue is lost, and is tried until it is back", "the queue is back"]


def test_what_came_back_too_late_is_told_of(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    transport = Unreliable(2)
    transport.lost = 1
    played(backend, pumped(transport), lambda: anyio.sleep(1))
    lines = said(caplog)  # one, or two if the deliveries were settled one after the other
    assert {re.sub("of [12] ", "", line) for line in lines} == {
        "the queue: 1 came back after their lease had expired, and somebody else has them"
    }


def test_a_transport_that_stays_lost_does_not_hold_up_the_end_for_ever(backend: str) -> None:
    async def main() -> None:
        began = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pump.run)
            await anyio.sleep(100)
            stopped = anyio.current_time()
            pump.stop(0.0)
        assert began + 100 == pytest.approx(stopped)
        assert anyio.current_time() - stopped <= 2 * CLEAN_UP + 0.1
        assert (pump.in_flight, transport.count("aclose")) == (0, 1)

    for how in ("raises", "hangs"):
        transport = Unreliable(1)
        transport.failing["settle"] = 10**9 if how == "raises" else 0
        transport.hangs = how == "hangs"
        pump = pumped(transport)
        run(backend, main)


def test_a_pause_that_failed_is_tried_again(backend: str) -> None:
    async def script() -> None:
        await anyio.sleep(1)
        transport.failing["pause"] = 3
        pump.pause()
        await anyio.sleep(100)
        assert transport.count("pause") == 4
        transport.failing["resume"] = 2
        pump.resume()
        await anyio.sleep(100)
        assert transport.count("resume") == 3

    transport = Unreliable(1)
    pump = pumped(transport)
    played(backend, pump, script)
    assert transport.settled == [(0, Result.DONE)]


@pytest.mark.parametrize("call", ["pause", "stop"])
def test_what_was_taken_while_it_was_told_to_pause_goes_back_untouched(backend: str, call: str) -> None:
    seen: list[int] = []

    async def deliver(deliveries: Sequence[Delivery], settle: Callable[[Settled], None]) -> None:
        seen.extend(each.handle for each in deliveries)
        await at_once(deliveries, settle)

    transport = Unreliable(2)
    pump = pumped(transport, deliver)
    transport.while_taking = getattr(pump, call)
    played(backend, pump, lambda: anyio.sleep(1))
    assert (seen, sorted(transport.settled)) == ([], [(0, Result.BACK), (1, Result.BACK)])


def test_a_transport_is_paused_before_what_is_in_flight_is_waited_for(backend: str) -> None:
    async def slow(deliveries: Sequence[Delivery], settle: Callable[[Settled], None]) -> None:
        await anyio.sleep(50)
        await at_once(deliveries, settle)

    transport = Unreliable(1)

    async def script() -> None:
        await anyio.sleep(10)

    played(backend, pumped(transport, slow), script)
    (paused,), (settled,) = transport.moments("pause"), transport.moments("settle")
    assert settled - paused == pytest.approx(40)
    assert transport.settled == [(0, Result.DONE)]


def test_what_was_not_done_at_the_limit_goes_back(backend: str) -> None:
    async def first_one_only(deliveries: Sequence[Delivery], settle: Callable[[Settled], None]) -> None:
        settle(Settled(deliveries[0], Result.DONE))
        await anyio.sleep_forever()

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pump.run)
            await anyio.sleep(1)
            began = anyio.current_time()
            pump.stop(60.0)
            await anyio.sleep(10)
            pump.stop(20.0)
        assert anyio.current_time() - began == pytest.approx(30)

    transport = Unreliable(3)
    pump = pumped(transport, first_one_only, batch=3, capacity=3)
    run(backend, main)
    assert transport.settled == [(0, Result.DONE), (1, Result.BACK), (2, Result.BACK)]


def test_what_a_task_says_twice_counts_once_and_what_it_leaves_goes_back(backend: str) -> None:
    async def twice(deliveries: Sequence[Delivery], settle: Callable[[Settled], None]) -> None:
        for result in (Result.DONE, Result.DEAD):
            settle(Settled(deliveries[0], result))

    transport = Unreliable(2)
    played(backend, pumped(transport, twice, batch=2), lambda: anyio.sleep(1))
    assert transport.settled == [(0, Result.DONE), (1, Result.BACK)]


def test_batches_are_taken_whole_and_as_many_as_there_is_room_for(backend: str) -> None:
    seen: list[int] = []

    async def deliver(deliveries: Sequence[Delivery], settle: Callable[[Settled], None]) -> None:
        seen.append(len(deliveries))
        await anyio.sleep(1)
        await at_once(deliveries, settle)

    transport = Unreliable(7)
    played(backend, pumped(transport, deliver, batch=3, capacity=6), lambda: anyio.sleep(10))
    assert seen == [3, 3, 1]
    assert set(transport.limits) == {3}


def test_an_outage_stops_all_and_one_message_is_tried_after_a_while(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    tried: list[tuple[float, int]] = []

    async def deliver(deliveries: Sequence[Delivery], settle: Callable[[Settled], None]) -> None:
        at = anyio.current_time() - began[0]
        tried.append((round(at), deliveries[0].handle))
        result = Result.OUTAGE if at < 60 else Result.DONE
        settle(Settled(deliveries[0], result, "ConnectionError: no"))
        if result is Result.OUTAGE:
            transport.waiting.insert(0, deliveries[0])

    async def script() -> None:
        began.append(anyio.current_time())
        await anyio.sleep(200)

    began: list[float] = []
    transport = Unreliable(5)
    played(backend, pumped(transport, deliver), script)
    assert [at for at, _ in tried[:7]] == [0, 0, 0, 0, 10, 30, 70]
    assert len([at for at, _ in tried if at >= 70]) == 5
    assert said(caplog) == [
        "the queue cannot be reached, and its messages wait: ConnectionError: no",
        "the queue is reached again",
    ]


@pytest.mark.parametrize("result", [Result.DEFERRED, Result.BACK])
def test_what_was_not_tried_does_not_say_that_an_engine_is_back(backend: str, result: Result) -> None:
    async def deliver(deliveries: Sequence[Delivery], settle: Callable[[Settled], None]) -> None:
        for each in deliveries:
            settle(Settled(each, Result.OUTAGE if each.handle == 0 else result, "no"))

    transport = Unreliable(4)
    breaker = Breaker(Backoff(10.0, 40.0), anyio.current_time, lambda: 1.0)

    async def script() -> None:
        await anyio.sleep(100)
        assert not breaker.is_closed

    played(backend, pumped(transport, deliver, breaker=breaker, capacity=1), script)
    assert set(transport.limits) == {1}


def test_an_empty_transport_is_asked_more_and_more_seldom_and_at_once_when_it_wakes(backend: str) -> None:
    async def script() -> None:
        await anyio.sleep(100)
        transport.waiting.append(Delivery(uuid4(), "orders", "book", "{}", handle=7))
        transport.wake()
        await anyio.sleep(0.001)
        assert transport.settled == [(7, Result.DONE)]

    transport = Unreliable(polls=Polls(1.0, 16.0))
    played(backend, pumped(transport), script)
    moments = transport.moments("take")
    pauses = [after - before for before, after in pairwise(moments)]
    assert pauses[0] <= 2
    assert 12 <= max(pauses) <= 16.001
    assert transport.count("take") < 20


def test_one_that_is_told_to_stop_before_it_runs_ends_at_once(backend: str) -> None:
    async def main() -> None:
        pump.stop()
        await pump.run()
        assert [name for name, _ in transport.calls] == ["pause", "aclose"]
        pump.renew()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pump.run)
            await anyio.sleep(1)
            pump.stop()

    transport = Unreliable(1)
    pump = pumped(transport)
    run(backend, main)
    assert transport.settled == [(0, Result.DONE)]


def test_one_that_is_stopped_while_its_transport_cannot_be_opened_ends(backend: str) -> None:
    transport = Unreliable(1)
    transport.failing = {"open": 10**9, "aclose": 1}
    played(backend, pumped(transport), lambda: anyio.sleep(60))
    assert transport.count("take") == 0


def test_seconds_to_sleep_are_cut_short_by_a_pause_and_by_a_stop(backend: str) -> None:
    cut: list[tuple[bool, Any]] = []

    async def deliver(deliveries: Sequence[Delivery], settle: Callable[[Settled], None]) -> None:
        began = anyio.current_time()
        cut.append((await pump.sleep(100), anyio.current_time() - began))
        await at_once(deliveries, settle)

    async def script() -> None:
        await anyio.sleep(10)
        pump.pause()
        await anyio.sleep(10)
        pump.resume()
        await anyio.sleep(150)
        transport.waiting.append(Delivery(uuid4(), "orders", "book", "{}", handle=9))
        transport.wake()
        await anyio.sleep(10)

    transport = Unreliable(2)
    pump = pumped(transport, deliver, capacity=1)
    played(backend, pump, script)
    assert cut == [(True, pytest.approx(10)), (False, pytest.approx(100)), (True, pytest.approx(10))]


def test_polls_double_and_begin_anew_behind_something(backend: str) -> None:
    polls = Polls(1.0, 5.0)
    found = [polls.after(found=was) for was in (True, False, False, False, False, True)]
    for seconds, most in zip(found, [1, 2, 4, 5, 5, 1], strict=True):
        assert most * 0.8 <= seconds <= most
