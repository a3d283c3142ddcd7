"""Two-phase commit on real databases that prepare transactions: what is stored, whatever fails in between."""

import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import NullPool
from werkzeug.test import create_environ, run_wsgi_app

from postresponse import CommitPolicy, Retry, current_exchange, wsgi
from postresponse.exceptions import (
    CommitInDoubt,
    CommitRefused,
    ConfigurationError,
    UnitOfWorkError,
    WrongApplication,
)
from postresponse.testing.contracts import UnitOfWorkContract
from postresponse.unit_of_work import in_doubt
from postresponse.unit_of_work.composite import TwoPhase
from postresponse.unit_of_work.prepared import Name, _PostgreSQL, database_of
from postresponse.unit_of_work.recovery import recover
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork, SQLAlchemyUnitOfWork
from tests.core.exchanges import exchange_of
from tests.services import own_postgres
from tests.services.own_postgres import Cluster
from tests.unit_of_work.two_databases import READ, REFUSED, WRITE, MixedShop, Shop, Site

Captured = pytest.LogCaptureFixture

postgresql = pytest.mark.service("own postgresql")
DRIVERS = ("psycopg", "asyncpg")
BOTH = (("orders", WRITE.format(1)), ("audit", WRITE.format(1)))


@pytest.fixture
def shop(cluster: Cluster) -> Iterator[Shop]:
    """Two empty databases; nothing stays prepared."""
    shop = Shop(cluster)
    yield shop
    left = shop.prepared
    shop.clear()
    assert left == []


@pytest.fixture(params=DRIVERS)
def site(request: pytest.FixtureRequest, shop: Shop) -> Site:
    return shop.site(request.param)


# -- as any unit of work ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="class")
def made(cluster: Cluster) -> Shop:
    """Two databases for the suite, of which each test begins with empty ones."""
    return Shop(cluster)


@postgresql
class TestTwoPhase(UnitOfWorkContract):
    """A row in each of two databases."""

    @pytest.fixture(autouse=True)
    def _databases(self, made: Shop) -> Iterator[None]:
        self.shop, self.numbers = made, dict[str, int]()
        self.engines = [create_engine(made.url(member)) for member in made.members]
        for member in made.members:
            made.execute(member, "DELETE FROM item")
        self.members: Any = [SQLAlchemyUnitOfWork(sessionmaker(engine)) for engine in self.engines]
        self.both = self.together()
        yield
        for engine in self.engines:
            engine.dispose()

    def together(self) -> TwoPhase:
        return TwoPhase(**dict(zip(self.shop.members, self.members, strict=True)))

    def factory(self) -> Callable[[Any], Any]:
        return self.both

    def row(self, key: str, statement: str = WRITE) -> Any:
        return text(statement.format(self.numbers.setdefault(key, len(self.numbers))))

    def store(self, key: str) -> Any:
        for member in self.members:
            member.session.execute(self.row(key))

    def store_what_cannot_be_committed(self, key: str) -> Any:
        for member, statement in zip(self.members, (WRITE, REFUSED), strict=True):
            member.session.execute(self.row(key, statement))

    def stored(self) -> list[str]:
        orders, audit = self.shop.stored
        assert orders == audit
        assert self.shop.prepared == []
        return [key for key, number in self.numbers.items() if number in orders]

    def in_use(self) -> int:
        return sum(engine.pool.checkedout() for engine in self.engines)  # type: ignore[attr-defined]


class TestAsyncTwoPhase(TestTwoPhase):
    """The same by async sessions."""

    protocols = ("asgi",)

    def together(self) -> TwoPhase:
        # Each request has an event loop of its own here, and a connection belongs to its loop.
        engines = [create_async_engine(self.shop.url(each, "asyncpg"), poolclass=NullPool) for each in Shop.members]
        self.members = [AsyncSQLAlchemyUnitOfWork(async_sessionmaker(engine)) for engine in engines]
        return super().together()

    async def store(self, key: str) -> Any:
        for member in self.members:
            await member.session.execute(self.row(key))

    async def store_what_cannot_be_committed(self, key: str) -> Any:
        for member, statement in zip(self.members, (WRITE, REFUSED), strict=True):
            await member.session.execute(self.row(key, statement))


# -- as they should ---------------------------------------------------------------------------------------------------


@postgresql
@pytest.mark.parametrize("commit", ["head", "buffered", "after_send"])
def test_what_was_written_to_both_is_prepared_and_committed(shop: Shop, site: Site, commit: str) -> None:
    site.options["commit"] = commit
    answer = site.post(*BOTH)
    assert (answer.status, answer.unit, shop.stored) == (201, "committed", [[1], [1]])
    assert answer.ends == [
        ("orders", "PREPARE TRANSACTION"),
        ("audit", "PREPARE TRANSACTION"),
        ("orders", "COMMIT PREPARED"),
        ("audit", "COMMIT PREPARED"),
    ]


@postgresql
@pytest.mark.parametrize("order", [("orders", "audit"), ("audit", "orders")], ids="-".join)
def test_the_first_in_order_decides_whoever_was_used_first(shop: Shop, order: tuple[str, str]) -> None:
    answer = shop.site(order=order).post(*BOTH)
    names = [said for _, said in answer.statements if said.startswith("PREPARE")]
    own, other = (Name.parse(said.split("'")[1]) for said in names)
    assert own is not None
    assert (own.decider, own.branch) == (order[0], None)
    assert other == own._replace(branch=1)
    (system,) = shop.execute("orders", "SELECT system_identifier FROM pg_control_system()")[0]
    assert own.system == system
    assert shop.execute(order[0], f"SELECT pg_xact_status('{own.transaction}')") == [("committed",)]


@postgresql
def test_an_order_that_is_not_acceptable_rolls_both_back(shop: Shop, site: Site) -> None:
    answer = site.post(*BOTH, status=409)
    assert (answer.status, answer.unit, shop.stored, answer.ends) == (409, "rolled_back", [[], []], [])


