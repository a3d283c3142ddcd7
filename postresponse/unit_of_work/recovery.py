"""Ending what a process left prepared when it died: every transaction as its decider decided, presumed aborted.

Of each that is found the decider is asked (`two_phase.py` tells who that is):

- Its own is still prepared: nothing was decided. It is rolled back first, which decides it, and then the others are.
  Only after a while, as the process that prepared it may be about to commit; if it does come, its commit fails.
- It is not, and its transaction committed or aborted: so do the others.
- Its transaction is in progress, or nobody knows any more, or it is another database than it was, or the same on
  another timeline, as behind a failover: nothing is done.

So it does no harm to run this twice, or while the application serves.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from postresponse.exceptions import ConfigurationError
from postresponse.unit_of_work.in_doubt import Fate, Ticket
from postresponse.unit_of_work.prepared import (
    ERA,
    POSTGRESQL,
    Database,
    Ended,
    Name,
    Prepared,
    database_of,
    elsewhere,
    fate_of,
    system_of,
)

__all__ = ["GRACE", "Recovered", "recover"]

GRACE: Final = 60.0
"""Seconds for which a prepared transaction is left to the process that prepared it."""

_FAILURES: Final = (DBAPIError, OSError)
"""What a database answers that cannot be asked; asyncpg raises an OSError or a TimeoutError, which is one, as it is."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """One prepared transaction that was found, and what was done with it.

    Attributes:
        member: Where it was found.
        transaction: The name that it is prepared under; None if the database could not be looked into.
        action: What was done; with `dry_run`, what would have been.
        reason: Why.
    """

    member: str
    transaction: str | None
    action: Literal["committed", "rolled back", "left"]
    reason: str

    def __str__(self) -> str:
        found = self.member if self.transaction is None else f"{self.member}: {self.transaction}"
        return f"{found}: {self.action}; {self.reason}"


class _Place(NamedTuple):
    """The database of one member; *system* is 0 where it cannot be a decider, *timeline* where it is a standby."""

    member: str
    connection: Connection
    database: Database
    system: int = 0
    timeline: int = 0
    life: str = ""


def recover(members: Mapping[str, Engine], *, older_than: float = GRACE, dry_run: bool = False) -> list[Recovered]:
    """End every transaction that a `TwoPhase` left prepared, as it was decided, and tell what was done with each.

    Safe to be run at any time, by several at once. Those whose end nobody knows are left, and told of as well.

    Args:
        members: An engine for each member of the `TwoPhase`, by the same names; the user has to be the one that
            prepared them, or a superuser.
        older_than: Seconds for which a prepared transaction is left alone.
        dry_run: Only tell what would be done.

    Raises:
        ConfigurationError: *older_than* is no number of seconds, *members* are no engines, or an engine's database
            prepares no transactions.
    """
    if isinstance(older_than, bool) or not isinstance(older_than, int | float) or not 0 <= older_than < math.inf:
        raise ConfigurationError(f"older_than: expected seconds, zero or more, found {older_than!r}")
    for name, engine in members.items():
        if not isinstance(engine, Engine):
            raise ConfigurationError(
                f"{name}: expected an engine, found {engine!r}; of an AsyncEngine, its sync_engine"
            )
    with ExitStack() as stack:
        places: list[_Place] = []
        told: list[Recovered] = []
        found: dict[Name, dict[Name, _Found]] = {}
        for name, engine in members.items():
            try:
                place = _open(name, engine, stack)
                for prepared in place.database.prepared(place.connection):
                    of_one = found.setdefault(prepared.name._replace(branch=None), {})
                    of_one.setdefault(prepared.name, _Found(place, prepared))  # two may be on one database
            except _FAILURES as error:
                told.append(Recovered(name, None, "left", f"it cannot be looked into: {_first_line(error)}"))
            else:
                places.append(place)
        for own, branches in found.items():
            rules = _Rules(own, places, older_than, dry_run=dry_run)
            told.extend(rules.end(sorted(branches.values(), key=lambda each: each.prepared.name.branch or -1)))
        return told


def _open(name: str, engine: Engine, stack: ExitStack) -> _Place:
    connection = stack.enter_context(elsewhere(engine))
    database = database_of(connection.dialect, name)
    if database is not POSTGRESQL:
        return _Place(name, connection, database)
    timeline, life = connection.exec_driver_sql(f"SELECT {ERA}").one()
    return _Place(name, connection, database, system_of(engine, name), timeline, life)


class _Found(NamedTuple):
    place: _Place
    prepared: Prepared


_Action = Literal["committed", "rolled back"]

_ACTIONS: Final[Mapping[Fate | None, _Action]] = {
    Fate.COMMITTED: "committed",
    Fate.ABORTED: "rolled back",
}


class _Rules:
    """How those that follow the decider's *own* transaction end, and that one before them."""

    def __init__(self, own: Name, places: list[_Place], older_than: float, *, dry_run: bool) -> None:
        self._own = own
        self._decider = next((each for each in places if (each.member, each.system) == (own.decider, own.system)), None)
        self._older_than = older_than
        self._dry_run = dry_run

    def end(self, branches: list[_Found]) -> Iterator[Recovered]:
        try:
            fate, reason = self._decision()
        except _FAILURES as error:
            fate, reason = None, _first_line(error)
        for place, prepared in branches:
            action = _ACTIONS.get(fate)
            if action is None or prepared.name.branch is None:
                yield Recovered(place.member, str(prepared.name), action or "left", reason)
            else:
                yield self._follow(place, prepared, action, reason)

    def _decision(self) -> tuple[Fate | None, str]:
        """Find out what the decider decided, or decide in its place; None for what it is too early or late to tell."""
        own, decider = self._own, self._decider
        if decider is None:
            return None, f"its decider {own.decider} is not given, or is another database than it was"
        listed = (each.age for each in decider.database.prepared(decider.connection) if each.name == own)
        age = next(listed, None)
        if age is not None:
            if age < self._older_than:
                return None, f"prepared {age:.0f} s ago and undecided, so it is left to its process for now"
            if self._dry_run:
                return Fate.ABORTED, f"undecided for {age:.0f} s"
            ended = decider.database.end(decider.connection, own, commit=False)
            if ended is Ended.DONE:
                return Fate.ABORTED, f"undecided for {age:.0f} s"
            if ended is Ended.BUSY:
                return None, "it is being ended at this moment"
        elif decider.timeline != own.timeline:
            return None, _on_another_timeline(own, decider)
        fate = fate_of(decider.connection, Ticket(str(own.transaction), decider.life))
        said = "is in progress" if fate is None else _SAID[fate]
        return fate, f"transaction {own.transaction} of {own.decider} {said}"

    def _follow(self, place: _Place, prepared: Prepared, action: _Action, reason: str) -> Recovered:
        name = str(prepared.name)
        if prepared.age is not None and prepared.age < self._older_than:
            return Recovered(place.member, name, "left", f"prepared {prepared.age:.0f} s ago, and {reason}")
        if self._dry_run:
            return Recovered(place.member, name, action, reason)
        try:
            ended = place.database.end(place.connection, prepared.name, commit=action == "committed")
        except _FAILURES as error:
            return Recovered(place.member, name, "left", _first_line(error))
        if ended is Ended.BUSY:
            return Recovered(
                place.member, name, "left", f"the connection that prepared it still holds it, and {reason}"
            )
        return Recovered(
            place.member, name, action, reason if ended is Ended.DONE else f"{reason}; by another meanwhile"
        )


_SAID: Final[Mapping[Fate, str]] = {
    Fate.COMMITTED: "committed",
    Fate.ABORTED: "was rolled back",
    Fate.UNKNOWN: "is too old, and nobody knows how it ended",
}


def _on_another_timeline(own: Name, decider: _Place) -> str:
    transaction = f"transaction {own.transaction} of {own.decider} by its name ran on timeline {own.timeline}"
    if decider.timeline == 0:
        return f"{transaction}, and {own.decider} is a standby; give its primary"
    return (
        f"{transaction}, and {own.decider} is on timeline {decider.timeline} since a failover or a restore, where the "
        "id may be another one's; look for its rows there, and commit or roll this one back by hand"
    )


def _first_line(error: DBAPIError | OSError) -> str:
    cause = getattr(error, "orig", None) or error
    return str(cause).partition("\n")[0] or type(cause).__name__  # a TimeoutError says nothing
