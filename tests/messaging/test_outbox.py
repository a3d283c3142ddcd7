import asyncio
import gc
import weakref
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, MetaData, create_engine, inspect, select, text
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from postresponse import CommitPolicy, Retry, asgi, current_exchange, wsgi
from postresponse.exceptions import (
    ConfigurationError,
    MessageRefused,
    NoExchange,
    NoTable,
    NoTransaction,
    NoUnitOfWork,
    ResponseStarted,
)
from postresponse.messaging import Message, Outbox
from postresponse.unit_of_work.composite import Chained
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork, SQLAlchemyUnitOfWork
from tests.fakes import Conflict, FakeUnits, run_asgi, run_wsgi
from tests.messaging.conftest import ALLOW, waiting


def mail(payload: Any = None, **options: Any) -> Message:
    return Message("mail", "send", payload, **options)


class Woken:
    """A relay that only counts how often it is woken."""

    def __init__(self, outbox: Outbox) -> None:
        self.times = 0
        outbox.wakes(self)

    def wake(self) -> None:
        self.times += 1


# -- in a session -----------------------------------------------------------------------------------------------------


def test_messages_are_there_once_their_session_has_committed_in_their_order(engine: Engine, outbox: Outbox) -> None:
    with Session(engine) as session:
        given = [mail(1), mail(2, dedupe_key="two"), mail(3, delay=5), Message("events", "placed", 4)]
        assert [outbox.enlist(each, into=session) for each in given] == [each.id for each in given]
        assert waiting(outbox, engine) == []
        session.commit()
    assert waiting(outbox, engine) == [1, 2, 3, 4]
    table = outbox.tables.waiting
    with engine.connect() as connection:
        rows = connection.execute(select(table).order_by(table.c.id)).all()
    assert [row.message_id for row in rows] == [each.id for each in given]
    assert {(row.attempts, row.outages, row.token, row.leased_until, row.last_error) for row in rows} == {
        (0, 0, None, None, None)
    }
    assert [row.due_at - row.created_at > timedelta(seconds=4.9) for row in rows] == [False, False, True, False]


def test_what_is_due_later_says_so_on_the_databases_clock(engine: Engine, outbox: Outbox) -> None:
    due = datetime.now(UTC) + timedelta(hours=1)
    with Session(engine) as session:
        outbox.enlist(mail(due=due, headers={"tenant": "a"}, ordering_key="k"), into=session)
        session.commit()
    with engine.connect() as connection:
        (row,) = connection.execute(select(outbox.tables.waiting)).all()
    assert (row.due_at, row.headers, row.ordering_key) == (due, '{"tenant": "a"}', "k")
    assert abs(row.created_at - datetime.now(UTC)) < timedelta(minutes=1)


def test_a_session_that_is_rolled_back_or_closed_leaves_nothing(engine: Engine, outbox: Outbox) -> None:
    woken = Woken(outbox)
    with Session(engine) as session:
        outbox.enlist(mail("rolled back"), into=session)
        session.rollback()
        outbox.enlist(mail("closed"), into=session)
        session.close()
        session.commit()
        outbox.enlist(mail("reset"), into=session)
        session.reset()
        session.commit()
        outbox.enlist(mail("kept"), into=session)
        session.commit()
        outbox.enlist(mail("left behind"), into=session)
    assert waiting(outbox, engine) == ["kept"]
    assert woken.times == 1


def test_a_message_dies_with_the_savepoint_that_it_was_enlisted_in(engine: Engine, outbox: Outbox) -> None:
    with Session(engine) as session:
        outbox.enlist(mail("before"), into=session)
        with session.begin_nested() as nested:
            outbox.enlist(mail("rolled back"), into=session)
            nested.rollback()
        with session.begin_nested() as outer:
            outbox.enlist(mail("in the outer one"), into=session)
            with session.begin_nested():
                outbox.enlist(mail("in the inner one, which was released"), into=session)
            outer.rollback()
        with session.begin_nested():
            outbox.enlist(mail("released"), into=session)
        outbox.enlist(mail("after"), into=session)
        session.commit()
    assert waiting(outbox, engine) == ["before", "released", "after"]


def test_a_session_that_commits_over_an_open_savepoint_writes_all(engine: Engine, outbox: Outbox) -> None:
    with Session(engine) as session:
        outbox.enlist(mail("before"), into=session)
        session.begin_nested()
        outbox.enlist(mail("outer"), into=session)
        session.begin_nested()
        outbox.enlist(mail("inner"), into=session)
        session.commit()
        outbox.enlist(mail("the next"), into=session)
        session.commit()
    assert waiting(outbox, engine) == ["before", "outer", "inner", "the next"]


