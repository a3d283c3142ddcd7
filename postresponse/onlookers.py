"""Observers of every middleware of this process, for a test that does not know where they were made.

Nothing is asked for on a request's way. A middleware reads its settings, once a request; when an observer comes or
goes, every middleware that lives gets other settings, and one that is made meanwhile gets them from its start. A
request that is under way keeps those that it began with. To look at a module's tuple in each request would cost those
who have no observer; to have a test name each middleware would leave out the one that a framework made.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol
from weakref import WeakValueDictionary

from postresponse.core.observer import Observer
from postresponse.core.settings import Settings

__all__ = ["observing_all", "take_in"]


class Observed(Protocol):
    """A middleware."""

    _settings: Settings


_lock: Final = threading.Lock()
# By their ids: a subclass may compare by value, and have no hash.
_middleware: Final[WeakValueDictionary[int, Observed]] = WeakValueDictionary()
_everywhere: tuple[Observer, ...] = ()


def take_in(middleware: Observed) -> None:
    """Know of a new *middleware*, whose settings are made, and give it the observers of all."""
    with _lock:
        _middleware[id(middleware)] = middleware
        if _everywhere:
            middleware._settings = middleware._settings.observed_by(middleware._settings.observers + _everywhere)


@contextmanager
def observing_all(observer: Observer) -> Iterator[None]:
    """Have *observer* told of every exchange of this process that begins inside of the block."""
    global _everywhere
    with _lock:
        _everywhere = (*_everywhere, observer)
        for each in list(_middleware.values()):
            each._settings = each._settings.observed_by((*each._settings.observers, observer))
    try:
        yield
    finally:
        with _lock:
            _everywhere = tuple(each for each in _everywhere if each is not observer)
            for each in list(_middleware.values()):
                left = tuple(one for one in each._settings.observers if one is not observer)
                each._settings = each._settings.observed_by(left)