@postgresql
@pytest.mark.parametrize("status", [201, 409])
def test_a_connection_that_has_committed_is_as_good_as_a_new_one(shop: Shop, site: Site, status: int) -> None:
    site.before = [(member, WRITE.format(5)) for member in shop.members]
    answer = site.post(*BOTH, status=status)
    assert answer.unit == ("committed" if status == 201 else "rolled_back")
    assert shop.stored == ([[1, 5], [1, 5]] if status == 201 else [[5], [5]])


@postgresql
@pytest.mark.parametrize("refused", ["orders", "audit"])
def test_a_refusal_by_either_rolls_both_back(shop: Shop, site: Site, refused: str) -> None:
    work = [(member, (REFUSED if member == refused else WRITE).format(1)) for member in shop.members]
    answer = site.post(*work)
    assert (answer.status, answer.unit, shop.stored) == (500, "failed", [[], []])
    assert answer.failures[0].partial is False
    assert isinstance(answer.outcome.exception, DBAPIError)
    assert answer.ends == (
        [("orders", "PREPARE TRANSACTION")]
        if refused == "orders"
        else [("orders", "PREPARE TRANSACTION"), ("audit", "PREPARE TRANSACTION"), ("orders", "ROLLBACK PREPARED")]
    )


@postgresql
@pytest.mark.parametrize("member", ["orders", "audit"])
def test_where_one_alone_was_used_it_commits_as_it_would_by_itself(shop: Shop, site: Site, member: str) -> None:
    answer = site.post((member, WRITE.format(1)))
    assert (answer.unit, shop.items(member), answer.ends) == ("committed", [1], [])
    assert {name for name, _ in answer.statements} == {member}


@postgresql
@pytest.mark.parametrize("work", [(), *[((member, READ),) for member in Shop.members]], ids=["none", *Shop.members])
def test_what_did_not_write_costs_no_preparing(site: Site, work: Any) -> None:
    answer = site.post(*work)
    assert (answer.unit, answer.ends) == ("committed", [])
    assert len(answer.statements) == len(work)


@postgresql
@pytest.mark.parametrize("writer", ["orders", "audit", None])
def test_those_that_only_read_commit_without_being_prepared(shop: Shop, site: Site, writer: str | None) -> None:
    answer = site.post(*((member, WRITE.format(1) if member == writer else READ) for member in shop.members))
    assert (answer.unit, answer.ends) == ("committed", [])
    assert shop.stored == [[1] if member == writer else [] for member in shop.members]


@postgresql
def test_a_notify_of_one_that_wrote_nothing_is_sent_before_the_others_are_prepared(shop: Shop, site: Site) -> None:
    """As the docstring says; that it commits first is what makes its own failure roll all back."""
    site.urls["stock"] = shop.url("audit", "asyncpg" if "asyncpg" in site.urls["orders"] else "psycopg")
    with psycopg.connect(shop.cluster.url("orders"), autocommit=True) as listening:
        listening.execute("LISTEN paid")
        notify = "SELECT pg_notify('paid', 'one')"
        answer = site.post(("orders", notify), ("audit", WRITE.format(1)), ("stock", REFUSED.format(2)))
        heard = [each.payload for each in listening.notifies(timeout=5, stop_after=1)]
    assert (answer.status, answer.unit, shop.stored, heard) == (500, "failed", [[], []], ["one"])


@postgresql
def test_a_session_that_was_asked_for_and_not_used_takes_no_part(shop: Shop, site: Site) -> None:
    answer = site.post(("orders", WRITE.format(1)), view=lambda sessions: None)
    assert (answer.unit, answer.ends, shop.stored) == ("committed", [], [[1], []])


@postgresql
def test_one_that_the_handler_committed_itself_is_left_alone(shop: Shop, site: Site) -> None:
    answer = site.post(*BOTH, view=lambda sessions: sessions["orders"].commit(), status=409)
    assert (answer.unit, answer.ends, shop.stored) == ("rolled_back", [], [[1], []])


@postgresql
def test_what_a_session_holds_back_and_its_listeners_write_is_prepared_with_it(shop: Shop, site: Site) -> None:
    heard: list[str] = []

    def before_commit(session: Session) -> None:
        session.execute(text("INSERT INTO item VALUES (2)"))
        heard.append("before")

    def after_commit(session: Session) -> None:
        heard.append(f"after, {len(shop.prepared)} prepared, {shop.stored}")

    site.session_hooks += [("audit", "before_commit", before_commit), ("audit", "after_commit", after_commit)]
    answer = site.post(("orders", WRITE.format(1)), ("audit", READ))
    assert (answer.unit, shop.stored) == ("committed", [[1], [2]])
    assert answer.ends[1] == ("audit", "PREPARE TRANSACTION")
    assert heard == ["before", "after, 0 prepared, [[1], [2]]"]


@postgresql
@pytest.mark.parametrize("member", Shop.members)
def test_a_refusal_of_what_a_session_held_back_rolls_both_back(shop: Shop, site: Site, member: str) -> None:
    site.session_hooks.append((member, "before_commit", lambda session: session.execute(text(WRITE.format(1)))))
    answer = site.post(*BOTH)
    assert (answer.status, answer.unit, shop.stored, answer.ends) == (500, "failed", [[], []], [])
    assert isinstance(answer.outcome.exception, IntegrityError)


@postgresql
def test_savepoints_are_a_part_of_it(shop: Shop, site: Site) -> None:
    def view(sessions: dict[str, Session]) -> None:
        for session in sessions.values():
            session.execute(text(WRITE.format(1)))
            with session.begin_nested():
                session.execute(text(WRITE.format(2)))
            with pytest.raises(DBAPIError), session.begin_nested():
                session.execute(text(WRITE.format(2)))

    answer = site.post(view=view)
    assert (answer.unit, shop.stored) == ("committed", [[1, 2], [1, 2]])


