"""What waits in an outbox, read from its database when somebody looks; it may be away, and nobody waits for it long."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from time import monotonic
from typing import Any, Final
from uuid import UUID

from anyio import move_on_after
from sqlalchemy import Connection, Engine, MetaData, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from postresponse.exceptions import ConfigurationError
from postresponse.messaging.database import Database
from postresponse.messaging.outbox import Outbox
from postresponse.messaging.relay import Relay
from postresponse.messaging.store import Store
from postresponse.messaging.tables import Tables
from postresponse.messaging.writing import is_missing_table
from postresponse.work.threads import on_thread

__all__ = ["OutboxView"]

PATIENCE: Final = 1.0
"""Seconds that a viewer waits for the database."""
FRESH: Final = 1.0
"""Seconds that an answer is good for all viewers."""
DEAD_SHOWN: Final = 20
_NOTHING: Final[Mapping[str, Any]] = {"pending": None, "destinations": [], "dead": []}


class OutboxView:
    """Reads an outbox.

    Args:
        given: Its Relay, or an Engine, an AsyncEngine or the URL of its database.

    Raises:
        ConfigurationError: It is none of these.
    """

    def __init__(self, given: Any) -> None:
        if isinstance(given, Outbox):
            raise ConfigurationError("outbox: an Outbox does not know its database; give its Relay, or the engine")
        if isinstance(given, Relay):
            self._database, tables = given._database, given.outbox.tables
        else:
            self._database, tables = Database(given), Tables(MetaData(), "postresponse_outbox", None)
        self._tables = tables
        self._store = Store(tables)
        self._free = threading.Lock()
        self._is_late = False
        self._seen: Mapping[str, Any] = _NOTHING
        self._seen_at = -FRESH

    def look(self, ids: Sequence[UUID] = ()) -> Mapping[str, Any]:
        """Return what waits, and what became of the messages *ids*; or what is wrong."""
        engine = self._database.engine
        if isinstance(engine, AsyncEngine):
            return self._trouble(
                "its engine is async, and WSGI has no event loop; give the inspector the URL of a sync one"
            )
        if self._is_good(ids):
            return self._seen
        # One question at a time. A database that does not answer holds up the first who asks, and nobody else.
        if not self._free.acquire(timeout=0 if self._is_late else PATIENCE):
            return self._late()
        answered, answers = threading.Event(), list[Mapping[str, Any]]()

        def ask() -> None:
            try:
                answers.append(self._told(lambda: self._read_from(engine, ids)))
            finally:
                self._is_late = False
                self._free.release()
                answered.set()

        threading.Thread(target=ask, name="postresponse inspector: outbox", daemon=True).start()
        if answered.wait(PATIENCE):
            return answers[0]
        self._is_late = True
        return self._late()

    async def alook(self, ids: Sequence[UUID] = ()) -> Mapping[str, Any]:
        """As `look`, awaited."""
        if isinstance(self._database.engine, Engine):
            return await on_thread(lambda: self.look(ids))
        if self._is_good(ids):
            return self._seen
        with move_on_after(PATIENCE):
            try:
                read = await self._database.run(self._read, ids)
            except Exception as error:  # noqa: BLE001 (shown)
                return self._trouble(self._in_words(error))
            return self._remember(read)
        return self._late()

    def _is_good(self, ids: Sequence[UUID]) -> bool:
        return not ids and monotonic() < self._seen_at + FRESH

    def _read_from(self, engine: Engine, ids: Sequence[UUID]) -> Mapping[str, Any]:
        with engine.connect() as connection:
            return self._read(connection, ids)

    def _told(self, read: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        try:
            return self._remember(read())
        except Exception as error:  # noqa: BLE001 (shown)
            return self._trouble(self._in_words(error))

    def _remember(self, read: Mapping[str, Any]) -> Mapping[str, Any]:
        self._seen, self._seen_at = {**read, "messages": {}}, monotonic()
        return read

    def _trouble(self, text: str) -> Mapping[str, Any]:
        """Say what is wrong, beside what was seen last."""
        return {**self._seen, "trouble": text}

    def _late(self) -> Mapping[str, Any]:
        return self._trouble("the database does not answer")

    def _in_words(self, error: Exception) -> str:
        if isinstance(error, DBAPIError) and is_missing_table(self._database.engine.dialect.name, error):
            return f"there is no table {self._tables.waiting.fullname} in this database"
        said = str(getattr(error, "orig", None) or error).partition("\n")[0]
        return f"the database cannot be read: {said or type(error).__name__}"

    def _read(self, connection: Connection, ids: Sequence[UUID]) -> Mapping[str, Any]:
        stats = self._store.stats(connection)
        dead = self._store.listed(connection, dead=True, destination=None, limit=DEAD_SHOWN)
        return {
            "pending": sum(each.due + each.delayed + each.leased for each in stats),
            "destinations": [asdict(each) for each in stats],
            "dead": [{name: row[name] for name in ("destination", "name", "attempts", "last_error")} | {
                "id": str(row["message_id"]), "time": row["died_at"].timestamp()} for row in dead],
            "messages": self._states(connection, ids),
            "trouble": None,
        }  # fmt: skip

    def _states(self, connection: Connection, ids: Sequence[UUID]) -> dict[str, str]:
        """Where each of the messages *ids* is; one that is nowhere was sent, or never written."""
        states: dict[str, str] = {}
        for table, word in ((self._tables.waiting, "waits"), (self._tables.dead, "is dead")):
            found = select(table.c.message_id, table.c.attempts).where(table.c.message_id.in_(ids))
            for message_id, attempts in connection.execute(found) if ids else ():
                tried = f", {attempts} failed attempts" if attempts else ""
                states[str(message_id)] = f"{word}{tried}"
        return states
