"""What an error makes of a delivery: one rule for relays and receivers."""

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from postresponse.exceptions import MessageRefused, UnknownVersion, Unreachable
from postresponse.messaging.delivery import Delivery, Result, Settled
from postresponse.messaging.retrying import Backoff

__all__ = ["Judge", "told"]

UNKNOWN: Final = 60.0
"""Seconds until a message is looked at again that this release does not know."""
LONGEST: Final = 200
_CREDENTIALS: Final = re.compile(r"(\w+://)[^\s/@]*@")


class Judge:
    """Says what becomes of a delivery that failed.

    A message that is refused is dead at once, one of a later release is left alone, and one whose engine cannot be
    reached keeps its attempts. Any other failure costs one; behind the last one the message is dead.

    Args:
        attempts: How often a message is tried.
        backoff: How long it waits in between.
        unreachable: The errors that say that an engine cannot be reached.
        chance: A number from 0 to 1, each time another one.
    """

    def __init__(
        self, attempts: int, backoff: Backoff, unreachable: tuple[type[BaseException], ...], chance: Callable[[], float]
    ) -> None:
        self._attempts = attempts
        self._backoff = backoff
        self._unreachable: tuple[type[BaseException], ...] = (Unreachable, *unreachable)
        self._chance = chance

    def settled(self, delivery: Delivery, error: BaseException | None) -> Settled:
        """Return what is to be done with *delivery*."""
        if error is None:
            return Settled(delivery, Result.DONE)
        if isinstance(error, UnknownVersion):
            return Settled(delivery, Result.BACK, told(error, delivery), UNKNOWN)
        if isinstance(error, MessageRefused):
            return Settled(delivery, Result.DEAD, told(error, delivery))
        if isinstance(error, self._unreachable):
            return Settled(delivery, Result.OUTAGE, told(error, delivery))
        failures = delivery.attempts + 1
        if failures >= self._attempts:
            return Settled(delivery, Result.DEAD, told(error, delivery))
        return Settled(delivery, Result.FAILED, told(error, delivery), self._backoff.seconds(failures, self._chance()))


def told(error: BaseException, delivery: Delivery) -> str:
    """Return the type and the first line of *error*, short, without credentials and without what the message says."""
    text = _CREDENTIALS.sub(r"\1***@", str(getattr(error, "orig", None) or error).partition("\n")[0])
    try:
        for secret in sorted(_texts(delivery.payload), key=len, reverse=True):
            text = text.replace(secret, "…")
    except (MessageRefused, UnknownVersion):
        pass
    text = text.strip()[:LONGEST]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if len(value) > 2:
            yield value
    elif isinstance(value, dict):
        for below in value.values():
            yield from _texts(below)
    elif isinstance(value, list):
        for below in value:
            yield from _texts(below)