@postgresql
@pytest.mark.parametrize("member", Shop.members)
def test_a_swallowed_error_refuses_the_commit_of_both(shop: Shop, site: Site, member: str) -> None:
    """PostgreSQL would answer PREPARE with a rollback, and no error."""

    def view(sessions: dict[str, Session]) -> None:
        with pytest.raises(DBAPIError):
            sessions[member].execute(text(WRITE.format(1)))

    answer = site.post(*BOTH, view=view)
    assert (answer.status, answer.unit, shop.stored, answer.ends) == (500, "failed", [[], []], [])
    assert isinstance(answer.outcome.exception, CommitRefused)
    assert str(answer.outcome.exception).startswith(f"{member}: a statement failed, its error was swallowed")
    assert "duplicate key" in str(answer.outcome.exception.__cause__)


@postgresql
def test_a_conflict_that_preparing_meets_is_run_again(shop: Shop, site: Site) -> None:
    site.options["commit"] = CommitPolicy(retry=Retry(backoff=0))
    shop.execute("orders", "INSERT INTO item VALUES (100), (101)")
    attempts: list[int] = []

    def view(sessions: dict[str, Session]) -> None:
        attempts.append(current_exchange().attempt)
        orders, audit = sessions["orders"], sessions["audit"]
        orders.execute(text("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"))
        orders.execute(text("SELECT sum(id) FROM item")).one()
        orders.execute(text("INSERT INTO item VALUES (1)"))
        audit.execute(text("INSERT INTO item VALUES (1)"))
        if len(attempts) == 1:  # the other half of a write skew
            with (
                create_engine(shop.url("orders"), isolation_level="SERIALIZABLE").connect() as connection,
                connection.begin(),
            ):
                connection.execute(text("SELECT sum(id) FROM item")).one()
                connection.execute(text("INSERT INTO item VALUES (2)"))
            connection.engine.dispose()

    answer = site.post(view=view)
    assert (answer.status, answer.unit, attempts) == (201, "committed", [1, 2])
    assert shop.stored == [[1, 2, 100, 101], [1]]


@postgresql
@pytest.mark.parametrize("driver", DRIVERS)
def test_a_request_leaves_nothing_to_the_collector(shop: Shop, driver: str) -> None:
    site = shop.site(driver)
    alive: list[weakref.ref[Any]] = []

    def view(sessions: dict[str, Session]) -> None:
        alive.extend(weakref.ref(found) for found in (current_exchange(), *sessions.values()))
        alive.extend(weakref.ref(session.connection()) for session in sessions.values())
        gc.collect()
        gc.disable()

    try:
        site.post(*BOTH, view=view)
        found = [each() for each in alive]
    finally:
        gc.enable()
    assert found == [None] * 5


# -- connections lost -------------------------------------------------------------------------------------------------


@postgresql
def test_a_decision_whose_connection_is_lost_on_the_way_is_made_on_another(
    shop: Shop, site: Site, caplog: Captured
) -> None:
    site.when("orders", "COMMIT PREPARED", lambda connection: shop.cut("orders"))
    answer = site.post(*BOTH)
    assert (answer.status, answer.unit, shop.stored) == (201, "committed", [[1], [1]])
    assert " /orders: orders committed all the same" in caplog.text


@postgresql
def test_a_decision_whose_answer_is_lost_is_looked_up(shop: Shop, site: Site) -> None:
    def decided_and_lost(connection: Connection) -> None:
        shop.execute("orders", f"COMMIT PREPARED '{shop.prepared[0]}'")
        shop.cut("orders")

    site.when("orders", "COMMIT PREPARED", decided_and_lost)
    answer = site.post(*BOTH)
    assert (answer.status, answer.unit, shop.stored) == (201, "committed", [[1], [1]])


@postgresql
@pytest.mark.parametrize("lost", [False, True], ids=["", "lost"])
@pytest.mark.parametrize("who", ["recovery", "hand"])
def test_a_decision_that_another_made_before_is_taken(shop: Shop, site: Site, who: str, lost: bool) -> None:
    def rolled_back(connection: Connection) -> None:
        if who == "hand":
            shop.execute("orders", f"ROLLBACK PREPARED '{shop.prepared[0]}'")
        else:
            assert len(recover(shop.engines(), older_than=0)) == 2
        if lost:
            shop.cut("orders")

    site.when("orders", "COMMIT PREPARED", rolled_back)
    answer = site.post(*BOTH)
    assert (answer.status, answer.unit, shop.stored, shop.prepared) == (500, "failed", [[], []], [])
    assert isinstance(answer.outcome.exception, CommitRefused)
    assert str(answer.outcome.exception) == "orders was rolled back before it could decide, by a recovery or by hand"


@postgresql
def test_where_nobody_can_tell_all_stays_prepared_and_the_client_is_told_so(
    shop: Shop, site: Site, caplog: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_doubt, "LIMIT", 0.3)
    site.when("orders", "COMMIT PREPARED", lambda connection: shop.close("orders"))
    answer = site.post(*BOTH)
    assert (answer.status, answer.unit) == (503, "unknown")
    assert isinstance(answer.outcome.exception, CommitInDoubt)
    assert answer.failures[0].unknown is True
    assert len(shop.prepared) == 2
    assert caplog.text.count("postresponse recover orders=URL audit=URL") >= 2
    assert f"audit waits for a decision and stays prepared as {shop.prepared[1]}" in caplog.text
    assert "orders waits" not in caplog.text
    shop.allow("orders")
    told = recover(shop.engines(), older_than=0)
    assert [(each.member, each.action) for each in told] == [("orders", "rolled back"), ("audit", "rolled back")]
    assert shop.stored == [[], []]


@postgresql
def test_one_that_loses_its_connection_once_all_is_decided_commits_on_another(
    shop: Shop, site: Site, caplog: Captured
) -> None:
    site.when("audit", "COMMIT PREPARED", lambda connection: shop.cut("audit"))
    answer = site.post(*BOTH)
    assert (answer.status, answer.unit, shop.stored) == (201, "committed", [[1], [1]])
    assert "audit committed all the same" in caplog.text


