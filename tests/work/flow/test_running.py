"""Flows that run: what is behind what, and beside what, by the times; failures, cancellation, and what steps share."""

import asyncio
import threading
import time
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from postresponse.exceptions import ConfigurationError, FlowFailed, SupervisorClosed, WrongThread
from postresponse.work import (
    Flow,
    FlowContext,
    FlowResult,
    FlowState,
    TaskSupervisor,
    launch,
    par,
    scope,
    seq,
    step,
    suspend,
)
from postresponse.work import complete_later as later
from tests.work.test_virtual_clock import HOUR
from tests.work.test_virtual_clock import run as run_on_jumping_clock
from tests.work.waiting import auntil

pytestmark = pytest.mark.anyio

A_WHILE = 0.05


def sleeping(name: str, seconds: float = A_WHILE, *, on_thread: bool = False) -> Flow:
    """A step that takes a while, and returns its name."""

    async def slept(ctx: Any) -> str:
        await anyio.sleep(seconds)
        return name

    def slept_on_thread(ctx: Any) -> str:
        time.sleep(seconds)
        return name

    return step(slept_on_thread if on_thread else slept, name=name)


def failing(name: str, error: type[BaseException] = ValueError, after: float = 0.0) -> Flow:
    async def failed(ctx: Any) -> None:
        await anyio.sleep(after)
        raise error(name)

    return step(failed, name=name)


def is_behind(later: FlowResult, earlier: FlowResult) -> bool:
    return later.began is not None and earlier.ended is not None and later.began >= earlier.ended


def are_beside(one: FlowResult, other: FlowResult) -> bool:
    return not is_behind(one, other) and not is_behind(other, one)


def states(result: FlowResult) -> dict[str, str]:
    return {each.name: str(each.state) for each in result.steps()}


@pytest.mark.parametrize("on_thread", [False, True], ids=["async", "on threads"])
async def test_the_text_of_a_flow_is_kept_by_the_times(on_thread: bool) -> None:
    steps = {name: sleeping(name, on_thread=on_thread) for name in "abcd"}
    result = await Flow.parse("a + b | c + d", steps).run()
    a, b, c, d = result.steps()
    assert is_behind(b, a)
    assert is_behind(c, a)
    assert are_beside(b, c)
    assert is_behind(d, b)
    assert is_behind(d, c)
    assert (result.state, result.value) == (FlowState.DONE, "d")
    assert result.children[1].value == ["b", "c"]
    assert result.values == {name: name for name in "abcd"}


async def test_a_sequence_in_a_sequence_is_one_behind_the_other() -> None:
    result = await seq(seq(sleeping("a"), sleeping("b")), sleeping("c")).run()
    assert is_behind(result["b"], result["a"])
    assert is_behind(result["c"], result["b"])


async def test_children_of_one_name_join() -> None:
    numbers = iter(range(3))

    async def numbered(ctx: Any) -> int:
        number = next(numbers)  # trio begins them in any order
        await anyio.sleep(0.01 * (3 - number))
        return number

    ctx = FlowContext()

    async def seen(ctx: Any) -> Any:
        return ctx.results["each"]

    result = await Flow.parse("(each | each | each) + seen", {"each": numbered, "seen": seen}).run(ctx)
    first, second, third = result.children[0].children
    assert are_beside(first, third)
    assert are_beside(first, second)
    assert is_behind(result["seen"], first)
    assert sorted(result.value) == [0, 1, 2]
    assert ctx.results == {"each": result.value, "seen": result.value}


async def test_a_flow_that_a_step_returns_is_a_part_of_it() -> None:
    async def planned(ctx: Any) -> Flow:
        return par(sleeping("x"), sleeping("y"))

    result = await seq(step(planned, name="plan"), sleeping("z", 0.0)).run()
    assert is_behind(result["z"], result["x"])
    assert is_behind(result["z"], result["y"])
    assert result["plan"].value == ["x", "y"]
    assert [each.name for each in result.steps()] == ["plan", "x", "y", "z"]


