"""What the store of an outbox does, on whatever database."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, delete, func, literal, select, update
from sqlalchemy.orm import Session

from postresponse.exceptions import MessageRefused
from postresponse.messaging import Delivery, Message, Outbox
from postresponse.messaging.clock import later
from postresponse.messaging.delivery import Result, Settled
from postresponse.messaging.store import Stats, Store

__all__ = ["ALLOW", "OutboxStoreContract", "changes", "claim", "enlist", "payloads"]

ALLOW = {"mail": ["send", "poison"], "events": ["placed"]}
"""What the outbox of the suite takes."""


class OutboxStoreContract:
    """The suite for the `Store` of an outbox: a subclass whose name begins with `Test` says on which database.

    Example:
        >>> class TestOurDatabase(OutboxStoreContract):
        ...     @pytest.fixture
        ...     def engine(self): ...  # of an empty database
    """

    @pytest.fixture
    def engine(self) -> Any:
        """An Engine of an empty database; a fixture that disposes of it behind the test."""
        raise NotImplementedError(f"{type(self).__name__} has no fixture `engine`: it gives the database of the suite")

    @pytest.fixture
    def outbox(self, engine: Engine) -> Outbox:
        """An outbox that takes what `ALLOW` says, whose tables are there."""
        made = Outbox(ALLOW)
        made.tables.waiting.metadata.create_all(engine)
        return made

    @pytest.fixture
    def store(self, outbox: Outbox) -> Store:
        """Its store."""
        return Store(outbox.tables)

    def test_what_is_due_is_claimed_once_in_order_and_no_more_than_asked_for(
        self, engine: Engine, outbox: Outbox, store: Store
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
        self, engine: Engine, outbox: Outbox, store: Store
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

    def test_every_change_is_fenced_by_the_token_of_its_claim(
        self, engine: Engine, outbox: Outbox, store: Store
    ) -> None:
        enlist(engine, outbox, 1)
        (stale,) = claim(engine, store, lease=0.0)
        with engine.begin() as connection:
            assert store.expire(connection) == 1
        (current,) = claim(engine, store)
        assert changes(engine, store, stale) == [0] * 6
        with engine.begin() as connection:
            (row,) = connection.execute(select(outbox.tables.waiting)).all()
            assert (row.token, row.attempts, row.outages) == (current.handle.token, 0, 1)
            assert connection.scalar(select(func.count()).select_from(outbox.tables.dead)) == 0

    def test_whoever_holds_the_lease_may_do_each_of_them(self, engine: Engine, outbox: Outbox, store: Store) -> None:
        enlist(engine, outbox, 1)
        (delivery,) = claim(engine, store)
        assert changes(engine, store, delivery) == [1] * 6

    def test_what_becomes_of_the_claimed(self, engine: Engine, outbox: Outbox, store: Store) -> None:
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
        with engine.begin() as connection:
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

    def test_a_message_is_as_old_as_its_first_outage(self, engine: Engine, outbox: Outbox, store: Store) -> None:
        enlist(engine, outbox, 1)
        with engine.begin() as connection:
            connection.execute(update(outbox.tables.waiting).values(first_failed_at=later(literal(-500.0)), outages=1))
            (stats,) = store.stats(connection)
        (again,) = claim(engine, store)
        with engine.begin() as connection:
            store.failed(connection, Settled(again, Result.OUTAGE, "away"))
            (later_stats,) = store.stats(connection)
        assert 500 <= stats.oldest <= later_stats.oldest < 600

    def test_a_message_that_is_handed_back_with_a_delay_waits(
        self, engine: Engine, outbox: Outbox, store: Store
    ) -> None:
        enlist(engine, outbox, 1)
        (delivery,) = claim(engine, store)
        with engine.begin() as connection:
            assert store.hand_back(connection, [delivery], 100.0) == 1
        assert claim(engine, store) == []

    def test_a_destination_that_is_paused_is_not_claimed_from_until_it_is_resumed(
        self, engine: Engine, outbox: Outbox, store: Store
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

    def test_a_later_commit_with_a_lower_id_is_not_skipped(self, engine: Engine, outbox: Outbox, store: Store) -> None:
        if engine.dialect.name == "sqlite":
            pytest.skip("SQLite has one writer")
        with engine.connect() as slow:
            slow.begin()
            outbox._writer.write(slow, [Message("mail", "send", "slow")])
            enlist(engine, outbox, "fast")
            assert payloads(claim(engine, store)) == ["fast"]
            slow.commit()
        assert payloads(claim(engine, store)) == ["slow"]

    def test_what_another_relay_is_just_claiming_is_passed_over(
        self, engine: Engine, outbox: Outbox, store: Store
    ) -> None:
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

    def test_rows_that_nobody_can_read_are_claimed_as_any_other(
        self, engine: Engine, outbox: Outbox, store: Store
    ) -> None:
        enlist(engine, outbox, 1)
        with engine.begin() as connection:
            connection.execute(update(outbox.tables.waiting).values(payload="{", headers="["))
        (delivery,) = claim(engine, store)
        with pytest.raises(MessageRefused, match="no JSON"):
            _ = delivery.payload
        with pytest.raises(MessageRefused, match="headers that are no JSON"):
            _ = delivery.headers


def enlist(engine: Engine, outbox: Outbox, *payloads: Any, destination: str = "mail", **options: Any) -> None:
    """Enlist messages in a transaction that commits."""
    with Session(engine) as session:
        for payload in payloads:
            name = next(iter(outbox.allow[destination]))
            outbox.enlist(Message(destination, name, payload, **options), into=session)
        session.commit()


def claim(engine: Engine, store: Store, limit: int = 100, lease: float = 60.0) -> list[Delivery]:
    """Claim what is due."""
    with engine.begin() as connection:
        return store.claim(connection, "mail", limit, lease)


def payloads(deliveries: list[Delivery]) -> list[Any]:
    """What they say."""
    return [each.payload for each in deliveries]


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
