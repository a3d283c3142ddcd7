"""A small site over two databases, and what becomes of a request to it: shared by the tests of two-phase commit."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker
from sqlalchemy.pool import NullPool
from werkzeug.test import create_environ, run_wsgi_app

from postresponse import asgi, wsgi
from postresponse.core.exchange import Failure
from postresponse.core.lifecycle import Outcome
from postresponse.unit_of_work.composite import TwoPhase
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork, SQLAlchemyUnitOfWork
from tests.fakes import StrictASGIServer
from tests.services.own_postgres import Cluster

Statements = list[tuple[str, str]]
"""Who sent what, in order."""

Work = Sequence[tuple[str, str]]
"""What a view sends: a member, and a statement of its session."""

Turn = tuple[Work, int, Callable[..., Any] | None]
"""One request: what its view sends and calls, and its status."""

TABLES = (
    "DROP TABLE IF EXISTS item, customer",
    "CREATE TABLE customer (id INTEGER PRIMARY KEY)",
    "CREATE TABLE item (id INTEGER PRIMARY KEY, "
    "customer INTEGER REFERENCES customer (id) DEFERRABLE INITIALLY DEFERRED)",
)
WRITE = "INSERT INTO item (id) VALUES ({})"
REFUSED = "INSERT INTO item VALUES ({}, 1)"
"""Refused by its constraint, which is deferred: not before it is prepared."""
READ = "SELECT count(*) FROM item"


@dataclass
class Answer:
    """What a client got, and what was done for it."""

    status: int
    outcome: Outcome
    failures: list[Failure]
    statements: Statements

    @property
    def unit(self) -> str:
        return str(self.outcome.unit_of_work)

    @property
    def ends(self) -> Statements:
        """The statements that prepare or end a transaction, without its name."""
        first = ("PREPARE", "COMMIT", "ROLLBACK", "XA")
        return [(name, said.split(" '")[0]) for name, said in self.statements if said.startswith(first)]


@dataclass
class Site:
    """Two sessions in each request, committed two-phase; made anew for each request.

    Args:
        urls: Of the members' databases, in order.
        options: Of the middleware.
        before: What another request sends before each, on the same connections.
    """

    urls: dict[str, str]
    options: dict[str, Any] = field(default_factory=dict)
    before: Work = ()
    hooks: list[tuple[str, str, str, Callable[[Connection], object]]] = field(default_factory=list)
    session_hooks: list[tuple[str, str, Callable[..., object]]] = field(default_factory=list)

    def when(self, member: str, statement: str, call: Callable[[Connection], object], moment: str = "before") -> None:
        """Call once, right before (or "after") *member* sends what begins with *statement*."""
        self.hooks.append((member, moment, statement, call))

    def post(self, *work: tuple[str, str], status: int = 201, view: Callable[..., Any] | None = None) -> Answer:
        """Answer one request whose view sends *work*, or calls *view* with the sessions by name.

        No connection is left checked out.
        """
        statements: Statements = []
        outcomes: list[Outcome] = []
        failures: list[Failure] = []
        options = {"on_finished": outcomes.append, "on_commit_failed": failures.append, **self.options}
        is_async = "asyncpg" in self.urls["orders"]
        turns: list[Turn] = [(self.before, 201, None)] if self.before else []
        serve = self._serve_async if is_async else self._serve
        answered = serve([*turns, (work, status, view)], options, statements)
        return Answer(answered, outcomes[-1], failures, statements)

    def _serve(self, turns: list[Turn], options: Any, statements: Statements) -> int:
        engines = {name: create_engine(url) for name, url in self.urls.items()}
        makers = {name: self._hooked(name, sessionmaker(engine)) for name, engine in engines.items()}
        members = {name: SQLAlchemyUnitOfWork(maker) for name, maker in makers.items()}
        for name, engine in engines.items():
            self._listen(name, engine, statements)

        def app(environ: Any, start_response: Any) -> list[bytes]:
            work, status, view = turns[0]
            for name, statement in work:
                members[name].session.execute(text(statement))
            if view is not None:
                view({name: member.session for name, member in members.items()})
            start_response(f"{status} Said", [("Content-Type", "text/plain")])
            return [b"done"]

        wrapped = wsgi.PostResponseMiddleware(app, unit_of_work=TwoPhase(**members), **options)
        try:
            while turns:
                statements.clear()
                _, answered, _ = run_wsgi_app(wrapped, create_environ("/orders"), buffered=True)
                turns.pop(0)
            self._check_returned(engines.values())
        finally:
            for engine in engines.values():
                engine.dispose()
        return int(answered[:3])

    def _serve_async(self, turns: list[Turn], options: Any, statements: Statements) -> int:
        async def main() -> int:
            engines = {name: create_async_engine(url) for name, url in self.urls.items()}
            makers = {name: self._hooked(name, async_sessionmaker(engine)) for name, engine in engines.items()}
            members = {name: AsyncSQLAlchemyUnitOfWork(maker) for name, maker in makers.items()}
            for name, engine in engines.items():
                self._listen(name, engine.sync_engine, statements)

            async def app(scope: Any, receive: Any, send: Any) -> None:
                work, status, view = turns[0]
                for name, statement in work:
                    await members[name].session.execute(text(statement))
                if view is not None:
                    first = next(iter(members.values())).session
                    sessions = {name: member.session.sync_session for name, member in members.items()}
                    await first.run_sync(lambda _: view(sessions))
                await send({"type": "http.response.start", "status": status, "headers": []})
                await send({"type": "http.response.body", "body": b"done"})

            wrapped = asgi.PostResponseMiddleware(app, unit_of_work=TwoPhase(**members), **options)
            try:
                while turns:
                    statements.clear()
                    server = await StrictASGIServer("POST").run(wrapped)
                    turns.pop(0)
                self._check_returned(engine.sync_engine for engine in engines.values())
            finally:
                for engine in engines.values():
                    await engine.dispose()
            assert server.status is not None
            return server.status

        return asyncio.run(main())

    def _hooked(self, member: str, maker: Any) -> Any:
        hooks = [(name, call) for owner, name, call in self.session_hooks if owner == member]
        if not hooks:
            return maker

        def make() -> Any:
            session = maker()
            for name, call in hooks:
                event.listen(getattr(session, "sync_session", session), name, call)
            return session

        return make

    def _listen(self, member: str, engine: Engine, statements: Statements) -> None:
        def heard(moment: str, connection: Connection, cursor: Any, statement: str, *others: Any) -> None:
            if moment == "before":
                statements.append((member, statement))
            for hook in list(self.hooks):
                if hook[:2] == (member, moment) and statement.startswith(hook[2]):
                    self.hooks.remove(hook)
                    hook[3](connection)

        event.listen(engine, "before_cursor_execute", partial(heard, "before"))
        event.listen(engine, "after_cursor_execute", partial(heard, "after"))

    def _check_returned(self, engines: Iterable[Engine]) -> None:
        assert [engine.pool.checkedout() for engine in engines] == [0] * len(self.urls)  # type: ignore[attr-defined]


class Shop:
    """The two databases of a cluster, and what is in them."""

    members = ("orders", "audit")

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        for member in self.members:
            self.allow(member)
            for statement in TABLES:
                self.execute(member, statement.replace("CREATE TABLE", "SET ROLE app; CREATE TABLE"))

    def url(self, member: str, driver: str = "psycopg") -> str:
        return self.cluster.url(member).replace("postgresql:", f"postgresql+{driver}:")

    def site(self, driver: str = "psycopg", order: Iterable[str] = members, **options: Any) -> Site:
        return Site({member: self.url(member, driver) for member in order}, options)

    def engines(self) -> dict[str, Engine]:
        """An engine for each member, that keeps no connection."""
        return {member: create_engine(self.url(member), poolclass=NullPool) for member in self.members}

    def execute(self, member: str, statement: str) -> list[tuple[Any, ...]]:
        return self.cluster.execute(member, statement)

    def items(self, member: str) -> list[int]:
        """What is stored."""
        return [number for (number,) in self.execute(member, "SELECT id FROM item ORDER BY id")]

    @property
    def stored(self) -> list[list[int]]:
        return [self.items(member) for member in self.members]

    @property
    def prepared(self) -> list[str]:
        """The names of all prepared transactions, in whatever database."""
        return [name for (name,) in self.execute("postgres", "SELECT gid FROM pg_prepared_xacts ORDER BY gid")]

    def cut(self, member: str) -> None:
        """Cut every connection of the application to a database."""
        self.execute(
            "postgres",
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{member}' AND usename = 'app'",
        )

    def close(self, member: str) -> None:
        """Let nobody in any more, and cut who is."""
        self.execute("postgres", f"ALTER DATABASE {member} ALLOW_CONNECTIONS false")
        self.cut(member)

    def allow(self, member: str) -> None:
        self.execute("postgres", f"ALTER DATABASE {member} ALLOW_CONNECTIONS true")

    def wait_until_alone(self) -> None:
        """Wait until no process is connected any more, as one that was killed may be for a moment."""
        self.cluster.wait_until_alone()

    @contextmanager
    def held(self, member: str, statement: str) -> Iterator[None]:
        """Let another connection hang in *statement*, as if a standby had to confirm it that is not there."""
        for said in ("ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()"):
            self.execute("postgres", said)
        while self.execute("postgres", "SHOW synchronous_standby_names") != [("nobody",)]:
            time.sleep(0.01)
        hanging = threading.Thread(target=self.execute, args=(member, statement))
        hanging.start()
        try:
            while not self.execute("postgres", "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"):
                time.sleep(0.01)
            yield
        finally:
            for said in ("ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()"):
                self.execute("postgres", said)
            hanging.join()

    def clear(self) -> None:
        """Roll back what is prepared, whoever did it."""
        rows = self.execute("postgres", "SELECT gid, database FROM pg_prepared_xacts")
        for name, database in rows:
            self.allow(database)
            self.execute(database, f"ROLLBACK PREPARED '{name}'")


class MixedShop(Shop):
    """The same with `audit` on MariaDB.

    Args:
        mariadb: The URL of a database there.
    """

    def __init__(self, cluster: Cluster, mariadb: str) -> None:
        self.mariadb = create_engine(mariadb, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        super().__init__(cluster)

    def url(self, member: str, driver: str = "psycopg") -> str:
        if member == "audit":
            return self.mariadb.url.render_as_string(hide_password=False)
        return super().url(member, driver)

    def execute(self, member: str, statement: str) -> list[tuple[Any, ...]]:
        if member != "audit":
            return super().execute(member, statement)
        with self.mariadb.connect() as connection:
            statement = statement.removeprefix("SET ROLE app; ").replace("DEFERRABLE INITIALLY DEFERRED", "")
            result = connection.exec_driver_sql(statement)
            return [tuple(row) for row in result] if result.returns_rows else []

    @property
    def prepared(self) -> list[str]:
        found = (bytes(row[3]).decode() for row in self.execute("audit", "XA RECOVER"))
        return super().prepared + [name for name in found if name.startswith("postresponse/orders/")]

    def cut(self, member: str) -> None:
        if member != "audit":
            super().cut(member)
            return
        for (number,) in self._others():
            self.execute("audit", f"KILL {number}")

    def wait_until_alone(self) -> None:
        super().wait_until_alone()
        deadline = time.monotonic() + 20
        while self._others():
            assert time.monotonic() < deadline, "somebody stays connected to MariaDB"
            time.sleep(0.01)

    def _others(self) -> list[tuple[Any, ...]]:
        """The numbers of the other connections to the database."""
        return self.execute(
            "audit", "SELECT id FROM information_schema.processlist WHERE db = database() AND id <> connection_id()"
        )

    def allow(self, member: str) -> None:
        if member != "audit":
            super().allow(member)

    def clear(self) -> None:
        super().clear()
        for name in self.prepared:
            self.execute("audit", f"XA ROLLBACK '{name}'")
