import asyncio
import threading
from typing import Any

import anyio
import pytest

from postresponse import CommitPolicy, Retry, current_exchange, wsgi
from postresponse.asgi import PostResponseMiddleware
from postresponse.core.current import current
from postresponse.exceptions import NotAccepted, NotAFunction, WrongThread
from postresponse.work import TaskSupervisor, first_success, first_success_sync, scope
from tests.fakes import Conflict, FakeUnits, StrictASGIServer, StrictWSGIServer
from tests.work.conftest import Told
from tests.work.waiting import aidle, auntil, idle


@pytest.fixture(autouse=True)
def within(supervisor: TaskSupervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Races run under the test's own supervisor."""
    from postresponse.work import race

    monkeypatch.setattr(race, "supervisor_of", lambda exchange: supervisor)


def source(value: Any, *, seconds: float = 0, ran: list[Any] | None = None, name: str = "") -> Any:
    """A source that gives *value*, or raises it."""

    async def give(*args: Any) -> Any:
        await anyio.sleep(seconds)
        if ran is not None:
            ran.append((value, *args))
        if isinstance(value, BaseException):
            raise value
        return value

    give.__qualname__ = name or repr(value)
    return give


@pytest.mark.anyio
async def test_the_first_value_wins_and_the_others_run_on(supervisor: TaskSupervisor, told: Told) -> None:
    ran: list[Any] = []
    slow, fast = source("slow", seconds=0.02, ran=ran), source("fast", ran=ran)
    assert await first_success(slow, fast, args=("customer",)) == "fast"
    assert ran == [("fast", "customer")]
    await aidle(supervisor)
    assert ran == [("fast", "customer"), ("slow", "customer")]
    assert told.errors == []


@pytest.mark.anyio
async def test_all_are_started_even_if_the_first_answers_at_once(supervisor: TaskSupervisor) -> None:
    ran: list[str] = []

    async def at_once() -> str:
        ran.append("async")
        return "async"

    def on_a_thread() -> str:
        ran.append("sync")
        return "sync"

    assert await first_success(at_once, on_a_thread) in ("async", "sync")
    await aidle(supervisor)
    assert sorted(ran) == ["async", "sync"]


@pytest.mark.anyio
async def test_the_error_of_one_that_loses_is_reported_once(
    supervisor: TaskSupervisor, told: Told, quiet: None
) -> None:
    early, late = source(LookupError("early")), source(LookupError("late"), seconds=0.02)
    assert await first_success(early, source("value", seconds=0.01), late) == "value"
    await aidle(supervisor)
    assert [error for _, error in told.errors] == ["LookupError('early')", "LookupError('late')"]


@pytest.mark.anyio
async def test_errors_are_reported_after_the_response(supervisor: TaskSupervisor, told: Told, quiet: None) -> None:
    with scope(supervisor=supervisor):
        await first_success(source(LookupError("early")), source("value", seconds=0.01))
        await aidle(supervisor)
        assert told.errors == []
    assert [error for _, error in told.errors] == ["LookupError('early')"]
    assert current.get() is None


@pytest.mark.anyio
async def test_errors_in_an_attempt_that_is_run_again_are_reported_too(
    supervisor: TaskSupervisor, told: Told, quiet: None
) -> None:
    answered = anyio.Event()

    async def late() -> None:
        await answered.wait()
        raise LookupError("late")

    late.__qualname__ = "LookupError('late')"

    async def app(scope: Any, receive: Any, send: Any) -> None:
        attempt = current_exchange().attempt
        assert await first_success(source(LookupError(f"early {attempt}")), source(attempt), late) == attempt
        await auntil(lambda: len(supervisor.jobs()) == attempt)  # the late ones: the early one has failed, too
        assert told.errors == [("LookupError('early 1')",) * 2] * (attempt - 1)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"body"})

    units = FakeUnits({"commit": Conflict()}, times=1, is_async=True)
    policy = CommitPolicy(retry=Retry(attempts=2, backoff=0))
    server = StrictASGIServer()
    await server.run(PostResponseMiddleware(app, unit_of_work=units, commit=policy))
    assert server.status == 200
    assert told.errors == [(f"LookupError('early {attempt}')",) * 2 for attempt in (1, 2)]
    answered.set()
    await aidle(supervisor)
    assert told.errors[2:] == [("LookupError('late')",) * 2] * 2


