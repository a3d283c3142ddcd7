"""What there is to be measured about an exchange: its commits, where they stood to the response, and bounded names."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from postresponse.core.lifecycle import Moments, UnitState
from postresponse.observing import Trace
from postresponse.work.checks import check_count

__all__ = ["OTHER", "UNMATCHED", "Commit", "Names", "commits_of", "method_of"]

OTHER: Final = "other"
"""What stands for every name past the bound."""
UNMATCHED: Final = "unmatched"
"""What stands for a route of which no template is known: its path is the client's to choose."""

_METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY"))


@dataclass(frozen=True, slots=True)
class Commit:
    """The end of one transaction of an exchange.

    Attributes:
        managed: Whether it is that of the unit of work; else it was seen, and is the application's own.
        position: `"before_head"` (or no head ever left), `"after_head"` or `"after_send"`: behind the last part.
        outcome: `"committed"`, `"rolled_back"`, `"failed"` or `"unknown"`.
        began: In nanoseconds of the monotonic clock.
        ended: Likewise; when the database had answered.
        exception: Why it failed.
        where: Where it came from, if that is known.
    """

    managed: bool
    position: str
    outcome: str
    began: int
    ended: int
    exception: BaseException | None = None
    where: str = ""

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.ended - self.began) / 1e9


def commits_of(trace: Trace) -> Iterator[Commit]:
    """Give the transactions that ended in the course of an exchange; of those that are not managed, what wrote."""
    outcome, moments = trace.outcome, trace.outcome.moments
    state, began = outcome.unit_of_work, moments.settling
    if state is not UnitState.NONE and began is not None and not trace.idle:
        ended = moments.ended if moments.settled is None else moments.settled
        error = outcome.exception if state in (UnitState.FAILED, UnitState.UNKNOWN) else None
        yield Commit(True, _position(moments, began), state.value, began, ended, error)
    for each in trace.commits:
        if each.wrote:
            ended = each.began if each.ended is None else each.ended
            state = UnitState.COMMITTED if each.exception is None else UnitState.FAILED
            position = "before_head" if not each.late else _late_position(moments, each.began)
            yield Commit(False, position, state.value, each.began, ended, each.exception, each.where)


def _position(moments: Moments, at: int) -> str:
    if moments.head_sent is None or at < moments.head_sent:
        return "before_head"
    return _late_position(moments, at)


def _late_position(moments: Moments, at: int) -> str:
    return "after_head" if moments.body_sent is None or at < moments.body_sent else "after_send"


def method_of(trace: Trace, *, other: str = OTHER) -> str:
    """Return the method of the request, or *other*: a client may send any word."""
    return trace.method if trace.method in _METHODS else other


class Names:
    """So many names, first come, first served; every further one is `"other"`.

    Args:
        option: How the bound is called, for an error.
        most: How many there are at most.

    Raises:
        ConfigurationError: *most* is no whole number, or below 1.

    Example:
        >>> routes = Names("max_routes", 1)
        >>> routes("/orders"), routes("/users"), routes("/orders"), routes(None)
        ('/orders', 'other', '/orders', 'unmatched')
    """

    def __init__(self, option: str, most: int) -> None:
        self._most = check_count(option, most)
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, name: str | None) -> str:
        """Return *name* if it is among them; `"unmatched"` for None."""
        if name is None:
            return UNMATCHED
        if name in self._known:
            return name
        with self._lock:
            if len(self._known) < self._most:
                self._known.add(name)
        return name if name in self._known else OTHER