async def test_a_failing_part_fails_the_step_that_returned_it() -> None:
    async def planned(ctx: Any) -> Flow:
        return failing("x")

    with pytest.raises(FlowFailed, match=r"x raised ValueError\('x'\)") as raised:
        await seq(step(planned, name="plan"), sleeping("z")).run()
    assert states(raised.value.result) == {"plan": "failed", "x": "failed", "z": "skipped"}


async def test_what_fails_stops_what_is_beside_it_and_skips_what_is_behind() -> None:
    cleaned_up = []

    async def endless(ctx: Any) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cleaned_up.append(True)

    flow = seq(sleeping("a", 0.0), par(failing("b", after=0.01), step(endless, name="c")), sleeping("d"), name="order")
    with pytest.raises(FlowFailed, match=r"the flow order failed: b raised ValueError\('b'\)$") as raised:
        await flow.run()
    result = raised.value.result
    assert states(result) == {"a": "done", "b": "failed", "c": "cancelled", "d": "skipped"}
    assert isinstance(raised.value.__cause__, ValueError)
    assert cleaned_up == [True]
    assert result.state is FlowState.FAILED
    assert [str(error) for error in result.errors] == ["b"]


async def test_with_continue_all_go_on_and_nothing_is_lost() -> None:
    flow = Flow.parse(
        "a + (b | c) + d",
        {"a": failing("a"), "b": failing("b", after=0.01), "c": sleeping("c"), "d": sleeping("d")},
        on_error="continue",
    )
    with pytest.raises(FlowFailed, match=r"a raised ValueError.*, and 1 more failed") as raised:
        await flow.run()
    assert states(raised.value.result) == {"a": "failed", "b": "failed", "c": "done", "d": "done"}
    assert isinstance(raised.value.__cause__, ExceptionGroup)
    assert [str(each) for each in raised.value.__cause__.exceptions] == ["a", "b"]


async def test_each_part_has_its_own_answer_to_an_error() -> None:
    lenient = par(failing("a"), sleeping("b"), on_error="continue")
    with pytest.raises(FlowFailed) as raised:
        await seq(lenient, sleeping("c")).run()
    assert states(raised.value.result) == {"a": "failed", "b": "done", "c": "skipped"}
    with pytest.raises(FlowFailed) as raised:
        await seq(lenient, sleeping("c"), on_error="continue").run()
    assert states(raised.value.result) == {"a": "failed", "b": "done", "c": "done"}


async def test_an_exit_is_a_failure_as_under_a_supervisor() -> None:
    with pytest.raises(FlowFailed, match="SystemExit"):
        await seq(failing("a", SystemExit), sleeping("b")).run()


async def test_a_step_has_its_time() -> None:
    for on_thread in (False, True):
        slow = sleeping("slow", 0.5, on_thread=on_thread)
        limited = step(slow.fn, name="slow", timeout=0.05)  # type: ignore[attr-defined]
        with pytest.raises(FlowFailed, match=r"slow was not done in 0\.05 s") as raised:
            await seq(limited, sleeping("next")).run()
        assert isinstance(raised.value.__cause__, TimeoutError)
        assert states(raised.value.result) == {"slow": "failed", "next": "skipped"}


async def test_a_sync_step_that_is_cancelled_runs_on_and_that_is_said() -> None:
    held, ended = threading.Event(), threading.Event()

    def hang(ctx: Any) -> None:
        held.wait(10)
        ended.set()

    async def failed(ctx: Any) -> None:
        await anyio.sleep(0.05)
        raise ValueError("b")

    with pytest.raises(FlowFailed) as raised:
        await par(step(hang, name="a"), step(failed, name="b")).run()
    assert states(raised.value.result) == {"a": "left behind", "b": "failed"}
    assert not ended.is_set()
    held.set()
    assert ended.wait(10)


async def test_an_error_of_a_step_that_was_left_behind_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    held = threading.Event()

    def hang(ctx: Any) -> None:
        held.wait(10)
        raise ValueError("behind")

    with anyio.move_on_after(0.05):
        await step(hang, name="hang").run()
    assert caplog.records == []
    held.set()
    await auntil(lambda: caplog.records)
    assert [record.getMessage() for record in caplog.records] == ["the job hang failed"]


