"""What a test looks on with: every exchange of the process, how it ended, and the work that came of it."""

import threading
from collections.abc import Awaitable, Sequence
from functools import partial
from time import monotonic
from typing import Any, Final

from postresponse.core.exchange import Exchange
from postresponse.core.observer import Observer
from postresponse.core.trace import Trace
from postresponse.testing import orders
from postresponse.testing.orders import Seen
from postresponse.work.job import Job

__all__ = ["Recorder"]

PATIENCE: Final = 2.0
"""Seconds that an exchange on another thread has to end: a client has the last byte a moment before it does."""


class Recorder(Observer):
    """Knows the exchanges that began while it looked on, and the work that they started."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open: dict[int, tuple[Exchange, int]] = {}  # with the thread that it began on
        self._traces: list[Trace] = []
        self._jobs: list[Job[Any]] = []

    # -- as an observer -----------------------------------------------------------------------------------------------

    def began(self, exchange: Any) -> object:
        """A request has reached a middleware."""
        with self._changed:
            self._open[id(exchange)] = (exchange, threading.get_ident())
        return id(exchange)

    def ended(self, trace: Trace, begun: object) -> None:
        """Its exchange is over, but for the work that is now to start: what asks for that waits for its start."""
        with self._changed:
            self._traces.append(trace)
            exchange, _ = self._open.get(begun, (None, 0)) if isinstance(begun, int) else (None, 0)
        if exchange is not None:  # before what others have put there, who look on from further out
            exchange._at_end = [partial(self._last, exchange, begun), *(exchange._at_end or ())]

    def _last(self, exchange: Exchange, begun: object) -> Awaitable[None] | None:
        """Do what comes behind the start of its work; on an event loop what is returned is waited for."""
        self._over(begun)
        return None

    def _over(self, begun: Any) -> None:
        with self._changed:
            self._open.pop(begun, None)
            self._changed.notify_all()

    # -- as a test asks -----------------------------------------------------------------------------------------------

    @property
    def traces(self) -> Sequence[Trace]:
        """How each exchange went, in the order of their ends.

        One that ends on another thread, as those of a server do, is waited for, up to 2 seconds.
        """
        self._await_ends()
        with self._changed:
            return tuple(self._traces)

    def assert_committed_before_sent(self, route: str | None = None) -> None:
        """Fail unless each exchange committed before the first byte of its response left.

        That is so for a unit of work that commits at the head or buffered, and for a commit that the package only saw.

        Args:
            route: Of these exchanges only: a path, the template of a route, or either behind a method, as in
                `"POST /orders"`. None for all that committed something, or tried to.

        Raises:
            AssertionError: One did not; the message is its timeline, and says the way out.
            ConfigurationError: No exchange was on *route*, or none committed; the message lists what was seen.
        """
        __tracebackhide__ = True
        orders.assert_committed_before_sent(self._seen(), route)

    def assert_sent_before(self, name: str, route: str | None = None) -> None:
        """Fail unless the response had left before the work called *name* could begin.

        What is held back is judged by the moment at which it would have begun.

        Args:
            name: Of the work, or of its function; or `"commit"` for the commit itself.
            route: Of these exchanges only, as in `assert_committed_before_sent`.

        Raises:
            AssertionError: It began before, or the response never left as a whole; the message is the timeline.
            ConfigurationError: There was no such work, or no such exchange; the message lists what was seen.
        """
        __tracebackhide__ = True
        orders.assert_sent_before(self._seen(), name, route)

    def _seen(self) -> Seen:
        traces = self.traces
        with self._changed:
            return Seen(traces, tuple(self._jobs), tuple(each.route for each in self._unended()))

    def _unended(self) -> list[Exchange]:
        """Those that have begun and not ended; an attempt that is run again is none of them."""
        return [each for each, _ in self._open.values() if not each._again]

    def _await_ends(self) -> None:
        """Let what is under way on other threads end; what does not is not waited for again."""
        deadline, here = monotonic() + PATIENCE, threading.get_ident()
        with self._changed:
            while elsewhere := [key for key, (each, on) in self._open.items() if on != here and not each._again]:
                if not self._changed.wait(deadline - monotonic()) and monotonic() >= deadline:
                    for key in elsewhere:
                        self._open[key] = (self._open[key][0], here)