def test_one_dedupe_key_is_one_message_while_it_waits(engine: Engine, outbox: Outbox) -> None:
    with Session(engine) as session:
        outbox.enlist(mail(1, dedupe_key="order 7"), into=session)
        outbox.enlist(mail(2, dedupe_key="order 7"), into=session)
        session.commit()
        outbox.enlist(mail(3, dedupe_key="order 7"), into=session)
        outbox.enlist(mail(4, dedupe_key="order 8"), into=session)
        session.commit()
    assert waiting(outbox, engine) == [1, 4]


def test_a_missing_table_fails_the_commit_and_says_how_to_make_it(engine: Engine) -> None:
    outbox = Outbox(ALLOW)
    with Session(engine) as session:
        outbox.enlist(mail(1), into=session)
        with pytest.raises(NoTable, match="postresponse_outbox: `postresponse outbox sql` prints the statements"):
            session.commit()
        if engine.dialect.name == "sqlite":  # elsewhere the transaction is over, and its messages with it
            outbox.tables.waiting.metadata.create_all(session.connection())
            session.commit()
            assert waiting(outbox, engine) == [1]


def test_whoever_listens_is_woken_behind_the_commit_and_an_error_there_harms_nobody(
    engine: Engine, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[list[Any]] = []

    class Looks:
        def wake(self) -> None:
            seen.append(waiting(outbox, engine))
            raise ZeroDivisionError

    looks = Looks()
    outbox.wakes(looks)
    with Session(engine) as session:
        outbox.enlist(mail(1), into=session)
        session.commit()
    assert seen == [[1]]
    assert "could not be woken" in caplog.text


def test_whoever_listens_is_not_kept_alive(outbox: Outbox) -> None:
    woken = weakref.ref(Woken(outbox))
    gc.collect()
    assert woken() is None


def test_several_outboxes_in_one_session(engine: Engine, outbox: Outbox) -> None:
    other = Outbox({"mail": ["send"]}, name="other_outbox")
    other.tables.waiting.metadata.create_all(engine)
    with Session(engine) as session:
        outbox.enlist(mail(1), into=session)
        other.enlist(mail(2), into=session)
        outbox.enlist(mail(3), into=session)
        session.commit()
    assert (waiting(outbox, engine), waiting(other, engine)) == ([1, 3], [2])


def test_a_scoped_session_is_the_session_of_its_scope(engine: Engine, outbox: Outbox) -> None:
    sessions = scoped_session(sessionmaker(engine))
    outbox.enlist(mail(1), into=sessions)
    sessions.commit()
    sessions.remove()
    assert waiting(outbox, engine) == [1]


def test_a_session_without_autobegin_has_to_be_begun(engine: Engine, outbox: Outbox) -> None:
    with Session(engine, autobegin=False) as session:
        with pytest.raises(NoTransaction, match="this session has autobegin off; call begin"):
            outbox.enlist(mail(), into=session)
        with session.begin():
            outbox.enlist(mail(1), into=session)
    assert waiting(outbox, engine) == [1]


# -- in a connection --------------------------------------------------------------------------------------------------


def test_messages_are_there_once_their_connection_has_committed(engine: Engine, outbox: Outbox) -> None:
    woken = Woken(outbox)
    with engine.connect() as connection:
        with connection.begin():
            outbox.enlist(mail(1), into=connection)
            outbox.enlist(mail(2), into=connection)
        with connection.begin() as transaction:
            outbox.enlist(mail("rolled back"), into=connection)
            transaction.rollback()
        with connection.begin():
            outbox.enlist(mail(3), into=connection)
        with connection.begin():
            pass
        assert woken.times == 0
    assert woken.times == 1
    with engine.connect() as connection:
        connection.begin()
        outbox.enlist(mail("closed"), into=connection)
    assert waiting(outbox, engine) == [1, 2, 3]
    assert woken.times == 1


def test_a_message_dies_with_the_savepoint_of_its_connection(engine: Engine, outbox: Outbox) -> None:
    with engine.begin() as connection:
        with connection.begin_nested() as nested:
            outbox.enlist(mail("rolled back"), into=connection)
            nested.rollback()
        with connection.begin_nested():
            outbox.enlist(mail(1), into=connection)
        outbox.enlist(mail(2), into=connection)
    assert waiting(outbox, engine) == [1, 2]


def test_what_was_enlisted_before_savepoints_of_a_connection_outlives_them_in_its_order(
    engine: Engine, outbox: Outbox
) -> None:
    with engine.begin() as connection:
        outbox.enlist(mail("before"), into=connection)
        with connection.begin_nested() as outer:
            outbox.enlist(mail("in the outer one"), into=connection)
            with connection.begin_nested():
                outbox.enlist(mail("in the inner one, which was released"), into=connection)
            outer.rollback()
        outbox.enlist(mail("between"), into=connection)
        with connection.begin_nested():
            outbox.enlist(mail("released"), into=connection)
        outbox.enlist(mail("after"), into=connection)
    assert waiting(outbox, engine) == ["before", "between", "released", "after"]


def test_a_connection_has_to_be_in_a_transaction(engine: Engine, outbox: Outbox) -> None:
    with engine.connect() as connection:
        with pytest.raises(NoTransaction, match="outside of a transaction: begin one on this connection"):
            outbox.enlist(mail(), into=connection)
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(text("SELECT 1"))
        with pytest.raises(NoTransaction, match="autocommit: nothing would bind the message"):
            outbox.enlist(mail(), into=connection)
    autocommit = create_engine("sqlite://", isolation_level="AUTOCOMMIT")
    with autocommit.begin() as connection, pytest.raises(NoTransaction, match="autocommit"):
        outbox.enlist(mail(), into=connection)
    autocommit.dispose()


# -- async ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def async_url(engine: Engine) -> tuple[Any, dict[str, Any]]:
    if engine.dialect.name == "mysql":
        pytest.skip("no async driver of MariaDB's is among the tests' own")
    options: dict[str, Any] = {}
    if engine.dialect.name == "postgresql":
        with engine.connect() as connection:
            options = {"options": f"-csearch_path={connection.scalar(text('SELECT current_schema()'))}"}
    drivers = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg"}
    return engine.url.set(drivername=drivers[engine.dialect.name]), options


def test_async_sessions_and_connections(engine: Engine, outbox: Outbox, async_url: Any) -> None:
    async def main() -> None:
        url, options = async_url
        made = create_async_engine(url, connect_args=options)
        sessions = async_sessionmaker(made)
        async with sessions() as session:
            outbox.enlist(mail(1), into=session)
            async with session.begin_nested() as nested:
                outbox.enlist(mail("rolled back"), into=session)
                await nested.rollback()
            await session.commit()
            outbox.enlist(mail("left behind"), into=session)
        async with made.begin() as connection:
            outbox.enlist(mail(2), into=connection)
            async with connection.begin_nested() as nested_too:
                outbox.enlist(mail("rolled back"), into=connection)
                await nested_too.rollback()
        scoped = async_scoped_session(sessions, scopefunc=asyncio.current_task)
        outbox.enlist(mail(3), into=scoped)
        await scoped.commit()
        await scoped.remove()
        with pytest.raises(NoTransaction, match="this connection was not started"):
            outbox.enlist(mail(), into=made.connect())
        await made.dispose()

    asyncio.run(main())
    assert waiting(outbox, engine) == [1, 2, 3]


# -- in a request -----------------------------------------------------------------------------------------------------


def wsgi_app(view: Any) -> Any:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        status = view()
        start_response(f"{status} Said", [])
        return [b"body"]

    return app


def asgi_app(view: Any) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        status = view()
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"body"})

    return app


