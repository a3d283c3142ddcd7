"""What a relay does to the table, each in one transaction of its caller's.

Every change of a claimed row names the token of its claim: whoever lost the lease meanwhile changes nothing. Rows are
never read behind a mark, as ids are given out before their transaction commits, and a later one may be seen first.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid4

from sqlalchemy import (
    BigInteger,
    Connection,
    Float,
    Row,
    Select,
    Update,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY

from postresponse.messaging.clock import later, now
from postresponse.messaging.delivery import Delivery, Result, Settled
from postresponse.messaging.tables import Tables

__all__ = ["Lease", "Stats", "Store", "Which"]

LONGEST_ERROR: Final = 500
EXPIRED: Final = "its relay did not come back before the lease expired"

_UNSYNCED: Final = select(func.set_config("synchronous_commit", "off", literal(value=True))).scalar_subquery()
"""Has PostgreSQL commit a claim, and nothing behind it, without waiting for its disk. A server that crashes may forget
that, and what was sent meanwhile comes again, as it would anyway: what is told of a message is waited for.
"""


class Lease(NamedTuple):
    """What a claimed message is known by.

    Attributes:
        row: The row's key.
        token: The claim's.
        until: When it ends, at the earliest, on this process's monotonic clock.
    """

    row: int
    token: UUID
    until: float = math.inf


@dataclass(frozen=True, slots=True)
class Stats:
    """What waits for one destination.

    Attributes:
        due: Messages that are due.
        delayed: Messages that are not due yet, or wait after a failure.
        leased: Messages that a relay has claimed.
        dead: Messages that were given up.
        paused: Whether it is.
        oldest: Seconds since the oldest one that is due was, or has met its first outage; 0.0 where there is none.
    """

    destination: str
    due: int = 0
    delayed: int = 0
    leased: int = 0
    dead: int = 0
    paused: bool = False
    oldest: float = 0.0


class Which(NamedTuple):
    """Which of the dead: all, but for what is said.

    Attributes:
        message_id: The one with this id.
        destination: Those of this destination.
        older_than: Those that died more seconds ago.
        among: Those with one of these ids.
    """

    message_id: UUID | None = None
    destination: str | None = None
    older_than: float = 0.0
    among: tuple[UUID, ...] | None = None


class Store:
    """The statements of a relay.

    Args:
        tables: Of the outbox.
    """

    def __init__(self, tables: Tables) -> None:
        self.tables: Tables = tables
        waiting = tables.waiting
        self._columns = [waiting.c[name] for name in _READ]
        # By dialect: to make them takes longer than to run them.
        self._claims: dict[str, Any] = {}
        self._deletes: dict[str, Any] = {}
        self._due_here = self._due(*_READ)
        due, earlier = waiting.alias("due"), waiting.alias("earlier")
        self._behind: Select[Any] = select(due.c.id).where(
            due.c.id.in_(bindparam("ids", expanding=True)), _is_before(earlier, due)
        )

    # -- claiming -----------------------------------------------------------------------------------------------------

    def claim(self, connection: Connection, destination: str, limit: int, lease: float) -> list[Delivery]:
        """Claim at most *limit* messages that are due for *destination*, for *lease* seconds."""
        token, until = uuid4(), monotonic() + lease
        given = {"of": destination, "limit": limit, "lease": lease, "new_token": token}
        rows = self._claimed_rows(connection, given)
        return [_claimed(row, token, until) for row in sorted(rows, key=lambda row: row[0])]

    def _claimed_rows(self, connection: Connection, given: dict[str, Any]) -> Sequence[Row[Any]]:
        dialect = connection.dialect.name
        if dialect in ("mysql", "mariadb"):
            found = connection.execute(self._due_here, given).all()
            if found:
                # They were read as they are now, and what is before them as it was when the statement began.
                behind = set(connection.scalars(self._behind, {"ids": [row[0] for row in found]}))
                found = [row for row in found if row[0] not in behind]
            if found:
                ids: Any = bindparam("ids", [row[0] for row in found], expanding=True)
                connection.execute(self._lease().where(self.tables.waiting.c.id.in_(ids)), given)
            return found
        return connection.execute(self._claim_at_once(dialect), given).all()

    def _claim_at_once(self, dialect: str) -> Any:
        """The statement that chooses, claims and reads."""
        made = self._claims.get(dialect)
        if made is None:
            waiting = self.tables.waiting
            if dialect == "postgresql":
                # Not `IN (SELECT ...)`: that may be run anew for each row, and then claims more than the limit.
                chosen = waiting.c.id == func.any(func.array(self._due().scalar_subquery(), type_=ARRAY(BigInteger)))
                made = self._lease().where(chosen, _UNSYNCED == "off")
            else:
                made = self._lease().where(waiting.c.id.in_(self._due(locking=False)))
            made = self._claims[dialect] = made.returning(*self._columns)
        return made

    def _due(self, *columns: str, locking: bool = True) -> Select[Any]:
        """Select what is due: of messages with one ordering key the first alone."""
        due, paused = self.tables.waiting.alias("due"), self.tables.paused
        earlier = self.tables.waiting.alias("earlier")
        is_behind: Select[Any] = select(literal_column("1")).where(_is_before(earlier, due))
        is_paused: Select[Any] = select(literal_column("1")).where(paused.c.destination == bindparam("of"))
        found = (
            select(*(due.c[name] for name in columns or ("id",)))
            .where(
                due.c.destination == bindparam("of"),
                due.c.token.is_(None),
                due.c.due_at <= now(),
                or_(due.c.ordering_key.is_(None), ~is_behind.exists()),
                ~is_paused.exists(),
            )
            .order_by(due.c.due_at, due.c.id)
            .limit(bindparam("limit"))
        )
        return found.with_for_update(skip_locked=True, of=due) if locking else found

    def _lease(self) -> Update:
        return update(self.tables.waiting).values(
            token=bindparam("new_token"), leased_until=later(bindparam("lease", type_=Float()))
        )

    def expire(self, connection: Connection) -> int:
        """Free what a relay has claimed that did not come back; return how many there were."""
        waiting = self.tables.waiting
        freed = (
            update(waiting)
            .where(waiting.c.token.is_not(None), waiting.c.leased_until < now())
            .values(
                token=None,
                leased_until=None,
                outages=waiting.c.outages + 1,
                first_failed_at=func.coalesce(waiting.c.first_failed_at, now()),
                last_error=EXPIRED,
            )
        )
        return connection.execute(freed).rowcount

    # -- what becomes of the claimed: each returns the rows that were still the caller's ------------------------------

    def delivered(self, connection: Connection, messages: Iterable[Delivery]) -> int:
        """Delete what was delivered."""
        kept = self._deletes.get(connection.dialect.name)
        if kept is None:
            kept = self._to_all(connection, delete(self.tables.waiting))
            self._deletes[connection.dialect.name] = kept
        return self._change_all(connection, messages, kept)

    def failed(self, connection: Connection, settled: Settled) -> int:
        """Let what failed wait for its next attempt; an outage of its engine is none of its attempts.

        Behind an outage one message at a time is tried: each time another one, for one that always looks like an outage
        would hold up all others.
        """
        waiting, is_outage = self.tables.waiting, settled.result is Result.OUTAGE
        values: dict[str, Any] = {
            "token": None,
            "leased_until": None,
            "attempts": waiting.c.attempts + (0 if is_outage else 1),
            "outages": waiting.c.outages + (1 if is_outage else 0),
            "first_failed_at": func.coalesce(waiting.c.first_failed_at, now()),
            "last_error": settled.error[:LONGEST_ERROR],
        }
        if settled.delay:
            values["due_at"] = _later(settled.delay)
        elif is_outage:
            values["due_at"] = now()
        return connection.execute(update(waiting).where(*self._mine(settled.delivery)).values(values)).rowcount

    def hand_back(self, connection: Connection, messages: Iterable[Delivery], delay: float = 0.0) -> int:
        """Free what was not tried; it is due in *delay* seconds, or as it was."""
        values: dict[str, Any] = {"token": None, "leased_until": None}
        if delay:
            values["due_at"] = _later(delay)
        free = self._to_all(connection, update(self.tables.waiting).values(values))
        return self._change_all(connection, messages, free)

    def put_back(self, connection: Connection, message: Delivery, headers: Mapping[str, str]) -> int:
        """Free what was not tried, behind what is due now, with other headers."""
        values = {"token": None, "leased_until": None, "due_at": now(), "headers": json.dumps(dict(headers))}
        mine = self._mine(message)
        return connection.execute(update(self.tables.waiting).where(*mine).values(values)).rowcount

    def bury(self, connection: Connection, message: Delivery, error: str) -> int:
        """Give a message up: it moves to the dead."""
        waiting, dead = self.tables.waiting, self.tables.dead
        mine = self._mine(message)
        kept = [column.name for column in dead.c if column.name not in _OF_DEATH]
        moved = select(
            *(waiting.c[name] for name in kept),
            waiting.c.attempts + 1,
            func.coalesce(waiting.c.first_failed_at, now()),
            literal(error[:LONGEST_ERROR]),
            now(),
        ).where(*mine)
        connection.execute(insert(dead).from_select([*kept, *_OF_DEATH[1:]], moved))
        return connection.execute(delete(waiting).where(*mine)).rowcount

    def _mine(self, message: Delivery) -> tuple[Any, Any]:
        """The condition of every change: the row is still its claimant's."""
        lease, columns = message.handle, self.tables.waiting.c
        return columns.id == lease.row, columns.token == lease.token

    def _to_all(self, connection: Connection, change: Any) -> Any:
        """Have *change* made to many rows that are still their claimant's."""
        columns = self.tables.waiting.c
        if connection.dialect.name == "postgresql":  # one parameter, and one statement whatever their number
            chosen: Any = columns.id == func.any(bindparam("rows", type_=ARRAY(BigInteger)))
        else:
            chosen = columns.id.in_(bindparam("rows", expanding=True))
        return change.where(columns.token == bindparam("mine"), chosen)

    def _change_all(self, connection: Connection, messages: Iterable[Delivery], change: Any) -> int:
        """Make a *change* to all of *messages*; return how many were still their claimant's."""
        rows: dict[UUID, list[int]] = {}
        for message in messages:
            rows.setdefault(message.handle.token, []).append(message.handle.row)
        return sum(connection.execute(change, {"mine": token, "rows": of}).rowcount for token, of in rows.items())

    # -- pausing ------------------------------------------------------------------------------------------------------

    def pause(self, connection: Connection, destination: str) -> bool:
        """Have no relay claim messages for *destination*; False if none does."""
        paused = self.tables.paused
        if destination in self.paused(connection):
            return False
        connection.execute(insert(paused).values(destination=destination, paused_at=now()))
        return True

    def resume(self, connection: Connection, destination: str) -> bool:
        """Have relays claim them again; False if they do."""
        paused = self.tables.paused
        return connection.execute(delete(paused).where(paused.c.destination == destination)).rowcount > 0

    def paused(self, connection: Connection) -> set[str]:
        """Return the destinations that are paused."""
        return set(connection.execute(select(self.tables.paused.c.destination)).scalars())

    # -- looking, and the dead ----------------------------------------------------------------------------------------

    def stats(self, connection: Connection) -> list[Stats]:
        """Count what waits, by destination."""
        waiting, dead = self.tables.waiting, self.tables.dead
        is_leased = waiting.c.token.is_not(None)
        is_due = (waiting.c.due_at <= now()) & waiting.c.token.is_(None)
        since = case((waiting.c.outages > 0, waiting.c.first_failed_at), else_=waiting.c.due_at)
        counts = select(
            waiting.c.destination,
            func.sum(case((is_due, 1), else_=0)),
            func.sum(case((is_due | is_leased, 0), else_=1)),
            func.sum(case((is_leased, 1), else_=0)),
            func.min(case((is_due, since))),
            now(),
        ).group_by(waiting.c.destination)
        paused = self.paused(connection)
        found: dict[str, dict[str, Any]] = {}
        for name, due, delayed, leased, oldest, moment in connection.execute(counts):
            age = (moment - oldest).total_seconds() if oldest is not None else 0.0
            found[name] = {"due": int(due), "delayed": int(delayed), "leased": int(leased), "oldest": max(age, 0.0)}
        for name, count in connection.execute(select(dead.c.destination, func.count()).group_by(dead.c.destination)):
            found.setdefault(name, {})["dead"] = count
        for name in paused:
            found.setdefault(name, {})["paused"] = True
        return [Stats(name, **counted) for name, counted in sorted(found.items())]

    def listed(
        self, connection: Connection, *, dead: bool, destination: str | None, limit: int
    ) -> list[dict[str, Any]]:
        """Return what waits, or is dead, the oldest first, without what it says."""
        table = self.tables.dead if dead else self.tables.waiting
        found = select(*(table.c[name] for name in _SHOWN if name in table.c)).order_by(table.c.id).limit(limit)
        if destination is not None:
            found = found.where(table.c.destination == destination)
        return [dict(row._mapping) for row in connection.execute(found)]

    def shown(self, connection: Connection, message_id: UUID) -> dict[str, Any] | None:
        """Return all that there is of one message, waiting or dead; None if there is none."""
        for table in (self.tables.waiting, self.tables.dead):
            row = connection.execute(select(table).where(table.c.message_id == message_id)).first()
            if row is not None:
                return {**row._mapping, "is_dead": table is self.tables.dead}
        return None

    def hurry(self, connection: Connection, message_id: UUID) -> int:
        """Let a message that waits for its time, or for its next attempt, be due now."""
        waiting = self.tables.waiting
        mine = (waiting.c.message_id == message_id, waiting.c.token.is_(None))
        return connection.execute(update(waiting).where(*mine).values(due_at=now())).rowcount

    def replay(self, connection: Connection, limit: int, which: Which) -> int:
        """Let at most *limit* of the dead wait again, with all their attempts; one that waits already is forgotten."""
        waiting, dead = self.tables.waiting, self.tables.dead
        ids = self._dead_ids(connection, limit, which)
        if not ids:
            return 0
        kept = [column.name for column in dead.c if column.name not in (*_OF_DEATH, "due_at", "outages")]
        there: Select[Any] = select(literal_column("1")).where(waiting.c.message_id == dead.c.message_id)
        values = select(*(dead.c[name] for name in kept), now()).where(dead.c.id.in_(ids), ~there.exists())
        connection.execute(insert(waiting).from_select([*kept, "due_at"], values.order_by(dead.c.id)))
        return connection.execute(delete(dead).where(dead.c.id.in_(ids))).rowcount

    def purge(self, connection: Connection, limit: int, which: Which) -> int:
        """Forget at most *limit* of the dead."""
        ids = self._dead_ids(connection, limit, which)
        return connection.execute(delete(self.tables.dead).where(self.tables.dead.c.id.in_(ids))).rowcount if ids else 0

    def _dead_ids(self, connection: Connection, limit: int, which: Which) -> list[int]:
        dead = self.tables.dead
        found = select(dead.c.id).order_by(dead.c.id).limit(limit)
        if which.message_id is not None:
            found = found.where(dead.c.message_id == which.message_id)
        if which.among is not None:
            found = found.where(dead.c.message_id.in_(which.among))
        if which.destination is not None:
            found = found.where(dead.c.destination == which.destination)
        if which.older_than:
            found = found.where(dead.c.died_at < _later(-which.older_than))
        return list(connection.scalars(found))


_READ: Final = ("id", "message_id", "destination", "name", "payload", "headers", "attempts")
_SHOWN: Final = (
    "message_id",
    "destination",
    "name",
    "attempts",
    "outages",
    "created_at",
    "due_at",
    "leased_until",
    "died_at",
    "last_error",
)
_OF_DEATH: Final = ("id", "attempts", "first_failed_at", "last_error", "died_at")


def _is_before(earlier: Any, due: Any) -> Any:
    """The condition that *earlier* has to be delivered before *due*: they have one ordering key."""
    return and_(
        earlier.c.destination == due.c.destination,
        earlier.c.ordering_key == due.c.ordering_key,
        earlier.c.id < due.c.id,
    )


def _claimed(row: Sequence[Any], token: UUID, until: float) -> Delivery:
    key, message_id, destination, name, document, headers, attempts = row
    lease = Lease(key, token, until)
    return Delivery(message_id, destination, name, document, headers, attempts=attempts, handle=lease)


def _later(seconds: float) -> later:
    return later(bindparam("delay", seconds, type_=Float()))
