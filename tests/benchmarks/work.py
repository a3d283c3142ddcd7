"""What it costs to have work done behind a response, and to bound it for each tenant.

A job is an async function that does nothing, or a plain one for threads. All jobs of a block are begun, and the block
ends when all are done; time is that of the processor, on all threads.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence, Sized
from functools import partial
from typing import Any, Final

from postresponse.core.current import current
from postresponse.tenancy.limits import Admission, Turn
from postresponse.work import Bulkhead, BulkheadLimits, TaskSupervisor, after_response, scope
from tests.benchmarks.runner import Case, Contender, Subject, package

__all__ = ["after", "bulkheads", "growth_jobs"]

CONCURRENCY: Final = 10
BATCH: Final = 1000
"""Jobs that are under way together."""


async def nothing() -> None:
    """The job."""


def nothing_on_a_thread() -> None:
    """The job, for threads."""


class Loop(Subject):
    """Jobs on an event loop of its own.

    Args:
        do: Has so many jobs done, and returns when they are.
    """

    def __init__(self, do: Callable[[int], Awaitable[object]]) -> None:
        self._do = do
        self._runner = asyncio.Runner()

    def seconds(self, count: int) -> float:
        return self._runner.run(self._timed(count))

    async def _timed(self, count: int) -> float:
        begun = time.process_time()
        for first in range(0, count, BATCH):
            await self._do(min(BATCH, count - first))
        return time.process_time() - begun

    def close(self) -> None:
        self._runner.close()


async def _empty(jobs: Sized) -> None:
    """Give the loop its turns until no job is left."""
    while jobs:  # noqa: ASYNC110 (nothing tells, and what would tell costs)
        await asyncio.sleep(0)


# -- behind a response ------------------------------------------------------------------------------------------------


async def in_place(count: int) -> None:
    for _ in range(count):
        await nothing()


async def from_a_list(count: int) -> None:
    for _ in range(count):
        work: list[Callable[[], Awaitable[None]]] = []
        work.append(nothing)
        for each in work:
            await each()


async def in_a_set(count: int) -> None:
    tasks: set[asyncio.Task[None]] = set()
    for _ in range(count):
        task = asyncio.create_task(nothing())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await _empty(tasks)


async def as_background(count: int) -> None:
    background = package("starlette.background").BackgroundTask
    for _ in range(count):
        await background(nothing)()


async def with_aiojobs(count: int) -> None:
    scheduler = package("aiojobs").Scheduler(limit=None)
    for _ in range(count):
        await scheduler.spawn(nothing())
    await scheduler.wait_and_close()


async def in_a_group(count: int) -> None:
    async with package("anyio").create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(nothing)


async def a_thread_each(count: int) -> None:
    threads = [threading.Thread(target=nothing_on_a_thread) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


async def registered(count: int) -> None:
    with scope() as exchange:
        for _ in range(count):
            after_response(nothing)
        exchange._work.clear()  # type: ignore[union-attr]


async def registered_and_started(supervisor: TaskSupervisor, count: int) -> None:
    with scope(supervisor=supervisor):
        for _ in range(count):
            after_response(nothing)
    await _empty(supervisor._live)


async def supervised(supervisor: TaskSupervisor, count: int) -> None:
    for _ in range(count):
        supervisor.launch(nothing)
    await _empty(supervisor._live)


async def on_resident_threads(supervisor: TaskSupervisor, count: int) -> None:
    jobs = [supervisor.launch(nothing_on_a_thread) for _ in range(count)]
    for job in jobs:
        if not job.done():
            await job


def after() -> Sequence[Case]:
    """One job each; the measure is a task. The design's is a job awaited in place, of which a task costs ten there."""
    own = TaskSupervisor(max_threads=4)
    return [
        Case(
            "one job",
            [
                Contender("create_task, kept in a set", "limit", partial(Loop, in_a_set)),
                Contender("awaited in place", "minimum", partial(Loop, in_place)),
                Contender("a list, run after the response", "minimum", partial(Loop, from_a_list)),
                Contender("BackgroundTask", "peer", partial(Loop, as_background), ("starlette",)),
                Contender("aiojobs", "peer", partial(Loop, with_aiojobs), ("aiojobs",)),
                Contender("anyio task group", "peer", partial(Loop, in_a_group), ("anyio",)),
                Contender("a thread each", "peer", partial(Loop, a_thread_each)),
                Contender("after_response, registered", "ours", partial(Loop, registered), target=0.1),
                Contender(
                    "after_response, registered and done", "ours", partial(Loop, partial(registered_and_started, own))
                ),
                Contender("launch, async", "ours", partial(Loop, partial(supervised, own)), target=1.2),
                Contender("launch, on a thread", "ours", partial(Loop, partial(on_resident_threads, own)), target=3.0),
            ],
        )
    ]


# -- bounded, for each tenant -----------------------------------------------------------------------------------------


async def unlimited(tenants: int, count: int) -> None:
    tasks = [asyncio.create_task(nothing()) for _ in range(count)]
    for task in tasks:
        await task


