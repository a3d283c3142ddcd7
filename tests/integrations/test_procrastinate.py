"""Messages as jobs of Procrastinate's, in the transaction of whoever enlists them, on a real PostgreSQL."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from procrastinate import App, JobContext, PsycopgConnector
from psycopg.rows import dict_row
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import InternalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import NullPool

from postresponse import asgi, wsgi
from postresponse.exceptions import ConfigurationError, MessageRefused, NoTable, NoTransaction
from postresponse.integrations.procrastinate import ProcrastinateOutbox
from postresponse.messaging import Message
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork, SQLAlchemyUnitOfWork
from tests.fakes import run_asgi, run_wsgi
from tests.services import postgres

pytestmark = pytest.mark.service("postgresql")

ALLOW = {"mail": ["send_receipt", "elsewhere"]}


@dataclass
class Place:
    """A schema with Procrastinate's tables, an app that knows a task, and an outbox.

    Attributes:
        done: What the tasks were called with.
    """

    schema: str
    done: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        url = make_url(postgres.url()).set(drivername="postgresql+psycopg")
        options: dict[str, Any] = {"poolclass": NullPool, "connect_args": {"options": f"-csearch_path={self.schema}"}}
        self.engine = create_engine(url, **options)
        self.async_engine = create_async_engine(url, **options)
        connector = PsycopgConnector(conninfo=postgres.url(), kwargs={"options": f"-csearch_path={self.schema}"})
        self.app = App(connector=connector)

        @self.app.task(name="send_receipt", queue="unused", priority=3)
        def send_receipt(message_id: str, **payload: Any) -> None:
            self.done.append({"message_id": message_id, **payload})

        @self.app.task(name="with_context", pass_context=True, lock="its own")
        async def with_context(context: JobContext, message_id: str) -> None:
            self.done.append({"message_id": message_id, "job": context.job.id})

        @self.app.task(name="without_id")
        def without_id() -> None: ...

        self.outbox = ProcrastinateOutbox(self.app)

    def make_tables(self) -> None:
        with self.app.open():
            self.app.schema_manager.apply_schema()

    def jobs(self) -> list[dict[str, Any]]:
        with (
            psycopg.connect(postgres.url(), options=f"-csearch_path={self.schema}") as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            return cursor.execute("SELECT * FROM procrastinate_jobs ORDER BY id").fetchall()

    def numbers(self) -> list[int]:
        """The numbers that are the payloads of the jobs."""
        return [job["args"]["number"] for job in self.jobs()]

    def work(self) -> None:
        """Run what is due."""

        async def run() -> None:
            async with self.app.open_async():
                await self.app.run_worker_async(wait=False, install_signal_handlers=False, listen_notify=False)

        asyncio.run(run())


@pytest.fixture
def place() -> Iterator[Place]:
    with postgres.schema() as schema:
        place = Place(schema)
        place.make_tables()
        yield place


def receipt(number: int, **options: Any) -> Message:
    return Message("mail", "send_receipt", {"number": number}, **options)


INTO = pytest.mark.parametrize("kind", ["session", "connection", "async session", "async connection"])


def enlist_in(place: Place, kind: str, *numbers: int, commits: bool = True) -> None:
    """Enlist in one transaction of *kind*, each in a savepoint; those of even numbers are rolled back."""
    engine, async_engine = place.engine, place.async_engine
    if kind in ("session", "connection"):
        with Session(engine) if kind == "session" else engine.connect() as into:
            for number in numbers:
                savepoint = into.begin_nested()
                place.outbox.enlist(receipt(number), into=into)
                savepoint.commit() if number % 2 else savepoint.rollback()
            if commits:
                into.commit()
        return

    async def run() -> None:
        into: AsyncSession | AsyncConnection
        async with AsyncSession(async_engine) if kind == "async session" else async_engine.connect() as into:
            for number in numbers:
                savepoint = await into.begin_nested()
                place.outbox.enlist(receipt(number), into=into)
                await (savepoint.commit() if number % 2 else savepoint.rollback())
            if commits:
                await into.commit()

    asyncio.run(run())


@INTO
def test_a_job_is_there_if_the_transaction_committed_and_a_worker_runs_it(place: Place, kind: str) -> None:
    enlist_in(place, kind, 1, 2, 3)
    enlist_in(place, kind, 5, commits=False)
    assert place.numbers() == [1, 3]
    place.work()
    assert [call["number"] for call in place.done] == [1, 3]
    assert [job["status"] for job in place.jobs()] == ["succeeded"] * 2


def test_a_job_goes_with_the_unit_of_work_of_a_request(place: Place) -> None:
    db = SQLAlchemyUnitOfWork(sessionmaker(place.engine))

    def answering(status: int) -> Any:
        def app(environ: Any, start_response: Any) -> Any:
            place.outbox.enlist(receipt(status))
            start_response(f"{status} said", [])
            return [b""]

        return wsgi.PostResponseMiddleware(app, unit_of_work=db)

    for status in (409, 201):
        assert run_wsgi(answering(status)).code == status
    assert place.numbers() == [201]


def test_a_job_goes_with_the_async_unit_of_work_of_a_request(place: Place) -> None:
    db = AsyncSQLAlchemyUnitOfWork(lambda: AsyncSession(place.async_engine))

    def answering(status: int) -> Any:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            place.outbox.enlist(receipt(status))
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        return asgi.PostResponseMiddleware(app, unit_of_work=db)

    for status in (409, 201):
        assert run_asgi(answering(status)).status == status
    assert place.numbers() == [201]


def test_what_the_message_says_is_what_the_job_has(place: Place) -> None:
    due = datetime.now(UTC) + timedelta(days=1)
    place.outbox = ProcrastinateOutbox(place.app, headers_as="headers")
    messages = [
        receipt(1, ordering_key="order/1", headers={"tenant": "100 %"}),
        receipt(2, due=due),
        receipt(3, delay=3600),
        receipt(4, dedupe_key="once"),
        Message("slow", "with_context"),
    ]
    with Session(place.engine) as session:
        for message in messages:
            assert place.outbox.enlist(message, into=session) == message.id
        session.commit()
    ordered, dated, delayed, once, other = place.jobs()
    assert ordered["args"] == {"number": 1, "message_id": str(messages[0].id), "headers": {"tenant": "100 %"}}
    assert (ordered["queue_name"], ordered["task_name"], ordered["lock"]) == ("mail", "send_receipt", "order/1")
    assert (ordered["priority"], ordered["queueing_lock"], ordered["scheduled_at"]) == (3, None, None)
    assert dated["scheduled_at"] == due
    assert abs(delayed["scheduled_at"] - datetime.now(UTC) - timedelta(hours=1)) < timedelta(seconds=30)
    assert (once["queueing_lock"], once["lock"]) == ("mail/once", None)
    assert (other["queue_name"], other["lock"], other["args"]) == (
        "slow",
        "its own",
        {"message_id": str(messages[4].id)},
    )
    place.work()
    assert [call["message_id"] for call in place.done] == [str(messages[number].id) for number in (0, 3, 4)]


@INTO
def test_of_messages_with_one_dedupe_key_one_waits_at_a_time(place: Place, kind: str) -> None:
    def enlist(into: Any, number: int) -> None:
        place.outbox.enlist(receipt(number), into=into)
        place.outbox.enlist(receipt(number + 1, dedupe_key="once"), into=into)
        place.outbox.enlist(receipt(number + 2), into=into)

    async def run(number: int) -> None:
        into: AsyncSession | AsyncConnection
        engine = place.async_engine
        async with AsyncSession(engine) if kind == "async session" else engine.connect() as into:
            await into.begin()
            enlist(into, number)
            await into.commit()

    for number in (10, 20):
        if kind.startswith("async"):
            asyncio.run(run(number))
        else:
            with Session(place.engine) if kind == "session" else place.engine.connect() as into:
                into.begin()
                enlist(into, number)
                into.commit()
    assert place.numbers() == [10, 11, 12, 20, 22]


def test_an_app_that_is_open_is_no_hindrance(place: Place) -> None:
    async def run() -> None:
        async with place.app.open_async():
            with Session(place.engine) as session:
                place.outbox.enlist(receipt(1), into=session)
                session.commit()

    asyncio.run(run())
    assert place.numbers() == [1]


def test_missing_tables_are_told_with_the_way_to_make_them() -> None:
    with postgres.schema() as schema, Session((place := Place(schema)).engine) as session:
        place.outbox.enlist(receipt(1), into=session)
        with pytest.raises(NoTable, match="procrastinate schema --apply"):
            session.commit()


def test_another_error_of_the_database_comes_out_of_the_commit(place: Place) -> None:
    for message in (receipt(1), receipt(2, dedupe_key="once")):
        with Session(place.engine) as session:
            session.execute(text("SET TRANSACTION READ ONLY"))
            place.outbox.enlist(message, into=session)
            with pytest.raises(InternalError, match="read-only"):
                session.commit()
    assert place.jobs() == []


def test_what_is_not_allowed_is_refused_where_it_is_enlisted(place: Place) -> None:
    listed = ProcrastinateOutbox(place.app, ALLOW, max_size=100)
    with Session(place.engine) as session:

        def refused(message: Message, match: str, outbox: ProcrastinateOutbox = place.outbox) -> None:
            with pytest.raises(MessageRefused, match=match):
                outbox.enlist(message, into=session)

        refused(Message("mail", "send_reciept"), "no task 'send_reciept'; did you mean 'send_receipt'.*allow=")
        refused(Message("mail", "without_id"), "task 'without_id' has no parameter 'message_id'.*id_as=")
        refused(Message("mail", "send_receipt", [1]), r"keyword arguments, a dictionary; found \[1\]")
        refused(Message("mail", "send_receipt", {"message_id": 1}), "'message_id' is what the outbox gives")
        refused(receipt(1, headers={"a": "b"}), "headers_as=")
        refused(Message("post", "send_receipt"), "no 'post'", listed)
        refused(Message("mail", "without_id"), "takes no 'without_id'", listed)
        refused(Message("mail", "send_receipt", {"text": "x" * 100}), "over max_size=100", listed)
        listed.enlist(Message("mail", "elsewhere", {"number": 1}), into=session)  # a task of another process
        ProcrastinateOutbox(place.app, id_as=None).enlist(Message("mail", "without_id", {"number": 2}), into=session)
        session.commit()
    assert place.numbers() == [1, 2]


def test_another_driver_is_refused_where_it_is_enlisted(place: Place) -> None:
    engine = create_engine("sqlite://")
    with Session(engine) as session, pytest.raises(NoTransaction, match=r"this is sqlite through pysqlite; connect by"):
        place.outbox.enlist(receipt(1), into=session)
    with engine.begin() as connection, pytest.raises(NoTransaction, match="through psycopg"):
        place.outbox.enlist(receipt(1), into=connection)
    with pytest.raises(NoTransaction, match="was not started"):
        place.outbox.enlist(receipt(1), into=place.async_engine.connect())
    with pytest.raises(NoTransaction, match="expected a Session"):
        place.outbox.enlist(receipt(1), into=object())
    engine.dispose()


def test_options_are_checked(place: Place) -> None:
    with pytest.raises(ConfigurationError, match=r"app: expected a procrastinate\.App"):
        ProcrastinateOutbox(object())  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="id_as: expected the name of a keyword argument or None, found 'a b'"):
        ProcrastinateOutbox(place.app, id_as="a b")
    with pytest.raises(ConfigurationError, match="headers_as"):
        ProcrastinateOutbox(place.app, headers_as=1)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="expected two names, found 'told' for both"):
        ProcrastinateOutbox(place.app, id_as="told", headers_as="told")
    with pytest.raises(ConfigurationError, match="allow"):
        ProcrastinateOutbox(place.app, {})
    with pytest.raises(ConfigurationError, match="max_size"):
        ProcrastinateOutbox(place.app, max_size=0)
