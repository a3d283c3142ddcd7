"""What a transport is tried with: messages, a handler that remembers them, and supervisors of the test's own."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio

from postresponse.messaging import Delivery, Message, Receiver
from postresponse.messaging.pump import Transport
from postresponse.work import Job

__all__ = ["Handled", "auntil", "message", "running", "taken_from"]


async def auntil(holds: Callable[[], object]) -> None:
    """Give the event loop turns until *holds*."""
    with anyio.fail_after(10):
        while not holds():  # noqa: ASYNC110 (nothing tells)
            await anyio.sleep(0.001)


async def taken_from(transport: Transport, count: int) -> list[Delivery]:
    """Take so many messages, however few come at once."""
    taken: list[Delivery] = []
    with anyio.fail_after(10):
        while len(taken) < count:
            taken += await transport.take(count - len(taken))
            await anyio.sleep(0.005)
    return taken


def message(payload: Any = None, **options: Any) -> Message:
    """A message that books something."""
    return Message("orders", "book", payload, **options)


class Handled:
    """A handler that can be held, and fails as often as it is told to.

    Attributes:
        payloads: Of what was handled, in the order of their ends.
        deliveries: What began to be handled.
        dead: What was given up, and why.
        failures: What the next calls raise.
        gate: What they wait for; None for nothing.
    """

    def __init__(self) -> None:
        self.payloads: list[Any] = []
        self.deliveries: list[Delivery] = []
        self.dead: list[tuple[Delivery, str]] = []
        self.failures: list[Exception] = []
        self.gate: anyio.Event | None = None

    async def __call__(self, delivery: Delivery) -> None:
        """Handle it."""
        self.deliveries.append(delivery)
        if self.gate is not None:
            await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        self.payloads.append(delivery.payload)

    def on_dead_letter(self, delivery: Delivery, reason: str) -> None:
        """It was given up."""
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
