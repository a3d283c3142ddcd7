import asyncio
import concurrent.futures
import contextvars
import functools
import threading
import time
import weakref
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from postresponse.exceptions import SupervisorClosed, WrongThread
from postresponse.work import Job, JobState, TaskSupervisor
from tests.work.conftest import Told
from tests.work.waiting import auntil, idle, until


async def later(value: object = None, *, seconds: float = 0) -> object:
    await anyio.sleep(seconds)
    return value


# -- where it runs ----------------------------------------------------------------------------------------------------


def test_a_sync_function_runs_on_a_thread_of_the_supervisor(supervisor: TaskSupervisor) -> None:
    name = supervisor.launch(lambda: threading.current_thread().name).result(5)
    assert name.startswith("test ")


def test_an_idle_thread_is_taken_before_another_is_started(supervisor: TaskSupervisor) -> None:
    names = set()
    for _ in range(20):
        names.add(supervisor.launch(lambda: threading.current_thread().name).result(5))
        time.sleep(0.002)  # it is idle a moment after its result is there
    assert len(names) <= 2


def test_there_are_never_more_threads_than_allowed() -> None:
    supervisor = TaskSupervisor(name="few", max_threads=2)
    held = threading.Event()
    jobs = [supervisor.launch(held.wait, 5) for _ in range(5)]
    time.sleep(0.05)
    assert sum(thread.name.startswith("few ") for thread in threading.enumerate()) == 2
    assert [job.state for job in jobs].count(JobState.RUNNING) == 2
    held.set()
    concurrent.futures.wait(jobs, 5)
    assert {job.state for job in jobs} == {JobState.DONE}
    supervisor.close()


def test_without_an_event_loop_async_work_runs_on_the_loop_of_the_supervisor(supervisor: TaskSupervisor) -> None:
    async def where() -> tuple[str, int]:
        await asyncio.sleep(0)
        return threading.current_thread().name, id(asyncio.get_running_loop())

    found = {supervisor.launch(where).result(5) for _ in range(3)}
    assert len(found) == 1
    assert found.pop()[0] == "test loop"


@pytest.mark.anyio
async def test_async_work_runs_on_the_loop_of_the_caller(supervisor: TaskSupervisor) -> None:
    async def where() -> int:
        await anyio.lowlevel.checkpoint()
        return threading.get_ident()

    assert await supervisor.launch(where) == threading.get_ident()


@pytest.mark.anyio
async def test_work_never_runs_inline(supervisor: TaskSupervisor) -> None:
    ran: list[str] = []

    async def work() -> None:
        ran.append("async")

    job = supervisor.launch(work)
    assert (ran, job.state) == ([], JobState.WAITING)
    await job
    assert ran == ["async"]


@pytest.mark.anyio
async def test_a_plain_function_that_returns_a_coroutine_is_awaited_where_async_work_runs(
    supervisor: TaskSupervisor,
) -> None:
    assert await supervisor.launch(lambda: later(3)) == 3


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.anyio
async def test_the_context_is_that_of_the_call(supervisor: TaskSupervisor, is_async: bool) -> None:
    value = contextvars.ContextVar("value", default="none")

    def read() -> str:
        return value.get()

    async def awaited() -> str:
        return value.get()

    value.set("at the call")
    job = supervisor.launch(awaited if is_async else read)
    value.set("later")
    assert await job == "at the call"


@pytest.mark.anyio
async def test_callable_objects_and_partials_are_seen_for_what_they_are(supervisor: TaskSupervisor) -> None:
    class Work:
        async def __call__(self, value: int) -> int:
            return value

        async def method(self, value: int) -> int:
            return value

    for fn in (Work(), Work().method, functools.partial(later, seconds=0)):
        job = supervisor.launch(fn, 4)
        assert job._home is not None
        assert await job == 4
    assert supervisor.launch(functools.partial(later)).name == "later"
    await auntil(lambda: not supervisor.jobs())


# -- what the caller holds --------------------------------------------------------------------------------------------


def test_a_job_is_a_future_of_the_standard_library(supervisor: TaskSupervisor) -> None:
    jobs = [supervisor.launch(pow, 2, number) for number in range(5)]
    done, left = concurrent.futures.wait(jobs, 5)
    assert (len(done), left) == (5, set())
    assert {job.result() for job in concurrent.futures.as_completed(jobs, 5)} == {1, 2, 4, 8, 16}
    told: list[object] = []
    jobs[0].add_done_callback(told.append)
    assert told == [jobs[0]]


