"""What was committed without a COMMIT of the unit of work is seen, and the request that did it is not run again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker
from werkzeug.test import create_environ, run_wsgi_app

from postresponse import CommitPolicy, Retry, asgi, current_exchange, wsgi
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork, SQLAlchemyUnitOfWork
from postresponse.unit_of_work.statements import is_kept
from tests.fakes import Conflict, StrictASGIServer
from tests.services import mariadb, postgres
from tests.services.own_postgres import Cluster
from tests.unit_of_work.two_databases import REFUSED, WRITE, MixedShop, Shop, Site

ON_POSTGRESQL = pytest.mark.service("postgresql")
ON_MARIADB = pytest.mark.service("mariadb")

EVERYTHING = CommitPolicy(retry=Retry(on=lambda error: True, backoff=0))

ADD = text("INSERT INTO orders VALUES ('tea')")
COUNT = text("SELECT count(*) FROM orders")
TABLE = text("CREATE TABLE orders (item varchar(9))")


@pytest.fixture(
    params=["sqlite", pytest.param("postgresql", marks=ON_POSTGRESQL), pytest.param("mariadb", marks=ON_MARIADB)]
)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    yield from _engine(request.param, tmp_path)


def _engine(name: str, folder: Path) -> Iterator[Engine]:
    """A database of this kind with an empty table."""
    if name == "sqlite":
        yield from _with_table(create_engine(f"sqlite:///{folder / 'orders.sqlite3'}"))
    elif name == "postgresql":
        with postgres.schema() as schema:
            url = postgres.url().replace("postgresql:", "postgresql+psycopg:")
            yield from _with_table(create_engine(f"{url}?options=-csearch_path%3D{schema}"))
    else:
        with mariadb.database() as url:
            yield from _with_table(create_engine(url))


def _with_table(engine: Engine) -> Iterator[Engine]:
    with engine.begin() as connection:
        connection.execute(TABLE)
    yield engine
    engine.dispose()


def rows(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(COUNT) or 0)


def attempts(engine: Engine, *statements: Any) -> int:
    """Run a request that sends *statements* and then fails; return how often it was run."""
    db = SQLAlchemyUnitOfWork(sessionmaker(engine))
    runs = []

    def app(environ: Any, start_response: Any) -> Any:
        runs.append(1)
        for statement in statements:
            db.session.execute(statement)
        raise Conflict

    with pytest.raises(Conflict):
        run_wsgi_app(wsgi.PostResponseMiddleware(app, unit_of_work=db, commit=EVERYTHING), create_environ("/"))
    return len(runs)


def test_what_is_rolled_back_is_run_again(engine: Engine) -> None:
    assert attempts(engine, ADD, COUNT) == 3
    assert rows(engine) == 0


def test_what_was_written_in_autocommit_is_not_run_again(engine: Engine) -> None:
    assert attempts(engine.execution_options(isolation_level="AUTOCOMMIT"), ADD) == 1
    assert rows(engine) == 1


def test_what_was_only_read_in_autocommit_is_run_again(engine: Engine) -> None:
    assert attempts(engine.execution_options(isolation_level="AUTOCOMMIT"), COUNT) == 3


@ON_MARIADB
@pytest.mark.parametrize("engine", ["mariadb"], indirect=True)
def test_what_a_statement_commits_by_itself_is_not_run_again(engine: Engine) -> None:
    assert attempts(engine, ADD, text("CREATE TABLE more (item varchar(9))"), ADD) == 1
    assert rows(engine) == 1


@ON_MARIADB
@pytest.mark.parametrize("engine", ["mariadb"], indirect=True)
def test_setting_a_variable_keeps_nothing(engine: Engine) -> None:
    assert attempts(engine, text("SET SESSION innodb_lock_wait_timeout = 5"), ADD) == 3
    assert rows(engine) == 0


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_a_savepoint_keeps_nothing(engine: Engine) -> None:
    assert attempts(engine, ADD, text("SAVEPOINT here"), ADD, text("RELEASE SAVEPOINT here")) == 3
    assert rows(engine) == 0


def _asyncpg() -> AsyncEngine:
    return create_async_engine(postgres.url().replace("postgresql:", "postgresql+asyncpg:"))


def _aiosqlite() -> AsyncEngine:
    return create_async_engine("sqlite+aiosqlite://")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("make", [_aiosqlite, pytest.param(_asyncpg, marks=ON_POSTGRESQL)])
@pytest.mark.parametrize(("level", "expected"), [("SERIALIZABLE", 3), ("AUTOCOMMIT", 1)])
async def test_an_async_driver_tells_as_well(make: Any, level: str, expected: int) -> None:
    engine = make().execution_options(isolation_level=level)
    async with engine.begin() as connection:  # the one of its pool
        await connection.execute(text("CREATE TEMPORARY TABLE kept (item varchar(9))"))
    db = AsyncSQLAlchemyUnitOfWork(async_sessionmaker(engine))
    runs = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        runs.append(1)
        await db.session.execute(text("INSERT INTO kept VALUES ('tea')"))
        raise Conflict

    wrapped = asgi.PostResponseMiddleware(app, unit_of_work=db, commit=EVERYTHING)
    with pytest.raises(Conflict):
        await StrictASGIServer("POST").run(wrapped)
    await engine.dispose()
    assert len(runs) == expected


# -- what TwoPhase prepares or rolls back ------------------------------------------------------------------------------


def attempts_where_one_is_refused(site: Site, refused: str, order: tuple[str, str]) -> list[int]:
    """Write to both, of which the first time one cannot be prepared; return the attempts that were made."""
    runs = []

    def view(sessions: Any) -> None:
        runs.append(current_exchange().attempt)
        for name in order:
            statement = REFUSED if (name, runs[-1]) == (refused, 1) else WRITE
            sessions[name].execute(text(statement.format(1)))

    retry = Retry(on=lambda error: isinstance(error, DBAPIError), backoff=0)
    site.options["commit"] = CommitPolicy(retry=retry)
    answer = site.post(view=view)
    assert (answer.status, answer.unit) == (201, "committed")
    return runs


@pytest.mark.service("own postgresql")
@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
@pytest.mark.parametrize("refused", ["orders", "audit"])
def test_what_was_prepared_and_rolled_back_is_run_again(cluster: Cluster, driver: str, refused: str) -> None:
    shop = Shop(cluster)
    assert attempts_where_one_is_refused(shop.site(driver), refused, ("orders", "audit")) == [1, 2]
    assert (shop.stored, shop.prepared) == ([[1], [1]], [])


@ON_MARIADB
@pytest.mark.service("own postgresql")
def test_what_mariadb_rolled_back_unprepared_is_run_again(cluster: Cluster) -> None:
    with mariadb.database() as url:
        shop = MixedShop(cluster, url)
        assert attempts_where_one_is_refused(shop.site(), "orders", ("audit", "orders")) == [1, 2]
        assert (shop.stored, shop.prepared) == ([[1], [1]], [])


# -- the parts ---------------------------------------------------------------------------------------------------------


def test_a_driver_that_does_not_tell_is_believed_to_be_in_a_transaction() -> None:
    assert is_kept(object()) is False


@pytest.mark.parametrize(("inside", "kept"), [(True, False), (False, True)])
def test_a_driver_may_tell_by_a_method(inside: bool, kept: bool) -> None:
    class Driver:  # as aiomysql has it
        def get_transaction_status(self) -> bool:
            return inside

    assert is_kept(Driver()) is kept
