"""The database of the applications, and the engine events that slow COMMIT down, hold it, and write down what it did.

The events are SQLAlchemy's own and know nothing of the package under test: they see each COMMIT and ROLLBACK that is
sent, and each connection that goes back to its pool.
"""

import os
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Engine, TextClause, event, text

from tests.servers.apps.asked import Asked, wait_at
from tests.servers.apps.record import record

URL = os.environ.get("POSTRESPONSE_TEST_DATABASE", "")
SEARCH_PATH = os.environ.get("POSTRESPONSE_TEST_SCHEMA", "")
POOL: dict[str, Any] = {"pool_size": 5, "max_overflow": 0, "pool_timeout": 2.0}
"""Small and impatient: a connection held for too long is noticed by the next request."""

Pause = Callable[[float], object]
Statements = list[tuple[TextClause, dict[str, str]]]
COUNT: Statements = [(text("SELECT count(*) FROM orders"), {})]


def driver_url(*, asynchronous: bool) -> str:
    """The URL with the driver for the one or the other kind of engine."""
    drivers = {"sqlite": ("pysqlite", "aiosqlite"), "postgresql": ("psycopg", "asyncpg")}
    scheme, rest = URL.split("://", 1)
    return f"{scheme}+{drivers[scheme][asynchronous]}://{rest}"


def connect_args(*, asynchronous: bool) -> dict[str, Any]:
    """What the driver needs besides the URL."""
    if not URL.startswith("postgresql"):
        return {"timeout": 10.0}
    if asynchronous:
        return {"server_settings": {"search_path": SEARCH_PATH}}
    return {"options": f"-csearch_path={SEARCH_PATH}"}


def statements(asked: Asked) -> Statements:
    """What placing an order executes; the last one, where asked for, makes the COMMIT fail and nothing before it."""
    placed: Statements = [(text("INSERT INTO orders (key) VALUES (:key)"), {"key": asked.key})]
    if asked.fail:
        line = text("INSERT INTO lines (key, order_key) VALUES (:key, 'no such order')")
        placed.append((line, {"key": asked.key}))
    return placed


def watch(engine: Engine, pause: Pause) -> None:
    """Write down what the engine does, and make COMMIT as slow as the request asked for."""

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        if engine.dialect.name == "sqlite":
            cursor = connection.cursor()
            cursor.execute("PRAGMA foreign_keys=ON")
            cursor.close()

    @event.listens_for(engine, "commit")
    def committing(connection: Connection) -> None:
        asked: Asked | None = connection.info.get("asked")
        record("commit", asked.key if asked else "")
        if asked:
            if asked.delay:
                pause(asked.delay)
            wait_at(asked, "commit", pause)

    @event.listens_for(engine, "rollback")
    def rolling_back(connection: Connection) -> None:
        asked: Asked | None = connection.info.get("asked")
        record("rollback", asked.key if asked else "")

    @event.listens_for(engine, "checkin")
    def back_in_the_pool(_connection: Any, entry: Any) -> None:
        asked: Asked | None = entry.info.pop("asked", None)
        if asked:
            record("released", asked.key)
