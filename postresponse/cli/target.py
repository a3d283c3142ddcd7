"""What the commands of an outbox are about: its tables, their database, and its relay where there is one."""

import argparse
from collections.abc import Callable
from typing import Any

from postresponse.importing import imported

__all__ = ["Target", "Wrong", "named", "relay_given"]


class Wrong(Exception):
    """The command was called wrongly."""


class Target:
    """The outbox and its database.

    Args:
        tables: Of the outbox.
        database: Where they are.
        relay: Its relay, where there is one in this code.
        way_out: What makes the tables, for the error that says that there are none.
    """

    def __init__(self, tables: Any, database: Any, relay: Any = None, way_out: str | None = None) -> None:
        from postresponse.messaging.store import Store

        self.tables: Any = tables
        self.database: Any = database
        self.relay: Any = relay
        self.store: Store = Store(tables)
        self._way_out = () if way_out is None else (way_out,)

    @classmethod
    def of(cls, relay: Any, way_out: str | None = None) -> "Target":
        """Return that of *relay*."""
        return cls(relay.outbox.tables, relay._database, relay, way_out)

    def in_transaction(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return what *work* does with a connection, committed."""
        import anyio

        from postresponse.messaging.writing import is_missing_table, no_table

        async def main() -> Any:
            return await self.database.run(work, *args, **kwargs)

        from sqlalchemy.exc import DBAPIError

        try:
            return anyio.run(main)
        except DBAPIError as error:
            if is_missing_table(self.database.engine.dialect.name, error):
                raise no_table(self.tables.waiting, *self._way_out) from error
            raise


def named(options: argparse.Namespace) -> Target:
    """Return what the arguments name.

    Raises:
        Wrong: They name nothing that would do.
        ConfigurationError: What they name cannot be imported.
    """
    given: str = options.target
    if "://" in given:
        from sqlalchemy import MetaData

        from postresponse.messaging.database import Database
        from postresponse.messaging.tables import Tables

        return Target(Tables(MetaData(), options.table, options.schema), Database(given))
    if ":" not in given:
        raise Wrong(f"expected module:name of a Relay, or the URL of a database, found {given!r}")
    return Target.of(relay_given(given))


def relay_given(given: Any) -> Any:
    """Return the Relay that was *given*, itself or by its name; None for none.

    Raises:
        Wrong: It is something else.
        ConfigurationError: It cannot be imported.
    """
    if given is None:
        return None
    from postresponse.messaging import Outbox, Relay

    found = imported(given, here=True) if isinstance(given, str) else given
    if not isinstance(found, Relay):
        wanted = "its Relay is wanted" if isinstance(found, Outbox) else "a Relay is wanted"
        raise Wrong(f"{given} is {found!r}; {wanted}")
    return found
