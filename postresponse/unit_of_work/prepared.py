"""Transactions that a database keeps prepared: their names, and the statements that make, find and end them.

The name of each says who decides it: the *decider*, one of the databases, by its member's name and its system
identifier, and there a transaction by its 64-bit id. So whoever finds one prepared can ask what was decided, and no
table of ours is needed.

The identifier is not enough. A standby has that of its primary, and once it is promoted it gives the ids anew that the
primary had given and it had not heard of: "committed" would be said of another transaction. So the name has the
timeline as well, which is another one behind each failover, and behind each restore to a point in time.
"""

import enum
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple, Protocol
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Dialect, Engine
from sqlalchemy.exc import DBAPIError

from postresponse.exceptions import ConfigurationError
from postresponse.unit_of_work.in_doubt import _LIFE, Fate, Ticket, ask, was_refused
from postresponse.unit_of_work.statements import sqlstate_of

__all__ = [
    "ERA",
    "MARIADB",
    "POSTGRESQL",
    "WAY_OUT",
    "Database",
    "Ended",
    "Name",
    "Prepared",
    "check_name",
    "database_of",
    "elsewhere",
    "fate_of",
    "system_of",
]

MAX_NAME: Final = 16
"""Letters of a member's name: MariaDB takes 64 bytes, of which the rest needs 48, with 13 for timeline and id."""

# In recovery there is none to be told, and whoever only reads may be there.
_TIMELINE: Final = (
    "CASE WHEN pg_is_in_recovery() THEN 0 "
    "ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint END"
)
ERA: Final = f"{_TIMELINE}, {_LIFE}"
"""Two columns that say for how long an id of PostgreSQL's names one transaction.

They are the timeline, 0 for a standby, and the life of the server (`in_doubt.Ticket`), which a restart ends as well.
"""

_PREFIX: Final = "postresponse/"
_NAME: Final = re.compile(
    rf"{_PREFIX}(\w{{1,{MAX_NAME}}})/([0-9a-f]+)(?:\.([0-9a-f]+))?/([0-9a-f]+)(?:/(\d+))?", re.ASCII
)
_UNDEFINED: Final = "42704"
_BUSY: Final = "55000"
_UNKNOWN_XID: Final = 1397

_FIRST_POSTGRESQL: Final = (13,)  # with pg_current_xact_id() and pg_xact_status()
_FIRST_MARIADB: Final = (10, 5)  # keeps what is prepared when its connection ends


class Name(NamedTuple):
    """The name of a prepared transaction.

    Attributes:
        decider: The name of the member that decides.
        system: The identifier of the PostgreSQL cluster that it is on.
        transaction: The id of its transaction there.
        branch: Which other member's this one is; None for the decider's own.
        timeline: On which that transaction ran. The first is left out of the text, as it was before there were others:
            what was prepared then on a later one is not taken for a transaction of that.
    """

    decider: str
    system: int
    transaction: int
    branch: int | None = None
    timeline: int = 1

    def __str__(self) -> str:
        timeline = "" if self.timeline == 1 else f".{self.timeline:x}"
        name = f"{_PREFIX}{self.decider}/{self.system:x}{timeline}/{self.transaction:x}"
        return name if self.branch is None else f"{name}/{self.branch}"

    @classmethod
    def parse(cls, text: str) -> "Name | None":
        """Read a name; None for one that is not of this package."""
        found = _NAME.fullmatch(text)
        if found is None:
            return None
        decider, system, timeline, transaction, branch = found.groups()
        name = cls(
            decider,
            int(system, 16),
            int(transaction, 16),
            None if branch is None else int(branch),
            int(timeline or "1", 16),
        )
        return name if str(name) == text else None


class Prepared(NamedTuple):
    """A transaction that was found prepared, and since how many seconds it is; None where the database does not say."""

    name: Name
    age: float | None


class Ended(enum.Enum):
    """How an attempt ended that was to end a prepared transaction."""

    DONE = "done"
    GONE = "gone"
    """There is none of that name: somebody ended it before, or it was never prepared."""
    BUSY = "busy"
    """Somebody else holds it: is about to end it, or has prepared it on a connection that is still there."""


