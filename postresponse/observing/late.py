"""Which routes commit after their first byte: counted, told of once when it is seen, and summed up in the end."""

import atexit
import os
import re
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from postresponse.core.log import logger
from postresponse.core.observer import Observer
from postresponse.core.trace import ObservedCommit, Trace
from postresponse.work.process import as_child_ends

__all__ = ["LateCommits", "Tally", "late_commits", "tally"]

ROUTES: Final = 500
"""Routes that are counted by name; a path with a word in it is one of its own where the framework tells no template."""
OTHERS: Final = "(other routes)"
SAMPLES: Final = 100
"""Requests of a route that its median is of: the last ones."""
SUMMARY: Final = 20
"""Routes that are summed up in a line each."""

_ID: Final = re.compile(r"(?<=/)(\d+|[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12})(?=/|$)", re.IGNORECASE)
"""What in a path is surely no part of the route's: a number, a UUID."""


@dataclass(frozen=True, slots=True)
class LateCommits:
    """What is known of one route whose requests commit late, beside any unit of work of the middleware's.

    Attributes:
        route: Its method and template where the framework tells that; else its path, with numbers and UUIDs as `{}`.
        requests: Requests that committed something.
        late: Of these, those that did after their first byte had left.
        failed: Of these, those whose late commit failed: their clients were told nothing of that.
        median_ms: Milliseconds from the first byte to the end of the commit; the median of the last hundred.
        where: The function that the last one came from, with its file and line; or an empty string.
    """

    route: str
    requests: int
    late: int
    failed: int
    median_ms: float
    where: str

    def __str__(self) -> str:
        """One line, as it is logged in the end."""
        said = f"{self.late} of {self.requests} {self.route} committed after their first byte"
        failed = f"; {self.failed} of them failed" if self.failed else ""
        return f"{said} (median {self.median_ms:.{0 if self.median_ms >= 10 else 1}f} ms){failed}"


class _Route:
    """The counts of one route."""

    __slots__ = ("failed", "late", "requests", "samples", "where")

    def __init__(self) -> None:
        self.requests = self.late = self.failed = 0
        self.samples: deque[float] = deque(maxlen=SAMPLES)
        self.where = ""


class Tally(Observer):
    """Counts by route which requests committed late, and warns of each route once; in one process, on any thread."""

    def __init__(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        """Have counted nothing: in a child, what its parent has seen is the parent's to tell."""
        self._lock = threading.Lock()
        self._routes: dict[str, _Route] = {}
        self._warned: set[tuple[str, bool]] = set()
        self._is_told = True
        self._tells_at_exit = False

    def ended(self, trace: Trace, begun: object) -> None:
        """Count a request that committed something, and warn of the first of its route that did so late, or failed."""
        if not any(commit.wrote for commit in trace.commits):
            return
        late, failed, name = trace.late_commits, trace.late_failure, _name_of(trace)
        with self._lock:
            route = self._route_of(name)
            route.requests += 1
            if not late:
                return
            worst = failed or late[-1]
            route.late += 1
            route.failed += failed is not None
            route.samples.append(trace.lateness)
            route.where = worst.where
            # Paths without a template may be many, for one place that commits.
            told_by = name if trace.template is not None else worst.where or name
            is_new = len(self._warned) < ROUTES and (told_by, failed is None) not in self._warned
            if is_new:
                self._warned.add((told_by, failed is None))
            self._is_told = False
            self._tell_at_exit()
        if is_new:
            _warn(name, trace, worst)

    def late_commits(self) -> Sequence[LateCommits]:
        """Return what was counted of each route that committed late, the one that did most often first."""
        from statistics import median  # with all the kinds of numbers that there are: no request needs them

        with self._lock:
            found = [
                LateCommits(name, route.requests, route.late, route.failed, median(route.samples), route.where)
                for name, route in self._routes.items()
                if route.late
            ]
        return sorted(found, key=lambda each: -each.late)

    def tell(self) -> None:
        """Log a line for each route that committed late, once: nothing if none did since the last time."""
        with self._lock:
            was_told, self._is_told = self._is_told, True
        found = () if was_told else self.late_commits()
        for each in found[:SUMMARY]:
            logger.warning("%s", each)
        if len(found) > SUMMARY:
            logger.warning("and %d more routes did; late_commits() tells of all", len(found) - SUMMARY)

    def _route_of(self, name: str) -> _Route:
        route = self._routes.get(name)
        if route is None:
            route = self._routes.setdefault(name if len(self._routes) < ROUTES else OTHERS, _Route())
        return route

    def _tell_at_exit(self) -> None:
        """Have it told when this process ends, where no lifespan does."""
        if self._tells_at_exit:
            return
        self._tells_at_exit = True
        if not as_child_ends(self.tell):
            atexit.register(self.tell)


def _name_of(trace: Trace) -> str:
    return f"{trace.method} {_ID.sub('{}', trace.path) if trace.template is None else trace.template}"


def _warn(name: str, trace: Trace, worst: ObservedCommit) -> None:
    told = "" if worst.exception is None else f", and the client was told {trace.outcome.status}"
    logger.warning(
        "%s: %s %.1f ms after the first byte%s%s: %s",
        name,
        "committed" if worst.exception is None else f"a commit failed ({type(worst.exception).__name__})",
        trace.lateness,
        f", in {worst.where}" if worst.where else "",
        told,
        worst.way_out,
    )


tally: Final = Tally()
"""That of this process."""

os.register_at_fork(after_in_child=tally.begin_anew)


def late_commits() -> Sequence[LateCommits]:
    """Return which routes of this process committed after their first byte, the one that did most often first.

    Counted are the commits that SQLAlchemy and Django make in a request and that no unit of work of the middleware's
    manages, of transactions that may have written; with a middleware in front of the application, whether it has a
    unit of work or not. A route that commits in time is not among them.

    Example:
        >>> for found in late_commits():
        ...     print(found.route, found.late, "of", found.requests, found.where)
    """
    return tally.late_commits()
