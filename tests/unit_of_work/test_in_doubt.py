"""A connection lost inside COMMIT: what became of the transaction is found out, or said to be unknown; no guess."""

import asyncio
import itertools
import os
import signal
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import psycopg
import pymysql
import pytest
from django.db import InterfaceError, OperationalError, connections, transaction
from django.http import HttpResponse
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from werkzeug.test import create_environ, run_wsgi_app

from postresponse import CommitPolicy, Retry, asgi, wsgi
from postresponse.core.exchange import Failure
from postresponse.core.lifecycle import Outcome
from postresponse.exceptions import CommitInDoubt, CommitRefused, PartialCommit
from postresponse.unit_of_work import django_commit, in_doubt
from postresponse.unit_of_work.django import DjangoUnitOfWork
from postresponse.unit_of_work.in_doubt import Fate, Ticket
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork, SQLAlchemyUnitOfWork
from tests.conftest import Scale
from tests.fakes import StrictASGIServer
from tests.services import mariadb, own_postgres, postgres
from tests.services.proxy import CommitProxy, Cut, mysql_messages, postgresql_messages
from tests.unit_of_work.django_project.databases import Database
from tests.unit_of_work.django_project.driving import Site, placing

ON_POSTGRESQL = pytest.mark.service("postgresql")
ON_MARIADB = pytest.mark.service("mariadb")


class Answer(NamedTuple):
    """One request as both sides saw it.

    Attributes:
        status: The client's.
        unit: How the unit of work ended, as the outcome says.
        said: What the body says, in the words of `SAID`.
    """

    status: int
    unit: str
    said: str


COMMITTED = Answer(201, "committed", "placed")
FAILED = Answer(500, "failed", "not carried out")
CONFLICT = Answer(503, "failed", "not carried out, may succeed")
HALF_WAY = Answer(500, "failed", "in part")
UNKNOWN = Answer(503, "unknown", "nobody knows")

SAID = {
    b"placed": "placed",
    b"was not carried out": "not carried out",
    b"may succeed when it is sent again": "may succeed",
    b"was carried out in part only": "in part",
    b"is unknown: it may or may not have been carried out": "nobody knows",
}


def said_by(body: bytes) -> str:
    """Tell all that *body* says of the order; a body that says two things at once says what nobody expects."""
    return ", ".join(meaning for words, meaning in SAID.items() if words in body) or repr(body)


PLACE = "INSERT INTO placed VALUES ('an order')"

DEFERRED = """
CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER {name} AFTER INSERT ON placed DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION {name}()
"""


# -- what stands behind the proxy -------------------------------------------------------------------------------------


@dataclass
class PostgreSQL:
    """A schema with one table that nothing in it keeps from holding an order twice."""

    schema: str

    def rows(self) -> list[str]:
        """The orders, once nothing is at work any more."""
        with postgres.connect(self.schema) as connection:
            busy = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND state <> 'idle'"
            while connection.execute(busy, [self.schema]).fetchone() != (0,):
                pass
            return [str(row[0]) for row in connection.execute("SELECT key FROM placed")]

    def execute(self, statement: str) -> Any:
        """Run *statement* from outside."""
        with postgres.connect(self.schema) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else None

    def url(self, driver: str, port: int) -> URL:
        """The URL through a proxy on *port*."""
        url = make_url(postgres.url()).set(drivername=f"postgresql+{driver}", host="127.0.0.1", port=port)
        return url

    def arguments(self, driver: str) -> dict[str, Any]:
        """What to connect with."""
        if driver == "asyncpg":
            return {"server_settings": {"search_path": self.schema, "application_name": self.schema}}
        return {"options": f"-csearch_path={self.schema}", "application_name": self.schema}


@pytest.fixture
def database() -> Iterator[PostgreSQL]:
    with postgres.schema() as name:
        database = PostgreSQL(name)
        database.execute("CREATE TABLE placed (key text)")
        yield database


@pytest.fixture
def proxy() -> Iterator[CommitProxy]:
    at = make_url(postgres.url())
    with closing(CommitProxy(at.host or "127.0.0.1", at.port or 5432, postgresql_messages)) as proxy:
        yield proxy


# -- what stands in front of it ---------------------------------------------------------------------------------------


class Stack(Protocol):
    """One kind of application, whole: a request runs statements."""

    runs: Counter[str]
    failures: list[Failure]

    def get(self, *statements: str) -> Answer:
        """Answer one request."""

    def close(self) -> None:
        """Give all back."""


POLICY = CommitPolicy(retry=Retry(attempts=3, backoff=0.001))


def asked_wsgi(app: Any) -> tuple[int, bytes]:
    """Answer one request, and return its status and body."""
    body, status, _ = run_wsgi_app(app, create_environ("/", method="POST"), buffered=True)
    return int(status[:3]), b"".join(body)


def asked(site: Site) -> Answer:
    """Answer one request of Django's."""
    answer = site.get()
    return Answer(*answer.unit, said_by(answer.body))


