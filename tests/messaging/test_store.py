"""The store of an outbox on each database, and what is so of these alone."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Engine, text

from postresponse.exceptions import UnsupportedDatabase
from postresponse.messaging import Outbox
from postresponse.messaging.store import Lease, Store
from postresponse.messaging.tables import check_database
from postresponse.testing.contracts import OutboxStoreContract
from postresponse.testing.contracts.store import enlist


def text_now(engine: Engine) -> Any:
    return datetime.now(UTC) + timedelta(hours=1)


class TestStore(OutboxStoreContract):
    """On SQLite, PostgreSQL and MariaDB."""

    @pytest.fixture
    def engine(self, engine: Engine) -> Engine:  # of the folder's conftest
        return engine

    def test_that_test_fails_without_the_fence(
        self, engine: Engine, outbox: Outbox, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        columns = outbox.tables.waiting.c
        monkeypatch.setattr(Store, "_mine", lambda self, message: (columns.id == message.handle.row,))
        with pytest.raises(AssertionError):
            self.test_every_change_is_fenced_by_the_token_of_its_claim(engine, outbox, store)

    def test_the_index_of_what_is_due_is_used(self, engine: Engine, outbox: Outbox, store: Store) -> None:
        """On a backlog of which nothing is due, and on one where all waits for another destination."""
        if engine.dialect.name == "mysql":
            pytest.skip("EXPLAIN of MariaDB's says less")
        table = outbox.tables.waiting
        rows = [
            {
                "message_id": uuid4(),
                "destination": "events" if number % 2 else "mail",
                "name": "send",
                "payload": "{}",
                "created_at": text_now(engine),
                "due_at": text_now(engine),
            }
            for number in range(2000)
        ]
        with engine.begin() as connection:
            connection.execute(table.insert(), rows)
            if engine.dialect.name == "postgresql":
                connection.execute(text("ANALYZE"))
            compiled: Any = store._due(locking=False).compile(dialect=engine.dialect)
            explain = "EXPLAIN " if engine.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN "
            given: Any = {"of": "mail", "limit": 10}
            if compiled.positiontup:
                given = tuple(given.get(name, 0) for name in compiled.positiontup)
            plan = "\n".join(str(row) for row in connection.exec_driver_sql(f"{explain}{compiled}", given))
        assert "ix_postresponse_outbox_due" in plan
        assert "Sort" not in plan
        assert "TEMP B-TREE" not in plan

    def test_a_claim_alone_is_not_waited_for_until_it_is_on_the_disk(
        self, engine: Engine, outbox: Outbox, store: Store
    ) -> None:
        if engine.dialect.name != "postgresql":
            pytest.skip("the others have no such setting for one transaction")
        enlist(engine, outbox, 1)

        def waits(connection: Connection) -> bool:
            return connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"

        with engine.connect() as connection:
            assert waits(connection)
            claimed = store.claim(connection, "mail", 10, 60)
            assert not waits(connection)
            connection.commit()
            assert waits(connection)
            assert store.delivered(connection, claimed) == 1
            assert waits(connection)
            connection.commit()

    @pytest.mark.parametrize(
        ("name", "version", "says"),
        [
            ("oracle", None, "needs SQLite, PostgreSQL, MariaDB or MySQL, and this is oracle"),
            ("sqlite", (3, 34, 1), r"needs sqlite 3\.35 or newer, and this is 3\.34\.1"),
            ("postgresql", (11, 5), r"needs postgresql 12 or newer, and this is 11\.5"),
            ("mysql", (5, 7, 40), r"needs mysql 8\.0\.16 or newer, and this is 5\.7\.40"),
        ],
    )
    def test_a_database_that_will_not_do_is_named(self, name: str, version: tuple[int, ...] | None, says: str) -> None:
        class Dialect:
            server_version_info = version

        Dialect.name = name  # type: ignore[attr-defined]

        class Connected:
            dialect = Dialect()

        with pytest.raises(UnsupportedDatabase, match=says):
            check_database(Connected())  # type: ignore[arg-type]

    def test_those_of_the_tests_will_do(self, engine: Engine) -> None:
        with engine.connect() as connection:
            check_database(connection)
            assert Lease(1, uuid4()).row == 1
