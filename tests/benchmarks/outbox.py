"""What it costs to enlist a message, and what a relay pays its database; by the wall, as the database works too.

SQLite is a file with a write-ahead log, PostgreSQL one on this machine with its own settings. Each contender has tables
of its own, and finds them as the one before it left them: empty, but for the orders.
"""

import json
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from sqlalchemy import Engine, Table, create_engine, event, insert, make_url, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from postresponse.messaging import Message, Outbox
from postresponse.messaging.message import sealed
from postresponse.messaging.store import Store
from postresponse.messaging.tables import Tables
from tests.benchmarks import queues
from tests.benchmarks.queues import PAYLOAD
from tests.benchmarks.runner import Case, Contender, Kind, Missing, Subject
from tests.services import postgres

__all__ = ["growth_backlog", "growth_batch", "many", "one", "relaying"]

DATABASES: Final = ("SQLite", "PostgreSQL")


class Base(DeclarativeBase):
    """What is written beside a message."""


class Order(Base):
    """An order."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[str]


class Waiting(Base):
    """A message as an object of the ORM's."""

    __tablename__ = "waiting"
    id: Mapped[int] = mapped_column(primary_key=True)
    message_id: Mapped[str]
    destination: Mapped[str]
    name: Mapped[str]
    payload: Mapped[str]
    due_at: Mapped[Any] = mapped_column(type_=Tables(Base.metadata, "typed", None).waiting.c.due_at.type)


outbox: Final = Outbox({"mail": ["send"]}, Base.metadata)
store: Final = Store(outbox.tables)


class Database:
    """A database with all tables, empty."""

    def __init__(self, name: str) -> None:
        self._stack = ExitStack()
        if name == "SQLite":
            folder = Path(self._stack.enter_context(TemporaryDirectory()))
            self.engine = create_engine(f"sqlite:///{folder}/benchmark.db")
            event.listen(self.engine, "connect", _write_ahead)
        else:
            if postgres.unreachable() is not None:
                raise Missing(["a running PostgreSQL"])
            schema = self._stack.enter_context(postgres.schema())
            url = make_url(postgres.url()).set(drivername="postgresql+psycopg")
            self.engine = create_engine(url, connect_args={"options": f"-csearch_path={schema}"})
        Base.metadata.create_all(self.engine)

    def empty(self, *tables: Table) -> None:
        with self.engine.begin() as connection:
            for table in tables:
                connection.execute(table.delete())

    def close(self) -> None:
        self.engine.dispose()
        self._stack.close()