@postgresql
def test_one_that_the_recovery_was_faster_to_commit_is_committed(shop: Shop, site: Site) -> None:
    def committed(connection: Connection) -> None:
        told = recover(shop.engines(), older_than=0)
        assert [(each.member, each.action) for each in told] == [("audit", "committed")]

    site.when("audit", "COMMIT PREPARED", committed)
    answer = site.post(*BOTH)
    assert (answer.status, answer.unit, shop.stored) == (201, "committed", [[1], [1]])


@postgresql
def test_one_that_was_rolled_back_by_hand_though_decided_is_an_error_in_the_log(
    shop: Shop, site: Site, caplog: Captured
) -> None:
    def rolled_back(connection: Connection) -> None:
        (left,) = shop.prepared
        shop.execute("audit", f"ROLLBACK PREPARED '{left}'")

    site.when("audit", "COMMIT PREPARED", rolled_back)
    answer = site.post(*BOTH)
    assert (answer.status, answer.unit, shop.stored) == (201, "committed", [[1], []])
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage().endswith(" /orders: audit is decided to commit, and somebody rolled it back")


@postgresql
def test_what_is_decided_stays_decided_though_one_cannot_be_reached_any_more(
    shop: Shop, site: Site, caplog: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_doubt, "LIMIT", 0.3)
    site.when("audit", "COMMIT PREPARED", lambda connection: shop.close("audit"))
    answer = site.post(*BOTH)
    assert (answer.status, answer.unit, shop.items("orders")) == (201, "committed", [1])
    (left,) = shop.prepared
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage().endswith(
        f"audit is decided to commit and, unless its server has lost it, stays prepared as {left}; to end it: "
        "postresponse recover orders=URL audit=URL"
    )
    shop.allow("audit")
    told = recover(shop.engines(), older_than=0)
    assert [(each.member, each.action) for each in told] == [("audit", "committed")]
    assert shop.stored == [[1], [1]]


@postgresql
@pytest.mark.parametrize("member", Shop.members)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_one_that_loses_its_connection_as_it_is_prepared_is_not_half_way(
    shop: Shop, site: Site, member: str, moment: str
) -> None:
    site.when(member, "PREPARE TRANSACTION", lambda connection: shop.cut(member), moment)
    answer = site.post(*BOTH)
    # Once all is prepared the connections are needed no more: the commits are made on others.
    expected = ("failed", [[], []]) if moment == "before" else ("committed", [[1], [1]])
    assert (answer.unit, shop.stored) == expected


@postgresql
def test_what_was_prepared_and_cannot_be_rolled_back_by_its_own_connection_is_by_another(
    shop: Shop, site: Site, caplog: Captured
) -> None:
    site.when("audit", "PREPARE TRANSACTION", lambda connection: shop.cut("orders"))
    site.when("audit", "PREPARE TRANSACTION", lambda connection: shop.cut("audit"))
    answer = site.post(*BOTH)
    assert (answer.status, answer.unit, shop.stored, shop.prepared) == (500, "failed", [[], []], [])
    assert "audit could not roll back" not in caplog.text
    assert "audit may be prepared, and if so stays prepared as" in caplog.text


@postgresql
def test_what_cannot_be_rolled_back_at_all_is_told_of_and_left_to_the_recovery(
    shop: Shop, site: Site, caplog: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_doubt, "LIMIT", 0.3)
    site.when("audit", "PREPARE TRANSACTION", lambda connection: shop.close("orders"))
    site.when("audit", "PREPARE TRANSACTION", lambda connection: shop.cut("audit"))
    answer = site.post(*BOTH)
    assert (answer.status, answer.unit, len(shop.prepared)) == (500, "failed", 1)
    assert f"orders may be prepared, and if so stays prepared as {shop.prepared[0]}" in caplog.text
    shop.allow("orders")
    recover(shop.engines(), older_than=0)
    assert (shop.stored, shop.prepared) == ([[], []], [])


@postgresql
def test_one_that_only_read_and_loses_its_connection_leaves_no_doubt(shop: Shop, site: Site) -> None:
    def lose(session: Session) -> None:
        event.listen(session.connection(), "commit", lambda connection: shop.cut("orders"))

    site.session_hooks.append(("orders", "before_commit", lose))
    answer = site.post(("orders", READ), ("audit", WRITE.format(1)))
    assert (answer.status, answer.unit, shop.stored) == (500, "failed", [[], []])
    assert isinstance(answer.outcome.exception, CommitRefused)


@postgresql
def test_what_is_prepared_is_committed_by_nobody_else_meanwhile(shop: Shop, site: Site) -> None:
    sessions: dict[str, Session] = {}
    site.when("audit", "PREPARE TRANSACTION", lambda connection: sessions["orders"].commit())
    answer = site.post(*BOTH, view=sessions.update)
    assert (answer.status, answer.unit, shop.stored) == (500, "failed", [[], []])
    assert "is prepared, and commits when it is decided" in str(answer.outcome.exception)


