"""Whether several relays can share an outbox, on the database that it is on."""

from collections.abc import Iterable, Iterator
from typing import Any, Final, Literal

from postresponse.exceptions import ConfigurationError, UnsupportedDatabase
from postresponse.stack import Finding

__all__ = ["findings_of_database", "findings_of_relays"]


def findings_of_relays(relays: Iterable[Any]) -> Iterator[Finding]:
    """Judge the databases of *relays*, which are looked into."""
    for relay in relays:
        yield from _judged(relay._database)


def findings_of_database(url: str) -> Iterator[Finding]:
    """Judge the database at *url*, which is looked into.

    Raises:
        ConfigurationError: It is no URL of a database, or its driver is missing.
    """
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    from postresponse.messaging.database import Database

    try:
        database = Database(url)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError, ValueError) as error:
        raise ConfigurationError(f"--outbox: {error}") from error
    yield from _judged(database)


def _judged(database: Any) -> Iterator[Finding]:
    import anyio
    from sqlalchemy.exc import SQLAlchemyError

    url = database.engine.url.set(query={}).render_as_string(hide_password=True)
    try:
        dialect, refused = anyio.run(_look_into, database)
    except (SQLAlchemyError, OSError) as error:
        text = str(getattr(error, "orig", None) or error).partition("\n")[0]
        way_out = "start it, or give the URL of the one that is served"
        yield Finding("outbox_out_of_reach", "error", f"the outbox cannot be looked into: {text}", url, way_out)
        return
    lacking = _lacking(dialect)
    if lacking:
        severity: Literal["error", "warning"] = "warning" if refused is None else "error"
        so = "" if refused is None else f"; {refused}"
        yield Finding("outbox_without_skip_locked", severity, f"{lacking}{so}", url, _OTHERWISE)
    elif refused is not None:
        yield Finding("outbox_on_an_old_database", "error", f"no relay runs here: {refused}", url, "upgrade it")


async def _look_into(database: Any) -> tuple[Any, UnsupportedDatabase | None]:
    from sqlalchemy.ext.asyncio import AsyncEngine

    try:
        looked: tuple[Any, UnsupportedDatabase | None] = await database.run(_looked_at)
        return looked
    finally:  # what was opened here belongs to an event loop that ends here
        if isinstance(database.engine, AsyncEngine):
            await database.engine.dispose()
        else:
            database.engine.dispose()


def _looked_at(connection: Any) -> tuple[Any, UnsupportedDatabase | None]:
    from postresponse.messaging.tables import check_database

    try:
        check_database(connection)
    except UnsupportedDatabase as error:
        return connection.dialect, error
    return connection.dialect, None


_OTHERWISE: Final = (
    "keep one relay and short transactions, or put the outbox on PostgreSQL, MariaDB 10.6 or MySQL 8.0.16"
)
_SKIP_LOCKED: Final = {"mysql": (8, 0, 1), "mariadb": (10, 6)}
"""Since when; PostgreSQL has had it for longer than this package asks for."""


def _lacking(dialect: Any) -> str:
    """Say what follows where the database cannot skip the rows that another relay has locked."""
    if dialect.name == "sqlite":
        return (
            "SQLite has no SKIP LOCKED, and one writer at a time: relays claim one after the other, and every request "
            "that writes waits for them, and they for it"
        )
    name = "mariadb" if getattr(dialect, "is_mariadb", False) else dialect.name
    found = getattr(dialect, "_mariadb_normalized_version_info", None) or dialect.server_version_info
    since = _SKIP_LOCKED.get(name)
    if since is None or found is None or tuple(found)[: len(since)] >= since:
        return ""
    return f"{name} {'.'.join(map(str, found))} has no SKIP LOCKED: each relay would wait for what another one holds"
