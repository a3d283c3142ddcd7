"""The tables of an outbox, on the user's own MetaData: one that waits, one of the dead, one of who is paused."""

from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    Dialect,
    Identity,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    Uuid,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import CreateIndex, CreateTable

from postresponse.exceptions import UnsupportedDatabase
from postresponse.messaging.clock import Moment

__all__ = ["Tables", "check_database", "inbox_table"]

_ID: Final = BigInteger().with_variant(Integer, "sqlite")
_LEAST: Final = {"sqlite": (3, 35), "postgresql": (12,), "mysql": (8, 0, 16), "mariadb": (10, 6)}
"""UPDATE ... RETURNING on SQLite; SKIP LOCKED, and a CHECK that is heeded, elsewhere."""


def _text(length: int) -> Any:
    """A text of so many characters, compared character by character on every database."""
    exact = mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")
    return String(length).with_variant(exact, "mysql", "mariadb")


def _uuid() -> Any:
    """An id; on MySQL and MariaDB its digits, whatever the URL and the release of SQLAlchemy.

    For MariaDB alone, and by what its URL says or the server, it would be of a type of its own, which the others miss.
    """
    return Uuid().with_variant(Uuid(native_uuid=False), "mysql", "mariadb")


def _document() -> Any:
    """JSON as text: of any length, and as it was written."""
    return Text().with_variant(mysql.LONGTEXT(charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb")


def _content() -> Iterator[Column[Any]]:
    """What a message is: in the outbox and among the dead alike."""
    yield Column("message_id", _uuid(), nullable=False)
    yield Column("destination", _text(64), nullable=False)
    yield Column("name", _text(200), nullable=False)
    yield Column("payload", _document(), nullable=False)
    yield Column("headers", _document(), nullable=True)
    yield Column("ordering_key", _text(200), nullable=True)
    yield Column("created_at", Moment(), nullable=False)
    yield Column("due_at", Moment(), nullable=False)
    yield Column("attempts", Integer, nullable=False, server_default="0")
    yield Column("outages", Integer, nullable=False, server_default="0")
    yield Column("first_failed_at", Moment(), nullable=True)
    yield Column("last_error", _text(500), nullable=True)


class Tables:
    """The tables of one outbox.

    Args:
        metadata: Where they are made.
        name: The table's; those of the dead and of the paused are called by it too.
        schema: Where it stands; None for that of *metadata*.
    """

    def __init__(self, metadata: MetaData, name: str, schema: str | None) -> None:
        waiting = Table(
            name,
            metadata,
            Column("id", _ID, Identity(), primary_key=True),
            *_content(),
            Column("token", _uuid(), nullable=True),
            Column("leased_until", Moment(), nullable=True),
            CheckConstraint("(token IS NULL) = (leased_until IS NULL)", name=f"ck_{name}_lease"),
            schema=schema,
        )
        free, leased = waiting.c.token.is_(None), waiting.c.token.is_not(None)
        ordered = waiting.c.ordering_key.is_not(None)
        columns = waiting.c
        Index(f"uq_{name}_message_id", columns.message_id, unique=True)
        for suffix, where, *indexed in (
            ("due", free, columns.destination, columns.due_at, columns.id),
            ("lease", leased, columns.leased_until),
            ("order", ordered, columns.destination, columns.ordering_key, columns.id),
        ):
            Index(f"ix_{name}_{suffix}", *indexed, postgresql_where=where, sqlite_where=where)
        self.waiting: Table = waiting
        self.dead: Table = Table(
            f"{name}_dead",
            metadata,
            Column("id", _ID, Identity(), primary_key=True),
            *_content(),
            Column("died_at", Moment(), nullable=False),
            schema=schema,
        )
        Index(f"ix_{name}_dead_message_id", self.dead.c.message_id)
        self.paused: Table = Table(
            f"{name}_paused",
            metadata,
            Column("destination", _text(64), primary_key=True),
            Column("paused_at", Moment(), nullable=False),
            schema=schema,
        )

    @property
    def all(self) -> tuple[Table, ...]:
        """Every table."""
        return self.waiting, self.dead, self.paused

    def statements(self, dialect: Dialect) -> list[str]:
        """Return the statements that make them, in order, on the database of *dialect*."""
        made: list[str] = []
        for table in self.all:
            made.append(str(CreateTable(table).compile(dialect=dialect)).strip())
            indexes = sorted(table.indexes, key=lambda index: str(index.name))
            made.extend(str(CreateIndex(index).compile(dialect=dialect)).strip() for index in indexes)
        return made

    def ddl(self, dialect: Dialect) -> str:
        """Return those statements as a script."""
        return "\n\n".join(f"{statement};" for statement in self.statements(dialect)) + "\n"

    def alembic(self, dialect: Dialect) -> str:
        """Return the body of an Alembic migration that makes and drops them, for the database of *dialect*."""
        lines = ["def upgrade() -> None:"]
        for statement in self.statements(dialect):
            lines += ['    op.execute("""', *(f"        {line.strip()}" for line in statement.splitlines()), '    """)']
        lines += ["", "", "def downgrade() -> None:"]
        for table in self.all:
            schema = "" if table.schema is None else f', schema="{table.schema}"'
            lines.append(f'    op.drop_table("{table.name}"{schema})')
        return "\n".join(lines) + "\n"


def inbox_table(metadata: MetaData, name: str, schema: str | None = None) -> Table:
    """Make the table of what each consumer has handled."""
    return Table(
        name,
        metadata,
        Column("consumer", _text(200), primary_key=True),
        Column("message_id", _uuid(), primary_key=True),
        Column("handled_at", Moment(), nullable=False),
        schema=schema,
    )


def check_database(connection: Connection) -> None:
    """Look at whether an outbox works on this database.

    Raises:
        UnsupportedDatabase: It does not; which it is, and what it takes.
    """
    dialect = connection.dialect
    name = "mariadb" if getattr(dialect, "is_mariadb", False) else dialect.name
    least = _LEAST.get(name)
    if least is None:
        raise UnsupportedDatabase(f"an outbox needs SQLite, PostgreSQL, MariaDB or MySQL, and this is {name}")
    found = getattr(dialect, "_mariadb_normalized_version_info", None) or dialect.server_version_info
    if found is not None and tuple(found)[: len(least)] < least:
        raise UnsupportedDatabase(
            f"an outbox needs {name} {'.'.join(map(str, least))} or newer, and this is {'.'.join(map(str, found))}"
        )
