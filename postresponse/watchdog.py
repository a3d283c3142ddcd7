"""A time limit for a blocking clean-up: what hangs in the network is cut off from another thread.

One thread for the whole process looks at all the limits. It starts with the first, ticks once a second while there are
any, and ends when there was none for a minute, so that a limit costs an entry in a set.
"""

import math
import os
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from postresponse.core.log import logger

__all__ = ["within"]


TICK: Final = 1.0
IDLE: Final = 60.0


def within(limit: float | None, call: Callable[..., Any], args: tuple[Any, ...], unit: Any) -> Any:
    """Return `call(*args)`; past *limit* seconds the unit's connection is severed, so that the call fails and returns.

    A unit of work without `sever` cannot be cut off: then only an ERROR names the call that hangs.
    """
    if limit is None:
        return call(*args)
    due = time.monotonic() + limit
    running = _Running(due, limit, call, unit)
    calls = _watchdog.calls
    calls.add(running)
    if due < _watchdog.wakes_at:
        _watchdog.wake(due)
    try:
        return call(*args)
    finally:
        calls.discard(running)


class _Running:
    """A call with a limit, while it runs."""

    __slots__ = ("call", "due", "limit", "unit")

    def __init__(self, due: float, limit: float, call: Callable[..., Any], unit: Any) -> None:
        self.due = due
        self.limit = limit
        self.call = call
        self.unit = unit

    def cut_off(self) -> None:
        logger.error("%r takes longer than %s s; its connection is severed", self.call, self.limit)
        sever = getattr(self.unit, "sever", None)
        if sever is not None:
            try:
                sever()
            except Exception:
                logger.exception("a connection could not be severed")


class _Watchdog:
    """Looks at the calls that run; each is added and taken out without a lock, by an operation that is atomic."""

    def __init__(self) -> None:
        self.calls: set[_Running] = set()
        self.wakes_at: float = math.inf
        """When the thread looks at the latest; infinity if none runs."""
        self._condition = threading.Condition()

    def wake(self, due: float) -> None:
        """See to it that a thread looks by *due*."""
        with self._condition:
            if self.wakes_at == math.inf:
                self.wakes_at = due
                threading.Thread(target=self._run, name="postresponse watchdog", daemon=True).start()
            elif due < self.wakes_at:
                self._condition.notify()

    def _run(self) -> None:
        quiet_since = time.monotonic()
        while True:
            with self._condition:
                now = time.monotonic()
                calls = list(self.calls)
                if calls:
                    quiet_since = now
                elif now - quiet_since >= IDLE:
                    self.wakes_at = math.inf
                    # One that was added before it could see that looks at `wakes_at` later, and wakes another thread.
                    if not self.calls:
                        return
                late = sorted((running for running in calls if running.due <= now), key=lambda running: running.due)
                if not late:
                    self.wakes_at = min((running.due for running in calls), default=now + TICK)
                    self.wakes_at = min(self.wakes_at, now + TICK)
                    self._condition.wait(self.wakes_at - now)
            for running in late:
                if running in self.calls:
                    self.calls.discard(running)
                    running.cut_off()


_watchdog = _Watchdog()


def _after_fork() -> None:
    global _watchdog
    _watchdog = _Watchdog()


os.register_at_fork(after_in_child=_after_fork)
