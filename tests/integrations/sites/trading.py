"""What every site of `tests.integrations.scenarios` trades with, in whatever framework."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

from postresponse import after_response, current_exchange
from postresponse.core.lifecycle import Outcome
from postresponse.work import default_supervisor
from tests.integrations.shop import Order

PART: Final = b"x" * 65536
PARTS: Final = 64


def note(name: str) -> None:
    """Leave a file of that name in the working directory."""
    Path(name).touch()


def ordered(item: str) -> Order:
    """An order, which COMMIT refuses where it is of gold; its end is noted, and so is the work that follows it."""

    def over(outcome: Outcome) -> None:
        note(f"over.{item}.{outcome.ending}.{outcome.unit_of_work}")

    current_exchange().on_finished(over)
    after_response(note, f"worked.{item}")
    return Order(item=item, customer=404 if item.startswith("gold") else None)


def is_drained() -> bool:
    """Wait until this process is being ended, and waits for its work, and a moment more; False if that never comes."""
    deadline = time.monotonic() + 10
    while not default_supervisor()._closed:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    time.sleep(0.1)
    return True


def slowly(item: str) -> None:
    """Work that ends only if a shutdown waits for it."""
    note(f"slow.{item}")
    if is_drained():
        note(f"drained.{item}")


def parts(item: str) -> Iterator[bytes]:
    """A body: its first part, and when the client has said so the others."""
    note(f"began.{item}")
    yield PART
    deadline = time.monotonic() + 10
    while not Path(f"go.{item}").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    for _ in range(PARTS - 1):
        yield PART


async def aparts(item: str) -> AsyncIterator[bytes]:
    """The same, async; and where the client has said that it left, more of it until the server tells so."""
    exchange = current_exchange()
    note(f"began.{item}")
    yield PART
    deadline = time.monotonic() + 10
    while not Path(f"go.{item}").exists() and time.monotonic() < deadline:  # noqa: ASYNC110, ASYNC240 (a test's file)
        await asyncio.sleep(0.005)
    for _ in range(PARTS - 1):
        yield PART
        await asyncio.sleep(0)
    lasts = Path(f"left.{item}").exists()  # noqa: ASYNC240 (the same)
    while lasts and not exchange._left and time.monotonic() < deadline:
        yield b"x"
        await asyncio.sleep(0.005)
