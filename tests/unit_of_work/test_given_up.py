"""A database that rolls back all that came before a statement that failed: a commit of the rest is refused.

MariaDB does so at a deadlock, where a record has changed since it was read, and, if it is set up to, where a lock was
waited for in vain; SQLite where a statement says OR ROLLBACK. A handler that caught the error would commit a half.
"""

import functools
import itertools
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import django.db
import pymysql
import pytest
import sqlalchemy.exc
from django.db import connections
from django.db.transaction import TransactionManagementError
from django.http import HttpResponse
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker
from sqlalchemy.pool import NullPool
from werkzeug.test import create_environ, run_wsgi_app

from postresponse import CommitPolicy, Retry, asgi, current_exchange, wsgi
from postresponse.core.lifecycle import Outcome
from postresponse.exceptions import CommitRefused
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork, SQLAlchemyUnitOfWork
from postresponse.unit_of_work.statements import gave_up
from tests.fakes import StrictASGIServer
from tests.services import mariadb
from tests.services.ports import free_port
from tests.unit_of_work.django_project.driving import Site

Execute = Callable[[str], object]
View = Callable[[Execute], object]

ON_MARIADB = pytest.mark.service("mariadb")
EACH_UNIT = pytest.mark.parametrize("kind", ["sqlalchemy", "django"])

WAITING = text(  # for locks in this database, of several on its server
    "SELECT count(*) FROM information_schema.innodb_lock_waits "
    "JOIN information_schema.innodb_trx ON trx_id = requesting_trx_id "
    "JOIN information_schema.processlist ON id = trx_mysql_thread_id WHERE db = database()"
)

FIRST = "INSERT INTO stock VALUES (100, 0)"
LAST = "INSERT INTO stock VALUES (200, 0)"


class Shop:
    """A database with a few rows, and one request at a time to it.

    Args:
        kind: Whose unit of work.
        url: Of the database, for SQLAlchemy.
    """

    def __init__(self, kind: str, url: str, commit: Any = "head") -> None:
        self.kind = kind
        self.url = url
        self.commit = commit
        self.others: Engine = create_engine(url, poolclass=NullPool)
        self.outcome: Outcome | None = None
        with self.others.begin() as connection:
            connection.execute(text("CREATE TABLE stock (id INTEGER PRIMARY KEY, n INTEGER)"))
            connection.execute(text("INSERT INTO stock VALUES (1, 0), (2, 0), (3, 0), (4, 0), (5, 0)"))

    def get(self, view: View) -> tuple[int, str]:
        """Answer one request with 201, whatever *view* caught; return the status and how the unit of work ended."""
        status, self.outcome = (self._get_django if self.kind == "django" else self._get_sqlalchemy)(view)
        return status, self.outcome.unit_of_work.value

    @property
    def placed(self) -> list[int]:
        with self.others.connect() as connection:
            return list(connection.scalars(text("SELECT id FROM stock WHERE id >= 100 ORDER BY id")))

    def _get_sqlalchemy(self, view: View) -> tuple[int, Outcome]:
        engine = create_engine(self.url)
        db = SQLAlchemyUnitOfWork(sessionmaker(engine))
        outcomes: list[Outcome] = []

        def app(environ: Any, start_response: Any) -> list[bytes]:
            view(lambda statement: db.session.execute(text(statement)))
            start_response("201 Created", [])
            return [b"done"]

        wrapped = wsgi.PostResponseMiddleware(app, unit_of_work=db, commit=self.commit, on_finished=outcomes.append)
        _, status, _ = run_wsgi_app(wrapped, create_environ("/"), buffered=True)
        engine.dispose()
        return int(status[:3]), outcomes[-1]

    def _get_django(self, view: View) -> tuple[int, Outcome]:
        with django_alias(self.url) as alias:

            def place(request: Any) -> HttpResponse:
                with connections[alias].cursor() as cursor:
                    view(cursor.execute)
                return HttpResponse("done", status=201)

            answer = Site(place, "wsgi", alias, commit=self.commit).get()
        assert answer.outcome is not None
        return answer.status, answer.outcome