async def test_a_cancelled_run_cancels_what_it_waits_for_and_not_what_it_launched(supervisor: TaskSupervisor) -> None:
    ended = []

    async def launched() -> None:
        await anyio.sleep(0.1)
        ended.append("launched")

    async def waits(ctx: Any) -> None:
        ctx.job = launch(launched)
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("waits")

    ctx = FlowContext()
    with anyio.move_on_after(0.05):
        await seq(waits, sleeping("never")).run(ctx)
    assert ended == ["waits"]
    await ctx.job
    assert ended == ["waits", "launched"]
    assert states_of(ctx) == {"waits": "cancelled", "never": "skipped"}


def states_of(ctx: FlowContext) -> dict[str, str]:
    assert ctx.result is not None
    return states(ctx.result)


async def test_who_says_that_it_is_cancelled_and_is_not_has_failed() -> None:
    async def gives_up(ctx: Any) -> None:
        raise asyncio.CancelledError

    if asyncio._get_running_loop() is None:
        pytest.skip("trio refuses that by itself")
    with pytest.raises(FlowFailed, match="a ended as if it were cancelled, and nobody had cancelled it"):
        await par(step(gives_up, name="a"), sleeping("b")).run()


# -- what steps share -------------------------------------------------------------------------------------------------


async def test_parallel_async_steps_write_without_a_lock() -> None:
    async def counts(ctx: Any) -> None:
        for _ in range(100):
            ctx.count += 1
            await anyio.lowlevel.checkpoint()

    ctx = FlowContext(count=0)
    await Flow.parse("each | each | each", {"each": counts}).run(ctx)
    assert ctx.count == 300


async def test_a_sync_step_writes_alone_and_not_beside_others() -> None:
    def writes(ctx: Any) -> None:
        ctx.total = 1

    ctx = FlowContext()
    await seq(step(writes, name="a"), sleeping("b")).run(ctx)
    assert ctx.total == 1
    with pytest.raises(FlowFailed) as raised:
        await par(step(writes, name="a"), sleeping("b")).run(FlowContext())
    assert isinstance(raised.value.__cause__, WrongThread)
    assert str(raised.value.__cause__).startswith("ctx.total is written by a sync step while others run beside it")


async def test_any_object_is_handed_on_as_it_is() -> None:
    async def appends(ctx: list[int]) -> None:
        ctx.append(1)

    given: list[int] = []
    await Flow.parse("a + b", {"a": appends, "b": appends}).run(given)
    assert given == [1, 1]


async def test_what_is_missing_in_a_context_is_said() -> None:
    assert repr(FlowContext(order=1)) == "FlowContext(order=1)"
    with pytest.raises(AttributeError, match="ctx has no 'oder'; it has order"):
        _ = FlowContext(order=1).oder
    ctx = FlowContext()
    del_me = FlowContext(x=1)
    del del_me.x
    assert (dict(ctx.results), repr(del_me)) == ({}, "FlowContext()")


async def test_a_context_belongs_to_one_run_at_a_time() -> None:
    ctx = FlowContext()

    async def nested(ctx: Any) -> None:
        await sleeping("b").run(ctx)

    with pytest.raises(FlowFailed) as raised:
        await step(nested, name="a").run(ctx)
    assert isinstance(raised.value.__cause__, ConfigurationError)
    await sleeping("b").run(ctx)
    assert ctx.results == {"b": "b"}


# -- under a supervisor -----------------------------------------------------------------------------------------------


async def test_a_flow_is_launched_as_a_function_is(supervisor: TaskSupervisor) -> None:
    job = supervisor.launch(seq(sleeping("a"), sleeping("b", on_thread=True), name="order"), FlowContext(x=1))
    assert job.name == "order"
    result = await job
    assert states(result) == {"a": "done", "b": "done"}


def test_a_flow_is_launched_where_there_is_no_loop(supervisor: TaskSupervisor) -> None:
    result = supervisor.launch(seq(sleeping("a"), par(sleeping("b", on_thread=True), sleeping("c")))).result(10)
    assert result.values == {"a": "a", "b": "b", "c": "c"}


