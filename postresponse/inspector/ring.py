"""What was kept, the newest last, and what has changed since somebody looked: in memory, for one process."""

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, Literal, NamedTuple, Protocol

from postresponse.inspector.carried import Carried
from postresponse.inspector.records import JobRecord, RequestRecord

__all__ = ["Changes", "Feed", "Kind", "Record", "Ring", "written"]

Kind = Literal["requests", "jobs"]
Record = RequestRecord | JobRecord


class Changes(NamedTuple):
    """What is new.

    Attributes:
        until: The mark to ask from the next time.
        requests: Requests as JSON, the oldest first; one that has changed comes again.
        jobs: Jobs that have ended, likewise.
        carried: Those that wait or run, the oldest ones, whether that is new or not.
        carries: How many of them there are.
    """

    until: int
    requests: list[str]
    jobs: list[str]
    carried: Sequence[str] = ()
    carries: int = 0


class Feed(Protocol):
    """Where records are kept."""

    def put(self, kind: Kind, record: Record) -> None:
        """Keep *record*, in the place of an earlier one with its id; from any thread, and without waiting."""

    def since(self, mark: int) -> Changes:
        """Return what came after *mark*; all that is kept for 0, and for one that is too high."""


def written(record: Record | Carried) -> str:
    """Return *record* as JSON."""
    return json.dumps(record, default=_fields, separators=(",", ":"))


def _fields(part: Any) -> dict[str, Any]:
    """The fields of a record, or of a part of one; `dataclasses.asdict` would copy all that is in them."""
    return {name: getattr(part, name) for name in part.__slots__}


class _Kept:
    """A record; as JSON once somebody has looked at it."""

    __slots__ = ("mark", "record", "text")

    def __init__(self, mark: int, record: Record) -> None:
        self.mark = mark
        self.record = record
        self.text: str | None = None

    def json(self) -> str:
        if self.text is None:
            self.text = written(self.record)
        return self.text


class Ring:
    """The last records of each kind.

    Args:
        size: How many of each.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._mark = 0
        self._kept: dict[Kind, OrderedDict[str, _Kept]] = {"requests": OrderedDict(), "jobs": OrderedDict()}

    def put(self, kind: Kind, record: Record) -> None:
        """Keep it."""
        with self._lock:
            self._mark += 1
            kept = self._kept[kind]
            kept[record.id] = _Kept(self._mark, record)
            kept.move_to_end(record.id)
            if len(kept) > self._size:
                kept.popitem(last=False)

    def since(self, mark: int) -> Changes:
        """Return what came after *mark*."""
        with self._lock:
            until = self._mark
            after = mark if mark <= until else 0
            found = {
                kind: list(takewhile(lambda each: each.mark > after, reversed(kept.values())))
                for kind, kept in self._kept.items()
            }
        requests, jobs = ([each.json() for each in reversed(found[kind])] for kind in ("requests", "jobs"))
        return Changes(until, requests, jobs)
