"""From transactions, by a relay, to Celery on RabbitMQ and to its worker, with a broker that restarts in the middle."""

import json
import os
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count, cycle, islice
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import func, select

from postresponse.messaging import Message
from tests.conftest import Scale
from tests.messaging.proofs.processes import ROOT, Place, place, relay, until
from tests.messaging.proofs.programs import OUTBOX
from tests.services.children import die_with_parent
from tests.services.own_rabbitmq import Broker

BATCH = 25
MOST_TWICE = 2 * 2 * BATCH + 100
"""Tasks that one restart may run once more: two batches, each sent over two connections; and those that a worker had
acknowledged to a broker that was killed before it had written that down, together with the next messages."""


@contextmanager
def worker(environment: dict[str, str], folder: Path) -> Iterator[None]:
    """A worker of Celery's, in a process of its own."""
    with (folder / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.messaging.proofs.celery_worker"],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=die_with_parent,
        )
    try:
        yield
        assert process.poll() is None, (folder / "worker.log").read_text()[-4000:]
    finally:
        process.kill()
        process.wait()


class Ran:
    """The tasks that ran, as the worker writes them down.

    Attributes:
        times: How often each did, by its id.
        orders: The ids under which each order ran.
    """

    def __init__(self, file: Path) -> None:
        self.times: Counter[str] = Counter()
        self.orders: dict[str, set[str]] = {}
        self._file = file
        self._read = 0

    def look(self) -> "Ran":
        """Read what was added."""
        if self._file.exists():
            with self._file.open("rb") as file:
                file.seek(self._read)
                added = file.read()
            whole = added[: added.rfind(b"\n") + 1]
            self._read += len(whole)
            for line in whole.splitlines():
                id, _, order, _ = json.loads(line)
                self.times[id] += 1
                self.orders.setdefault(order["order"], set()).add(id)
        return self


class Producers:
    """Threads that enlist messages until they are told to stop, and roll back some of the transactions.

    Attributes:
        committed: The ids of messages whose transaction committed.
        rolled_back: The ids of those whose transaction did not.
    """

    def __init__(self, place: Place, threads: int = 2) -> None:
        self.committed: set[str] = set()
        self.rolled_back: set[str] = set()
        self._place = place
        self._told = threading.Event()
        self._failed: list[BaseException] = []
        self._threads = [threading.Thread(target=self._produce, args=(seed,)) for seed in range(threads)]

    def __enter__(self) -> "Producers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Tell them to stop, and wait until they have."""
        self._told.set()
        for thread in self._threads:
            thread.join()
        assert self._failed == []

    def _produce(self, seed: int) -> None:
        chance, orders = random.Random(seed), (f"{seed}/{number}" for number in count())
        try:
            while not self._told.wait(0.03):
                self._transact(chance, orders)
        except BaseException as error:
            self._failed.append(error)

    def _transact(self, chance: random.Random, orders: Iterator[str]) -> None:
        messages = [Message("tasks", "shop.note", {"order": next(orders)}) for _ in range(chance.randint(1, 3))]
        ids = {str(message.id) for message in messages}
        if chance.random() < 0.25:
            self.rolled_back |= ids
            self._write_and_roll_back(messages)
        else:
            self._place.enlist(*messages)
            self.committed |= ids

    def _write_and_roll_back(self, messages: Sequence[Message]) -> None:
        with self._place.engine.connect() as connection, connection.begin() as transaction:
            for message in messages:
                OUTBOX.enlist(message, into=connection)
            connection.begin_nested()  # they are in the table from here on
            transaction.rollback()


class Watch:
    """Looks at the table all the time.

    Attributes:
        attempts: The most that any message has spent.
        outages: The most that any message has met.
    """

    def __init__(self, place: Place) -> None:
        self.attempts = self.outages = 0
        self._place = place
        self._told = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._told.set()
        self._thread.join()

    def _look(self) -> None:
        columns = OUTBOX.tables.waiting.c
        most = select(func.max(columns.attempts), func.max(columns.outages))
        while not self._told.wait(0.05):
            with self._place.engine.connect() as connection:
                attempts, outages = connection.execute(most).one()
            self.attempts, self.outages = max(self.attempts, attempts or 0), max(self.outages, outages or 0)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.service("own rabbitmq")
@pytest.mark.parametrize(
    ("database", "first"),
    [
        ("sqlite", "killed"),
        pytest.param("postgresql", "stopped", marks=pytest.mark.service("postgresql")),
    ],
)
def test_every_task_of_a_committed_transaction_runs_and_no_other_however_often_the_broker_restarts(
    database: str, first: str, rabbitmq: Broker, scale: Scale, tmp_path: Path
) -> None:
    ways = cycle([first, "stopped" if first == "killed" else "killed"])
    restarts = list(islice(ways, scale.of(off=0, short=1, full=6)))
    shop = {"SHOP_BROKER": rabbitmq.url, "SHOP_QUEUE": f"shop-{uuid4().hex}", "SHOP_FILE": str(tmp_path / "ran")}
    ran = Ran(tmp_path / "ran")
    with place(database, tmp_path) as outbox, worker(shop, tmp_path), relay(outbox, "to_celery", **shop) as relaying:

        def is_away() -> bool:
            return bool(relaying.log) and "cannot be reached" in relaying.log[-1]

        with Watch(outbox) as seen, Producers(outbox) as producers:
            until(lambda: len(ran.look().times) > 100, "tasks run")
            for way in restarts:
                (rabbitmq.kill if way == "killed" else rabbitmq.stop)()
                until(is_away, "the relay has met the outage")
                rabbitmq.start()
                until(lambda: not is_away(), "the relay reaches it again")
                for _ in range(2):  # what has piled up, and then what comes one by one
                    enlisted = set(producers.committed)
                    until(lambda: enlisted <= ran.look().times.keys(), "what was enlisted till then runs", 120)  # noqa: B023
            producers.stop()
            until(lambda: outbox.rows() == [], "nothing waits", 120)
            until(lambda: producers.committed <= ran.look().times.keys(), "all have run", 120)
        relaying.stop()
        dead = outbox.rows(dead=True)
    twice = ran.times.total() - len(ran.times)
    print(
        f"{database}: {len(producers.committed)} committed, {len(producers.rolled_back)} rolled back, "
        f"restarts: {', '.join(restarts)}, run once more: {twice}, attempts: {seen.attempts}, outages: {seen.outages}"
    )
    assert ran.times.keys() == producers.committed
    assert producers.rolled_back.isdisjoint(ran.times)
    assert producers.rolled_back
    assert {len(ids) for ids in ran.orders.values()} == {1}
    assert twice <= MOST_TWICE * len(restarts)
    assert (seen.attempts, dead) == (0, [])
    assert seen.outages > 0
    assert not [line for line in relaying.log if "reached" not in line]
