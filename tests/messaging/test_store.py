from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Engine, delete, func, literal, select, text, update
from sqlalchemy.orm import Session

from postresponse.exceptions import MessageRefused, UnsupportedDatabase
from postresponse.messaging import Delivery, Message, Outbox
from postresponse.messaging.clock import later
from postresponse.messaging.delivery import Result, Settled
from postresponse.messaging.store import Lease, Stats, Store
from postresponse.messaging.tables import check_database


@pytest.fixture
def store(outbox: Outbox) -> Store:
    return Store(outbox.tables)


def enlist(engine: Engine, outbox: Outbox, *payloads: Any, destination: str = "mail", **options: Any) -> None:
    with Session(engine) as session:
        for payload in payloads:
            name = next(iter(outbox.allow[destination]))
            outbox.enlist(Message(destination, name, payload, **options), into=session)
        session.commit()


def claim(engine: Engine, store: Store, limit: int = 100, lease: float = 60.0) -> list[Delivery]:
    with engine.begin() as connection:
        return store.claim(connection, "mail", limit, lease)


def payloads(deliveries: list[Delivery]) -> list[Any]:
    return [each.payload for each in deliveries]


@contextmanager
def reader(engine: Engine) -> Iterator[Connection]:
    with engine.begin() as connection:
        yield connection


def test_what_is_due_is_claimed_once_in_order_and_no_more_than_asked_for(
    engine: Engine, outbox: Outbox, store: Store
) -> None:
    enlist(engine, outbox, *range(5))
    enlist(engine, outbox, "later", delay=100)
    enlist(engine, outbox, "another's", destination="events")
    first = claim(engine, store, 2)
    assert payloads(first) == [0, 1]
    assert payloads(claim(engine, store)) == [2, 3, 4]
    assert claim(engine, store) == []
    assert first[0].destination == "mail"
    assert first[0].name in outbox.allow["mail"]
    assert (first[0].attempts, first[0].headers, first[0].deferrals) == (0, {}, 0)


def test_of_one_ordering_key_the_next_is_claimed_when_the_one_before_is_gone(
    engine: Engine, outbox: Outbox, store: Store
) -> None:
    enlist(engine, outbox, 1, 2, 3, ordering_key="a")
    enlist(engine, outbox, 4, ordering_key="b")
    enlist(engine, outbox, 5)
    found = claim(engine, store)
    assert payloads(found) == [1, 4, 5]
    assert claim(engine, store) == []
    with engine.begin() as connection:
        assert store.failed(connection, Settled(found[0], Result.FAILED, "no", 100)) == 1
    assert claim(engine, store) == []  # the first one waits for its next attempt, and they wait behind it
    with engine.begin() as connection:
        connection.execute(delete(outbox.tables.waiting).where(outbox.tables.waiting.c.id == found[0].handle.row))
    assert payloads(claim(engine, store)) == [2]


def test_every_change_is_fenced_by_the_token_of_its_claim(engine: Engine, outbox: Outbox, store: Store) -> None:
    enlist(engine, outbox, 1)
    (stale,) = claim(engine, store, lease=0.0)
    with engine.begin() as connection:
        assert store.expire(connection) == 1
    (current,) = claim(engine, store)
    assert changes(engine, store, stale) == [0] * 6
    with reader(engine) as connection:
        (row,) = connection.execute(select(outbox.tables.waiting)).all()
        assert (row.token, row.attempts, row.outages) == (current.handle.token, 0, 1)
        assert connection.scalar(select(func.count()).select_from(outbox.tables.dead)) == 0


