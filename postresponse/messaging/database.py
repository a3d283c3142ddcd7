"""The database of a relay: each piece of work in a transaction of its own, off the event loop."""

from collections.abc import Callable
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from anyio import CancelScope, CapacityLimiter
from anyio.lowlevel import RunVar
from sqlalchemy import URL, Connection, Engine, QueuePool, create_engine, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from postresponse.exceptions import ConfigurationError
from postresponse.work.threads import on_thread

__all__ = ["Database"]

P = ParamSpec("P")
T = TypeVar("T")

OWN_POOL: Final = 2
"""Connections of a relay that makes its engine itself: one claims while another settles."""

_NO_SNAPSHOT: Final = ("postgresql", "mysql", "mariadb")
"""Where what others commit has to be seen by the next statement, whatever the application's own isolation is."""


class Database:
    """Runs functions of a connection, each in one transaction.

    Args:
        given: An Engine or an AsyncEngine, or the URL of one, which then has a small pool of its own.

    Raises:
        ConfigurationError: It is neither.
    """

    def __init__(self, given: Engine | AsyncEngine | URL | str) -> None:
        engine = _made(given) if isinstance(given, str | URL) else given
        if not isinstance(engine, Engine | AsyncEngine):
            raise ConfigurationError(f"engine: expected an Engine, an AsyncEngine or a URL, found {given!r}")
        if engine.dialect.name in _NO_SNAPSHOT:
            engine = engine.execution_options(isolation_level="READ COMMITTED")
        self.engine: Engine | AsyncEngine = engine
        # A statement that is a transaction by itself needs no BEGIN and no COMMIT: two turns less on the network.
        self._one_by_one: Engine | AsyncEngine = (
            engine.execution_options(isolation_level="AUTOCOMMIT") if engine.dialect.name == "postgresql" else engine
        )
        # Each event loop has its own: one does not wake who waits for it on another.
        self._limiter: RunVar[CapacityLimiter] = RunVar(f"postresponse.messaging.database {id(self)}")

    async def run(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what *work* does with a connection, committed."""
        return await self._run_on(self.engine, work, *args, **kwargs)

    async def run_one_by_one(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `run`, where each statement of *work* may be committed by itself."""
        return await self._run_on(self._one_by_one, work, *args, **kwargs)

    async def _run_on(
        self,
        engine: Engine | AsyncEngine,
        work: Callable[Concatenate[Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        if isinstance(engine, AsyncEngine):
            async with engine.begin() as connection:
                return await connection.run_sync(work, *args, **kwargs)
        async with self._bound():
            with CancelScope(shield=True):
                result = await on_thread(lambda: self._run(engine, work, *args, **kwargs))
            return result

    def _bound(self) -> CapacityLimiter:
        limiter = self._limiter.get(None)
        if limiter is None:
            limiter = CapacityLimiter(OWN_POOL)
            self._limiter.set(limiter)
        return limiter

    def _run(
        self, engine: Engine, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        with engine.begin() as connection:
            return work(connection, *args, **kwargs)


def _made(url: str | URL) -> Engine | AsyncEngine:
    url = make_url(url)
    dialect: Any = url.get_dialect()
    pool: dict[str, Any] = {}
    if issubclass(dialect.get_pool_class(url), QueuePool):  # SQLite in memory has one of another kind
        pool = {"pool_size": OWN_POOL, "max_overflow": 0}
    return create_async_engine(url, **pool) if dialect.is_async else create_engine(url, **pool)