def test_waiting_begins_before_the_job_ends(supervisor: TaskSupervisor) -> None:
    held, told = threading.Event(), []
    job = supervisor.launch(held.wait, 5)
    job.add_done_callback(lambda job: [][0])
    job.add_done_callback(lambda job: told.append("the next"))
    waiting = supervisor.launch(concurrent.futures.wait, [job])
    with pytest.raises(TimeoutError):
        job.result(0.01)
    held.set()
    assert job.result(5)
    assert waiting.result(5).done == {job}
    until(lambda: told)  # callbacks run behind those who wait


@pytest.mark.anyio
async def test_who_waits_on_the_thread_of_a_loop_is_told_to_await(supervisor: TaskSupervisor) -> None:
    job = supervisor.launch(later, 3)
    for call in (job.result, job.exception, supervisor.close):
        with pytest.raises(WrongThread, match="await"):
            call()
    assert await job == 3
    assert (job.result(), job.exception()) == (3, None)


@pytest.mark.anyio
async def test_a_cancelled_wait_cancels_no_job(supervisor: TaskSupervisor) -> None:
    began, held = anyio.Event(), anyio.Event()

    async def holding() -> int:
        began.set()
        await held.wait()
        return 3

    job = supervisor.launch(holding)
    await began.wait()
    with anyio.move_on_after(0.001):
        await job
    assert job.state is JobState.RUNNING
    held.set()
    assert await job == 3


@pytest.mark.anyio
async def test_an_async_job_can_be_cancelled_while_it_runs(supervisor: TaskSupervisor, told: Told) -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await anyio.sleep(10)
        finally:
            ended.append("finally")

    job = supervisor.launch(work)
    await auntil(lambda: job.running())
    assert job.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        await job
    assert (job.state, job.cancelled(), ended) == (JobState.CANCELLED, True, ["finally"])
    assert not job.cancel()
    assert (told.errors, told.dropped) == ([], [])


@pytest.mark.anyio
async def test_a_job_that_has_not_started_never_does_once_it_is_cancelled(supervisor: TaskSupervisor) -> None:
    ran: list[int] = []

    async def work() -> None:
        ran.append(1)

    job = supervisor.launch(work)
    assert job.cancel()
    await anyio.sleep(0.01)
    assert (ran, job.state, supervisor.jobs()) == ([], JobState.CANCELLED, [])


def test_a_function_on_a_thread_cannot_be_cancelled_and_says_so(supervisor: TaskSupervisor) -> None:
    held, running = threading.Event(), threading.Event()

    def work() -> int:
        running.set()
        held.wait(5)
        return 3

    job = supervisor.launch(work)
    running.wait(5)
    assert not job.cancel()
    held.set()
    assert job.result(5) == 3


def test_a_done_job_keeps_nothing_of_what_it_was_given(supervisor: TaskSupervisor) -> None:
    class Order:
        pass

    order = Order()
    kept = weakref.ref(order)
    job = supervisor.launch(lambda order: None, order)
    del order
    job.result(5)
    idle(supervisor)
    assert kept() is None


def test_jobs_can_be_listed_by_state(supervisor: TaskSupervisor) -> None:
    held = threading.Event()
    first = supervisor.launch(held.wait, 5, name="first")
    second = supervisor.launch(held.wait, 5, name="second")
    until(lambda: first.running() and second.running())
    assert [(job.name, job.state) for job in supervisor.jobs()] == [
        ("first", JobState.RUNNING),
        ("second", JobState.RUNNING),
    ]
    assert repr(first) == "<Job first running>"
    held.set()
    concurrent.futures.wait([first, second], 5)


# -- what fails -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("kind", [ValueError, SystemExit, "cancelled"])
@pytest.mark.anyio
async def test_one_job_that_fails_harms_nobody_and_is_told_of_once(
    supervisor: TaskSupervisor, told: Told, quiet: None, is_async: bool, kind: Any, anyio_backend_name: str
) -> None:
    if kind == "cancelled":
        if anyio_backend_name == "trio":
            pytest.skip("trio has no cancellation that one could raise by oneself")
        kind = asyncio.CancelledError
    ran: list[str] = []

    def fails() -> None:
        raise kind("no")

    async def awaited() -> None:
        fails()

    jobs = [supervisor.launch(awaited if is_async else fails, name="bad")]
    jobs += [supervisor.launch(ran.append, "sync"), supervisor.launch(later, "async")]
    await auntil(lambda: all(job.done() for job in jobs))
    assert (ran, jobs[2].result(), jobs[0].state) == (["sync"], "async", JobState.FAILED)
    assert [name for name, _ in told.errors] == ["bad"]
    error = jobs[0].exception()
    assert isinstance(error, kind) or isinstance(error.__cause__ if error else None, kind)