def test_that_test_fails_without_the_fence(
    engine: Engine, outbox: Outbox, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = outbox.tables.waiting.c
    monkeypatch.setattr(Store, "_mine", lambda self, message: (columns.id == message.handle.row,))
    with pytest.raises(AssertionError):
        test_every_change_is_fenced_by_the_token_of_its_claim(engine, outbox, store)


def changes(engine: Engine, store: Store, delivery: Delivery) -> list[int]:
    """Try every change of a claimed row, each undone again, and return how many rows it changed."""
    tried = []
    all_changes: list[Callable[[Connection], int]] = [
        lambda connection: store.delivered(connection, [delivery]),
        lambda connection: store.failed(connection, Settled(delivery, Result.FAILED, "no", 1.0)),
        lambda connection: store.failed(connection, Settled(delivery, Result.OUTAGE, "no")),
        lambda connection: store.hand_back(connection, [delivery]),
        lambda connection: store.put_back(connection, delivery, {}),
        lambda connection: store.bury(connection, delivery, "no"),
    ]
    for change in all_changes:
        with engine.connect() as connection:
            tried.append(change(connection))
            connection.rollback()
    return tried


def test_whoever_holds_the_lease_may_do_each_of_them(engine: Engine, outbox: Outbox, store: Store) -> None:
    enlist(engine, outbox, 1)
    (delivery,) = claim(engine, store)
    assert changes(engine, store, delivery) == [1] * 6


def test_what_becomes_of_the_claimed(engine: Engine, outbox: Outbox, store: Store) -> None:
    enlist(engine, outbox, *range(6), headers={"tenant": "a"})
    done, failed, outage, back, deferred, dead = claim(engine, store)
    with engine.begin() as connection:
        store.delivered(connection, [done])
        store.failed(connection, Settled(failed, Result.FAILED, "x" * 600, 100.0))
        store.failed(connection, Settled(outage, Result.OUTAGE, "away"))
        store.hand_back(connection, [back])
        store.put_back(connection, deferred, deferred.deferred_headers)
        store.bury(connection, dead, "poison")
        (stats,) = store.stats(connection)
    assert replace(stats, oldest=0.0) == Stats("mail", due=3, delayed=1, dead=1)
    assert 0 <= stats.oldest < 60
    table = outbox.tables.waiting
    with reader(engine) as connection:
        rows = {row.id: row for row in connection.execute(select(table))}
        buried = connection.execute(select(outbox.tables.dead)).one()
    assert rows.keys() == {each.handle.row for each in (failed, outage, back, deferred)}
    row = rows[failed.handle.row]
    assert (row.attempts, row.outages, row.last_error, row.token) == (1, 0, "x" * 500, None)
    assert row.due_at > row.first_failed_at
    row = rows[outage.handle.row]
    assert (row.attempts, row.outages, row.last_error) == (0, 1, "away")
    assert row.due_at > rows[back.handle.row].due_at
    row = rows[back.handle.row]
    assert (row.attempts, row.outages, row.last_error, row.first_failed_at) == (0, 0, None, None)
    row = rows[deferred.handle.row]
    assert row.headers == '{"tenant": "a", "postresponse-deferrals": "1"}'
    assert row.due_at > rows[back.handle.row].due_at
    assert (buried.message_id, buried.attempts, buried.last_error) == (dead.id, 1, "poison")
    assert payloads(claim(engine, store)) == [2, 3, 4]
    with engine.begin() as connection:
        assert store.hand_back(connection, [failed]) == 0


def test_a_message_is_as_old_as_its_first_outage(engine: Engine, outbox: Outbox, store: Store) -> None:
    enlist(engine, outbox, 1)
    with engine.begin() as connection:
        connection.execute(update(outbox.tables.waiting).values(first_failed_at=later(literal(-500.0)), outages=1))
        (stats,) = store.stats(connection)
    (again,) = claim(engine, store)
    with engine.begin() as connection:
        store.failed(connection, Settled(again, Result.OUTAGE, "away"))
        (later_stats,) = store.stats(connection)
    assert 500 <= stats.oldest <= later_stats.oldest < 600


def test_a_message_that_is_handed_back_with_a_delay_waits(engine: Engine, outbox: Outbox, store: Store) -> None:
    enlist(engine, outbox, 1)
    (delivery,) = claim(engine, store)
    with engine.begin() as connection:
        assert store.hand_back(connection, [delivery], 100.0) == 1
    assert claim(engine, store) == []


def test_a_destination_that_is_paused_is_not_claimed_from_until_it_is_resumed(
    engine: Engine, outbox: Outbox, store: Store
) -> None:
    enlist(engine, outbox, 1)
    with engine.begin() as connection:
        assert store.pause(connection, "mail")
        assert not store.pause(connection, "mail")
        assert store.pause(connection, "events")
    assert claim(engine, store) == []
    with engine.begin() as connection:
        (events, mail) = store.stats(connection)
        assert (events, mail.paused, mail.due) == (Stats("events", paused=True), True, 1)
        assert store.resume(connection, "mail")
        assert not store.resume(connection, "mail")
        assert store.paused(connection) == {"events"}
    assert payloads(claim(engine, store)) == [1]


def test_a_later_commit_with_a_lower_id_is_not_skipped(engine: Engine, outbox: Outbox, store: Store) -> None:
    if engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer")
    with engine.connect() as slow:
        slow.begin()
        outbox._writer.write(slow, [Message("mail", "send", "slow")])
        enlist(engine, outbox, "fast")
        assert payloads(claim(engine, store)) == ["fast"]
        slow.commit()
    assert payloads(claim(engine, store)) == ["slow"]


def test_what_another_relay_is_just_claiming_is_passed_over(engine: Engine, outbox: Outbox, store: Store) -> None:
    if engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer")
    enlist(engine, outbox, *range(4))
    isolated = engine.execution_options(isolation_level="READ COMMITTED")
    with isolated.connect() as one, isolated.connect() as other:
        assert payloads(store.claim(one, "mail", 2, 60)) == [0, 1]
        assert payloads(store.claim(other, "mail", 100, 60)) == [2, 3]
        one.rollback()
        other.commit()
    assert payloads(claim(engine, store)) == [0, 1]


def test_rows_that_nobody_can_read_are_claimed_as_any_other(engine: Engine, outbox: Outbox, store: Store) -> None:
    enlist(engine, outbox, 1)
    with engine.begin() as connection:
        connection.execute(update(outbox.tables.waiting).values(payload="{", headers="["))
    (delivery,) = claim(engine, store)
    with pytest.raises(MessageRefused, match="no JSON"):
        _ = delivery.payload
    with pytest.raises(MessageRefused, match="headers that are no JSON"):
        _ = delivery.headers


def test_the_index_of_what_is_due_is_used(engine: Engine, outbox: Outbox, store: Store) -> None:
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


def test_a_claim_alone_is_not_waited_for_until_it_is_on_the_disk(engine: Engine, outbox: Outbox, store: Store) -> None:
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


def text_now(engine: Engine) -> Any:
    from datetime import UTC, datetime, timedelta

    return datetime.now(UTC) + timedelta(hours=1)


@pytest.mark.parametrize(
    ("name", "version", "says"),
    [
        ("oracle", None, "needs SQLite, PostgreSQL, MariaDB or MySQL, and this is oracle"),
        ("sqlite", (3, 34, 1), r"needs sqlite 3\.35 or newer, and this is 3\.34\.1"),
        ("postgresql", (11, 5), r"needs postgresql 12 or newer, and this is 11\.5"),
        ("mysql", (5, 7, 40), r"needs mysql 8\.0\.16 or newer, and this is 5\.7\.40"),
    ],
)
def test_a_database_that_will_not_do_is_named(name: str, version: tuple[int, ...] | None, says: str) -> None:
    class Dialect:
        server_version_info = version

    Dialect.name = name  # type: ignore[attr-defined]

    class Connected:
        dialect = Dialect()

    with pytest.raises(UnsupportedDatabase, match=says):
        check_database(Connected())  # type: ignore[arg-type]


def test_those_of_the_tests_will_do(engine: Engine) -> None:
    with engine.connect() as connection:
        check_database(connection)
        assert Lease(1, uuid4()).row == 1
