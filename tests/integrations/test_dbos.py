"""Messages as workflows of DBOS's, in the transaction of whoever enlists them, on a real PostgreSQL."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from dbos import DBOS, DBOSClient, DBOSConfig
from dbos import error as dbos_error
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import InternalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import NullPool

from postresponse import asgi, wsgi
from postresponse.exceptions import ConfigurationError, MessageRefused, NoTable, NoTransaction
from postresponse.integrations.dbos import DBOSOutbox
from postresponse.messaging import Message
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork, SQLAlchemyUnitOfWork
from tests.fakes import run_asgi, run_wsgi
from tests.services import postgres

pytestmark = pytest.mark.service("postgresql")

ALLOW = {"mail": ["send_receipt", "take_one", "take_none"]}


@dataclass
class Place:
    """DBOS's tables in a schema, an application that works, and an outbox.

    Attributes:
        done: What the workflows were called with, by their ids.
    """

    schema: str
    done: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        url = make_url(postgres.url())
        self.url = url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
        self.engine = create_engine(self.url, poolclass=NullPool)
        self.async_engines = [
            create_async_engine(url.set(drivername=f"postgresql+{driver}"), poolclass=NullPool)
            for driver in ("psycopg", "asyncpg")
        ]
        self.client = DBOSClient(system_database_url=self.url, dbos_system_schema=self.schema, lazy=True)
        self.outbox = DBOSOutbox(self.client, ALLOW)

    def row(self, message: Message) -> Any:
        """What DBOS keeps of the workflow of *message*, with its input; None if there is none."""
        query = f'SELECT * FROM "{self.schema}".workflow_status WHERE workflow_uuid = :id'
        inputs = f'SELECT inputs FROM "{self.schema}".workflow_input WHERE workflow_uuid = :id'
        with self.engine.connect() as connection:
            found = connection.execute(text(query), {"id": str(message.id)}).mappings().one_or_none()
            if found is None:
                return None
            return {**found, "inputs": connection.scalar(text(inputs), {"id": str(message.id)})}

    def result(self, message: Message) -> Any:
        """Wait until its workflow has run, and return what it returned."""
        handle: Any = self.client.retrieve_workflow(str(message.id))
        return handle.get_result(polling_interval_sec=0.02)


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with postgres.schema() as schema:
        place = Place(schema)
        config: DBOSConfig = {
            "name": "shop",
            "system_database_url": place.url,
            "dbos_system_schema": schema,
            "log_level": "ERROR",
        }
        DBOS(config=config)

        @DBOS.workflow(name="send_receipt")
        def send_receipt(**payload: Any) -> dict[str, Any]:
            place.done[str(DBOS.workflow_id)] = payload
            return {"sent": True}

        @DBOS.workflow(name="take_one")
        def take_one(payload: Any) -> Any:
            place.done[str(DBOS.workflow_id)] = payload
            return payload

        @DBOS.workflow(name="take_none")
        def take_none() -> str:
            return "none"

        try:
            DBOS.launch()
            DBOS.register_queue("mail", polling_interval_sec=0.05)
            yield place
        finally:
            DBOS.destroy(destroy_registry=True)
            place.client.destroy()


def receipt(number: int, **options: Any) -> Message:
    return Message("mail", "send_receipt", {"number": number}, **options)


@pytest.mark.parametrize("kind", ["session", "connection"])
def test_a_workflow_is_there_if_the_transaction_committed_and_it_is_run(place: Place, kind: str) -> None:
    first, undone, third, lost = (receipt(number) for number in range(4))
    with Session(place.engine) if kind == "session" else place.engine.connect() as into:
        into.begin()
        assert place.outbox.enlist(first, into=into) == first.id
        savepoint = into.begin_nested()
        place.outbox.enlist(undone, into=into)
        savepoint.rollback()
        place.outbox.enlist(third, into=into)
        into.commit()
        into.begin()
        place.outbox.enlist(lost, into=into)
        into.rollback()
    assert [place.row(message) is not None for message in (first, undone, third, lost)] == [True, False, True, False]
    assert [place.result(message) for message in (first, third)] == [{"sent": True}] * 2
    assert [place.done[str(message.id)] for message in (first, third)] == [{"number": 0}, {"number": 2}]


@pytest.mark.parametrize("kind", ["session", "connection"])
@pytest.mark.parametrize("driver", [0, 1], ids=["psycopg", "asyncpg"])
def test_the_same_in_async_transactions(place: Place, kind: str, driver: int) -> None:
    first, lost = receipt(1), receipt(2)
    engine = place.async_engines[driver]

    async def run() -> None:
        into: AsyncSession | AsyncConnection
        async with AsyncSession(engine) if kind == "session" else engine.connect() as into:
            await into.begin()
            place.outbox.enlist(first, into=into)
            await into.commit()
            await into.begin()
            place.outbox.enlist(lost, into=into)
            await into.rollback()

    asyncio.run(run())
    assert place.row(lost) is None
    assert place.result(first) == {"sent": True}


def test_a_workflow_goes_with_the_unit_of_work_of_a_request(place: Place) -> None:
    db = SQLAlchemyUnitOfWork(sessionmaker(place.engine))
    adb = AsyncSQLAlchemyUnitOfWork(lambda: AsyncSession(place.async_engines[0]))

    def answering(message: Message, status: int) -> Any:
        def app(environ: Any, start_response: Any) -> Any:
            place.outbox.enlist(message)
            start_response(f"{status} said", [])
            return [b""]

        return wsgi.PostResponseMiddleware(app, unit_of_work=db)

    def async_answering(message: Message, status: int) -> Any:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            place.outbox.enlist(message)
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        return asgi.PostResponseMiddleware(app, unit_of_work=adb)

    messages = {status: receipt(status) for status in (409, 201)}
    async_messages = {status: receipt(status) for status in (409, 201)}
    for status in (409, 201):
        assert run_wsgi(answering(messages[status], status)).code == status
        assert run_asgi(async_answering(async_messages[status], status)).status == status
    assert [place.row(each[409]) for each in (messages, async_messages)] == [None, None]
    assert [place.result(each[201]) for each in (messages, async_messages)] == [{"sent": True}] * 2


def test_what_the_message_says_is_what_the_workflow_has(place: Place) -> None:
    due = datetime.now(UTC) + timedelta(days=1)
    keyed = receipt(1, ordering_key="order/1", headers={"tenant": "a"})
    dated, past, delayed = receipt(2, due=due), receipt(3, due=due - timedelta(days=2)), receipt(4, delay=3600)
    one, none = Message("mail", "take_one", [1, "two", None]), Message("mail", "take_none")
    with Session(place.engine) as session:
        for message in (keyed, dated, past, delayed, one, none):
            place.outbox.enlist(message, into=session)
        session.commit()
    row = place.row(keyed)
    assert (row["name"], row["queue_name"], row["queue_partition_key"]) == ("send_receipt", "mail", "order/1")
    assert row["attributes"] == {"tenant": "a"}
    assert row["serialization"] == "portable_json"
    assert json.loads(row["inputs"]) == {"positionalArgs": [], "namedArgs": {"number": 1}}
    now = datetime.now(UTC).timestamp() * 1000
    assert abs(place.row(dated)["delay_until_epoch_ms"] - due.timestamp() * 1000) < 1000
    assert place.row(past)["delay_until_epoch_ms"] is None
    assert abs(place.row(delayed)["delay_until_epoch_ms"] - now - 3_600_000) < 30_000
    assert [place.result(message) for message in (one, none, past)] == [[1, "two", None], "none", {"sent": True}]


def test_of_messages_with_one_dedupe_key_one_workflow_is_run(place: Place) -> None:
    first, second = receipt(1, dedupe_key="once"), receipt(2, dedupe_key="once")
    for message in (first, second):
        with Session(place.engine) as session:
            place.outbox.enlist(message, into=session)
            session.commit()
    assert place.result(second) == {"sent": True}
    assert place.done[str(first.id)] == {"number": 1}


def test_an_id_that_another_workflow_has_is_a_commit_that_fails(place: Place) -> None:
    message = Message("mail", "take_none")
    with Session(place.engine) as session:
        place.outbox.enlist(message, into=session)
        session.commit()
        place.outbox.enlist(Message("mail", "take_one", 1, id=message.id), into=session)
        with pytest.raises(dbos_error.DBOSConflictingWorkflowError):
            session.commit()


def test_missing_tables_are_told_with_the_way_to_make_them(place: Place) -> None:
    client = DBOSClient(system_database_url=place.url, dbos_system_schema="nowhere", lazy=True)
    with Session(place.engine) as session:
        DBOSOutbox(client, ALLOW).enlist(receipt(1), into=session)
        with pytest.raises(NoTable, match=r"`dbos migrate`"):
            session.commit()
    client.destroy()


def test_another_error_of_the_database_comes_out_of_the_commit(place: Place) -> None:
    with Session(place.engine) as session:
        session.execute(text("SET TRANSACTION READ ONLY"))
        place.outbox.enlist(receipt(1), into=session)
        with pytest.raises(InternalError, match="read-only"):
            session.commit()


def test_what_is_not_allowed_is_refused_where_it_is_enlisted(place: Place) -> None:
    with Session(place.engine) as session:
        for message, match in (
            (Message("mail", "send_reciept"), "did you mean 'send_receipt'"),
            (Message("post", "send_receipt"), "this outbox has no 'post'"),
            (Message("mail", "send_receipt", {"options": 1}), "DBOS takes 'options' for itself"),
            (receipt(1, id=UUID(int=1)), "over max_size=10"),
        ):
            outbox = DBOSOutbox(place.client, ALLOW, max_size=10) if "max_size" in match else place.outbox
            with pytest.raises(MessageRefused, match=match):
                outbox.enlist(message, into=session)


def test_another_database_is_refused_where_it_is_enlisted(place: Place) -> None:
    engine = create_engine("mysql+pymysql://root@127.0.0.1/nowhere")
    with Session(engine) as session, pytest.raises(NoTransaction, match="this is mysql; give a session"):
        place.outbox.enlist(receipt(1), into=session)
    with pytest.raises(NoTransaction, match="was not started"):
        place.outbox.enlist(receipt(1), into=place.async_engines[0].connect())
    with pytest.raises(NoTransaction, match="expected a Session"):
        place.outbox.enlist(receipt(1), into=object())


def test_options_are_checked(place: Place) -> None:
    with pytest.raises(ConfigurationError, match=r"client: expected a dbos\.DBOSClient"):
        DBOSOutbox(object(), ALLOW)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="allow"):
        DBOSOutbox(place.client, {})
    with pytest.raises(ConfigurationError, match="max_size"):
        DBOSOutbox(place.client, ALLOW, max_size=0)