def test_so_they_are_under_wsgi(supervisor: TaskSupervisor, told: Told, quiet: None) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        attempt = current_exchange().attempt
        assert first_success_sync(source(LookupError(f"early {attempt}")), source(attempt, seconds=0.01)) == attempt
        start_response("200 OK", [])
        return [b"body"]

    units = FakeUnits({"commit": Conflict()}, times=1)
    policy = CommitPolicy(retry=Retry(attempts=2, backoff=0))
    assert StrictWSGIServer().run(wsgi.PostResponseMiddleware(app, unit_of_work=units, commit=policy)).code == 200
    idle(supervisor)
    assert told.errors == [(f"LookupError('early {attempt}')",) * 2 for attempt in (1, 2)]


@pytest.mark.anyio
async def test_if_all_fail_the_caller_gets_every_error_in_the_order_of_the_sources(
    supervisor: TaskSupervisor, told: Told
) -> None:
    slow, fast = source(LookupError("slow"), seconds=0.01), source(ValueError("fast"))
    with pytest.raises(ExceptionGroup, match="no source succeeded") as caught:
        await first_success(slow, fast)
    assert [repr(error) for error in caught.value.exceptions] == ["LookupError('slow')", "ValueError('fast')"]
    await aidle(supervisor)
    assert told.errors == []


@pytest.mark.anyio
async def test_what_counts_can_be_said(supervisor: TaskSupervisor, told: Told, quiet: None) -> None:
    assert await first_success(source(None)) is None
    found = await first_success(
        source(None, name="cache"), source(3, seconds=0.01), accept=lambda value: value is not None
    )
    assert found == 3
    await aidle(supervisor)
    assert told.errors == []
    with pytest.raises(ExceptionGroup) as caught:
        await first_success(source(None, name="cache"), accept=lambda value: value is not None)
    (error,) = caught.value.exceptions
    assert isinstance(error, NotAccepted)
    assert str(error) == "cache returned None, which accept= does not count"
    with pytest.raises(ExceptionGroup) as caught:
        await first_success(source(3), accept=lambda value: value["name"])
    assert isinstance(caught.value.exceptions[0], TypeError)


@pytest.mark.anyio
async def test_who_does_not_wait_cancels_no_source(supervisor: TaskSupervisor, told: Told, quiet: None) -> None:
    ran: list[Any] = []
    with pytest.raises(TimeoutError, match=r"none of 'late' had succeeded in 0\.01 s"):
        await first_success(source("late", seconds=0.03, ran=ran), timeout=0.01)
    with anyio.move_on_after(0.01):
        await first_success(source(LookupError("later"), seconds=0.03, ran=ran))
    await aidle(supervisor)
    assert len(ran) == 2
    assert [error for _, error in told.errors] == ["LookupError('later')"]


@pytest.mark.anyio
async def test_a_source_that_is_cancelled_does_not_win_and_is_no_error(supervisor: TaskSupervisor, told: Told) -> None:
    async def cancels() -> None:
        for job in supervisor.jobs():
            if job.name == "'slow'":
                job.cancel()

    slow = source("slow", seconds=10)
    with pytest.raises(ExceptionGroup) as caught:
        await first_success(slow, cancels, accept=bool)
    assert [type(error).__name__ for error in caught.value.exceptions] == ["CancelledError", "NotAccepted"]
    assert str(caught.value.exceptions[0]) == "'slow' was cancelled"
    await aidle(supervisor)
    assert (told.errors, told.dropped) == ([], [])


@pytest.mark.anyio
async def test_what_cannot_race_is_refused_before_anything_starts(supervisor: TaskSupervisor) -> None:
    ran: list[Any] = []
    with pytest.raises(ValueError, match="no sources to race"):
        await first_success()
    with pytest.raises(NotAFunction, match=r"found the coroutine") as caught:
        await first_success(source(1, ran=ran), source(2)(), source(3)())
    assert isinstance(caught.value, TypeError)
    with pytest.raises(ValueError, match="timeout: expected seconds above 0"):
        await first_success(source(1, ran=ran), timeout=0)
    assert (ran, supervisor.jobs()) == ([], [])


def test_on_a_thread_that_waits(supervisor: TaskSupervisor, told: Told, quiet: None) -> None:
    held = threading.Event()
    assert first_success_sync(lambda: held.wait(5), lambda: "fast") == "fast"
    with pytest.raises(TimeoutError, match=r"had succeeded in 0\.01 s"):
        first_success_sync(lambda: held.wait(5), timeout=0.01)
    held.set()
    assert first_success_sync(source("async")) == "async"
    with pytest.raises(ExceptionGroup):
        first_success_sync(lambda: [][0])
    idle(supervisor)
    assert told.errors == []


def test_on_the_thread_of_a_loop_it_is_awaited(supervisor: TaskSupervisor) -> None:
    async def main() -> None:
        first_success_sync(lambda: 3)

    with pytest.raises(WrongThread, match="await first_success"):
        asyncio.run(main())