@pytest.mark.parametrize("protocol", ["wsgi", "asgi"])
@pytest.mark.parametrize(("status", "kept"), [(200, [1, 2]), (409, [])])
def test_a_request_sends_what_it_enlisted_if_it_commits(
    engine: Engine, outbox: Outbox, protocol: str, status: int, kept: list[int]
) -> None:
    db = SQLAlchemyUnitOfWork(sessionmaker(engine))

    def view() -> int:
        outbox.enlist(mail(1))
        outbox.enlist(mail(2), into=db.session)
        return status

    if protocol == "wsgi":
        run_wsgi(wsgi.PostResponseMiddleware(wsgi_app(view), unit_of_work=db))
    else:
        run_asgi(asgi.PostResponseMiddleware(asgi_app(view), unit_of_work=db))
    assert waiting(outbox, engine) == kept


def test_an_async_unit_of_work_sends_as_well(engine: Engine, outbox: Outbox, async_url: Any) -> None:
    url, options = async_url

    async def app(scope: Any, receive: Any, send: Any) -> None:
        outbox.enlist(mail(1))
        await asgi_app(lambda: 200)(scope, receive, send)

    async def main() -> None:
        made = create_async_engine(url, connect_args=options)
        db = AsyncSQLAlchemyUnitOfWork(async_sessionmaker(made))
        await run_asgi_here(asgi.PostResponseMiddleware(app, unit_of_work=db))
        await made.dispose()

    asyncio.run(main())
    assert waiting(outbox, engine) == [1]


