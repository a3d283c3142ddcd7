"""Queues of other people's on PostgreSQL: what their own way to enqueue, and to take and acknowledge, costs."""

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from typing import Final

from tests.benchmarks.runner import Contender, Missing, Subject, package
from tests.services import postgres

__all__ = ["PAYLOAD", "enqueuers", "takers"]

PAYLOAD: Final = {"order_id": "o-123456", "customer": 42, "lines": [{"sku": "tea", "count": 2}] * 3}


class OnPostgreSQL(Subject):
    """Works on one connection, on an event loop of its own."""

    def __init__(self) -> None:
        if postgres.unreachable() is not None:
            raise Missing(["a running PostgreSQL"])
        self._stack = ExitStack()
        self._schema = self._stack.enter_context(postgres.schema())
        self._runner = asyncio.Runner()
        self._runner.run(self.open(f"-csearch_path={self._schema}"))

    async def open(self, options: str) -> None:
        raise NotImplementedError

    async def prepare(self, count: int) -> None:
        """Do what is not measured."""

    async def once(self) -> None:
        """Do what is measured."""
        raise NotImplementedError

    async def clear(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        raise NotImplementedError

    def seconds(self, count: int) -> float:
        return self._runner.run(self._timed(count))

    async def _timed(self, count: int) -> float:
        await self.prepare(count)
        begun = time.perf_counter()
        for _ in range(count):
            await self.once()
        took = time.perf_counter() - begun
        await self.clear()
        return took

    def close(self) -> None:
        self._runner.run(self.aclose())
        self._runner.close()
        self._stack.close()


class PgQueuer(OnPostgreSQL):
    """pgqueuer, by its queries.

    Args:
        takes: Whether it takes batches, or enqueues them.
    """

    def __init__(self, *, takes: bool, batch: int = 100) -> None:
        self._takes, self._batch = takes, batch
        self._payload = json.dumps(PAYLOAD).encode()
        super().__init__()

    async def open(self, options: str) -> None:
        psycopg = package("psycopg")
        self._connection = await psycopg.AsyncConnection.connect(postgres.url(), autocommit=True, options=options)
        self._queries = package("pgqueuer.queries").Queries(package("pgqueuer.db").PsycopgDriver(self._connection))
        await self._queries.install()

    async def prepare(self, count: int) -> None:
        for _ in range(count if self._takes else 0):
            await self._enqueue()

    async def once(self) -> None:
        if not self._takes:
            async with self._connection.transaction():
                await self._enqueue()
            return
        parameter = package("pgqueuer.ports.repository").EntrypointExecutionParameter(0)
        jobs = await self._queries.dequeue(self._batch, {"send": parameter}, uuid.uuid4(), None, timedelta(seconds=60))
        assert len(jobs) == self._batch
        await self._queries.log_jobs([(job, "successful", None) for job in jobs])

    async def _enqueue(self) -> None:
        count = self._batch
        await self._queries.enqueue(["send"] * count, [self._payload] * count, [0] * count)

    async def clear(self) -> None:
        await self._queries.clear_queue()
        await self._queries.clear_queue_log()

    async def aclose(self) -> None:
        await self._connection.close()


class Procrastinate(OnPostgreSQL):
    """Procrastinate, one job after the other, as its workers take them.

    Args:
        takes: Whether it takes jobs, or defers them.
    """

    def __init__(self, *, takes: bool, batch: int = 100) -> None:
        self._takes, self._batch = takes, batch
        super().__init__()

    async def open(self, options: str) -> None:
        procrastinate = package("procrastinate")
        connector = procrastinate.PsycopgConnector(
            conninfo=postgres.url(), kwargs={"options": options}, min_size=1, max_size=2
        )
        self._app = procrastinate.App(connector=connector)
        await self._app.open_async()
        await self._app.schema_manager.apply_schema_async()
        self._worker = await self._app.job_manager.register_worker()

    async def prepare(self, count: int) -> None:
        if self._takes:
            for _ in range(count):
                await self._app.configure_task("send", allow_unknown=True).batch_defer_async(*[PAYLOAD] * self._batch)

    async def once(self) -> None:
        if not self._takes:
            for _ in range(self._batch):
                await self._app.configure_task("send", allow_unknown=True).defer_async(**PAYLOAD)
            return
        status = package("procrastinate.jobs").Status.SUCCEEDED
        for _ in range(self._batch):
            job = await self._app.job_manager.fetch_job(queues=None, worker_id=self._worker)
            await self._app.job_manager.finish_job(job, status, delete_job=True)

    async def clear(self) -> None:
        await self._app.connector.execute_query_async("TRUNCATE procrastinate_jobs CASCADE")

    async def aclose(self) -> None:
        await self._app.close_async()


def enqueuers() -> list[Contender]:
    """Those that enqueue a hundred jobs."""
    return _contenders(takes=False)


def takers() -> list[Contender]:
    """Those that take a hundred jobs, and acknowledge them."""
    return _contenders(takes=True)


def _contenders(*, takes: bool) -> list[Contender]:
    kinds: list[tuple[str, Callable[..., Subject]]] = [("pgqueuer", PgQueuer), ("procrastinate", Procrastinate)]
    return [Contender(name, "peer", partial(kind, takes=takes), (name, "psycopg")) for name, kind in kinds]
