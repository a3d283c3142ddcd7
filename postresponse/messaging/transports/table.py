"""The table of an outbox as a transport: what a relay claims, sends and deletes."""

from collections.abc import Callable, Sequence
from time import monotonic

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from postresponse.exceptions import ConfigurationError
from postresponse.messaging.database import Database
from postresponse.messaging.delivery import Delivery, Result, Settled
from postresponse.messaging.outbox import Outbox
from postresponse.messaging.pump import Polls
from postresponse.messaging.store import Store
from postresponse.messaging.tables import check_database
from postresponse.messaging.writing import is_missing_table, no_table
from postresponse.work.checks import check_seconds

__all__ = ["TableTransport"]


class TableTransport:
    """The messages of one destination.

    Args:
        outbox: Whose they are.
        engine: Of its database: an Engine or an AsyncEngine.
        destination: One of those that the outbox allows.
        lease: Seconds for which a claim holds.
        polls: Least and most seconds between two looks into an empty table.

    Raises:
        ConfigurationError: A value that an option cannot have.
    """

    def __init__(
        self,
        outbox: Outbox,
        engine: Engine | AsyncEngine | Database,
        destination: str,
        *,
        lease: float = 60.0,
        polls: tuple[float, float] = (0.05, 5.0),
    ) -> None:
        if destination not in outbox.allow:
            raise ConfigurationError(f"destination: this outbox has no {destination!r}")
        least, most = (check_seconds("polls", seconds) for seconds in polls)
        if most < least:
            raise ConfigurationError(f"polls: expected the least seconds first, found {polls!r}")
        self.destination: str = destination
        self.lease: float = check_seconds("lease", lease)
        self.polls: Polls | None = Polls(least, most)
        self._outbox = outbox
        self._store = Store(outbox.tables)
        self._database = engine if isinstance(engine, Database) else Database(engine)
        self._looked_for_expired = -self.lease
        self._is_checked = False
        self._wake: Callable[[], None] | None = None

    @property
    def name(self) -> str:
        """What it is called in the log."""
        return f"the outbox for {self.destination}"

    async def open(self, wake: Callable[[], None]) -> None:
        """Look at whether the database will do.

        Raises:
            UnsupportedDatabase: It will not.
            NoTable: There is no table.
        """
        if not self._is_checked:
            await self._database.run(check_database)
            self._is_checked = True
        self._wake = wake
        self._outbox.wakes(self)

    def wake(self) -> None:
        """There may be messages: called by the outbox."""
        if self._wake is not None:
            self._wake()

    async def take(self, limit: int) -> Sequence[Delivery]:
        """Claim at most *limit* messages."""
        return await self._database.run_one_by_one(self._claim, limit)

    def _claim(self, connection: Connection, limit: int) -> list[Delivery]:
        try:
            if monotonic() >= self._looked_for_expired + self.lease / 4:
                self._looked_for_expired = monotonic()
                self._store.expire(connection)
            found = self._store.claim(connection, self.destination, limit, self.lease)
        except DBAPIError as error:
            if is_missing_table(connection.dialect.name, error):
                raise no_table(self._outbox.tables.waiting) from error
            raise
        return found

    async def settle(self, settled: Sequence[Settled]) -> int:
        """Write what became of each, in one transaction; return how many were no longer its own."""
        if all(each.result is Result.DONE for each in settled):
            return len(settled) - await self._database.run_one_by_one(self._write, settled)
        return len(settled) - await self._database.run(self._write, settled)

    def _write(self, connection: Connection, settled: Sequence[Settled]) -> int:
        store, count = self._store, 0
        done = [each.delivery for each in settled if each.result is Result.DONE]
        back = [each.delivery for each in settled if each.result is Result.BACK and not each.delay]
        if done:
            count += store.delivered(connection, done)
        if back:
            count += store.hand_back(connection, back)
        for each in settled:
            if each.result is Result.BACK and each.delay:
                count += store.hand_back(connection, [each.delivery], each.delay)
            elif each.result is Result.DEAD:
                count += store.bury(connection, each.delivery, each.error)
            elif each.result is Result.DEFERRED:
                count += store.put_back(connection, each.delivery, each.delivery.deferred_headers)
            elif each.result in (Result.FAILED, Result.OUTAGE):
                count += store.failed(connection, each)
        return count

    async def pause(self) -> None:
        """Nothing: what is not taken waits."""

    async def resume(self) -> None:
        """Nothing."""

    async def aclose(self) -> None:
        """Hear of no more messages."""
        self._wake = None
