"""A time limit for a blocking clean-up: what hangs in the network is cut off from another thread.

One thread for the whole process looks at all the limits. It starts with the first, ticks once a second while there are
any, and ends when there was none for a minute, so that a limit costs a lock and an entry in a heap.
"""

import heapq
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any, Final

__all__ = ["within"]

logger: Final = logging.getLogger("postresponse")

TICK: Final = 1.0
IDLE: Final = 60.0


def within(limit: float | None, call: Callable[..., Any], args: tuple[Any, ...], unit: Any) -> Any:
    """Return `call(*args)`; past *limit* seconds the unit's connection is severed, so that the call fails and returns.

    A unit of work without `sever` cannot be cut off: then only an ERROR names the call that hangs.
    """
    if limit is None:
        return call(*args)

    def bite() -> None:
        logger.error("%r takes longer than %s s; its connection is severed", call, limit)
        sever = getattr(unit, "sever", None)
        if sever is not None:
            sever()

    disarm = _watchdog.arm(limit, bite)
    try:
        return call(*args)
    finally:
        disarm()


class _Limit:
    __slots__ = ("bite",)

    def __init__(self, bite: Callable[[], object]) -> None:
        self.bite: Callable[[], object] | None = bite

    def disarm(self) -> None:
        self.bite = None


class _Watchdog:
    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._limits: list[tuple[float, int, _Limit]] = []
        self._count = itertools.count()
        self._wakes_at: float | None = None  # None: no thread runs

    def arm(self, seconds: float, bite: Callable[[], object]) -> Callable[[], object]:
        """Call *bite* in so many *seconds*, unless the function returned is called before."""
        limit, due = _Limit(bite), time.monotonic() + seconds
        with self._condition:
            heapq.heappush(self._limits, (due, next(self._count), limit))
            if self._wakes_at is None:
                self._wakes_at = due
                threading.Thread(target=self._run, name="postresponse watchdog", daemon=True).start()
            elif due < self._wakes_at:
                self._condition.notify()
        return limit.disarm

    def _run(self) -> None:
        quiet_since = time.monotonic()
        while True:
            with self._condition:
                now = time.monotonic()
                if self._limits:
                    quiet_since = now
                elif now - quiet_since >= IDLE:
                    self._wakes_at = None
                    return
                bites = self._due(now)
                if not bites:
                    first = self._limits[0][0] if self._limits else now + TICK
                    self._wakes_at = min(first, now + TICK)
                    self._condition.wait(self._wakes_at - now)
            for bite in bites:
                try:
                    bite()
                except Exception:
                    logger.exception("a connection could not be severed")

    def _due(self, now: float) -> list[Callable[[], object]]:
        bites = []
        while self._limits and (self._limits[0][0] <= now or self._limits[0][2].bite is None):
            bite = heapq.heappop(self._limits)[2].bite
            if bite is not None:
                bites.append(bite)
        return bites


_watchdog = _Watchdog()


def _after_fork() -> None:
    global _watchdog
    _watchdog = _Watchdog()


os.register_at_fork(after_in_child=_after_fork)
