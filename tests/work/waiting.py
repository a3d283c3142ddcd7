"""Waiting until something holds, and no longer."""

import time
from collections.abc import Callable

import anyio

from postresponse.work import TaskSupervisor

__all__ = ["aidle", "auntil", "idle", "until"]


async def auntil(holds: Callable[[], object]) -> None:
    """Give the event loop turns until *holds*."""
    with anyio.fail_after(30):
        while not holds():  # noqa: ASYNC110 (nothing tells)
            await anyio.sleep(0.001)


def until(holds: Callable[[], object]) -> None:
    """Wait in this thread until *holds*."""
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


async def aidle(supervisor: TaskSupervisor) -> None:
    """Wait until *supervisor* has no job."""
    await auntil(lambda: not supervisor.jobs())


def idle(supervisor: TaskSupervisor) -> None:
    """As `aidle`, in this thread."""
    until(lambda: not supervisor.jobs())