class Database(Protocol):
    """What one kind of database does with transactions that are to be prepared."""

    def start(self, connection: Connection, name: Name) -> None:
        """Begin a transaction that is to be prepared under *name*; nothing was sent in it yet."""

    def prepare(self, connection: Connection, name: Name) -> None:
        """Prepare the transaction that *connection* is in."""

    def was_refused(self, error: DBAPIError) -> bool:
        """Tell whether this answer to `prepare` says that nothing was prepared; otherwise nobody knows."""

    def leave(self, connection: Connection, name: Name | None) -> None:
        """Let nothing more be sent in a transaction that was not prepared; it has not ended yet."""

    def end_unprepared(self, connection: Connection, name: Name | None, *, commit: bool) -> None:
        """Do what has to come before COMMIT or ROLLBACK in a transaction that was not prepared, and was left."""

    def end(self, connection: Connection, name: Name, *, commit: bool) -> Ended:
        """Commit or roll back the prepared transaction *name*; *connection* is in no transaction."""

    def prepared(self, connection: Connection) -> list[Prepared]:
        """Find those of this package."""


class _PostgreSQL:
    def start(self, connection: Connection, name: Name) -> None:
        """Nothing: it is named when it is prepared."""

    def prepare(self, connection: Connection, name: Name) -> None:
        connection.exec_driver_sql(f"PREPARE TRANSACTION '{name}'")

    def was_refused(self, error: DBAPIError) -> bool:
        return was_refused(error)

    def leave(self, connection: Connection, name: Name | None) -> None:
        """Nothing, as below."""

    def end_unprepared(self, connection: Connection, name: Name | None, *, commit: bool) -> None:
        """Nothing: it is a transaction like any other."""

    def end(self, connection: Connection, name: Name, *, commit: bool) -> Ended:
        driver = connection.connection.dbapi_connection
        assert driver is not None
        # The driver would begin a transaction, and this can run in none.
        before, driver.autocommit = driver.autocommit, True
        try:
            connection.exec_driver_sql(f"{'COMMIT' if commit else 'ROLLBACK'} PREPARED '{name}'")
        except DBAPIError as error:
            if (state := sqlstate_of(error)) not in (_UNDEFINED, _BUSY):
                raise
            return Ended.GONE if state == _UNDEFINED else Ended.BUSY
        finally:
            if not connection.invalidated:
                driver.autocommit = before
        return Ended.DONE

    def prepared(self, connection: Connection) -> list[Prepared]:
        rows = connection.exec_driver_sql(
            "SELECT gid, extract(epoch FROM clock_timestamp() - prepared)::float8 FROM pg_prepared_xacts "
            f"WHERE database = current_database() AND starts_with(gid, '{_PREFIX}') ORDER BY prepared"
        )
        return [Prepared(name, age) for gid, age in rows if (name := Name.parse(gid)) is not None]


class _MariaDB:
    """XA, which names a transaction with its first statement, and in which COMMIT and ROLLBACK are refused."""

    def start(self, connection: Connection, name: Name) -> None:
        connection.exec_driver_sql(f"XA START '{name}'")

    def prepare(self, connection: Connection, name: Name) -> None:
        connection.exec_driver_sql(f"XA END '{name}'")
        connection.exec_driver_sql(f"XA PREPARE '{name}'")

    def was_refused(self, error: DBAPIError) -> bool:
        return not error.connection_invalidated

    def leave(self, connection: Connection, name: Name | None) -> None:
        with suppress(DBAPIError):  # it has ended already: PREPARE failed, or a deadlock took it
            connection.exec_driver_sql(f"XA END '{name}'")

    def end_unprepared(self, connection: Connection, name: Name | None, *, commit: bool) -> None:
        connection.exec_driver_sql(f"XA COMMIT '{name}' ONE PHASE" if commit else f"XA ROLLBACK '{name}'")

    def end(self, connection: Connection, name: Name, *, commit: bool) -> Ended:
        try:
            connection.exec_driver_sql(f"XA {'COMMIT' if commit else 'ROLLBACK'} '{name}'")
        except DBAPIError as error:
            if error.orig is None or error.orig.args[:1] != (_UNKNOWN_XID,):
                raise
            # One that its connection still holds is unknown to others as well, but listed.
            held = any(each.name == name for each in self.prepared(connection))
            return Ended.BUSY if held else Ended.GONE
        return Ended.DONE

    def prepared(self, connection: Connection) -> list[Prepared]:
        found = (bytes(row.data).decode("latin-1") for row in connection.exec_driver_sql("XA RECOVER"))
        return [Prepared(name, None) for text in found if (name := Name.parse(text)) is not None]


