"""Limits of hours, kept to the second, on a clock that jumps to whatever is due next."""

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import anyio
import pytest
import trio
import trio.testing

from postresponse.tenancy.asgi import TenantLimitMiddleware
from postresponse.work import Bulkhead, BulkheadLimits, TaskSupervisor, first_success, poll
from tests.fakes import StrictASGIServer
from tests.work.conftest import Told

HOUR = 3600.0


class Jumping(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps where it would wait; `trio.testing.MockClock` is its like."""

    def __init__(self) -> None:
        super().__init__(selectors.DefaultSelector())
        self.now = 0.0
        selector: Any = self._selector  # type: ignore[attr-defined]
        select = selector.select

        def jump(timeout: float | None) -> Any:
            found = select(0 if timeout is not None else 5)
            if not found and timeout:
                self.now += timeout
            return found

        selector.select = jump

    def time(self) -> float:
        return self.now


def run(backend: str, main: Callable[[], Awaitable[None]]) -> None:
    if backend == "trio":
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
        return
    with asyncio.Runner(loop_factory=Jumping) as runner:
        runner.run(main())  # type: ignore[arg-type]


pytestmark = pytest.mark.parametrize("backend", ["asyncio", "trio"])


def test_a_job_has_its_hour_and_no_second_more(backend: str, supervisor: TaskSupervisor, told: Told) -> None:
    cleaned_up = []

    async def endless() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cleaned_up.append(anyio.current_time())

    async def main() -> None:
        began = anyio.current_time()
        on_time = supervisor.launch(anyio.sleep, HOUR - 1, timeout=HOUR)
        late = supervisor.launch(endless, timeout=HOUR)
        with pytest.raises(TimeoutError, match="endless was not done in 3600 s"):
            await late
        assert cleaned_up == [pytest.approx(began + HOUR)]
        await on_time

    run(backend, main)


def test_the_time_of_a_bulkhead_counts_waiting_and_running(
    backend: str, supervisor: TaskSupervisor, told: Told
) -> None:
    bulkhead = Bulkhead("slow", max_concurrency=1, max_queue=2, timeout=60.0, supervisor=supervisor)
    began_at: list[float] = []

    async def slow() -> None:
        began_at.append(anyio.current_time())
        await anyio.sleep(50)

    async def main() -> None:
        began = anyio.current_time()
        jobs = [bulkhead.submit(slow) for _ in range(2)]
        await jobs[0]
        with pytest.raises(TimeoutError):
            await jobs[1]
        assert anyio.current_time() - began == pytest.approx(60)
        assert began_at == [pytest.approx(began), pytest.approx(began + 50)]
        await bulkhead.submit(anyio.sleep, 59)
        assert (bulkhead.running, bulkhead.waiting) == (0, 0)

    run(backend, main)


def test_a_race_is_over_after_its_time_and_its_sources_run_on(
    backend: str, supervisor: TaskSupervisor, told: Told
) -> None:
    ended: list[float] = []

    async def slow() -> None:
        await anyio.sleep(HOUR)
        ended.append(anyio.current_time())

    async def main() -> None:
        began = anyio.current_time()
        with pytest.raises(TimeoutError):
            await first_success(slow, timeout=60.0)
        assert anyio.current_time() - began == pytest.approx(60)
        await anyio.sleep(2 * HOUR)
        assert ended == [pytest.approx(began + HOUR)]

    run(backend, main)


def test_a_poll_keeps_its_beat(backend: str) -> None:
    async def now() -> float:
        await anyio.sleep(0.5)
        return anyio.current_time()

    async def main() -> None:
        began, seen = anyio.current_time(), []
        async with aclosing(poll(now, interval=60.0)) as times:
            async for at in times:
                seen.append(at - began)
                if len(seen) == 3:
                    break
        assert seen == [pytest.approx(0.5), pytest.approx(60.5), pytest.approx(120.5)]

    run(backend, main)


def test_a_tenant_is_answered_when_its_time_is_over(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await anyio.sleep_forever()

    async def main() -> None:
        began, servers = anyio.current_time(), [StrictASGIServer() for _ in range(2)]
        async with anyio.create_task_group() as tasks:
            for server in servers:
                tasks.start_soon(server.run, limited)
        assert anyio.current_time() - began == pytest.approx(15)
        assert [server.status for server in servers] == [503, 503]
        assert limited.load() == []

    limited = TenantLimitMiddleware(app, key=None, limits=BulkheadLimits(1, 1, timeout=15.0))
    run(backend, main)