def test_on_error_that_fails_is_logged_with_both_errors(caplog: pytest.LogCaptureFixture) -> None:
    def on_error(job: Job[Any], error: BaseException) -> None:
        raise LookupError("the tracker is down")

    supervisor = TaskSupervisor(on_error=on_error)
    supervisor.launch(lambda: [][0], name="mail").exception(5)
    supervisor.close()
    assert [record.getMessage() for record in caplog.records] == [
        "the job mail failed",
        "on_error failed for the job mail",
    ]
    assert "list index out of range" in caplog.text
    assert "the tracker is down" in caplog.text


# -- what takes too long ----------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_an_async_job_that_is_late_is_cancelled_and_told_of(
    supervisor: TaskSupervisor, told: Told, quiet: None
) -> None:
    job = supervisor.launch(functools.partial(later, seconds=10), timeout=0.01, name="slow")
    with pytest.raises(TimeoutError, match=r"slow was not done in 0.01 s"):
        await job
    assert job.state is JobState.TIMED_OUT
    assert told.errors == [("slow", "TimeoutError('slow was not done in 0.01 s')")]


def test_a_late_function_on_a_thread_is_told_of_in_time_and_listed_until_it_ends(
    supervisor: TaskSupervisor, told: Told, quiet: None
) -> None:
    held = threading.Event()
    job = supervisor.launch(held.wait, 5, timeout=0.01, name="slow")
    with pytest.raises(TimeoutError, match="slow was not done"):
        job.result(5)
    assert supervisor.jobs() == [job]
    held.set()
    idle(supervisor)
    assert (job.state, len(told.errors)) == (JobState.TIMED_OUT, 1)


@pytest.mark.anyio
async def test_a_job_that_is_done_in_time_is_left_alone(supervisor: TaskSupervisor, told: Told) -> None:
    assert await supervisor.launch(later, 3, timeout=0.3) == 3
    assert await supervisor.launch(lambda: 4, timeout=0.3) == 4
    await anyio.sleep(0.31)
    assert told.errors == []


# -- how it closes ----------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_closing_waits_for_what_runs_and_refuses_what_comes(supervisor: TaskSupervisor, told: Told) -> None:
    done: list[str] = []

    async def work() -> None:
        await anyio.sleep(0.02)
        done.append("async")

    supervisor.launch(work)

    def sync() -> None:
        time.sleep(0.02)
        done.append("sync")

    supervisor.launch(sync)
    assert list(await supervisor.aclose()) == []
    assert sorted(done) == ["async", "sync"]
    with pytest.raises(SupervisorClosed, match="later comes too late"):
        supervisor.launch(later)
    supervisor.open()
    assert await supervisor.launch(later, 3) == 3
    await supervisor.aclose()


@pytest.mark.anyio
async def test_what_outlives_the_grace_is_cancelled_and_told_of_by_name(
    supervisor: TaskSupervisor, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    held, ended = threading.Event(), []

    async def work() -> None:
        try:
            await anyio.sleep(10)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
            ended.append("finally")

    jobs = [supervisor.launch(work, name="async"), supervisor.launch(held.wait, 5, name="sync")]
    await auntil(lambda: all(job.running() for job in jobs))
    assert list(await supervisor.aclose(0.01)) == jobs
    assert (ended, sorted(told.dropped)) == (["finally"], ["async", "sync"])
    assert [job.state for job in jobs] == [JobState.DROPPED] * 2
    assert sorted(record.getMessage() for record in caplog.records if record.levelname == "ERROR") == [
        f"the job {name} is lost: its supervisor, or its event loop, ended before it" for name in ("async", "sync")
    ]
    held.set()
    await auntil(lambda: not supervisor.jobs())


def test_only_the_last_of_those_who_opened_it_closes(supervisor: TaskSupervisor) -> None:
    supervisor.open()
    supervisor.open()
    supervisor.close()
    assert supervisor.launch(pow, 2, 3).result(5) == 8
    supervisor.close()
    with pytest.raises(SupervisorClosed):
        supervisor.launch(pow, 2, 3)