@postgresql
def test_an_answer_to_prepare_that_is_none_leaves_it_to_be_looked_for(
    shop: Shop, site: Site, caplog: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As drivers do that raise something else than that they lost the connection."""
    prepare = _PostgreSQL.prepare

    def loses_the_answer(self: Any, connection: Connection, name: Name) -> None:
        prepare(self, connection, name)
        if name.branch is not None:
            raise OperationalError("PREPARE", {}, TimeoutError())

    monkeypatch.setattr(_PostgreSQL, "prepare", loses_the_answer)
    answer = site.post(*BOTH)
    assert (answer.status, answer.unit, shop.stored, shop.prepared) == (500, "failed", [[], []], [])
    assert "audit may be prepared, and if so stays prepared as" in caplog.text


@postgresql
@pytest.mark.parametrize("member", Shop.members)
def test_one_that_another_holds_is_not_taken_for_committed(
    shop: Shop, site: Site, member: str, caplog: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_doubt, "LIMIT", 0.3)
    with ExitStack() as held:

        def hold(connection: Connection) -> None:
            held.enter_context(shop.held(member, f"COMMIT PREPARED '{shop.prepared[0]}'"))

        site.when(member, "COMMIT PREPARED", hold)
        answer = site.post(*BOTH)
    assert (answer.status, answer.unit) == ((503, "unknown") if member == "orders" else (201, "committed"))
    assert "audit waits for" in caplog.text if member == "orders" else "audit is decided to commit" in caplog.text
    assert "committed all the same" not in caplog.text
    recover(shop.engines(), older_than=0)
    assert shop.stored == [[1], [1]]


@postgresql
def test_one_that_another_holds_is_not_taken_for_rolled_back(
    shop: Shop, site: Site, caplog: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_doubt, "LIMIT", 0.3)
    with ExitStack() as held:

        def hold(connection: Connection) -> None:
            held.enter_context(shop.held("orders", f"ROLLBACK PREPARED '{shop.prepared[0]}'"))

        site.when("orders", "ROLLBACK PREPARED", hold)
        answer = site.post(("orders", WRITE.format(1)), ("audit", REFUSED.format(1)))
    assert (answer.status, answer.unit, shop.stored) == (500, "failed", [[], []])
    assert "orders may be prepared, and if so stays prepared as" in caplog.text


def streamed(shop: Shop, statement: str, lose: Callable[[], object]) -> str:
    """Answer one request that uses both sessions again behind its first byte, with *lose* right before *statement*."""
    engines = {name: create_engine(url) for name, url in shop.site().urls.items()}
    members = {name: SQLAlchemyUnitOfWork(sessionmaker(engine)) for name, engine in engines.items()}
    once = [lose]

    def heard(member: str, said: str) -> None:
        if once and f"{member}: {said}".startswith(statement):
            once.pop()()

    for name, engine in engines.items():
        event.listen(engine, "before_cursor_execute", lambda *args, name=name: heard(name, args[2]))

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("201 Created", [("Content-Type", "text/plain")])
        for member in members.values():
            member.session.execute(text(WRITE.format(1)))
        yield b"first"
        for member in members.values():
            member.session.execute(text(READ))
        yield b"second"

    wrapped = wsgi.PostResponseMiddleware(app, unit_of_work=TwoPhase(**members))
    try:
        _, status, _ = run_wsgi_app(wrapped, create_environ("/orders"), buffered=True)
    finally:
        for engine in engines.values():
            engine.dispose()
    return str(status)


@postgresql
@pytest.mark.parametrize("member", Shop.members)
def test_what_was_committed_on_another_connection_is_not_said_to_be_left_by_a_late_use(
    shop: Shop, member: str, caplog: Captured
) -> None:
    assert streamed(shop, f"{member}: COMMIT PREPARED", lambda: shop.cut(member)) == "201 Created"
    assert (shop.stored, shop.prepared) == ([[1], [1]], [])
    assert f"{member} committed all the same" in caplog.text
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


@postgresql
def test_what_is_left_is_told_of_once_and_not_by_a_late_use_again(
    shop: Shop, caplog: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_doubt, "LIMIT", 0.3)

    def lose() -> None:
        shop.execute("postgres", "ALTER ROLE app NOLOGIN")
        shop.cut("audit")

    try:
        # Its own late use is refused, and that of the other one never comes.
        with pytest.raises(DBAPIError):
            streamed(shop, "audit: COMMIT PREPARED", lose)
    finally:
        shop.execute("postgres", "ALTER ROLE app LOGIN")
    assert caplog.text.count("stays prepared as") == 1
    assert [(each.member, each.action) for each in recover(shop.engines(), older_than=0)] == [("audit", "committed")]


class Interrupted(BaseException):
    """As KeyboardInterrupt, without pytest's own ideas about that one."""


def interrupt(connection: Connection) -> None:
    raise Interrupted


@postgresql
@pytest.mark.parametrize("statement", ["PREPARE TRANSACTION", "COMMIT PREPARED"])
@pytest.mark.parametrize("member", Shop.members)
def test_a_process_that_is_told_to_end_leaves_nothing_half_way(
    shop: Shop, member: str, statement: str, caplog: Captured
) -> None:
    site = shop.site()
    site.when(member, statement, interrupt)
    with pytest.raises(Interrupted):
        site.post(*BOTH)
    decided = (member, statement) == ("audit", "COMMIT PREPARED")
    if (member, statement) == ("orders", "COMMIT PREPARED"):
        assert len(shop.prepared) == 2
        recover(shop.engines(), older_than=0)
    assert shop.prepared == []
    assert shop.stored == ([[1], [1]] if decided else [[], []])


@postgresql
def test_what_is_given_up_instead_of_rolled_back_leaves_nothing_prepared(shop: Shop) -> None:
    """As the core does where a thread may still be at work on the connection."""
    engines = {name: create_engine(url) for name, url in shop.site().urls.items()}
    members = {name: SQLAlchemyUnitOfWork(sessionmaker(engine)) for name, engine in engines.items()}
    exchange = exchange_of()
    unit = TwoPhase(**members)(exchange)

    def leave(connection: Connection, cursor: object, statement: str, *others: object) -> None:
        if statement.startswith("PREPARE"):
            raise SystemExit

    event.listen(engines["audit"], "before_cursor_execute", leave)
    for member in members.values():
        exchange.units[member].session.execute(text(WRITE.format(1)))
    with pytest.raises(SystemExit):
        unit.commit()
    assert len(shop.prepared) == 1
    unit.invalidate()
    assert (shop.prepared, shop.stored, unit.touched) == ([], [[], []], False)
    for engine in engines.values():
        engine.dispose()


@postgresql
def test_a_process_that_is_told_to_end_while_it_rolls_back_has_rolled_back_the_others(shop: Shop) -> None:
    site = shop.site()
    site.when("orders", "ROLLBACK PREPARED", interrupt)
    with pytest.raises(Interrupted):
        site.post(("orders", WRITE.format(1)), ("audit", REFUSED.format(1)))
    assert (shop.prepared, shop.stored) == ([], [[], []])


@postgresql
def test_a_listener_that_fails_behind_a_commit_changes_nothing_of_it(shop: Shop, site: Site, caplog: Captured) -> None:
    def fails(session: Session) -> None:
        raise LookupError("the mail server is down")

    site.session_hooks += [(member, "after_commit", fails) for member in shop.members]
    answer = site.post(*BOTH)
    assert (answer.status, answer.unit, shop.stored) == (201, "committed", [[1], [1]])
    told = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert told == ["the mail server is down"] * 2


@postgresql
def test_while_recoveries_run_all_the_time_every_answer_stays_true(shop: Shop) -> None:
    """They roll back what is prepared right away, and commit what is decided: two at once, with a live application."""
    over = threading.Event()
    faults: list[BaseException] = []
    ended: list[str] = []

    def recovering() -> None:
        engines = shop.engines()
        try:
            while not over.is_set():
                ended.extend(each.action for each in recover(engines, older_than=0) if each.action != "left")
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=recovering) for _ in range(2)]
    for thread in threads:
        thread.start()
    committed = []
    try:
        for number in range(40):
            answer = shop.site().post(*((member, WRITE.format(number)) for member in shop.members))
            assert (answer.status, answer.unit) in ((201, "committed"), (500, "failed"))
            if answer.unit == "committed":
                committed.append(number)
    finally:
        over.set()
        for thread in threads:
            thread.join(20)
    assert faults == []
    assert shop.stored == [committed, committed]
    assert ended