class OnSQLAlchemy:
    """Sessions behind either middleware; one connection for all of it, so that none may ever be missing.

    Args:
        kind: "wsgi"; "asgi" for an async session, "thread" for a sync one under ASGI.
    """

    def __init__(self, kind: str, url: URL, arguments: dict[str, Any], policy: CommitPolicy = POLICY) -> None:
        self.kind = kind
        self.runs: Counter[str] = Counter()
        self.failures: list[Failure] = []
        self.outcomes: list[Outcome] = []
        self._runner = asyncio.Runner()
        options: dict[str, Any] = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 1, "connect_args": arguments}
        self.engine: Engine
        self.db: Any
        if kind == "asgi":
            engine = create_async_engine(url, **options)
            self.engine, self.db = engine.sync_engine, AsyncSQLAlchemyUnitOfWork(async_sessionmaker(engine))
            self._dispose: Callable[[], Any] = lambda: self._runner.run(engine.dispose())
        else:
            self.engine = create_engine(url, **options)
            self.db, self._dispose = SQLAlchemyUnitOfWork(sessionmaker(self.engine)), self.engine.dispose
        self.options: dict[str, Any] = {
            "unit_of_work": self.db,
            "commit": policy,
            "on_finished": self.outcomes.append,
            "on_commit_failed": self.failures.append,
        }

    def get(self, *statements: str) -> Answer:
        answer = self.ask(*statements)
        assert self.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
        return answer

    def ask(self, *statements: str) -> Answer:
        """Answer one request, whoever has the connection afterwards."""
        reported = len(self.outcomes)
        asked = self._ask_wsgi(statements) if self.kind == "wsgi" else self._runner.run(self._ask_asgi(statements))
        (outcome,) = self.outcomes[reported:]
        return Answer(asked[0], outcome.unit_of_work.value, said_by(asked[1]))

    def _ask_wsgi(self, statements: tuple[str, ...]) -> tuple[int, bytes]:
        def app(environ: Any, start_response: Any) -> list[bytes]:
            for statement in statements:
                self.runs[statement] += 1
                self.db.session.execute(text(statement))
            start_response("201 Created", [("Content-Type", "text/plain")])
            return [b"placed"]

        return asked_wsgi(wsgi.PostResponseMiddleware(app, **self.options))

    async def _ask_asgi(self, statements: tuple[str, ...]) -> tuple[int, bytes]:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            for statement in statements:
                self.runs[statement] += 1
                result = self.db.session.execute(text(statement))
                if self.kind == "asgi":
                    await result
            await send({"type": "http.response.start", "status": 201, "headers": []})
            await send({"type": "http.response.body", "body": b"placed"})

        server = await StrictASGIServer("POST").run(asgi.PostResponseMiddleware(app, **self.options))
        assert server.status is not None
        assert not server.broken
        return server.status, server.body

    def close(self) -> None:
        self._dispose()
        self._runner.close()


class OnDjango:
    """Django's handlers behind either middleware, on the alias "postgresql".

    Args:
        kind: As `Site` takes it.
    """

    def __init__(self, kind: str, database: PostgreSQL, proxy: CommitProxy, policy: CommitPolicy = POLICY) -> None:
        self.runs: Counter[str] = Counter()
        self.failures: list[Failure] = []
        self._kind, self._policy = kind, policy
        self.after: Callable[[], None] = lambda: None
        self._patch = pytest.MonkeyPatch()
        settings = connections.settings["postgresql"]
        self._patch.setitem(settings, "HOST", "127.0.0.1")
        self._patch.setitem(settings, "PORT", proxy.port)
        self._patch.setitem(settings, "OPTIONS", database.arguments("psycopg"))

    def get(self, *statements: str) -> Answer:
        def view(request: Any) -> HttpResponse:
            for statement in statements:
                self.runs[statement] += 1
                with connections["postgresql"].cursor() as cursor:
                    cursor.execute(statement)
                self.after()
            return HttpResponse("placed", status=201)

        site = Site(view, self._kind, "postgresql", self._policy, unit_of_work=DjangoUnitOfWork("postgresql"))
        site.options["on_commit_failed"] = self.failures.append
        return asked(site)

    def close(self) -> None:
        connections["postgresql"].close()
        self._patch.undo()


def on_sqlalchemy(kind: str, driver: str) -> Any:
    return lambda database, proxy: OnSQLAlchemy(kind, database.url(driver, proxy.port), database.arguments(driver))


STACKS: dict[str, Callable[[PostgreSQL, CommitProxy], Stack]] = {
    "WSGI, psycopg": on_sqlalchemy("wsgi", "psycopg"),
    "ASGI, asyncpg": on_sqlalchemy("asgi", "asyncpg"),
    "ASGI, psycopg async": on_sqlalchemy("asgi", "psycopg"),
    "ASGI, psycopg on a thread": on_sqlalchemy("thread", "psycopg"),
    "WSGI, Django": partial(OnDjango, "wsgi"),
    "ASGI, Django": partial(OnDjango, "asgi"),
}


