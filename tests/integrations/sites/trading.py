"""What every site of `tests.integrations.scenarios` trades with, in whatever framework."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

from postresponse import after_response, current_exchange
from postresponse.core.lifecycle import Outcome
from tests.integrations.shop import Order

PART: Final = b"x" * 65536
PARTS: Final = 64


def note(name: str) -> None:
    """Leave a file of that name in the working directory."""
    Path(name).touch()


def wait_for(name: str) -> None:
    """Wait until the client has left a file of that name; not for ever."""
    deadline = time.monotonic() + 10
    while not Path(name).exists() and time.monotonic() < deadline:
        time.sleep(0.005)


def ordered(item: str) -> Order:
    """An order, which COMMIT refuses where it is of gold; its end is noted, and so is the work that follows it."""

    def over(outcome: Outcome) -> None:
        note(f"over.{item}.{outcome.ending}.{outcome.unit_of_work}")

    current_exchange().on_finished(over)
    after_response(note, f"worked.{item}")
    return Order(item=item, customer=404 if item.startswith("gold") else None)


def slowly(item: str) -> None:
    """Take its time: work that a shutdown finds under way, since it does not end before one is said to begin."""
    note(f"slow.{item}")
    wait_for("stopping")
    time.sleep(0.4)
    note(f"drained.{item}")


def parts(item: str) -> Iterator[bytes]:
    """A body: its first part, and when the client has said so the others."""
    note(f"began.{item}")
    yield PART
    wait_for(f"go.{item}")
    for _ in range(PARTS - 1):
        yield PART


async def aparts(item: str) -> AsyncIterator[bytes]:
    """The same, async."""
    note(f"began.{item}")
    yield PART
    deadline = time.monotonic() + 10
    while not Path(f"go.{item}").exists() and time.monotonic() < deadline:  # noqa: ASYNC110, ASYNC240 (a test's file)
        await asyncio.sleep(0.005)
    for _ in range(PARTS - 1):
        yield PART
        await asyncio.sleep(0)
