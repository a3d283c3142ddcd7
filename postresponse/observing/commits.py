"""The commits of a request that this package does not manage: whose one is, and what is taken down of it."""

import functools
from collections.abc import Callable
from time import monotonic_ns
from typing import Final, ParamSpec, TypeVar

from postresponse.core.current import current, in_job
from postresponse.core.exchange import Exchange
from postresponse.core.lifecycle import State
from postresponse.core.log import logger
from postresponse.core.trace import ObservedCommit
from postresponse.observing.late import tally
from postresponse.observing.places import place
from postresponse.unit_of_work.statements import detached

__all__ = ["Sent", "harmless", "request_here", "sent"]

P = ParamSpec("P")
T = TypeVar("T")

MOST: Final = 100
"""How many commits of one request are kept, early ones and late ones each; behind that only the last one is."""

OVER: Final = State.OVER


_complained: Final[set[str]] = set()


def harmless(listener: Callable[P, T]) -> Callable[P, T | None]:
    """Have *listener* harm nobody: it is called inside of a statement or commit of the application's.

    What it raises is logged, once for each listener, and None is returned.
    """
    name = f"{listener.__module__}.{listener.__qualname__}"

    @functools.wraps(listener)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            return listener(*args, **kwargs)
        except Exception as error:
            if name not in _complained:
                _complained.add(name)
                logger.error("%s() failed; further failures are not logged", name, exc_info=error)
            return None

    return guarded


def request_here() -> Exchange | None:
    """Return the request that a commit here is of, or None.

    None outside of a request, and once it is over; in a job, which has the context of the request that started it, and
    whose commits are its own; and while a unit of work ends, whose commit that is. A `scope` has no response that its
    commits could be late for.
    """
    exchange = current.get()
    if exchange is None or exchange._state is OVER or in_job.get() or exchange._server_send is None:
        return None
    is_managed = exchange._settling is not None and not exchange._unit_ended
    return None if is_managed else exchange


class Sent:
    """A commit that was sent; `answered` is called when that is known."""

    __slots__ = ("_commit", "_commits")

    def __init__(self, commits: list[ObservedCommit], commit: ObservedCommit) -> None:
        self._commits = commits
        self._commit = commit

    def answered(self, exception: BaseException | None = None) -> None:
        """Take down that the database has answered, or what was raised in the place of that."""
        ended, error = monotonic_ns(), None if exception is None else detached(exception)
        commits, sent = self._commits, self._commit
        for index in range(len(commits) - 1, -1, -1):
            if commits[index] is sent:
                commits[index] = ObservedCommit(
                    sent.began, ended, sent.late, sent.wrote, error, sent.source, sent.where
                )
                return


def sent(exchange: Exchange, source: str, *, wrote: bool) -> Sent:
    """Take down a commit of *exchange* that is about to be sent; the exchange then reports when it is over.

    Args:
        exchange: Whose it is.
        source: Who told of it.
        wrote: Whether its transaction may have written.
    """
    began, left = monotonic_ns(), exchange._left_at
    is_late = left is not None and left <= began
    commits = _commits_of(exchange)
    where = place() if is_late or exchange._settings.observers else ""  # else nobody will read it
    commit = ObservedCommit(began, None, is_late, wrote, None, source, where)
    if len(commits) >= (2 * MOST if is_late else MOST):
        commits[-1] = commit
    else:
        commits.append(commit)
    return Sent(commits, commit)


def _commits_of(exchange: Exchange) -> list[ObservedCommit]:
    found = exchange._commits
    if found is not None:
        return found
    made: list[ObservedCommit] = []
    found = exchange.__dict__.setdefault("_commits", made)  # by one of two threads
    if found is made:
        # The tally wants no more than the end told: what passes the bytes, and waits for the client, stays as it is.
        exchange._more_observers = (*exchange._more_observers, tally)
    return found
