"""What a request leaves behind: work that says when it began and when it was done."""

import time

import anyio

from postresponse import after_response
from tests.servers.apps.asked import Asked
from tests.servers.apps.record import record


def sync_work(key: str, seconds: float) -> None:
    """Take so many seconds on a thread."""
    record("work began", key)
    time.sleep(seconds)
    record("work done", key)


async def async_work(key: str, seconds: float) -> None:
    """Take so many seconds on an event loop."""
    record("work began", key)
    await anyio.sleep(seconds)
    record("work done", key)


def leave_work(asked: Asked) -> None:
    """Leave the work that is asked for."""
    if asked.work:
        work = sync_work if asked.work == "sync" else async_work
        after_response(work, asked.key, asked.lasts, name=f"{asked.work} work")