async def run_asgi_here(app: Any) -> None:
    from tests.fakes import StrictASGIServer

    await StrictASGIServer().run(app)


def test_of_a_request_that_is_run_again_the_last_attempt_alone_sends(engine: Engine, outbox: Outbox) -> None:
    db = SQLAlchemyUnitOfWork(sessionmaker(engine))

    def view() -> int:
        exchange = current_exchange()
        outbox.enlist(mail(exchange.attempt))

        def refuse() -> None:
            if exchange.attempt < 3:
                raise Conflict

        exchange.before_commit(refuse)
        return 200

    policy = CommitPolicy(retry=Retry(attempts=3, backoff=0))
    run_wsgi(wsgi.PostResponseMiddleware(wsgi_app(view), unit_of_work=db, commit=policy))
    assert waiting(outbox, engine) == [3]


def test_a_hook_before_the_commit_may_enlist_and_one_behind_it_comes_too_late(engine: Engine, outbox: Outbox) -> None:
    db = SQLAlchemyUnitOfWork(sessionmaker(engine))
    late: list[BaseException] = []

    def too_late() -> None:
        try:
            outbox.enlist(mail("late"))
        except ResponseStarted as error:
            late.append(error)

    def view() -> int:
        exchange = current_exchange()
        exchange.before_commit(lambda: outbox.enlist(mail("before")))
        exchange.after_commit(too_late)
        exchange.on_finished(lambda outcome: too_late())
        return 200

    run_wsgi(wsgi.PostResponseMiddleware(wsgi_app(view), unit_of_work=db))
    assert waiting(outbox, engine) == ["before"]
    assert len(late) == 2
    assert "enlist before the unit of work ends" in str(late[0])


def test_of_several_units_of_work_the_session_has_to_be_named(engine: Engine, outbox: Outbox) -> None:
    here, there = SQLAlchemyUnitOfWork(sessionmaker(engine)), SQLAlchemyUnitOfWork(sessionmaker(engine))

    def view() -> int:
        with pytest.raises(NoTransaction, match=r"finds 2 transactions .* give it into="):
            outbox.enlist(mail())
        outbox.enlist(mail(1), into=here.session)
        return 200

    run_wsgi(wsgi.PostResponseMiddleware(wsgi_app(view), unit_of_work=Chained(here=here, there=there)))
    assert waiting(outbox, engine) == [1]


def test_where_there_is_no_transaction_it_says_so(outbox: Outbox) -> None:
    with pytest.raises(NoExchange):
        outbox.enlist(mail())

    def observed() -> int:
        with pytest.raises(NoUnitOfWork, match="this middleware only observes"):
            outbox.enlist(mail())
        return 200

    def foreign() -> int:
        with pytest.raises(NoTransaction, match="finds no transactions"):
            outbox.enlist(mail())
        return 200

    assert run_wsgi(wsgi.PostResponseMiddleware(wsgi_app(observed))).code == 200
    assert run_wsgi(wsgi.PostResponseMiddleware(wsgi_app(foreign), unit_of_work=FakeUnits())).code == 200


def test_the_connection_of_a_unit_of_works_session_is_no_place_for_a_message(engine: Engine, outbox: Outbox) -> None:
    db = SQLAlchemyUnitOfWork(sessionmaker(engine))

    def view() -> int:
        with pytest.raises(NoTransaction, match="give it that session"):
            outbox.enlist(mail(), into=db.session.connection())
        return 200

    assert run_wsgi(wsgi.PostResponseMiddleware(wsgi_app(view), unit_of_work=db)).code == 200


# -- bad input --------------------------------------------------------------------------------------------------------