@contextmanager
def django_alias(url: str) -> Iterator[str]:
    """Tell Django of the database; of MariaDB through PyMySQL, which stands in for mysqlclient."""
    where, alias = make_url(url), "given_up"
    if where.get_backend_name() == "mysql":
        pymysql.version_info = (2, 2, 7, "final", 0)
        sys.modules.setdefault("MySQLdb", pymysql)
        engine, options = "django.db.backends.mysql", {"isolation_level": "repeatable read"}  # the server's own
    else:
        engine, options = "django.db.backends.sqlite3", {}
    told = {
        "ENGINE": engine,
        "NAME": where.database,
        "HOST": where.host or "",
        "PORT": where.port or "",
        "USER": where.username or "",
        "PASSWORD": where.password or "",
        "OPTIONS": options,
    }
    connections.settings[alias] = connections.configure_settings({"default": {}, alias: told})[alias]
    try:
        yield alias
    finally:
        connections[alias].close()
        del connections[alias], connections.settings[alias]


@pytest.fixture
def on_mariadb(project: None) -> Iterator[str]:
    with mariadb.database() as url:
        yield url


@pytest.fixture
def on_sqlite(project: None, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'stock.sqlite3'}"


def other_waits(connection: Connection) -> bool:
    """Tell whether another transaction waits for a lock; a view read more often than every 0.1 s never changes."""
    time.sleep(0.2)
    connection.rollback()
    return bool(connection.scalar(WAITING))


def deadlock(shop: Shop, execute: Execute) -> None:
    """Have *execute* fail with a deadlock: the other has written more, so this one is given up."""

    def take_all_but_the_first() -> None:
        with shop.others.begin() as connection:
            connection.execute(text("UPDATE stock SET n = 2 WHERE id BETWEEN 2 AND 5"))
            connection.execute(text("UPDATE stock SET n = 2 WHERE id = 1"))

    execute("UPDATE stock SET n = 1 WHERE id = 1")
    other = threading.Thread(target=take_all_but_the_first)
    other.start()
    with shop.others.connect() as watching:
        while not other_waits(watching):
            pass
    try:
        execute("UPDATE stock SET n = 1 WHERE id = 2")
    finally:
        other.join()


def change_what_was_read(shop: Shop, execute: Execute) -> None:
    """Have *execute* fail because somebody else has changed the row since."""
    execute("SELECT * FROM stock")
    with shop.others.begin() as connection:
        connection.execute(text("UPDATE stock SET n = n + 1 WHERE id = 1"))
    execute("UPDATE stock SET n = n + 1 WHERE id = 1")


def wait_in_vain(shop: Shop, execute: Execute) -> None:
    execute("SET SESSION innodb_lock_wait_timeout = 1")
    with shop.others.connect() as holding:
        holding.execute(text("UPDATE stock SET n = 9 WHERE id = 5"))
        execute("UPDATE stock SET n = 1 WHERE id = 5")


def swallowing(shop: Shop, provoke: Callable[[Shop, Execute], None], code: int) -> View:
    """Make a view that stores two rows, with an error in between that it catches."""

    def view(execute: Execute) -> None:
        execute("SET SESSION innodb_snapshot_isolation = ON")
        execute(FIRST)
        with pytest.raises(Exception, match=str(code)):
            provoke(shop, execute)
        with suppress(TransactionManagementError):  # Django's, which sends nothing any more
            execute(LAST)

    return view


@ON_MARIADB
@EACH_UNIT
@pytest.mark.parametrize(("provoke", "code"), [(deadlock, 1213), (change_what_was_read, 1020)])
def test_a_transaction_that_mariadb_rolled_back_is_not_committed_from_there_on(
    on_mariadb: str, kind: str, provoke: Any, code: int
) -> None:
    shop = Shop(kind, on_mariadb)
    assert shop.get(swallowing(shop, provoke, code)) == (503, "failed")
    assert shop.outcome is not None
    refused = shop.outcome.exception
    assert isinstance(refused, CommitRefused)
    assert "run again" in str(refused)
    assert str(code) in str(refused.__cause__)
    assert shop.placed == []


@ON_MARIADB
@EACH_UNIT
def test_a_lock_that_was_waited_for_in_vain_takes_nothing_back(on_mariadb: str, kind: str) -> None:
    shop = Shop(kind, on_mariadb)
    assert shop.get(swallowing(shop, wait_in_vain, 1205)) == (201, "committed")
    assert shop.placed == [100, 200]


@EACH_UNIT
def test_a_lock_that_was_waited_for_in_vain_takes_all_back_where_the_server_says_so(
    project: None, kind: str, rolling_back_on_timeout: str
) -> None:
    shop = Shop(kind, rolling_back_on_timeout)
    assert shop.get(swallowing(shop, wait_in_vain, 1205)) == (503, "failed")
    assert shop.placed == []


