"""What the tests of receivers share: messages to receive, and a handler that remembers them."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio

from postresponse.messaging import Delivery, Message, Receiver
from postresponse.work import Job
from tests.work.waiting import auntil

__all__ = ["Handled", "message", "running"]


def message(payload: Any = None, **options: Any) -> Message:
    """A message that books something."""
    return Message("orders", "book", payload, **options)


class Handled:
    """A handler that can be held, and fails as often as it is told to.

    Attributes:
        payloads: Of what was handled, in the order of their ends.
        deliveries: What began to be handled.
    """

    def __init__(self) -> None:
        self.payloads: list[Any] = []
        self.deliveries: list[Delivery] = []
        self.dead: list[tuple[Delivery, str]] = []
        self.failures: list[Exception] = []
        self.gate: anyio.Event | None = None

    async def __call__(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        if self.gate is not None:
            await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        self.payloads.append(delivery.payload)

    def on_dead_letter(self, delivery: Delivery, reason: str) -> None:
        self.dead.append((delivery, reason))

    def hold(self) -> Callable[[], None]:
        """Let nobody end before what is returned was called."""
        self.gate = anyio.Event()
        return self.gate.set


@asynccontextmanager
async def running(receiver: Receiver) -> AsyncIterator[Job[None]]:
    """Run *receiver*, and stop it."""
    job = receiver.start()
    await auntil(lambda: receiver.state != "not started")
    try:
        yield job
    finally:
        if not job.done():
            await receiver.astop(5)