def test_what_the_outbox_does_not_allow_is_refused_where_it_is_enlisted() -> None:
    outbox = Outbox(ALLOW, max_size=50)
    with Session() as session:
        for message, says in (
            (Message("mial", "send"), "this outbox has no 'mial'.*did you mean 'mail'"),
            (Message("mail", "sent"), "'mail' takes no 'sent'.*did you mean 'send'"),
            (Message("mail", "send", "x" * 50), "bytes are over max_size=50; store them, and send where they are"),
            ({"mail": "send"}, "takes a Message, found"),
        ):
            with pytest.raises(MessageRefused, match=says):
                outbox.enlist(message, into=session)  # type: ignore[arg-type]
    with pytest.raises(NoTransaction, match=r"into: expected a Session, .* found 'session'"):
        outbox.enlist(mail(), into="session")


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"allow": {}}, ConfigurationError, "allow: expected the names that each destination takes"),
        ({"allow": ["mail"]}, ConfigurationError, "allow: expected the names"),
        ({"allow": {"mail": "send"}}, ConfigurationError, "allow: expected a collection of names for 'mail'"),
        ({"allow": {"mail": []}}, ConfigurationError, "allow: expected a collection of names for 'mail'"),
        ({"allow": {"a b": ["send"]}}, MessageRefused, "destination: "),
        ({"allow": {"mail": ["a b"]}}, MessageRefused, "name: "),
        ({"metadata": "here"}, ConfigurationError, "metadata: expected a sqlalchemy.MetaData"),
        ({"max_size": 0}, ConfigurationError, "max_size: expected a whole number from 1 on, found 0"),
        ({"max_size": True}, ConfigurationError, "max_size: "),
        ({"max_size": 1.5}, ConfigurationError, "max_size: "),
    ],
)
def test_every_option_is_looked_at(options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        Outbox(**{"allow": ALLOW, **options})


# -- its tables -------------------------------------------------------------------------------------------------------


def looks(inspector: Any, table: str) -> tuple[list[Any], list[Any]]:
    """The columns and the indexes of a table, without its name."""
    columns = [(each["name"], str(each["type"]), each["nullable"]) for each in inspector.get_columns(table)]
    indexes = [
        (each["name"].replace(table, ""), each["column_names"], each["unique"]) for each in inspector.get_indexes(table)
    ]
    return columns, sorted(indexes)


def test_the_printed_statements_make_what_create_all_makes(engine: Engine) -> None:
    outbox, shop = Outbox(ALLOW), MetaData()
    made = Outbox(ALLOW, shop, name="made")
    assert set(shop.tables) == {"made", "made_dead", "made_paused"}
    shop.create_all(engine)
    with engine.begin() as connection:
        for statement in outbox.ddl(engine.dialect).split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(statement)
    inspector = inspect(engine)
    for one, other in zip(outbox.tables.all, made.tables.all, strict=True):
        columns = [
            [(c["name"], str(c["type"]), c["nullable"]) for c in inspector.get_columns(t.name)] for t in (one, other)
        ]
        assert columns[0] == columns[1]
        indexes = [
            sorted(
                (str(i["name"]).replace(t.name, ""), tuple(i["column_names"]), i["unique"])
                for i in inspector.get_indexes(t.name)
            )
            for t in (one, other)
        ]
        assert indexes[0] == indexes[1]


def test_the_printed_migration_runs(engine: Engine) -> None:
    outbox = Outbox(ALLOW)

    class Operations:
        """What alembic.op is, of which a migration needs no more."""

        @staticmethod
        def execute(statement: str) -> None:
            with engine.begin() as connection:
                connection.exec_driver_sql(statement)

        @staticmethod
        def drop_table(name: str) -> None:
            Operations.execute(f"DROP TABLE {name}")

    found: dict[str, Any] = {"op": Operations}
    exec(outbox.alembic(engine.dialect), found)
    found["upgrade"]()
    with Session(engine) as session:
        outbox.enlist(mail(1), into=session)
        session.commit()
    assert waiting(outbox, engine) == [1]
    found["downgrade"]()
    assert inspect(engine).get_table_names() == []


def test_a_schema_is_named_in_the_migration() -> None:
    migration = Outbox(ALLOW, schema="shop").alembic(create_engine("sqlite://").dialect)
    assert 'op.drop_table("postresponse_outbox", schema="shop")' in migration
    assert "CREATE TABLE shop.postresponse_outbox" in migration


def test_the_table_holds_no_half_of_a_lease(engine: Engine, outbox: Outbox) -> None:
    with Session(engine) as session:
        outbox.enlist(mail(), into=session)
        session.commit()
    with engine.begin() as connection, pytest.raises(Exception, match=r"(?i)constraint"):
        connection.execute(text("UPDATE postresponse_outbox SET leased_until = due_at"))


def test_a_session_that_is_used_up_says_so_itself(engine: Engine, outbox: Outbox) -> None:
    session: AsyncSession | Session = Session(engine, close_resets_only=False)
    session.close()
    with pytest.raises(InvalidRequestError):
        outbox.enlist(mail(), into=session)
