"""One transaction of several that are to commit together: how it is prepared, and how it ends."""

import enum
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, SessionTransaction

from postresponse.exceptions import ConfigurationError, UnitOfWorkError
from postresponse.unit_of_work.in_doubt import Fate, Ticket
from postresponse.unit_of_work.prepared import (
    ERA,
    MARIADB,
    POSTGRESQL,
    Database,
    Ended,
    Name,
    database_of,
    elsewhere,
    fate_of,
    system_of,
)
from postresponse.unit_of_work.sqlalchemy_transaction import transaction_on

__all__ = ["FIRST", "Branch", "Stage", "session_of"]

FIRST: Final = "give a member on PostgreSQL first"


class Stage(enum.Enum):
    """How far a branch is."""

    OPEN = "open"
    PREPARING = "preparing"
    """PREPARE was sent, and not answered."""
    PREPARED = "prepared"
    HANDS_OFF = "hands off"
    """Prepared, and the decision was sent for or made: only a commit may end it here."""
    ENDED = "ended"


class Branch:
    """The transaction of one member on its database; it follows the session by SQLAlchemy's events.

    Args:
        owner: Whose it is, for errors.
        number: The member's, from 0.
        first: Gives the name of the first member's transaction, which it begins if need be; None for that member.

    Attributes:
        connection: The session's, in its transaction; None once the session was closed.
        engine: Of that connection.
        database: What its database can do.
        system: Which PostgreSQL cluster it is on.
        timeline: On which PostgreSQL's transaction runs, once it was asked for its vote.
        name: What it is prepared under, once that is known.
        stage: How far it is.
    """

    __slots__ = (
        "_first",
        "_late",
        "_owner",
        "_ticket",
        "connection",
        "database",
        "engine",
        "name",
        "number",
        "stage",
        "system",
        "timeline",
    )

    def __init__(self, owner: str, number: int, first: Callable[[], Name] | None) -> None:
        self._owner = owner
        self._first = first
        self.number: int = number
        self._late = False
        self.stage: Stage = Stage.OPEN
        self.connection: Connection | None = None
        self.engine: Engine | None = None
        self.database: Database = POSTGRESQL
        self.system: int = 0
        self.timeline: int = 0
        self._ticket: Ticket | None = None
        self.name: Name | None = None

    def watch(self, make: Callable[[], Any]) -> Callable[[], Any]:
        """Return what makes a session as *make* does, and lets this branch follow it."""

        def watched() -> Any:
            session = make()
            event.listen(session_of(session), "after_begin", self.on_begin)
            return session

        return watched

    @property
    def is_promised(self) -> bool:
        """Whether it is in a transaction that has its name, and with that its decider, from the start."""
        return self.stage is Stage.OPEN and self.name is not None

    def forget(self) -> None:
        """The session was closed; what it does from now on is rolled back and needs no name."""
        self._late = True
        self.connection = None

    # -- what SQLAlchemy tells ----------------------------------------------------------------------------------

    def on_begin(self, session: Session, transaction: SessionTransaction, connection: Connection) -> None:
        if self._late or transaction.nested:
            return
        if self.connection is not None and not self.connection.closed and self.connection is not connection:
            raise UnitOfWorkError(f"{self._owner}: its session is on two databases; make a member of each")
        self.connection, self.engine = connection, connection.engine
        self.database = database_of(connection.dialect, self._owner)
        self.stage, self.name = Stage.ENDED, None
        if self.database is POSTGRESQL:
            self.system = system_of(connection.engine, self._owner)
        else:
            self.name = self._follow_first()
            self._listen(connection)
            self.database.start(connection, self.name)
        self.stage = Stage.OPEN

    def on_commit(self, connection: Connection) -> None:
        if self.stage is Stage.OPEN:
            self.database.leave(connection, self.name)
            self._note_commit(connection)
            self.database.end_unprepared(connection, self.name, commit=True)
        else:
            self._commit_prepared(connection)
        self.stage = Stage.ENDED

    def _note_commit(self, connection: Connection) -> None:
        """Say that COMMIT is about to be sent, where it is sent here.

        The unit of work does so at the engine's event, which comes behind those of a connection, and so would take an
        answer that is lost here for one that says no.
        """
        transaction = transaction_on(connection)
        if transaction is not None and self.database is MARIADB:
            transaction.sent = True

    def _commit_prepared(self, connection: Connection) -> None:
        assert self.name is not None
        if self.stage is not Stage.HANDS_OFF:
            raise UnitOfWorkError(
                f"{self.name} is prepared, and commits when it is decided; leave that to the middleware"
            )
        ended = self.database.end(connection, self.name, commit=True)
        if ended is not Ended.DONE:
            raise UnitOfWorkError(f"{self.name} cannot be committed, it is {ended.value}")

    def on_rollback(self, connection: Connection) -> None:
        if connection.closed or connection.invalidated:
            return
        if self.stage is Stage.OPEN:
            self.database.leave(connection, self.name)
            self.database.end_unprepared(connection, self.name, commit=False)
            self.stage = Stage.ENDED
        elif self.stage is Stage.PREPARED:
            assert self.name is not None
            if self.database.end(connection, self.name, commit=False) is not Ended.BUSY:
                self.stage = Stage.ENDED

    def _listen(self, connection: Connection) -> None:
        event.listen(connection, "commit", self.on_commit)
        event.listen(connection, "rollback", self.on_rollback)

    def _follow_first(self) -> Name:
        """Return the name for a transaction that has to have one from its start: the first member's decides."""
        if self._first is None:
            raise ConfigurationError(f"{self._owner} is on MariaDB, which cannot decide; {FIRST}")
        return self._first()._replace(branch=self.number)

    # -- what the rules ask, in the session's own thread or greenlet --------------------------------------------

    def vote(self, session: Session) -> int | None:
        """Let *session* send all that it holds, and return the id of its transaction; None if it wrote nothing."""
        transaction = session.get_transaction() or session.begin()
        # What Session.prepare() does before it prepares its connections, with listeners of "before_commit" heard; it
        # refuses to where they were not begun as two-phase, which psycopg does only under a name that it knows by then.
        transaction._prepare_impl()
        connection = self.connection
        if connection is None or connection.closed or not connection.in_transaction():
            return None
        if self.database is MARIADB:
            assert self.name is not None
            return self.name.transaction
        # Also an error in a transaction that was given up, where PREPARE would roll back and not say so.
        statement = f"SELECT pg_current_xact_id_if_assigned()::text, {ERA}"
        found, self.timeline, life = connection.exec_driver_sql(statement).one()
        self._ticket = Ticket(found, life)
        return None if found is None else int(found)

    def prepare(self, name: Name) -> None:
        assert self.connection is not None
        if self.database is POSTGRESQL:
            self._listen(self.connection)
        self.name, self.stage = name, Stage.PREPARING
        try:
            self.database.prepare(self.connection, name)
        except DBAPIError as error:
            if self.database.was_refused(error):
                self.stage = Stage.OPEN
            raise
        self.stage = Stage.PREPARED

    # -- what is tried on a new connection, until it says how it ended ------------------------------------------

    def commit_anew(self) -> Fate | None:
        """Commit what is prepared; or, where somebody else has ended it, tell how.

        `Fate.UNKNOWN` where the server is not what it was: after a failover it may never have heard of it.
        """
        assert self.engine is not None
        assert self.name is not None
        with elsewhere(self.engine) as connection:
            ended = self.database.end(connection, self.name, commit=True)
            if ended is Ended.GONE and self.database is POSTGRESQL:
                assert self._ticket is not None
                return fate_of(connection, self._ticket)
            return None if ended is Ended.BUSY else Fate.COMMITTED

    def roll_back_anew(self) -> Fate | None:
        """Roll back what may be prepared."""
        assert self.engine is not None
        assert self.name is not None
        with elsewhere(self.engine) as connection:
            ended = self.database.end(connection, self.name, commit=False)
            return None if ended is Ended.BUSY else Fate.ABORTED


def session_of(session: Any) -> Session:
    """Return the sync session of an async one, or *session* itself."""
    found: Session = session.sync_session if isinstance(session, AsyncSession) else session
    return found