POSTGRESQL: Final = _PostgreSQL()
MARIADB: Final = _MariaDB()


def database_of(dialect: Dialect, owner: str) -> Database:
    """Return what the database of a *dialect* that is connected can do.

    Args:
        owner: Who asks, for the error.

    Raises:
        ConfigurationError: It keeps no prepared transactions.
    """
    version = ".".join(map(str, dialect.server_version_info or ()))
    if dialect.name == "postgresql":
        if (dialect.server_version_info or ()) < _FIRST_POSTGRESQL:
            raise ConfigurationError(f"{owner} is on PostgreSQL {version}, and 13 or later is needed; {WAY_OUT}")
        return POSTGRESQL
    if getattr(dialect, "is_mariadb", False):
        if (dialect.server_version_info or ()) < _FIRST_MARIADB:
            raise ConfigurationError(
                f"{owner} is on MariaDB {version}, which loses a prepared transaction with its connection; "
                f"10.5 keeps it; {WAY_OUT}"
            )
        return MARIADB
    raise ConfigurationError(f"{owner} is on {dialect.name}, which keeps no prepared transactions here; {WAY_OUT}")


WAY_OUT: Final = "give it to Chained, which commits one after the other, or use PostgreSQL or MariaDB"

# By dialect, of which all engines that share a pool have the same, also one with options of its own for a request.
_systems: Final[WeakKeyDictionary[Dialect, int]] = WeakKeyDictionary()


def system_of(engine: Engine, owner: str) -> int:
    """Return the identifier of the PostgreSQL cluster of *engine*; asked for once, on a connection of its own.

    Raises:
        ConfigurationError: The cluster prepares no transactions.
    """
    system = _systems.get(engine.dialect)
    if system is None:
        with elsewhere(engine) as connection:
            limit, identifier = connection.exec_driver_sql(
                "SELECT current_setting('max_prepared_transactions')::int, system_identifier FROM pg_control_system()"
            ).one()
        if limit == 0:
            raise ConfigurationError(
                f"{owner} is on a PostgreSQL with max_prepared_transactions = 0 ({engine.url!r}), which prepares none; "
                "set it to the number of requests that may commit at once and restart that server, or use Chained"
            )
        system = _systems[engine.dialect] = int(identifier) % (1 << 64)
    return system


def fate_of(connection: Connection, ticket: Ticket) -> Fate | None:
    """Ask what became of *ticket*'s transaction, which was prepared and is not any more; None while in progress."""
    return ask(lambda statement: connection.exec_driver_sql(statement).one(), ticket)


@contextmanager
def elsewhere(engine: Engine) -> Iterator[Connection]:
    """Connect to the database of *engine* once more, in no pool and no transaction.

    The pool may be used up by those who wait for the very transaction that is to be ended.
    """
    alone = Engine(engine.pool.recreate(), engine.dialect, engine.url)
    try:
        with alone.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")
    finally:
        alone.dispose()


def check_name(name: str, owner: str) -> None:
    """Refuse the name of a member that cannot be a part of a transaction's name.

    Raises:
        ConfigurationError: It is too long, or is more than letters, digits and underscores.
    """
    if re.fullmatch(rf"\w{{1,{MAX_NAME}}}", name, re.ASCII) is None:
        raise ConfigurationError(
            f"{owner}: {name!r} becomes a part of the name of prepared transactions; use letters, digits and "
            f"underscores, {MAX_NAME} at most"
        )
