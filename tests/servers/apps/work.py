"""What a request leaves behind: work that says when it began and when it was done."""

import os
import time
from typing import Final

import anyio

from postresponse import after_response
from postresponse.work import TaskSupervisor
from tests.servers.apps.asked import Asked
from tests.servers.apps.record import record

supervisor = TaskSupervisor(name="orders", grace=0.5)


def sync_work(key: str, seconds: float) -> None:
    """Take so many seconds on a thread."""
    record("work began", key)
    time.sleep(seconds)
    record("work done", key, pid=os.getpid())


async def async_work(key: str, seconds: float) -> None:
    """Take so many seconds on an event loop."""
    record("work began", key)
    await anyio.sleep(seconds)
    record("work done", key, pid=os.getpid())


def broken_work(key: str, seconds: float) -> None:
    """Fail so that some servers would end for it."""
    record("work began", key)
    raise SystemExit(f"{key} is broken")


async def broken_async_work(key: str, seconds: float) -> None:
    """The same on an event loop."""
    record("work began", key)
    raise ValueError(f"{key} is broken")


WORK: Final = {"sync": sync_work, "async": async_work, "broken": broken_work, "async broken": broken_async_work}


def leave_work(asked: Asked) -> None:
    """Leave the work that is asked for."""
    if asked.work:
        after_response(WORK[asked.work], asked.key, asked.lasts, name=f"{asked.work} work")