async def counted(tenants: int, count: int) -> None:
    """Count and queue by hand: no task before there is a slot."""
    running = [0] * tenants
    waiting: dict[int, deque[None]] = {}
    left, all_done = count, asyncio.Event()

    async def one(tenant: int) -> None:
        nonlocal left
        try:
            await nothing()
        finally:
            left -= 1
            if left == 0:
                all_done.set()
            queue = waiting.get(tenant)
            if queue:
                queue.popleft()
                start(tenant)
            else:
                running[tenant] -= 1

    tasks: set[asyncio.Task[None]] = set()

    def start(tenant: int) -> None:
        task = asyncio.create_task(one(tenant))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    for number in range(count):
        tenant = number % tenants
        if running[tenant] < CONCURRENCY:
            running[tenant] += 1
            start(tenant)
        else:
            waiting.setdefault(tenant, deque()).append(None)
    await all_done.wait()


async def with_semaphores(tenants: int, count: int) -> None:
    semaphores: dict[int, asyncio.Semaphore] = {}

    async def one(tenant: int) -> None:
        async with semaphores.setdefault(tenant, asyncio.Semaphore(CONCURRENCY)):
            await nothing()

    await _all(one(number % tenants) for number in range(count))


async def with_limiters(tenants: int, count: int) -> None:
    limiter_type = package("anyio").CapacityLimiter
    limiters: dict[int, Any] = {}

    async def one(tenant: int) -> None:
        if tenant not in limiters:
            limiters[tenant] = limiter_type(CONCURRENCY)
        async with limiters[tenant]:
            await nothing()

    await _all(one(number % tenants) for number in range(count))


async def with_schedulers(tenants: int, count: int) -> None:
    scheduler_type = package("aiojobs").Scheduler
    schedulers: dict[int, Any] = {}
    for number in range(count):
        tenant = number % tenants
        if tenant not in schedulers:
            schedulers[tenant] = scheduler_type(limit=CONCURRENCY)
        await schedulers[tenant].spawn(nothing())
    for scheduler in schedulers.values():
        await scheduler.wait_and_close()


async def _all(jobs: Iterable[Any]) -> None:
    tasks = [asyncio.create_task(job) for job in jobs]
    for task in tasks:
        await task


class Admitted:
    """As the middleware of tenants does it, a task a request, which the server has made."""

    def __init__(self, tenants: int) -> None:
        limits = BulkheadLimits(CONCURRENCY, BATCH, None)
        self._tenants = tenants
        self._admission = Admission(
            key=lambda request: request, limits=limits, views=None, on_key_error=500, retry_after=1.0
        )

    async def __call__(self, count: int) -> None:
        await _all(self._one(number % self._tenants) for number in range(count))

    async def _one(self, tenant: int) -> None:
        came = asyncio.Event()
        turn = self._admission.enter(tenant, "/", came.set)
        assert isinstance(turn, Turn)
        try:
            if turn.waits:
                await came.wait()
            await nothing()
        finally:
            turn.leave()


class Submitted:
    """A `Bulkhead` a tenant."""

    def __init__(self, tenants: int) -> None:
        self._supervisor = TaskSupervisor()
        self._bulkheads = [
            Bulkhead(str(number), max_concurrency=CONCURRENCY, max_queue=BATCH, supervisor=self._supervisor)
            for number in range(tenants)
        ]

    async def __call__(self, count: int) -> None:
        for number in range(count):
            self._bulkheads[number % len(self._bulkheads)].submit(nothing)
        await _empty(self._supervisor._live)


def _made(kind: type[Admitted] | type[Submitted], tenants: int) -> Subject:
    return Loop(kind(tenants))


def bulkheads() -> Sequence[Case]:
    """One tenant, a hundred, ten thousand."""
    return [
        Case(
            f"{tenants:,} tenants",
            [
                Contender("create_task without a bound", "limit", partial(Loop, partial(unlimited, tenants))),
                Contender("a count and a deque", "minimum", partial(Loop, partial(counted, tenants))),
                Contender("asyncio.Semaphore", "peer", partial(Loop, partial(with_semaphores, tenants))),
                Contender("anyio CapacityLimiter", "peer", partial(Loop, partial(with_limiters, tenants)), ("anyio",)),
                Contender("aiojobs", "peer", partial(Loop, partial(with_schedulers, tenants)), ("aiojobs",)),
                Contender("Admission", "ours", partial(_made, Admitted, tenants), target=target),
                Contender("Bulkhead", "ours", partial(_made, Submitted, tenants), target=target),
            ],
        )
        for tenants, target in ((1, 1.7), (100, 1.4), (10_000, 1.4))
    ]


# -- how it grows -----------------------------------------------------------------------------------------------------


def growth_jobs() -> Sequence[Case]:
    """From no job of one response to a hundred."""

    async def none(count: int) -> None:
        for _ in range(count):
            with scope(supervisor=own):
                current.get()

    async def some(jobs: int, count: int) -> None:
        for _ in range(count):
            with scope(supervisor=own):
                for _ in range(jobs):
                    after_response(nothing)
        await _empty(own._live)

    own = TaskSupervisor()
    return [
        Case(
            str(jobs),
            [
                Contender("no job", "limit", partial(Loop, none)),
                Contender("after_response", "ours", partial(Loop, partial(some, jobs))),
            ],
        )
        for jobs in (0, 1, 10, 100)
    ]
