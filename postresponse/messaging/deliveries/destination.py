"""What a relay asks of a destination."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from postresponse.messaging.delivery import Delivery

__all__ = ["Destination"]


@runtime_checkable
class Destination(Protocol):
    """An engine that takes messages.

    Attributes:
        batch: How many it takes at once; 1 where each is a piece of work of its own.
        concurrency: How many such pieces go on at once.
        timeout: Seconds that one batch may take.
        unreachable: The errors that say that it cannot be reached: messages wait then, and keep their attempts.
    """

    batch: int
    concurrency: int
    timeout: float
    unreachable: tuple[type[BaseException], ...]

    async def send(self, messages: Sequence[Delivery]) -> Sequence[BaseException | None]:
        """Send *messages*, and return what each failed with, or None where it is the engine's now.

        What it raises counts for all of them.
        """

    async def aclose(self) -> None:
        """Close what it opened."""