def _write_ahead(connection: Any, record: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


class Writes(Subject):
    """Runs one transaction after the other.

    Args:
        database: Which.
        do: The transaction.
    """

    def __init__(self, database: str, do: Callable[[Engine], object]) -> None:
        self._database = Database(database)
        self._do = do

    def seconds(self, count: int) -> float:
        engine, do = self._database.engine, self._do
        begun = time.perf_counter()
        for _ in range(count):
            do(engine)
        took = time.perf_counter() - begun
        self._database.empty(outbox.tables.waiting, Waiting.__table__, Order.__table__)  # type: ignore[arg-type]
        return took

    def close(self) -> None:
        self._database.close()


# -- one message ------------------------------------------------------------------------------------------------------


def order(engine: Engine, tell: Callable[[Session], object] | None = None) -> None:
    with Session(engine) as session:
        session.add(Order(note="tea"))
        if tell is not None:
            tell(session)
        session.commit()


def message() -> Message:
    return Message("mail", "send", PAYLOAD)


def by_driver(session: Session) -> None:
    session.flush()
    values = (uuid.uuid4().hex, "mail", "send", json.dumps({"version": 1, "payload": PAYLOAD}))
    session.connection().exec_driver_sql(_by_hand(session.get_bind()), values)


def _by_hand(engine: Any) -> str:
    mark, now = ("?", "datetime('now')") if engine.dialect.name == "sqlite" else ("%s", "now()")
    marks = ", ".join([mark] * 4)
    columns = "message_id, destination, name, payload, created_at, due_at"
    return f"INSERT INTO postresponse_outbox ({columns}) VALUES ({marks}, {now}, {now})"


def as_object(session: Session) -> None:
    document = json.dumps({"version": 1, "payload": PAYLOAD})
    row = Waiting(message_id=uuid.uuid4().hex, destination="mail", name="send", payload=document, due_at=_now())
    session.add(row)


def _now() -> Any:
    from datetime import UTC, datetime

    return datetime.now(UTC)


def enlist(session: Session) -> None:
    outbox.enlist(message(), into=session)


def one() -> Sequence[Case]:
    """A unit of work that stores one order, and the same with one message."""
    return [
        Case(
            database,
            [
                Contender("the unit of work without it", "limit", partial(Writes, database, order)),
                Contender(
                    "an INSERT through the driver",
                    "minimum",
                    partial(Writes, database, partial(order, tell=by_driver)),
                ),
                Contender("a row of the ORM's", "minimum", partial(Writes, database, partial(order, tell=as_object))),
                Contender(
                    "Outbox.enlist", "ours", partial(Writes, database, partial(order, tell=enlist)), target=target
                ),
            ],
        )
        for database, target in zip(DATABASES, (1.15, 1.25), strict=True)
    ]


# -- many messages ----------------------------------------------------------------------------------------------------


def executemany(engine: Engine, count: int = 100) -> None:
    document = json.dumps({"version": 1, "payload": PAYLOAD})
    rows = [(uuid.uuid4().hex, "mail", "send", document) for _ in range(count)]
    with engine.connect() as connection:
        driver: Any = connection.connection
        cursor = driver.cursor()
        cursor.executemany(_by_hand(engine), rows)
        driver.commit()


def executemany_each(engine: Engine, count: int = 100) -> None:
    """As `executemany`, with what each message says made for it, as it is where they differ."""
    rows = [
        (uuid.uuid4().hex, "mail", "send", json.dumps({"version": 1, "payload": PAYLOAD}, allow_nan=False))
        for _ in range(count)
    ]
    with engine.connect() as connection:
        driver: Any = connection.connection
        driver.cursor().executemany(_by_hand(engine), rows)
        driver.commit()


def core_loop(engine: Engine, count: int = 100) -> None:
    from postresponse.messaging.clock import now

    with engine.begin() as connection:
        for _ in range(count):
            connection.execute(
                insert(outbox.tables.waiting).values(
                    message_id=uuid.uuid4(),
                    destination="mail",
                    name="send",
                    payload=json.dumps({"version": 1, "payload": PAYLOAD}),
                    created_at=now(),
                    due_at=now(),
                )
            )


def enlist_all(engine: Engine, count: int = 100) -> None:
    with Session(engine) as session:
        for _ in range(count):
            outbox.enlist(message(), into=session)
        session.commit()


def many() -> Sequence[Case]:
    """A hundred messages in one transaction."""
    return [
        Case(
            database,
            [
                Contender("executemany of the driver", "limit", partial(Writes, database, executemany)),
                Contender(
                    "the same, each with its own document", "minimum", partial(Writes, database, executemany_each)
                ),
                Contender("a loop of SQLAlchemy Core", "minimum", partial(Writes, database, core_loop)),
                *(queues.enqueuers() if database == "PostgreSQL" else ()),
                Contender("Outbox.enlist", "ours", partial(Writes, database, enlist_all), target=1.4),
            ],
        )
        for database in DATABASES
    ]


# -- relaying ---------------------------------------------------------------------------------------------------------


class Relays(Subject):
    """Claims and acknowledges batches.

    Args:
        database: Which.
        do: Claims one batch, and acknowledges it; returns how many there were.
        batch: How many messages it has.
        backlog: Messages that wait for another time, beside those that are due.
    """

    def __init__(self, database: str, do: Callable[[Engine, int], int], batch: int = 100, backlog: int = 0) -> None:
        self._database = Database(database)
        self._do, self._batch = do, batch
        if backlog:
            self._fill(backlog, "3600 seconds", "mail")

    def _fill(self, count: int, later: str = "", destination: str = "mail") -> None:
        engine = self._database.engine
        document = sealed(PAYLOAD)
        due = "now()" if not later else f"now() + interval '{later}'"
        if engine.dialect.name == "sqlite":
            shift = f", '+{later}'" if later else ""
            due = f"strftime('%Y-%m-%d %H:%M:%f000', 'now'{shift})"
        now = "now()" if engine.dialect.name == "postgresql" else due
        columns = "message_id, destination, name, payload, created_at, due_at"
        mark = "%s" if engine.dialect.name == "postgresql" else "?"
        statement = f"INSERT INTO postresponse_outbox ({columns}) VALUES ({mark}, {mark}, 'send', {mark}, {now}, {due})"
        with engine.begin() as connection:
            rows = [(uuid.uuid4().hex, destination, document) for _ in range(count)]
            connection.exec_driver_sql(statement, rows)
        if engine.dialect.name == "postgresql":
            with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
                connection.execute(text("VACUUM ANALYZE postresponse_outbox"))

    def seconds(self, count: int) -> float:
        if self._batch:
            self._fill(count * self._batch)
        engine, do, batch = self._database.engine, self._do, self._batch
        begun = time.perf_counter()
        for _ in range(count):
            found = do(engine, batch)
            assert found == batch, f"{found} of {batch} were claimed"
        return time.perf_counter() - begun

    def close(self) -> None:
        self._database.close()


READ: Final = "RETURNING id, message_id, name, payload, headers"


def chosen(engine: Engine, batch: int) -> str:
    """The condition for a batch that is due."""
    is_sqlite = engine.dialect.name == "sqlite"
    now = "strftime('%Y-%m-%d %H:%M:%f000', 'now')" if is_sqlite else "statement_timestamp()"
    due = (
        f"SELECT id FROM postresponse_outbox WHERE destination = 'mail' AND token IS NULL AND due_at <= {now} "
        f"ORDER BY due_at, id LIMIT {batch}"
    )
    return f"id IN ({due})" if is_sqlite else f"id = ANY(ARRAY({due} FOR UPDATE SKIP LOCKED))"


def pop(engine: Engine, batch: int) -> int:
    """Delete and read at once: what is read is lost with its reader."""
    with engine.begin() as connection:
        statement = f"DELETE FROM postresponse_outbox WHERE {chosen(engine, batch)} {READ}"
        return len(connection.exec_driver_sql(statement).all())


def lease_and_delete(engine: Engine, batch: int) -> int:
    """A lease by hand, and a DELETE of its token."""
    token = uuid.uuid4().hex
    until = "datetime('now', '60 seconds')" if engine.dialect.name == "sqlite" else "now() + interval '60 seconds'"
    lease = (
        f"UPDATE postresponse_outbox SET token = '{token}', leased_until = {until} WHERE {chosen(engine, batch)} {READ}"
    )
    with engine.begin() as connection:
        found = connection.exec_driver_sql(lease).all()
    with engine.begin() as connection:
        ids = ", ".join(str(row[0]) for row in found)
        connection.exec_driver_sql(f"DELETE FROM postresponse_outbox WHERE token = '{token}' AND id IN ({ids})")
    return len(found)


def claim_and_acknowledge(engine: Engine, batch: int) -> int:
    """As the `Database` of a relay does it."""
    if engine.dialect.name == "postgresql":
        engine = engine.execution_options(isolation_level="AUTOCOMMIT")
    with engine.begin() as connection:
        found = store.claim(connection, "mail", batch, 60.0)
    with engine.begin() as connection:
        return store.delivered(connection, found)


def relaying() -> Sequence[Case]:
    """Batches of a hundred, claimed and acknowledged."""
    return [
        Case(
            database,
            [
                Contender("DELETE ... RETURNING", "limit", partial(Relays, database, pop)),
                Contender("a lease, then DELETE, by hand", "minimum", partial(Relays, database, lease_and_delete)),
                *(queues.takers() if database == "PostgreSQL" else ()),
                Contender("the relay's store", "ours", partial(Relays, database, claim_and_acknowledge), target=3.0),
            ],
        )
        for database in DATABASES
    ]


def claim_nothing(engine: Engine, batch: int) -> int:
    with engine.begin() as connection:
        return len(store.claim(connection, "mail", 100, 60.0))


def growth_batch() -> Sequence[Case]:
    """Messages of one transaction."""
    ways: list[tuple[str, Kind, Callable[..., object]]] = [
        ("executemany", "limit", executemany),
        ("Outbox.enlist", "ours", enlist_all),
    ]
    return [
        Case(
            str(count),
            [
                Contender(f"{name}, {database}", kind, partial(Writes, database, partial(do, count=count)))
                for database in DATABASES
                for name, kind, do in ways
            ],
        )
        for count in (1, 10, 100, 1000)
    ]


def growth_backlog() -> Sequence[Case]:
    """Messages that wait for another time, beside a batch of ten that is due, or none."""
    return [
        Case(
            f"{backlog:,}",
            [
                Contender(f"{database}, {due} due", "ours", partial(Relays, database, do, due, backlog))
                for database in DATABASES
                for do, due in ((claim_and_acknowledge, 10), (claim_nothing, 0))
            ],
        )
        for backlog in (0, 2_000, 20_000, 200_000)
    ]
