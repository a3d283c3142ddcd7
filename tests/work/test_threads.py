"""Calls on threads that are waited for, and left behind."""

import subprocess
import sys
import threading
import time
from contextvars import ContextVar

import pytest
from anyio import CancelScope, create_task_group, fail_after, move_on_after

from postresponse.work.threads import on_thread

pytestmark = pytest.mark.anyio

VARIABLE: ContextVar[str] = ContextVar("variable")


def ran(program: str) -> tuple[int, str, str]:
    """Run *program*; return its exit status and what it printed."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program]  # of a fork beside threads
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return ended.returncode, ended.stdout, ended.stderr


async def test_it_returns_what_the_function_returns() -> None:
    def called(first: int, *, second: int) -> tuple[int, int, str, bool]:
        return first, second, VARIABLE.get(), threading.current_thread().daemon

    VARIABLE.set("seen")
    assert await on_thread(called, 1, second=2) == (1, 2, "seen", True)


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt])
async def test_it_raises_what_the_function_raises(kind: type[BaseException]) -> None:
    def failing() -> None:
        raise kind("no")

    with pytest.raises(kind, match="no"):
        await on_thread(failing)


async def test_what_the_function_sets_stays_its_own() -> None:
    VARIABLE.set("outer")
    await on_thread(VARIABLE.set, "inner")
    assert VARIABLE.get() == "outer"


async def test_threads_are_used_again() -> None:
    before = threading.active_count()
    for _ in range(200):
        await on_thread(int)
    assert threading.active_count() <= before + 2


async def test_calls_go_on_at_once() -> None:
    together = threading.Barrier(20)
    with fail_after(10):
        async with create_task_group() as group:
            for _ in range(20):
                group.start_soon(on_thread, together.wait)


async def test_a_cancelled_caller_leaves_its_call_behind() -> None:
    held, ended = threading.Event(), threading.Event()

    def hang() -> None:
        held.wait(10)
        ended.set()

    began = time.monotonic()
    with move_on_after(0.1):
        await on_thread(hang)
    assert time.monotonic() - began < 5
    assert not ended.is_set()
    held.set()
    assert ended.wait(10)


async def test_a_caller_that_is_cancelled_already_makes_no_call() -> None:
    calls: list[int] = []
    with CancelScope() as scope:
        scope.cancel()
        await on_thread(calls.append, 1)
    await on_thread(time.sleep, 0.05)
    assert calls == []


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_call_that_hangs_does_not_keep_the_process_from_ending(backend: str) -> None:
    program = f"""
import threading, anyio
from postresponse.work.threads import on_thread

def hang():
    threading.Event().wait()

async def main():
    with anyio.move_on_after(0.1):
        await on_thread(hang)

anyio.run(main, backend="{backend}")
print("ended")
"""
    assert ran(program) == (0, "ended\n", "")


def test_a_child_process_has_threads_of_its_own() -> None:
    program = """
import os, sys, anyio
from postresponse.work.threads import on_thread

anyio.run(on_thread, int)
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

async def main():
    with anyio.fail_after(10):
        return await on_thread(int, "7")

os._exit(anyio.run(main) - 7)
"""
    assert ran(program) == (0, "", "")