@ON_MARIADB
@EACH_UNIT
def test_a_record_that_has_changed_since_it_was_read_runs_the_request_again(on_mariadb: str, kind: str) -> None:
    shop = Shop(kind, on_mariadb, CommitPolicy(retry=Retry(backoff=0)))

    def view(execute: Execute) -> None:
        if current_exchange().attempt == 1:
            swallowing(shop, change_what_was_read, 1020)(execute)
        else:
            execute(FIRST)

    assert shop.get(view) == (201, "committed")
    assert shop.outcome is not None
    assert (shop.outcome.attempt, shop.placed) == (2, [100])


@EACH_UNIT
def test_or_rollback_of_sqlite_is_not_committed_from_there_on(on_sqlite: str, kind: str) -> None:
    shop = Shop(kind, on_sqlite)

    def view(execute: Execute) -> None:
        execute(FIRST)
        with pytest.raises(Exception, match="UNIQUE"):
            execute("INSERT OR ROLLBACK INTO stock VALUES (1, 0)")
        with suppress(TransactionManagementError):
            execute(LAST)

    assert shop.get(view) == (500, "failed")
    assert shop.placed == []


@EACH_UNIT
@pytest.mark.parametrize(
    "before", ["SELECT * FROM stock", "INSERT OR IGNORE INTO nowhere VALUES (1)", "SAVEPOINT here"], ids=repr
)
def test_what_lost_nothing_is_committed(on_sqlite: str, kind: str, before: str) -> None:
    """The error came before anything was stored, or took nothing with it."""
    shop = Shop(kind, on_sqlite)

    def view(execute: Execute) -> None:
        for statement in (before, "INSERT INTO stock VALUES (1, 0)", "SELECT broken"):
            with suppress(sqlalchemy.exc.DBAPIError, django.db.DatabaseError):
                execute(statement)
        execute(LAST)

    assert shop.get(view) == (201, "committed")
    assert shop.placed == [200]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_async_session_refuses_as_well(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'stock.sqlite3'}")
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE stock (id INTEGER PRIMARY KEY, n INTEGER)"))
    db = AsyncSQLAlchemyUnitOfWork(async_sessionmaker(engine))
    outcomes: list[Outcome] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await db.session.execute(text(FIRST))
        with pytest.raises(Exception, match="UNIQUE"):
            await db.session.execute(text(FIRST.replace("INSERT", "INSERT OR ROLLBACK")))
        await db.session.execute(text(LAST))
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    wrapped = asgi.PostResponseMiddleware(app, unit_of_work=db, on_finished=outcomes.append)
    server = await StrictASGIServer("POST").run(wrapped)
    assert (server.status, outcomes[-1].unit_of_work) == (500, "failed")
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM stock")) == 0
    await engine.dispose()


def test_of_a_server_that_cannot_be_asked_the_worse_is_assumed() -> None:
    def ask(statement: str) -> Any:
        raise pymysql.err.OperationalError(2013, "Lost connection")

    assert gave_up(pymysql.err.OperationalError(1205, "Lock wait timeout"), object(), ask, held=True)


# -- a server that is set up so --------------------------------------------------------------------------------------


@functools.cache
def unavailable() -> str | None:
    """Why there can be no server of one's own, or None."""
    return None if server_program() and shutil.which("mariadb-install-db") else "no mariadbd or no mariadb-install-db"


def server_program() -> str | None:
    return shutil.which("mariadbd", path=f"{sys.exec_prefix}/bin:/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")


@pytest.fixture(scope="module")
def rolling_back_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if reason := unavailable():
        pytest.skip(reason)
    port = free_port()
    folder = tmp_path_factory.mktemp("mariadb")
    data, user = folder / "data", f"--user={folder.owner()}"
    made = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", user, "--skip-test-db"]
    subprocess.run([*made, "--auth-root-authentication-method=normal"], check=True, capture_output=True)
    options = [f"--port={port}", f"--socket={folder / 's'}", f"--pid-file={folder / 'pid'}", f"--datadir={data}"]
    started = [str(server_program()), "--no-defaults", user, "--bind-address=127.0.0.1", *options]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([*started, "--innodb-rollback-on-timeout=ON"], stdout=log, stderr=log)
    try:
        yield f"mysql+pymysql://root@127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture
def rolling_back_on_timeout(rolling_back_server: str, numbers: Iterator[int]) -> str:
    """A new database on it; the first one waits until it listens."""
    engine, name = create_engine(rolling_back_server, poolclass=NullPool), f"stock_{next(numbers)}"
    for _ in range(300):
        try:
            with engine.begin() as connection:
                connection.execute(text(f"CREATE DATABASE {name}"))
            return rolling_back_server + name
        except Exception:
            time.sleep(0.1)
    raise AssertionError("the server does not start")


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    return itertools.count()