async def test_a_launched_flow_that_fails_is_reported_once(
    supervisor: TaskSupervisor, caplog: pytest.LogCaptureFixture
) -> None:
    job = supervisor.launch(seq(failing("a"), sleeping("b"), name="order"))
    with pytest.raises(FlowFailed):
        await job
    assert [record.getMessage() for record in caplog.records] == ["the job order failed"]


async def test_a_launched_flow_can_be_cancelled(supervisor: TaskSupervisor) -> None:
    ctx = FlowContext()
    job = supervisor.launch(seq(sleeping("a", 60), sleeping("b")), ctx)
    await auntil(lambda: "a" in started(ctx))
    assert job.cancel()
    await auntil(job.done)
    assert states_of(ctx) == {"a": "cancelled", "b": "skipped"}


def started(ctx: FlowContext) -> list[str]:
    return [] if ctx.result is None else [each.name for each in ctx.result.steps() if each.began is not None]


async def test_a_flow_that_runs_has_the_grace_of_a_closing_supervisor_for_all_its_steps(
    supervisor: TaskSupervisor,
) -> None:
    steps = {name: sleeping(name, on_thread=name in "bc") for name in "abcd"}
    with scope(supervisor=supervisor):
        job = launch(Flow.parse("a + (b | c) + d", steps))
    assert await supervisor.aclose(5) == []
    assert states(job.result(0)) == dict.fromkeys("abcd", "done")
    with pytest.raises(SupervisorClosed):
        supervisor.launch(seq(sleeping("late")))


# -- pictures ---------------------------------------------------------------------------------------------------------


async def test_a_result_is_printed_and_drawn() -> None:
    async def waits(ctx: Any) -> None:
        await suspend(lambda token: later(0.05, token))

    flow = seq(sleeping("reserve"), par(sleeping("invoice", 0.1), step(waits, name="payment")), name="order: tea")
    result = await flow.run()
    lines = str(result).splitlines()
    assert [line[:22].rstrip() for line in lines] == [
        "order: tea",
        "├─ reserve",
        "└─ invoice | payment",
        "   ├─ invoice",
        "   └─ payment",
    ]
    assert all(line.endswith("done") for line in lines)
    assert "█" in lines[1]
    assert "·" in lines[4]
    drawn = result.mermaid().splitlines()
    assert drawn[:4] == ["gantt", "    title order  tea", "    dateFormat x", "    axisFormat %S.%L s"]
    assert [line.split(":")[0].strip() for line in drawn[4:]] == ["reserve", "invoice", "payment"]
    begin, end = (int(each) for each in drawn[5].split(":")[1].split(","))
    assert 40 <= begin < end
    with pytest.raises(FlowFailed) as raised:
        await seq(failing("a"), sleeping("b")).run()
    first, *_, last = str(raised.value.result).splitlines()
    assert first.endswith("failed")
    assert last.endswith("skipped")
    assert "ValueError('a')" in str(raised.value.result)
    assert ":crit, 0, " in raised.value.result.mermaid()
    with pytest.raises(KeyError, match="there is no 'z'; there is 'a', 'b'"):
        _ = raised.value.result["z"]


# -- on a clock that jumps --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_hour_is_an_hour_whatever_the_clock(backend: str) -> None:
    async def told(token: str) -> None:
        later(HOUR, token, "paid")

    async def payment(ctx: Any) -> Any:
        return await suspend(told, timeout=2 * HOUR)

    async def forgotten(ctx: Any) -> None:
        async def tells_nobody(token: str) -> None: ...

        await suspend(tells_nobody, timeout=2 * HOUR)

    async def main() -> None:
        result = await seq(payment, sleeping("ship", HOUR)).run()
        assert (result["payment"].ended, result["ship"].began, result.ended) == (HOUR, HOUR, 2 * HOUR)
        assert result["payment"].suspended == [(0.0, HOUR)]
        with pytest.raises(FlowFailed, match=r"not completed in 7200 s") as raised:
            await step(forgotten).run()
        assert raised.value.result.ended == 2 * HOUR
        with pytest.raises(FlowFailed, match=r"slow was not done in 3600 s"):
            await step(sleeping("slow", 3 * HOUR).fn, name="slow", timeout=HOUR).run()  # type: ignore[attr-defined]

    run_on_jumping_clock(backend, main)
