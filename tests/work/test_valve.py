import gc
import threading
import time
from collections.abc import AsyncIterator, Iterator

import anyio
import anyio.lowlevel
import pytest

from postresponse.exceptions import ConfigurationError, NotAFunction, WrongThread
from postresponse.work import Valve, ValveGroup, distinct_until_changed, poll


class Source:
    """Items, and then a wait that nothing ends; says when it began, and that its `finally` ran."""

    def __init__(self, *items: str) -> None:
        self.items = items
        self.said: list[str] = []

    async def run(self) -> AsyncIterator[str]:
        self.said.append("began")
        try:
            for item in self.items:
                yield item
            await anyio.sleep(10)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            self.said.append("finally")


@pytest.mark.parametrize("thread", [True, False])
@pytest.mark.anyio
async def test_a_stream_ends_while_its_source_waits(thread: bool) -> None:
    valve, source, got = Valve(), Source("a", "b"), []

    def close() -> None:
        valve.close("logged out")

    async def later() -> None:
        await anyio.sleep(0.01)
        if thread:
            await anyio.to_thread.run_sync(close)
        else:
            close()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(later)
        async for item in valve.guard(source.run()):
            got.append(item)
        source.said.append("after")
    assert (got, source.said) == (["a", "b"], ["began", "finally", "after"])
    assert (valve.closed, valve.reason, valve.close("again"), valve.reason) == (True, "logged out", False, "logged out")


@pytest.mark.anyio
async def test_a_valve_may_be_closed_with_an_error() -> None:
    valve, source, got = Valve(), Source("a", "b"), []

    async def consume() -> None:
        async for item in valve.guard(source.run()):
            got.append(item)
            valve.close(error=LookupError("revoked"))

    with pytest.raises(LookupError, match="revoked"):
        await consume()
    assert (got, source.said) == (["a"], ["began", "finally"])


@pytest.mark.anyio
async def test_a_closed_valve_starts_no_source() -> None:
    valve, source = Valve(), Source("a")
    valve.close()
    assert [item async for item in valve.guard(source.run())] == []
    assert list(valve.guard_sync(iter("ab"))) == []
    assert source.said == []
    assert await valve.wait() is None


@pytest.mark.anyio
async def test_a_source_that_ends_or_raises_does_so_through_the_valve() -> None:
    async def ends() -> AsyncIterator[int]:
        yield 1
        yield 2

    async def raises() -> AsyncIterator[int]:
        yield 1
        raise LookupError("the source")

    valve = Valve()
    assert [item async for item in valve.guard(ends())] == [1, 2]
    with pytest.raises(LookupError, match="the source"):
        async for _ in valve.guard(raises()):
            pass
    assert not valve.closed
    with pytest.raises(NotAFunction, match="takes an async iterable, found"):
        async for _ in valve.guard([1]):  # type: ignore[arg-type]
            pass


@pytest.mark.anyio
async def test_a_consumer_may_break_off_or_be_cancelled() -> None:
    valve, source, other = Valve(), Source("a", "b"), Source("a")
    guarded = valve.guard(source.run())
    async for _ in guarded:
        break
    await guarded.aclose()
    assert source.said == ["began", "finally"]
    with anyio.move_on_after(0.01) as scope:
        async for _ in valve.guard(other.run()):
            pass
    assert (scope.cancelled_caught, other.said, valve.closed) == (True, ["began", "finally"], False)
    assert valve._wakes == {}


@pytest.mark.anyio
async def test_many_wait_for_one_valve() -> None:
    valve, reasons = Valve(), []

    async def wait() -> None:
        reasons.append(await valve.wait())

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(wait)
        await anyio.sleep(0.01)
        threading.Thread(target=valve.close, args=("over",)).start()
    assert reasons == ["over"] * 3


def test_a_plain_stream_is_looked_at_between_its_items() -> None:
    valve, said = Valve(), []

    def source() -> Iterator[int]:
        try:
            yield from range(9)
        finally:
            said.append("finally")

    got = []
    for item in valve.guard_sync(source()):
        got.append(item)
        if item == 1:
            valve.close()
    assert (got, said) == ([0, 1], ["finally"])
    failing = Valve()
    guarded = failing.guard_sync([1, 2])
    assert next(guarded) == 1
    failing.close(error=LookupError())
    with pytest.raises(LookupError):
        next(guarded)


def test_a_valve_is_awaited_on_an_event_loop_alone() -> None:
    with pytest.raises(WrongThread, match="guard_sync"), Valve()._woken(print):
        pass


def test_only_the_streams_of_one_session_end_and_none_is_kept() -> None:
    group: ValveGroup[str] = ValveGroup()
    first, second, other = group.open("ann"), group.open("ann"), group.open("bob")
    assert group.close("ann", "logged out") == 2
    assert (first.closed, second.reason, other.closed) == (True, "logged out", False)
    assert group.close("ann") == 0
    assert not group.open("ann").closed
    gc.collect()
    assert group.keys() == ["bob"]
    assert (group.close_all("shutdown"), other.reason, group.keys()) == (1, "shutdown", [])
    del other
    for number in range(1000):
        group.open(str(number))
    gc.collect()
    assert group.keys() == []


# -- values that are asked for ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.anyio
async def test_a_poll_gives_what_each_call_returns(is_async: bool) -> None:
    values = iter(range(9))

    async def awaited() -> int:
        return next(values)

    got = []
    polled = poll(awaited if is_async else lambda: next(values), interval=0.001)
    async for value in polled:
        got.append(value)
        if value == 3:
            break
    await polled.aclose()
    assert got == [0, 1, 2, 3]


def test_calls_that_are_late_are_left_out_and_never_made_up_for() -> None:
    import trio
    import trio.testing

    async def main() -> list[float]:
        began: list[float] = []

        async def slow() -> None:
            began.append(trio.current_time())
            await trio.sleep(2.5 if len(began) == 1 else 0)

        polled = poll(slow, interval=1)
        async for _ in polled:
            if len(began) == 4:
                break
        await polled.aclose()
        return [moment - began[0] for moment in began]

    assert trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)) == [0, 3, 4, 5]


@pytest.mark.anyio
async def test_what_cannot_be_polled_is_refused() -> None:
    with pytest.raises(NotAFunction, match="poll"):
        poll(None, interval=1)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="interval: expected seconds above 0"):
        poll(time.time, interval=0)


@pytest.mark.anyio
async def test_only_what_differs_from_the_item_before_is_handed_on() -> None:
    said = []

    async def source() -> AsyncIterator[str]:
        try:
            for item in ("a", "a", "B", "b", "a", "a"):
                yield item
        finally:
            said.append("finally")

    assert [item async for item in distinct_until_changed(source())] == ["a", "B", "b", "a"]
    assert [item async for item in distinct_until_changed(source(), key=str.lower)] == ["a", "B", "a"]
    changed = distinct_until_changed(source())
    async for _ in changed:
        break
    await changed.aclose()
    assert said == ["finally"] * 3
    with pytest.raises(NotAFunction, match="key"):
        distinct_until_changed(source(), key=3)  # type: ignore[arg-type]
