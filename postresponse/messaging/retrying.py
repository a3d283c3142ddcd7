"""When to try again: pure rules, with the time and the chance given."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from postresponse.exceptions import ConfigurationError
from postresponse.work.checks import check_seconds

__all__ = ["Backoff", "Breaker", "chance"]

MOST_DOUBLINGS: Final = 32

chance: Final[Callable[[], float]] = random.SystemRandom().random
"""A number from 0 to 1: another one in each process, and without a part in what an application has seeded."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds to wait, doubled with each failure; some chance stays at the cap, so that not all come back at once.

    Args:
        base: Behind the first failure.
        cap: At most.

    Raises:
        ConfigurationError: They are no seconds, or *cap* is below *base*.
    """

    base: float = 1.0
    cap: float = 300.0

    def __post_init__(self) -> None:
        check_seconds("base", self.base)
        check_seconds("cap", self.cap)
        if self.cap < self.base:
            raise ConfigurationError(f"cap: {self.cap:g} seconds are below base={self.base:g}")

    def seconds(self, failures: int, chance: float) -> float:
        """Return how long to wait behind so many *failures*: from half to all of it, as *chance* (0 to 1) says."""
        most = min(self.cap, self.base * 2.0 ** min(max(failures - 1, 0), MOST_DOUBLINGS))
        return most * (0.5 + chance / 2)


class Breaker:
    """Whether something that could not be reached is tried: closed, open for a while, then half open for one try.

    Args:
        backoff: How long it stays open.
        clock: Seconds from any start.
        chance: A number from 0 to 1, each time another one.
    """

    __slots__ = ("_backoff", "_chance", "_clock", "_until", "failures")

    def __init__(self, backoff: Backoff, clock: Callable[[], float], chance: Callable[[], float]) -> None:
        self._backoff = backoff
        self._clock = clock
        self._chance = chance
        self._until = -math.inf
        self.failures: int = 0

    @property
    def waits(self) -> float:
        """Seconds until it may be tried; 0.0 where it may."""
        return max(0.0, self._until - self._clock()) if self.failures else 0.0

    @property
    def is_closed(self) -> bool:
        """Whether any number may be tried at once; else one."""
        return not self.failures

    def failed(self) -> bool:
        """Note that it could not be reached; True where it could before. What failed meanwhile counts once."""
        if self.failures and self._until > self._clock():
            return False
        self.failures += 1
        self._until = self._clock() + self._backoff.seconds(self.failures, self._chance())
        return self.failures == 1

    def reached(self) -> bool:
        """Note that it was reached; True where it could not be before."""
        was_open, self.failures = bool(self.failures), 0
        return was_open