# -- refused ----------------------------------------------------------------------------------------------------------


def sync(url: str) -> SQLAlchemyUnitOfWork:
    return SQLAlchemyUnitOfWork(sessionmaker(create_engine(url)))


PG = "postgresql+psycopg://127.0.0.1/none"


@pytest.mark.parametrize(
    ("members", "said"),
    [
        (lambda: {"orders": sync(PG), "audit": sync("sqlite://")}, "TwoPhase: audit is on sqlite, which keeps no"),
        (lambda: {"orders": sync("sqlite://"), "audit": sync(PG)}, "TwoPhase: orders is on sqlite, which keeps no"),
        (
            lambda: {"orders": sync("mysql+pymysql://127.0.0.1/none"), "audit": sync(PG)},
            "TwoPhase: orders is on mysql, which cannot decide; give a member on PostgreSQL first",
        ),
        (lambda: {"orders": sync(PG)}, "expected two or more"),
        (
            lambda: {"orders": sync(PG), "audit": lambda exchange: None},
            "TwoPhase: audit: expected a SQLAlchemyUnitOfWork",
        ),
        (lambda: {"orders": sync(PG), "a" * 17: sync(PG)}, "'a{17}' becomes a part of the name"),
        (lambda: {"bestellungen_für": sync(PG), "audit": sync(PG)}, "use letters, digits and underscores, 16 at most"),
    ],
    ids=["sqlite second", "sqlite first", "mariadb first", "one", "no session", "long", "letters"],
)
def test_what_cannot_be_prepared_is_refused_at_construction(members: Callable[[], Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        TwoPhase(**members())


def test_sync_and_async_sessions_are_refused_at_construction() -> None:
    with pytest.raises(WrongApplication, match="orders is sync and audit is async"):
        TwoPhase(orders=sync(PG), audit=AsyncSQLAlchemyUnitOfWork(async_sessionmaker()))


class Dialect:
    """What a connected dialect tells."""

    def __init__(self, name: str, version: tuple[int, ...], *, is_mariadb: bool = False) -> None:
        self.name = name
        self.server_version_info = version
        self.is_mariadb = is_mariadb


@pytest.mark.parametrize(
    ("dialect", "said"),
    [
        (Dialect("postgresql", (12, 9)), "audit is on PostgreSQL 12.9, and 13 or later is needed; give it to Chained"),
        (Dialect("mysql", (10, 4, 33), is_mariadb=True), "audit is on MariaDB 10.4.33, which loses a prepared"),
        (Dialect("mysql", (8, 4, 0)), "audit is on mysql, which keeps no prepared transactions here"),
        (Dialect("oracle", (23,)), "audit is on oracle, which keeps no prepared transactions here"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_server_that_does_not_keep_what_is_prepared_is_refused_by_its_name(dialect: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        database_of(dialect, "audit")


@postgresql
def test_a_server_that_prepares_none_is_refused_by_the_first_statement(shop: Shop) -> None:
    with own_postgres.cluster(max_prepared_transactions=0) as other:
        url = other.url("audit").replace("postgresql:", "postgresql+psycopg:")
        site = Site({"orders": shop.url("orders"), "audit": url})
        seen: list[str] = []

        def view(sessions: dict[str, Session]) -> None:
            sessions["orders"].execute(text("SELECT 1"))
            for _ in range(2):
                with pytest.raises(ConfigurationError) as refused:
                    sessions["audit"].execute(text("SELECT 1"))
                seen.append(str(refused.value))
                sessions["audit"].rollback()

        site.post(view=view)
    assert len(seen) == 2
    assert seen[0].startswith("TwoPhase: audit is on a PostgreSQL with max_prepared_transactions = 0 (")
    assert "audit" in seen[0]
    assert "set it to the number of requests that may commit at once" in seen[0]


@postgresql
def test_a_database_that_only_the_session_tells_is_refused_by_its_first_statement(shop: Shop, tmp_path: Path) -> None:
    site = shop.site()
    site.urls["audit"] = f"sqlite:///{tmp_path / 'audit.sqlite3'}"
    site.session_hooks.append(("audit", "before_commit", lambda session: None))  # so that a function makes it

    def view(sessions: dict[str, Session]) -> None:
        with pytest.raises(ConfigurationError, match="TwoPhase: audit is on sqlite, which keeps no"):
            sessions["audit"].execute(text("SELECT 1"))
        sessions["audit"].rollback()

    assert site.post(view=view).status == 201


@postgresql
def test_a_session_on_two_databases_is_refused(shop: Shop) -> None:
    other = create_engine(shop.url("audit"))

    def view(sessions: dict[str, Session]) -> None:
        with pytest.raises(UnitOfWorkError, match="TwoPhase: orders: its session is on two databases"):
            sessions["orders"].execute(text("SELECT 1"), bind_arguments={"bind": other})

    answer = shop.site().post(("orders", WRITE.format(1)), view=view, status=409)
    assert (answer.unit, shop.stored) == ("rolled_back", [[], []])
    other.dispose()


# -- MariaDB behind PostgreSQL ----------------------------------------------------------------------------------------


def on_both(test: Any) -> Any:
    return pytest.mark.service("own postgresql")(pytest.mark.service("mariadb")(test))


@on_both
def test_mariadb_takes_part_under_a_name_from_its_first_statement(mixed: MixedShop) -> None:
    answer = mixed.site().post(*reversed(BOTH))
    assert (answer.status, answer.unit, mixed.stored) == (201, "committed", [[1], [1]])
    assert answer.ends == [
        ("audit", "XA START"),
        ("orders", "PREPARE TRANSACTION"),
        ("audit", "XA END"),
        ("audit", "XA PREPARE"),
        ("orders", "COMMIT PREPARED"),
        ("audit", "XA COMMIT"),
    ]


@on_both
def test_mariadb_alone_is_decided_by_the_first_member_all_the_same(mixed: MixedShop) -> None:
    answer = mixed.site().post(("audit", WRITE.format(1)))
    assert (answer.unit, mixed.stored) == ("committed", [[], [1]])
    assert ("orders", "COMMIT PREPARED") in answer.ends


@on_both
def test_mariadb_is_rolled_back_where_the_status_says_so(mixed: MixedShop) -> None:
    answer = mixed.site().post(*BOTH, status=404)
    assert (answer.unit, mixed.stored) == ("rolled_back", [[], []])
    assert answer.ends == [("audit", "XA START"), ("audit", "XA END"), ("audit", "XA ROLLBACK")]


@on_both
def test_mariadb_is_rolled_back_where_postgresql_refuses(mixed: MixedShop) -> None:
    answer = mixed.site().post(("orders", REFUSED.format(1)), ("audit", WRITE.format(1)))
    assert (answer.status, answer.unit, mixed.stored) == (500, "failed", [[], []])


@on_both
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("statement", ["XA END", "XA PREPARE", "XA COMMIT"])
def test_mariadb_is_not_half_way_whenever_its_connection_is_lost(mixed: MixedShop, statement: str, moment: str) -> None:
    site = mixed.site()
    site.when("audit", statement, lambda connection: mixed.cut("audit"), moment)
    answer = site.post(*BOTH)
    assert (answer.unit, mixed.stored) in [("committed", [[1], [1]]), ("failed", [[], []])]
    assert (answer.unit == "committed") is (statement == "XA COMMIT" or (statement, moment) == ("XA PREPARE", "after"))


@on_both
def test_mariadb_that_refuses_to_commit_what_is_decided_is_asked_again_on_another_connection(mixed: MixedShop) -> None:
    """Which it would not let commit as long as the first one is there."""

    def refuse(connection: Connection) -> None:
        raise OperationalError("XA COMMIT", {}, Exception("no room"))

    site = mixed.site()
    site.when("audit", "XA COMMIT", refuse)
    answer = site.post(*BOTH)
    assert (answer.unit, mixed.stored, mixed.prepared) == ("committed", [[1], [1]], [])


@on_both
@pytest.mark.parametrize("statement", ["XA END", "XA ROLLBACK"])
def test_mariadb_that_loses_its_connection_as_it_rolls_back_has_rolled_back(mixed: MixedShop, statement: str) -> None:
    site = mixed.site()
    site.when("audit", statement, lambda connection: mixed.cut("audit"))
    answer = site.post(*BOTH, status=404)
    assert (answer.status, answer.unit, mixed.stored) == (404, "rolled_back", [[], []])


@on_both
def test_mariadb_whose_connection_is_known_to_be_lost_is_not_asked_to_roll_back(
    mixed: MixedShop, caplog: Captured
) -> None:
    def view(sessions: dict[str, Session]) -> None:
        mixed.cut("audit")
        with pytest.raises(DBAPIError):
            sessions["audit"].execute(text(READ))

    answer = mixed.site().post(*BOTH, view=view, status=404)
    assert (answer.status, answer.unit, mixed.stored) == (404, "rolled_back", [[], []])
    assert "could not roll back" not in caplog.text


@on_both
def test_a_recovery_leaves_what_its_connection_in_mariadb_still_holds(mixed: MixedShop) -> None:
    told: list[Any] = []
    site = mixed.site()
    site.when("audit", "XA COMMIT", lambda connection: told.extend(recover(mixed.engines(), older_than=0)))
    answer = site.post(*BOTH)
    assert (answer.unit, mixed.stored) == ("committed", [[1], [1]])
    (left,) = told
    assert (left.member, left.action) == ("audit", "left")
    assert left.reason.startswith("the connection that prepared it still holds it, and transaction ")


@on_both
@pytest.mark.parametrize("commits", [True, False])
def test_a_handler_may_end_its_session_on_mariadb_itself_and_go_on(mixed: MixedShop, commits: bool) -> None:
    def view(sessions: dict[str, Session]) -> None:
        audit = sessions["audit"]
        audit.execute(text(WRITE.format(1)))
        if commits:
            audit.commit()
        else:
            audit.rollback()
        audit.execute(text(WRITE.format(2)))
        sessions["orders"].execute(text(WRITE.format(2)))

    answer = mixed.site().post(view=view)
    assert (answer.unit, mixed.stored) == ("committed", [[2], [1, 2] if commits else [2]])


@on_both
def test_savepoints_on_mariadb_are_a_part_of_it(mixed: MixedShop) -> None:
    def view(sessions: dict[str, Session]) -> None:
        audit = sessions["audit"]
        audit.execute(text(WRITE.format(1)))
        with audit.begin_nested():
            audit.execute(text(WRITE.format(2)))
        with pytest.raises(DBAPIError), audit.begin_nested():
            audit.execute(text(WRITE.format(1)))

    assert mixed.site().post(view=view).unit == "committed"
    assert mixed.stored == [[], [1, 2]]


@on_both
def test_a_handler_that_ends_the_first_members_transaction_under_mariadb_is_refused(mixed: MixedShop) -> None:
    def view(sessions: dict[str, Session]) -> None:
        sessions["audit"].execute(text(WRITE.format(1)))
        sessions["orders"].execute(text(WRITE.format(1)))
        sessions["orders"].rollback()
        sessions["orders"].execute(text(WRITE.format(2)))

    answer = mixed.site().post(view=view)
    assert (answer.status, answer.unit, mixed.stored) == (500, "failed", [[], []])
    assert "the handler ended a transaction of the first member after audit had begun" in str(answer.outcome.exception)


@on_both
def test_what_mariadb_does_behind_the_end_is_rolled_back_without_a_name(mixed: MixedShop) -> None:
    engines = {name: create_engine(url) for name, url in mixed.site().urls.items()}
    members = {name: SQLAlchemyUnitOfWork(sessionmaker(engine)) for name, engine in engines.items()}
    statements: list[str] = []
    event.listen(engines["audit"], "before_cursor_execute", lambda *args: statements.append(args[2]))

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("201 Created", [("Content-Type", "text/plain")])
        members["audit"].session.execute(text(WRITE.format(1)))
        yield b"first"
        members["audit"].session.execute(text(WRITE.format(2)))
        yield b"second"

    wrapped = wsgi.PostResponseMiddleware(app, unit_of_work=TwoPhase(**members))
    run_wsgi_app(wrapped, create_environ("/orders"), buffered=True)
    assert statements[-1] == WRITE.format(2)
    assert mixed.stored == [[], [1]]
    for engine in engines.values():
        engine.dispose()


@on_both
def test_a_deadlock_on_mariadb_is_no_commit_and_harms_no_connection(mixed: MixedShop) -> None:
    mixed.execute("audit", "INSERT INTO item VALUES (1, NULL), (2, NULL), (3, NULL), (4, NULL), (5, NULL)")
    mixed.execute("audit", "INSERT INTO customer VALUES (1)")
    other_waits = threading.Thread(target=_take_all_but_the_first, args=(mixed,))

    def view(sessions: dict[str, Session]) -> None:
        audit = sessions["audit"]
        audit.execute(text("UPDATE item SET customer = 1 WHERE id = 1"))
        other_waits.start()
        while not mixed.execute("audit", "SELECT * FROM information_schema.innodb_lock_waits"):
            time.sleep(0.2)  # a view that is read more often than every 0.1 s never changes
        with pytest.raises(DBAPIError, match="1213"):
            audit.execute(text("UPDATE item SET customer = 1 WHERE id = 2"))
        sessions["orders"].execute(text(WRITE.format(1)))

    answer = mixed.site().post(view=view)
    other_waits.join()
    assert (answer.unit, mixed.items("orders")) == ("failed", [])


def _take_all_but_the_first(mixed: MixedShop) -> None:
    with create_engine(mixed.url("audit"), poolclass=NullPool).begin() as connection:
        connection.execute(text("UPDATE item SET customer = 1 WHERE id > 1"))
        connection.execute(text("UPDATE item SET customer = 1 WHERE id = 1"))


@on_both
def test_mariadb_in_the_first_place_that_only_the_session_tells_is_refused(mixed: MixedShop) -> None:
    site = mixed.site(order=("audit", "orders"))
    site.session_hooks.append(("audit", "before_commit", lambda session: None))  # so that a function makes it

    def view(sessions: dict[str, Session]) -> None:
        with pytest.raises(
            ConfigurationError, match="TwoPhase: audit is on MariaDB, which cannot decide; give a member"
        ):
            sessions["audit"].execute(text("SELECT 1"))
        sessions["audit"].rollback()

    assert site.post(view=view, status=404).status == 404


@on_both
def test_mariadb_in_the_first_place_is_refused_by_another_one_too(mixed: MixedShop) -> None:
    site = Site({"first": mixed.url("audit"), "audit": mixed.url("audit"), "orders": mixed.url("orders")})
    site.session_hooks.append(("first", "before_commit", lambda session: None))  # so that a function makes it

    def view(sessions: dict[str, Session]) -> None:
        with pytest.raises(ConfigurationError, match="TwoPhase: first is on MariaDB, which cannot decide"):
            sessions["audit"].execute(text("SELECT 1"))
        sessions["audit"].rollback()

    assert site.post(view=view, status=404).status == 404


@on_both
def test_mariadb_does_not_decide_where_the_handler_ended_the_one_that_was_to(mixed: MixedShop) -> None:
    site = mixed.site()
    site.urls["stock"] = Shop.url(mixed, "audit")

    def view(sessions: dict[str, Session]) -> None:
        sessions["audit"].execute(text(WRITE.format(1)))
        sessions["stock"].execute(text("CREATE TABLE stock (id INTEGER)"))
        sessions["orders"].rollback()

    answer = site.post(view=view)
    assert (answer.status, answer.unit, mixed.stored) == (500, "failed", [[], []])
    assert "audit is on MariaDB, which cannot decide, and its decider was ended early" in str(answer.outcome.exception)