@pytest.fixture(params=STACKS)
def stack(request: pytest.FixtureRequest, project: None, database: PostgreSQL, proxy: CommitProxy) -> Iterator[Stack]:
    """Each kind of application in turn."""
    with closing(STACKS[request.param](database, proxy)) as stack:
        yield stack


@pytest.fixture
def site(database: PostgreSQL, proxy: CommitProxy) -> Iterator[OnSQLAlchemy]:
    """One of them, for what they share."""
    with closing(on_sqlalchemy("wsgi", "psycopg")(database, proxy)) as site:
        yield site


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look-ups that find nobody end soon."""
    monkeypatch.setattr(in_doubt, "LIMIT", 0.3)


# -- the proof --------------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What one kind of application answered when its connection was cut around COMMIT, and what was true."""

    stack: str
    cut: str
    look_up: str
    counts: Counter[str] = field(default_factory=Counter)

    COUNTS = ("201, row", "201, no row", "failed, no row", "failed, row", "unknown, row", "unknown, no row", "twice")

    def cells(self) -> list[str]:
        return [self.stack, self.cut, self.look_up, *(str(self.counts[name]) for name in self.COUNTS)]


@pytest.fixture(scope="module")
def tallies(pytestconfig: pytest.Config) -> Iterator[list[Tally]]:
    """All that was counted; a long run prints it as a table at the end."""
    tallies: list[Tally] = []
    yield tallies
    if pytestconfig.getoption("--long") == "off":
        return
    rows = [["application", "cut", "look-up", *Tally.COUNTS], *(tally.cells() for tally in tallies)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    manager = pytestconfig.pluginmanager.getplugin("capturemanager")
    with manager.global_and_fixture_disabled():
        print("", *(f"| {' | '.join(map(str.ljust, row, widths))} |" for row in rows), sep="\n")


VERDICTS = {COMMITTED: "201", FAILED: "failed", CONFLICT: "failed", UNKNOWN: "unknown"}
"""What each answer claims, where status, outcome and body claim the same."""


def place(stack: Stack, proxy: CommitProxy, cut: Cut, times: int, *, then_refuse: bool) -> dict[str, Answer]:
    """Place orders, each with its connection *cut*, and return what each was answered."""
    answers = {}
    for number in range(times):
        key = f"order {number}"
        proxy.heal()
        proxy.arm(cut, then_refuse=then_refuse)
        answers[key] = stack.get(f"INSERT INTO placed VALUES ('{key}')")
    proxy.heal()
    assert proxy.cuts == times
    return answers


def compare(tally: Tally, answers: dict[str, Answer], rows: list[str], runs: Counter[str]) -> None:
    """Count what was said of each order by what is true of it, and refuse an answer that contradicts itself."""
    assert set(answers.values()) <= VERDICTS.keys()
    placed = Counter(rows)
    assert placed.keys() <= answers.keys()
    for key, answer in answers.items():
        tally.counts[f"{VERDICTS[answer]}, {'row' if placed[key] else 'no row'}"] += 1
    tally.counts["twice"] = sum(count > 1 for count in (*placed.values(), *runs.values()))


@ON_POSTGRESQL
@pytest.mark.parametrize("look_up", ["allowed", "refused"])
@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.AFTER, Cut.UNSEEN], ids=lambda cut: cut.value)
def test_no_lie_is_told_and_nothing_is_run_twice(
    request: pytest.FixtureRequest,
    stack: Stack,
    database: PostgreSQL,
    proxy: CommitProxy,
    cut: Cut,
    look_up: str,
    scale: Scale,
    tallies: list[Tally],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if look_up == "refused":
        monkeypatch.setattr(in_doubt, "LIMIT", 0.1)
    times = scale.of(off=3, short=5, full=30)
    answers = place(stack, proxy, cut, times, then_refuse=look_up == "refused")
    tally = Tally(request.node.callspec.params["stack"], cut.value, look_up)
    tallies.append(tally)
    compare(tally, answers, database.rows(), stack.runs)
    counts = tally.counts
    assert (counts["201, no row"], counts["failed, row"], counts["twice"]) == (0, 0, 0)
    expected = {Cut.BEFORE: {FAILED}, Cut.AFTER: {COMMITTED}, Cut.UNSEEN: {COMMITTED, FAILED}}
    assert set(answers.values()) <= ({UNKNOWN} if look_up == "refused" else expected[cut])
    truth = {Cut.BEFORE: "no row", Cut.AFTER: "row"}
    assert look_up == "allowed" or cut is Cut.UNSEEN or counts[f"unknown, {truth[cut]}"] == times


@ON_POSTGRESQL
def test_a_retry_of_everything_runs_again_what_was_rolled_back_and_nothing_else(
    database: PostgreSQL, proxy: CommitProxy, impatient: None
) -> None:
    """Who would retry whatever failed is still kept from what may have committed."""
    policy = CommitPolicy(retry=Retry(attempts=3, on=lambda error: True, backoff=0.001))
    url = database.url("psycopg", proxy.port)
    with closing(OnSQLAlchemy("wsgi", url, database.arguments("psycopg"), policy)) as site:
        proxy.arm(Cut.BEFORE)
        assert site.get(PLACE) == COMMITTED
        assert site.runs[PLACE] == 2
        for cut in (Cut.BEFORE, Cut.AFTER):
            proxy.arm(cut, then_refuse=True)
            assert site.get(PLACE) == UNKNOWN
            proxy.heal()
        assert site.runs[PLACE] == 4
    assert len(database.rows()) == 2


# -- one by one -------------------------------------------------------------------------------------------------------


@ON_POSTGRESQL
def test_a_commit_that_arrives_late_is_waited_for(stack: Stack, database: PostgreSQL, proxy: CommitProxy) -> None:
    proxy.arm(Cut.LATE)
    assert stack.get(PLACE) == COMMITTED
    assert len(database.rows()) == 1


@ON_POSTGRESQL
def test_a_transaction_that_stays_in_progress_is_unknown(
    stack: Stack, database: PostgreSQL, proxy: CommitProxy, impatient: None
) -> None:
    proxy.arm(Cut.DARK)
    assert stack.get(PLACE) == UNKNOWN
    assert isinstance(stack.failures[-1].exception, CommitInDoubt)
    proxy.close()
    assert database.rows() == []


@ON_POSTGRESQL
def test_one_that_was_rolled_back_says_so(stack: Stack, proxy: CommitProxy) -> None:
    proxy.arm(Cut.BEFORE)
    assert stack.get(PLACE) == FAILED
    failure = stack.failures[-1]
    assert isinstance(failure.exception, CommitRefused)
    assert "has rolled back" in str(failure.exception)
    assert failure.exception.__cause__ is not None
    assert not failure.transient


@ON_POSTGRESQL
def test_one_that_wrote_nothing_has_nothing_to_lose(stack: Stack, proxy: CommitProxy) -> None:
    for cut in (Cut.BEFORE, Cut.AFTER):
        proxy.heal()
        proxy.arm(cut, then_refuse=True)
        assert stack.get("DELETE FROM placed") == COMMITTED


@ON_POSTGRESQL
def test_one_that_only_read_is_not_asked_about_and_unknown(stack: Stack, proxy: CommitProxy) -> None:
    """A SELECT may have called a function that wrote: only its look says that it did not."""
    proxy.arm(Cut.BEFORE)
    assert stack.get("SELECT * FROM placed") == UNKNOWN


@ON_POSTGRESQL
@pytest.mark.parametrize("asked_before", [False, True])
def test_a_connection_lost_before_commit_is_a_definite_failure(
    stack: Stack, database: PostgreSQL, asked_before: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if asked_before:
        assert stack.get(PLACE) == COMMITTED
    terminate = "SELECT pg_terminate_backend(pg_backend_pid()) WHERE false"
    kill = threading.Event()

    def killing(*args: Any, **options: Any) -> Any:
        if not kill.is_set():
            kill.set()
            database.execute(
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{database.schema}'"
            )
        return ticket_of(*args, **options)

    ticket_of = in_doubt.ticket_of
    with pytest.MonkeyPatch.context() as patch:
        for module in ("django_commit", "sqlalchemy_transaction"):
            patch.setattr(f"postresponse.unit_of_work.{module}.ticket_of", killing)
        assert stack.get(PLACE, terminate) == FAILED
    assert kill.is_set()
    assert not isinstance(stack.failures[-1].exception, CommitRefused | CommitInDoubt)
    assert len(database.rows()) == asked_before
    assert stack.get(PLACE) == COMMITTED


@ON_POSTGRESQL
def test_a_backend_that_is_terminated_inside_commit_is_looked_up(stack: Stack, database: PostgreSQL) -> None:
    """The driver raises the server's FATAL error, which is no answer: a wait for a standby ends with it too."""
    database.execute(DEFERRED.format(name="slow", body="PERFORM pg_sleep(30)"))
    terminate = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        f"WHERE application_name = '{database.schema}' AND wait_event = 'PgSleep'"
    )

    def terminate_once() -> None:
        while not database.execute(terminate):
            pass

    terminating = threading.Thread(target=terminate_once)
    terminating.start()
    assert stack.get(PLACE) == FAILED
    terminating.join()
    assert isinstance(stack.failures[-1].exception, CommitRefused)
    assert database.rows() == []


@ON_POSTGRESQL
def test_a_commit_that_the_database_refuses_is_looked_up_by_nobody(
    stack: Stack, database: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.execute(DEFERRED.format(name="refuse", body="RAISE serialization_failure"))
    asked: list[object] = []
    for module in ("django_commit", "sqlalchemy_transaction"):
        monkeypatch.setattr(f"postresponse.unit_of_work.{module}.ask", lambda *args: asked.append(args))
    assert stack.get(PLACE) == CONFLICT
    assert stack.failures[-1].transient
    assert stack.runs[PLACE] == 3
    assert asked == []
    assert database.rows() == []


@ON_POSTGRESQL
def test_a_commit_that_asyncpg_gave_up_waiting_for_is_looked_up(database: PostgreSQL, proxy: CommitProxy) -> None:
    """It raises a TimeoutError, which no driver's error is: the COMMIT may well be done."""
    database.execute(DEFERRED.format(name="slow", body="PERFORM pg_sleep(30)"))
    url, arguments = database.url("asyncpg", proxy.port), database.arguments("asyncpg")
    with closing(OnSQLAlchemy("asgi", url, {**arguments, "command_timeout": 0.3})) as site:
        assert site.get(PLACE) == FAILED
        assert isinstance(site.failures[-1].exception, CommitRefused)
        assert isinstance(site.failures[-1].exception.__cause__, TimeoutError)
        database.execute("DROP TRIGGER slow ON placed")
        assert site.get(PLACE) == COMMITTED
    assert len(database.rows()) == 1


@ON_POSTGRESQL
@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
def test_django_runs_its_callbacks_for_what_is_known_to_have_committed_and_for_nothing_else(
    project: None, database: PostgreSQL, proxy: CommitProxy, kind: str, impatient: None
) -> None:
    ran: list[int] = []

    def ask_for_callback() -> None:
        transaction.on_commit(lambda: ran.append(len(database.rows())), using="postgresql")

    with closing(OnDjango(kind, database, proxy)) as site:
        site.after = ask_for_callback
        for cut, then_refuse, expected, rows in (
            (Cut.BEFORE, False, FAILED, []),
            (Cut.AFTER, True, UNKNOWN, []),
            (Cut.AFTER, False, COMMITTED, [2]),
        ):
            proxy.heal()
            proxy.arm(cut, then_refuse=then_refuse)
            assert site.get(PLACE) == expected
            assert ran == rows


@ON_POSTGRESQL
def test_a_server_that_gives_no_tickets_loses_no_transaction_by_being_asked(stack: Stack, database: PostgreSQL) -> None:
    """As one before 13, or a relative of PostgreSQL's, where asking is an error."""
    database.execute(
        "CREATE FUNCTION pg_current_xact_id_if_assigned() RETURNS xid8 LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE feature_not_supported; END $$"
    )
    statement = f"SET LOCAL search_path = {database.schema}, pg_catalog"
    assert stack.get(statement, PLACE) == COMMITTED
    assert stack.get(statement, PLACE) == COMMITTED
    assert len(database.rows()) == 2


@ON_POSTGRESQL
@pytest.mark.parametrize(("kind", "driver"), [("wsgi", "psycopg"), ("asgi", "asyncpg"), ("asgi", "psycopg")])
def test_in_autocommit_there_is_no_transaction_to_ask_about(
    database: PostgreSQL, proxy: CommitProxy, kind: str, driver: str
) -> None:
    with closing(OnSQLAlchemy(kind, database.url(driver, proxy.port), database.arguments(driver))) as site:
        event.listen(site.engine, "engine_connect", _into_autocommit)
        for _ in range(2):
            assert site.get(PLACE) == COMMITTED
    assert len(database.rows()) == 2


def _into_autocommit(connection: Connection) -> None:
    connection.execution_options(isolation_level="AUTOCOMMIT")


@ON_POSTGRESQL
def test_what_a_server_without_tickets_loses_is_unknown(
    site: OnSQLAlchemy, database: PostgreSQL, proxy: CommitProxy
) -> None:
    database.execute(
        "CREATE FUNCTION pg_current_xact_id_if_assigned() RETURNS xid8 LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE feature_not_supported; END $$"
    )
    proxy.arm(Cut.AFTER)
    assert site.get(f"SET LOCAL search_path = {database.schema}, pg_catalog", PLACE) == UNKNOWN


@ON_POSTGRESQL
def test_a_look_up_needs_no_connection_of_a_pool_that_is_used_up(
    site: OnSQLAlchemy, proxy: CommitProxy, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for a connection may get the one that was lost before the look-up does."""
    taken, over = threading.Event(), threading.Event()

    def wait_for_a_connection() -> None:
        with site.engine.connect():
            taken.set()
            over.wait()

    def look_up(attempt: Callable[[], Fate | None]) -> Fate:
        waiting.start()
        taken.wait()
        return in_doubt.look_up(attempt)

    waiting = threading.Thread(target=wait_for_a_connection)
    monkeypatch.setattr("postresponse.unit_of_work.sqlalchemy.look_up", look_up)
    proxy.arm(Cut.AFTER)
    answer = site.ask(PLACE)
    over.set()
    waiting.join()
    assert answer == COMMITTED


class Faulty(sqlite3.Connection):
    """A driver that raises what is no error of a driver's, when all is done."""

    def commit(self) -> None:
        super().commit()
        raise ConnectionResetError("who knows")


@pytest.mark.parametrize(("kind", "driver"), [("wsgi", "sqlite"), ("asgi", "sqlite+aiosqlite")])
def test_what_a_driver_raises_of_its_own_accord_at_commit_leaves_it_in_doubt(
    kind: str, driver: str, tmp_path: Path
) -> None:
    file = tmp_path / "placed.sqlite3"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE placed (key TEXT)")
    with closing(OnSQLAlchemy(kind, URL.create(driver, database=str(file)), {"factory": Faulty})) as site:
        opened: list[object] = []
        event.listen(site.engine, "connect", lambda *args: opened.append(args))
        assert site.get(PLACE) == UNKNOWN
        assert site.get(PLACE) == UNKNOWN
        assert len(opened) == 2  # the first is not used again, whatever its state
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT count(*) FROM placed").fetchone() == (2,)


def test_a_commit_that_is_refused_leaves_django_no_open_transaction(
    default: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a connection that is kept the next request would lose its row."""
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", None)
    connections["default"].close()
    used = []
    for customer, expected in ((404, FAILED), (None, COMMITTED)):
        assert asked(Site(placing(default, customer=customer), "wsgi")) == expected
        used.append(connections["default"].connection)
    assert default.orders() == [None]
    assert used[0] is used[1] is not None
    connections["default"].close()


@ON_POSTGRESQL
def test_an_error_behind_a_commit_that_succeeded_makes_it_no_failure(
    site: OnSQLAlchemy, database: PostgreSQL, caplog: pytest.LogCaptureFixture
) -> None:
    def after_commit(session: Session) -> None:
        raise LookupError("no mail today")

    event.listen(Session, "after_commit", after_commit)
    try:
        assert site.get(PLACE) == COMMITTED
    finally:
        event.remove(Session, "after_commit", after_commit)
    assert "no mail today" in caplog.text
    assert len(database.rows()) == 1
    assert site.get(PLACE) == COMMITTED


@ON_POSTGRESQL
def test_what_a_listener_writes_last_is_looked_up_too(
    site: OnSQLAlchemy, database: PostgreSQL, proxy: CommitProxy, impatient: None
) -> None:
    """The ticket is asked for right before COMMIT, when all else has been done."""

    def before_commit(session: Session) -> None:
        session.execute(text(PLACE))

    event.listen(Session, "before_commit", before_commit)
    try:
        proxy.arm(Cut.BEFORE)
        assert site.get("SELECT 1") == FAILED
        proxy.arm(Cut.AFTER, then_refuse=True)
        assert site.get("SELECT 1") == UNKNOWN
    finally:
        event.remove(Session, "before_commit", before_commit)
    assert len(database.rows()) == 1


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "placed"
    key: Mapped[str] = mapped_column(primary_key=True)


class Mirror(Base):
    __tablename__ = "mirror"
    key: Mapped[str] = mapped_column(primary_key=True)


class BothDatabases:
    """A session over two databases, of which the second's COMMIT may be refused."""

    def __init__(self, database: PostgreSQL, folder: Path) -> None:
        url = database.url("psycopg", make_url(postgres.url()).port or 5432)
        self.first = create_engine(url, connect_args=database.arguments("psycopg"))
        self.second = create_engine(f"sqlite:///{folder / 'mirror.sqlite3'}")
        with self.second.begin() as connection:
            connection.execute(text("CREATE TABLE mirror (key TEXT PRIMARY KEY)"))
        binds = {Order: self.first, Mirror: self.second}
        self.db = SQLAlchemyUnitOfWork(sessionmaker(binds=binds))
        self.failures: list[Failure] = []
        self.outcomes: list[Outcome] = []

    def get(self, key: str, *, mirror: bool = True) -> Answer:
        def app(environ: Any, start_response: Any) -> list[bytes]:
            self.db.session.add(Order(key=key))
            if mirror:
                self.db.session.add(Mirror(key=key))
            else:
                self.db.session.get(Mirror, key)
            start_response("201 Created", [])
            return [b"placed"]

        wrapped = wsgi.PostResponseMiddleware(
            app,
            unit_of_work=self.db,
            commit=POLICY,
            on_commit_failed=self.failures.append,
            on_finished=self.outcomes.append,
        )
        status, body = asked_wsgi(wrapped)
        return Answer(status, self.outcomes[-1].unit_of_work.value, said_by(body))

    def mirrored(self) -> list[str]:
        with self.second.connect() as connection:
            return list(connection.scalars(text("SELECT key FROM mirror")))

    def close(self) -> None:
        self.first.dispose()
        self.second.dispose()


@ON_POSTGRESQL
def test_a_session_over_two_databases_says_which_of_them_committed(database: PostgreSQL, tmp_path: Path) -> None:
    """In which order they commit is not for us to say: both orders are met."""
    with closing(BothDatabases(database, tmp_path)) as site:
        assert site.get("good") == COMMITTED
        database.execute(DEFERRED.format(name="refuse", body="RAISE serialization_failure"))
        answers = set()
        for number in itertools.count():
            key = f"order {number}"
            answer = site.get(key)
            answers.add(answer)
            error, half_way = site.failures[-1].exception, key in site.mirrored()
            assert isinstance(error, PartialCommit) is half_way
            assert answer == (HALF_WAY if half_way else CONFLICT)
            if isinstance(error, PartialCommit):
                assert (error.committed, error.failed) == ((repr(site.second.url),), repr(site.first.url))
            if len(answers) == 2:
                break
    assert database.rows() == ["good"]


@ON_POSTGRESQL
def test_a_database_that_was_only_read_makes_no_half_way_of_a_refusal(database: PostgreSQL, tmp_path: Path) -> None:
    """As a replica is read beside the database that is written: in some of these its COMMIT was the first."""
    with closing(BothDatabases(database, tmp_path)) as site:
        database.execute(DEFERRED.format(name="refuse", body="RAISE serialization_failure"))
        for number in range(10):
            assert site.get(f"order {number}", mirror=False) == CONFLICT
            assert site.failures[-1].transient


# -- MariaDB ----------------------------------------------------------------------------------------------------------


@ON_MARIADB
@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.AFTER, Cut.UNSEEN], ids=lambda cut: cut.value)
@pytest.mark.parametrize("kind", ["wsgi", "thread"])
def test_mariadb_has_nothing_to_look_up_so_that_a_lost_commit_is_unknown(
    kind: str, cut: Cut, scale: Scale, tallies: list[Tally]
) -> None:
    times = scale.of(off=3, short=5, full=30)
    with mariadb.database() as url, ExitStack() as resources:
        at = make_url(url)
        engine = create_engine(url)
        resources.callback(engine.dispose)
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE placed (`key` VARCHAR(40)) ENGINE=InnoDB"))
        proxy = resources.enter_context(closing(CommitProxy(at.host or "", at.port or 3306, mysql_messages)))
        through = at.set(host="127.0.0.1", port=proxy.port)
        site = resources.enter_context(closing(OnSQLAlchemy(kind, through, {})))
        answers = place(site, proxy, cut, times, then_refuse=False)
        assert site.get("DELETE FROM placed WHERE false") == COMMITTED
        with engine.connect() as connection:
            tally = Tally(f"{kind.upper()}, PyMySQL on MariaDB", cut.value, "none")
            compare(tally, answers, list(connection.scalars(text("SELECT `key` FROM placed"))), site.runs)
    tallies.append(tally)
    assert set(answers.values()) == {UNKNOWN}
    assert tally.counts["twice"] == 0
    assert cut is Cut.UNSEEN or tally.counts[f"unknown, {'row' if cut is Cut.AFTER else 'no row'}"] == times


@ON_MARIADB
@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
def test_django_on_mariadb_has_nothing_to_look_up_either(
    project: None, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "MySQLdb", pymysql)  # as its `install_as_MySQLdb` does
    with mariadb.database() as url, ExitStack() as resources:
        at = make_url(url)
        engine = create_engine(url)
        resources.callback(engine.dispose)
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE placed (`key` VARCHAR(40)) ENGINE=InnoDB"))
        proxy = resources.enter_context(closing(CommitProxy(at.host or "", at.port or 3306, mysql_messages)))
        settings = {
            **connections.settings["postgresql"],
            "ENGINE": "django.db.backends.mysql",
            "HOST": "127.0.0.1",
            "PORT": proxy.port,
            "NAME": at.database,
            "USER": at.username,
            "PASSWORD": at.password or "",
            "OPTIONS": {},
        }
        monkeypatch.setitem(connections.settings, "mariadb", settings)
        resources.callback(connections.__delitem__, "mariadb")

        def view(request: Any) -> HttpResponse:
            with connections["mariadb"].cursor() as cursor:
                cursor.execute(PLACE)
            return HttpResponse("placed", status=201)

        site = Site(view, kind, "mariadb", POLICY)
        for cut in (None, Cut.BEFORE, Cut.AFTER, None):
            if cut is not None:
                proxy.arm(cut)
            assert asked(site) == (COMMITTED if cut is None else UNKNOWN)
        with engine.connect() as connection:
            assert connection.scalar(text("SELECT count(*) FROM placed")) == 3
        connections["mariadb"].close()


@ON_MARIADB
def test_a_second_phase_that_is_lost_is_unknown() -> None:
    """A session of SQLAlchemy's own two-phase kind prepares, and then commits what is prepared."""
    with mariadb.database() as url, ExitStack() as resources:
        at = make_url(url)
        engine = create_engine(url)
        resources.callback(engine.dispose)
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE placed (`key` VARCHAR(40)) ENGINE=InnoDB"))
        proxy = resources.enter_context(closing(CommitProxy(at.host or "", at.port or 3306, mysql_messages)))
        site = OnSQLAlchemy("wsgi", at.set(host="127.0.0.1", port=proxy.port), {})
        resources.enter_context(closing(site))
        site.db._make = sessionmaker(site.engine, twophase=True)
        assert site.get(PLACE) == COMMITTED
        proxy.arm(Cut.AFTER)
        assert site.get(PLACE) == UNKNOWN
        with engine.connect() as connection:
            assert connection.scalar(text("SELECT count(*) FROM placed")) == 2


# -- the parts --------------------------------------------------------------------------------------------------------


@contextmanager
def asking(connection: Any) -> Iterator[Callable[[str], Any]]:
    with closing(connection):
        yield partial(in_doubt.run, connection)


@ON_POSTGRESQL
def test_a_ticket_of_another_life_of_the_server_answers_nothing(database: PostgreSQL) -> None:
    with asking(postgres.connect(database.schema)) as query:
        query("BEGIN")
        query(PLACE)
        ticket = in_doubt.ticket_of(query, {})
        assert ticket is not None
        assert in_doubt.ask(query, ticket) is None
        query("COMMIT")
        assert in_doubt.ask(query, ticket) is Fate.COMMITTED
        assert in_doubt.ask(query, ticket._replace(life="another")) is Fate.UNKNOWN
        assert in_doubt.ask(query, Ticket("3", ticket.life)) is Fate.UNKNOWN  # too old to be known


@ON_POSTGRESQL
def test_a_ticket_is_the_same_whatever_the_session_has_set(database: PostgreSQL) -> None:
    with asking(postgres.connect(database.schema)) as query:
        query("BEGIN")
        query(PLACE)
        memory: dict[Any, Any] = {}
        first = in_doubt.ticket_of(query, memory)
        for setting in ("TimeZone = 'Asia/Kathmandu'", "DateStyle = 'SQL, DMY'", "extra_float_digits = -10"):
            query(f"SET {setting}")
        assert in_doubt.ticket_of(query, memory) == first


def test_a_look_up_asks_again_until_it_is_answered() -> None:
    answers: list[Fate | Exception | None] = [None, OSError("no route"), None, Fate.ABORTED]

    def attempt() -> Fate | None:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def aattempt() -> Fate | None:
        return attempt()

    assert in_doubt.look_up(attempt) is Fate.ABORTED
    assert answers == []
    answers += [OSError("no route"), None, Fate.COMMITTED]
    assert asyncio.run(in_doubt.alook_up(aattempt)) is Fate.COMMITTED
    assert answers == []


def test_a_look_up_that_hangs_is_left_behind_in_time(impatient: None) -> None:
    released = threading.Event()

    async def never() -> Fate:
        await asyncio.Event().wait()
        return Fate.COMMITTED

    def hangs() -> Fate:
        released.wait()
        return Fate.COMMITTED

    assert in_doubt.look_up(hangs) is Fate.UNKNOWN
    released.set()
    assert asyncio.run(in_doubt.alook_up(never)) is Fate.UNKNOWN


@pytest.mark.parametrize(
    ("state", "refused"),
    [("40001", True), ("23503", True), ("08006", False), ("57P01", False), ("40003", False), ("57014", True)],
)
def test_which_errors_are_answers(state: str, refused: bool) -> None:
    assert in_doubt.was_refused(psycopg.errors.lookup(state)("")) is refused
    assert in_doubt.was_refused(OSError()) is False


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (OperationalError(1213, "Deadlock found"), True),
        (OperationalError(1205, "Lock wait timeout exceeded"), True),
        (OperationalError(2013, "Lost connection to server during query"), False),
        (OperationalError(1927, "Connection was killed"), False),
        (OperationalError(1053, "Server shutdown in progress"), False),
        (InterfaceError(0, ""), False),
        (OperationalError(), False),
        (OSError(), False),
    ],
    ids=repr,
)
def test_which_errors_are_answers_of_mariadb_under_django(error: Exception, answer: bool) -> None:
    assert django_commit._is_answer(SimpleNamespace(vendor="mysql"), error) is answer


