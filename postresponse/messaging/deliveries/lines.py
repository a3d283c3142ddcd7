"""Connections that batches are sent over: each by one thread at a time, kept for the next batch, never trusted blindly.

A broker is spoken to by blocking libraries, so each batch has a thread. What the libraries promise of timeouts has
gaps; therefore a thread that is late is left behind together with its connection, and the next batch has another one.
"""

import os
import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final, Protocol

from anyio import CapacityLimiter

from postresponse.exceptions import Unreachable
from postresponse.messaging.delivery import Delivery
from postresponse.work.threads import on_thread

__all__ = ["Errors", "Line", "Lines"]

MOST: Final = 4
"""Batches that are sent at once; a relay has two under way for each name of a destination."""
SHARE: Final = 0.9
"""The part of a batch's time that its thread has; the rest is for telling of what was not confirmed by then."""
IDLE: Final = 60.0
"""Seconds for which an idle connection is kept: firewalls forget it silently after some minutes."""

Errors = list[BaseException | None]
"""What each message failed with, or None."""


class Line(Protocol):
    """A connection to a broker."""

    is_sound: bool
    """Whether it may be used again."""

    def send(self, messages: Sequence[Delivery], deadline: float) -> Errors:
        """Send *messages* until *deadline* of the monotonic clock; what it cannot answer for then is `Unreachable`."""

    def close(self) -> None:
        """Let it go; raises nothing, and waits for nobody where it is not sound."""


class Lines:
    """The connections of one destination.

    Args:
        connect: Makes one.
        timeout: Seconds that a batch may take, with connecting.
    """

    def __init__(self, connect: Callable[[], Line], timeout: float) -> None:
        self._connect = connect
        self._seconds = timeout * SHARE
        self._lock = threading.Lock()
        self._idle: list[tuple[Line, float]] = []
        self._threads: CapacityLimiter | None = None
        self._closings = 0
        self._pid = os.getpid()
        self._of_parents: list[Any] = []

    async def send(self, messages: Sequence[Delivery]) -> Errors:
        """Send *messages* over a connection that is idle, or a new one.

        Raises:
            Unreachable: There is none to be had.
        """
        self._notice_fork()
        deadline = monotonic() + self._seconds
        if self._threads is None:
            self._threads = CapacityLimiter(MOST)
        async with self._threads:
            return await on_thread(self._send, messages, deadline)

    async def aclose(self) -> None:
        """Close those that are idle; those in use are closed when they are given back. Sending opens new ones."""
        self._notice_fork()
        with self._lock:
            self._closings += 1
            lines, self._idle = [line for line, _ in self._idle], []
        self._threads = None
        if lines:
            await on_thread(_close, lines)

    def _notice_fork(self) -> None:
        """Use nothing of the parent process; it is kept, for the collector would shut the parent's sockets down."""
        if self._pid != os.getpid():
            self._of_parents.append(self._idle)
            self._idle, self._threads, self._lock = [], None, threading.Lock()
            self._pid = os.getpid()

    # -- on a thread --------------------------------------------------------------------------------------------------

    def _send(self, messages: Sequence[Delivery], deadline: float) -> Errors:
        line = self._taken()
        if line is None:
            return self._over(self._connect, messages, deadline)
        errors = self._over(lambda: line, messages, deadline)
        if line.is_sound:
            return errors
        # It was idle, and nobody tells when a broker restarts meanwhile: that is no outage.
        rest = [place for place, error in enumerate(errors) if isinstance(error, Unreachable)]
        if rest and monotonic() < deadline:
            again = self._over(self._connect, [messages[place] for place in rest], deadline)
            for place, error in zip(rest, again, strict=True):
                errors[place] = error
        return errors

    def _taken(self) -> Line | None:
        with self._lock:
            old = [line for line, since in self._idle if monotonic() - since > IDLE]
            self._idle = [each for each in self._idle if each[0] not in old]
            line = self._idle.pop()[0] if self._idle else None
        _close(old)
        return line

    def _over(self, connect: Callable[[], Line], messages: Sequence[Delivery], deadline: float) -> Errors:
        closings = self._closings
        try:
            line = connect()
        except Unreachable as error:
            return [error] * len(messages)
        try:
            return line.send(messages, deadline)
        except BaseException:
            line.is_sound = False
            raise
        finally:
            with self._lock:
                keeps = line.is_sound and closings == self._closings
                if keeps:
                    self._idle.append((line, monotonic()))
            if not keeps:
                line.close()


def _close(lines: Sequence[Line]) -> None:
    for line in lines:
        line.close()
