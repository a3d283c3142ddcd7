"""Steps that wait for somebody else: without a thread, until one completion, and never twice."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from postresponse.exceptions import ConfigurationError, FlowFailed, NotAFunction, UnknownToken
from postresponse.work import Flow, FlowContext, FlowState, complete, complete_later, seq, step, suspend
from tests.work.waiting import auntil

pytestmark = pytest.mark.anyio


async def test_a_late_completion_delays_the_next_step() -> None:
    tokens: list[str] = []

    async def payment(ctx: Any) -> Any:
        return await suspend(tokens.append, timeout=10)

    async def ship(ctx: Any) -> str:
        return f"shipped for {ctx.results['payment']}"

    def pay() -> None:
        while not tokens:
            time.sleep(0.01)
        time.sleep(0.1)
        assert complete(tokens[0], value=42) is True

    payer = threading.Thread(target=pay)
    payer.start()
    result = await seq(payment, ship).run()
    payer.join()
    assert result.value == "shipped for 42"
    assert result["ship"].began is not None
    assert result["ship"].began >= 0.1
    ((since, until),) = result["payment"].suspended
    assert until - since >= 0.1


async def test_a_step_that_is_suspended_says_so() -> None:
    tokens: list[str] = []

    async def payment(ctx: Any) -> Any:
        return await suspend(tokens.append)

    ctx = FlowContext()
    async with anyio.create_task_group() as group:
        group.start_soon(step(payment).run, ctx)
        await auntil(lambda: tokens)
        result: Any = ctx.result
        assert result.state is FlowState.SUSPENDED
        complete(tokens[0])
        await auntil(lambda: str(result.state) == "done")


async def test_ten_that_sleep_at_once_take_as_long_as_one_and_hold_no_thread() -> None:
    async def told(token: str) -> None:
        complete_later(0.05, token)

    async def sleeps(ctx: Any) -> None:
        await suspend(told)

    flow = Flow.parse(" | ".join(["nap"] * 10), {"nap": sleeps})
    threads = threading.active_count()
    began = anyio.current_time()
    most = 0

    async def watch() -> None:
        nonlocal most
        await anyio.sleep(0.03)
        most = threading.active_count()

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        await flow.run()
    took = anyio.current_time() - began
    assert 0.05 <= took < 0.4
    assert most <= threads


async def test_it_may_be_completed_before_start_has_returned() -> None:
    async def told(token: str) -> None:
        assert complete(token, "at once")

    assert await suspend(told) == "at once"
    assert await suspend(lambda token: complete(token, "from a thread")) == "from a thread"


async def test_an_error_is_raised_where_it_waited() -> None:
    with pytest.raises(LookupError, match="declined"):
        await suspend(lambda token: complete(token, error=LookupError("declined")))


async def test_a_second_completion_changes_nothing_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    answers = []

    async def told(token: str) -> None:
        answers.extend([complete(token, 1), complete(token, 2), complete(token, error=ValueError())])

    assert await suspend(told) == 1
    assert answers == [True, False, False]
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "comes too late: what was suspended has gone on" in caplog.records[0].getMessage()
    assert caplog.records[0].getMessage().count("-") == 1  # without what would complete it


async def test_what_is_not_completed_in_time_times_out_and_a_late_completion_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tokens: list[str] = []
    with pytest.raises(TimeoutError, match=r"it was suspended, and not completed in 0\.05 s"):
        await suspend(tokens.append, timeout=0.05)
    assert complete(tokens[0]) is False
    complete_later(0.0, tokens[0])
    assert len(caplog.records) == 2


async def test_a_cancelled_one_is_gone() -> None:
    tokens: list[str] = []
    with anyio.move_on_after(0.05):
        await suspend(tokens.append)
    assert complete(tokens[0]) is False


async def test_what_start_raises_comes_out_and_the_token_is_over() -> None:
    tokens: list[str] = []

    def fails(token: str) -> None:
        tokens.append(token)
        raise ConnectionError("no bank")

    with pytest.raises(ConnectionError, match="no bank"):
        await suspend(fails)
    assert complete(tokens[0]) is False


async def test_a_failed_completion_fails_the_step() -> None:
    async def payment(ctx: Any) -> Any:
        return await suspend(lambda token: complete_later(0.01, token, error=LookupError("declined")))

    with pytest.raises(FlowFailed, match="payment raised LookupError"):
        await step(payment).run()


async def test_many_are_completed_from_many_threads_each_once() -> None:
    count = 200
    tokens: list[str] = []
    wins: list[str] = []

    def completes() -> None:
        for token in list(tokens):
            if complete(token, token):
                wins.append(token)

    async def waits() -> None:
        assert await suspend(tokens.append) in tokens

    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(waits)
        await auntil(lambda: len(tokens) == count)
        threads = [threading.Thread(target=completes) for _ in range(4)]
        for thread in threads:
            thread.start()
        await auntil(lambda: not any(thread.is_alive() for thread in threads))
    assert sorted(wins) == sorted(tokens)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: complete("abc"), UnknownToken, "token: 'abc' was not issued by this process: .* Celery"),
        (lambda: complete("1-2-" + "0" * 32), UnknownToken, "was not issued by this process"),
        (lambda: complete("é-ü"), UnknownToken, "was not issued by this process"),
        (lambda: complete(7), UnknownToken, r"token: expected the text that suspend\(\) gave to start=, found 7"),  # type: ignore[arg-type]
        (lambda: complete_later(1, "abc"), UnknownToken, "was not issued by this process"),
        (lambda: complete_later(-1, "abc"), ConfigurationError, "delay: expected seconds from 0, found -1"),
        (lambda: complete("abc", error="no"), ConfigurationError, "error: expected an exception, found 'no'"),  # type: ignore[arg-type]
        (lambda: complete("abc", 1, error=OSError()), ConfigurationError, "value, error: give one of them"),
    ],
)
def test_bad_input_is_told_where_it_is_given(call: Callable[[], Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call()


async def test_what_cannot_be_told_of_a_token_is_refused() -> None:
    with pytest.raises(NotAFunction, match=r"suspend\(\): expected a function, found 'url'"):
        await suspend("url")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="timeout: expected seconds above 0, found -3"):
        await suspend(print, timeout=-3)


def test_a_child_process_completes_nothing_of_its_parents() -> None:
    program = """
import os, anyio
from postresponse.exceptions import UnknownToken
from postresponse.work import complete, suspend

async def told(token):
    child = os.fork()
    if child == 0:
        try:
            complete(token)
        except UnknownToken:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert complete(token, "parent")

print(anyio.run(suspend, told))
"""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "parent\n", "")