# -- a server that crashes --------------------------------------------------------------------------------------------


@pytest.mark.long
def test_after_a_crash_another_transaction_has_the_id_and_nobody_is_told_that_ours_committed() -> None:
    if reason := own_postgres.unavailable():
        pytest.skip(reason)
    # Nothing is to reach the disk before it has to.
    with own_postgres.cluster(wal_writer_delay="10s", wal_writer_flush_after="100MB") as cluster, ExitStack() as open_:
        connect = partial(psycopg.connect, cluster.url("orders"))
        lost = connect()
        lost.execute("CREATE TABLE placed (key text)")
        lost.commit()
        cluster.execute("orders", "CHECKPOINT")
        lost.execute(PLACE)
        ticket = in_doubt.ticket_of(partial(in_doubt.run, lost), {})
        assert ticket is not None
        bystander = open_.enter_context(closing(connect()))
        os.kill(lost.info.backend_pid, signal.SIGKILL)
        with pytest.raises(psycopg.OperationalError):
            lost.execute("SELECT 1")
        lost.close()
        with suppress(psycopg.OperationalError):
            while True:  # until the server has noticed, and ends every connection that it has
                bystander.execute("SELECT 1")
        other = open_.enter_context(closing(_patiently(connect)))
        query = partial(in_doubt.run, other)
        query(PLACE)
        another = in_doubt.ticket_of(query, {})
        assert another is not None
        assert another.id == ticket.id
        other.commit()
        assert in_doubt.ask(query, another) is Fate.COMMITTED
        assert in_doubt.ask(query, ticket) is Fate.UNKNOWN


def _patiently(connect: Callable[[], Any]) -> Any:
    """Connect to a server that recovers."""
    while True:
        with suppress(psycopg.OperationalError):
            return connect()
