"""What is shielded runs to its end; the cancellation is not lost."""

import asyncio

import anyio
import pytest

from postresponse.shielding import shielded

pytestmark = pytest.mark.anyio


class Work:
    def __init__(self) -> None:
        self.started = anyio.Event()
        self.may_end = anyio.Event()
        self.ended = False

    async def run(self) -> str:
        self.started.set()
        await self.may_end.wait()
        await anyio.lowlevel.checkpoint()
        self.ended = True
        return "result"


async def test_its_result_is_returned() -> None:
    work = Work()
    work.may_end.set()
    assert await shielded(work.run) == "result"


async def test_its_error_is_raised() -> None:
    async def fail() -> None:
        raise KeyError("here")

    with pytest.raises(KeyError, match="here"):
        await shielded(fail)


async def test_a_cancelled_scope_waits_for_the_end_and_then_cancels() -> None:
    work = Work()
    reached = False

    async def release() -> None:
        await work.started.wait()
        scope.cancel()
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        work.may_end.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(release)
        with anyio.CancelScope() as scope:
            await shielded(work.run)
            reached = True
    assert work.ended
    assert not reached
    assert scope.cancelled_caught


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_native_cancellation_waits_for_the_end_however_often_it_comes() -> None:
    work = Work()
    task = asyncio.create_task(shielded(work.run))
    await work.started.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    work.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.ended


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_error_of_cancelled_work_is_the_cause_of_the_cancellation() -> None:
    started, may_fail = asyncio.Event(), asyncio.Event()

    async def fail() -> None:
        started.set()
        await may_fail.wait()
        raise ValueError("in COMMIT")

    task = asyncio.create_task(shielded(fail))
    await started.wait()
    task.cancel()
    await asyncio.sleep(0)
    may_fail.set()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cancelled_wait_does_not_spin() -> None:
    """Without a shield of its own, anyio would cancel the wait again on every turn of the loop."""
    work = Work()
    turns = 0

    async def count() -> None:
        nonlocal turns
        await work.started.wait()
        scope.cancel()
        deadline = anyio.current_time() + 0.05
        while anyio.current_time() < deadline:
            await anyio.sleep(0.01)
            turns += 1
        work.may_end.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count)
        with anyio.CancelScope() as scope:
            await shielded(work.run)
    assert turns <= 6
