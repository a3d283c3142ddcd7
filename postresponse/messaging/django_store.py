"""The statements of a `Store` in Django's own transactions, and Django's databases for a relay.

Imported where there is a connection of Django's, and by nobody else: the package does without Django.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from django.db import DEFAULT_DB_ALIAS, connections
from sqlalchemy import Dialect, Engine, QueuePool, create_engine

from postresponse.core.policy import did_you_mean
from postresponse.exceptions import ConfigurationError, UnsupportedDatabase
from postresponse.messaging.database import OWN_POOL
from postresponse.messaging.django_connection import dialect_of

__all__ = ["Borrowed", "engine_of"]


class _Changed(NamedTuple):
    """What a statement did."""

    rowcount: int


class Borrowed:
    """A connection of Django's as far as a `Store` needs one to let messages go on, in the caller's transaction.

    That is for `hurry`, `replay`, `purge` and `resume`, which look at no more than the first column.

    Args:
        connection: Of `django.db.connections`.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.dialect: Dialect = dialect_of(connection.vendor)

    def execute(self, statement: Any, given: Mapping[str, Any] | None = None) -> _Changed:
        """Run *statement* with the parameters *given*; the number of rows that it changed is wanted."""
        with self._connection.cursor() as cursor:
            cursor.execute(*self._compiled(statement, given or {}))
            return _Changed(cursor.rowcount)

    def scalars(self, statement: Any, given: Mapping[str, Any] | None = None) -> list[Any]:
        """Run *statement* and return the first column."""
        with self._connection.cursor() as cursor:
            cursor.execute(*self._compiled(statement, given or {}))
            return [row[0] for row in cursor.fetchall()]

    def _compiled(self, statement: Any, given: Mapping[str, Any]) -> tuple[str, list[Any]]:
        compiled = statement.compile(dialect=self.dialect)
        state = compiled.construct_expanded_state(given)
        kinds = {name: bind.type.dialect_impl(self.dialect) for name, bind in compiled.binds.items()}
        # Those of a list come apart, each of its values under a name of its own.
        processors = {name: kind.bind_processor(self.dialect) for name, kind in kinds.items()} | dict(state.processors)
        values = [(processors.get(name), state.parameters[name]) for name in state.positiontup]
        return state.statement, [value if process is None else process(value) for process, value in values]


_DJANGOS: Final = ("context", "cursor_factory", "conv", "detect_types")
"""How Django has a driver read values; SQLAlchemy has its own ways."""


def engine_of(alias: str = DEFAULT_DB_ALIAS) -> Engine:
    """Return an engine on a database of Django's, for a `Relay`: its connections are made of what DATABASES says.

    Args:
        alias: A key of DATABASES.

    Raises:
        ConfigurationError: There is no such alias.
        UnsupportedDatabase: An outbox cannot work there.
    """
    if alias not in connections.settings:
        raise ConfigurationError(f"no database has the alias {alias!r}{did_you_mean(alias, connections.settings)}")
    backend = connections.create_connection(alias)

    def connect() -> Any:
        given = backend.get_connection_params()  # each time: a test's database has another name
        return backend.Database.connect(**{name: value for name, value in given.items() if name not in _DJANGOS})

    return create_engine(
        f"{_driver_of(backend)}://", creator=connect, poolclass=QueuePool, pool_size=OWN_POOL, max_overflow=0
    )


def _driver_of(backend: Any) -> str:
    name = backend.Database.__name__
    if backend.vendor == "sqlite":
        return "sqlite"
    if backend.vendor == "postgresql":
        return f"postgresql+{name}"
    if backend.vendor == "mysql":
        return f"mysql+{name.lower()}"
    raise UnsupportedDatabase(f"an outbox needs SQLite, PostgreSQL, MariaDB or MySQL, and this is {backend.vendor}")
