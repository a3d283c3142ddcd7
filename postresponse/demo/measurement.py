"""The client: it orders over a real socket, looks into the database itself, and counts.

Whether an order is there is looked up as soon as the last byte of its answer was read, on a connection of the client's
own that the server knows nothing of.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

from postresponse.demo.server import ServerFailed, running
from postresponse.demo.ways import WAYS, Way

__all__ = ["TABLES", "Tally", "measure"]

TABLES: Final = """
    PRAGMA journal_mode=WAL;
    CREATE TABLE customers (id INTEGER PRIMARY KEY);
    CREATE TABLE orders (
        id TEXT PRIMARY KEY,
        customer INTEGER NOT NULL REFERENCES customers (id) DEFERRABLE INITIALLY DEFERRED
    );
    INSERT INTO customers VALUES (1);
"""
WARM_UP: Final = 5
KNOWN: Final = 1
UNKNOWN: Final = 404
"""A customer that does not exist: an order of his is accepted by INSERT and refused by COMMIT."""

Progress = Callable[[Way, int, int], object]
"""Receives the way that is measured, how many requests are done and how many there are."""


@dataclass(slots=True)
class Tally:
    """What was counted of one way.

    Attributes:
        way: Which one.
        answered: Good orders answered 2xx.
        missed: Those of them that were not in the database when the client had the last byte.
        failed: Orders whose COMMIT failed: they are not in the database at the end either.
        false_success: Those of them that were answered 2xx.
        next_ok: Good orders right after a failed one, on the same connection, that were answered 2xx.
        milliseconds: From sending each good order to the last byte of its answer.
    """

    way: Way
    answered: int = 0
    missed: int = 0
    failed: int = 0
    false_success: int = 0
    next_ok: int = 0
    milliseconds: list[float] = field(default_factory=list)

    @property
    def last_byte(self) -> float:
        """The median time to the last byte, in milliseconds."""
        return median(self.milliseconds)

    @property
    def kept(self) -> bool:
        """Whether the way did what it promises; one that promises nothing always did."""
        told = not self.way.tells or self.missed == self.false_success == 0
        return not self.way.ours or (told and self.next_ok == self.failed)


def measure(*, orders: int, failures: int, progress: Progress) -> list[Tally]:
    """Start a server, order from it each way, and return what was counted.

    Args:
        orders: Good orders, each way.
        failures: Orders whose COMMIT fails, each way; after each comes one more good one.
        progress: Is told after every order.

    Raises:
        ServerFailed: The server did not start, or did not answer as a server.
    """
    with TemporaryDirectory(prefix="postresponse-demo-") as folder:
        database, log = Path(folder, "shop.sqlite3"), Path(folder, "server.log")
        with closing(sqlite3.connect(database, isolation_level=None)) as beside:
            beside.executescript(TABLES)
            clients = [_Client(way, beside, orders, failures) for way in WAYS]
            try:
                with running(database, log) as port:
                    for client in clients:
                        client.run(port, progress)
            except (OSError, HTTPException) as error:
                raise ServerFailed(f"{error!r}\n{log.read_text(errors='replace')}") from error
            for client in clients:
                client.check_failed()
    return [client.tally for client in clients]


class _Client:
    """Orders one way."""

    def __init__(self, way: Way, beside: sqlite3.Connection, orders: int, failures: int) -> None:
        self.tally = Tally(way)
        self._beside = beside
        self._orders = orders
        self._failures = failures
        self._connection: HTTPConnection | None = None

    def run(self, port: int, progress: Progress) -> None:
        done, total = 0, self._orders + self._failures
        with self._connected(port) as connection:
            for number in range(WARM_UP):
                self._order(connection, f"warm-up-{number}", KNOWN)
            for number in range(self._orders):
                self._good(connection, f"good-{number}")
                progress(self.tally.way, done := done + 1, total)
        connection.close()
        for number in range(self._failures):
            with self._connected(port) as connection:
                self._bad(connection, number)
            progress(self.tally.way, done := done + 1, total)

    @contextmanager
    def _connected(self, port: int) -> Iterator[HTTPConnection]:
        """Give a connection that is never opened again behind our back."""
        with closing(HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            connection.connect()
            connection.auto_open = 0
            yield connection

    def _good(self, connection: HTTPConnection, name: str) -> None:
        tally = self.tally
        began = time.perf_counter()
        status = self._order(connection, name, KNOWN)
        tally.milliseconds.append((time.perf_counter() - began) * 1000)
        there = self._has(name)
        if not 200 <= status < 300:
            raise ServerFailed(f"{tally.way.title}: a good order was answered {status}")
        tally.answered += 1
        tally.missed += not there

    def _bad(self, connection: HTTPConnection, number: int) -> None:
        tally = self.tally
        status = self._order(connection, f"bad-{number}", UNKNOWN)
        tally.failed += 1
        tally.false_success += 200 <= status < 300
        try:
            status = self._order(connection, f"next-{number}", KNOWN)
        except (OSError, HTTPException):
            return  # the server ended the connection
        tally.next_ok += 200 <= status < 300

    def check_failed(self) -> None:
        """See that no order of an unknown customer arrived; or the figures would mean nothing."""
        arrived = sum(self._has(f"bad-{number}") for number in range(self._failures))
        if arrived:
            raise ServerFailed(f"{self.tally.way.title}: {arrived} of {self._failures} commits did not fail")

    def _order(self, connection: HTTPConnection, name: str, customer: int) -> int:
        body = json.dumps({"id": self._key(name), "customer": customer})
        connection.request("POST", f"/{self.tally.way.name}/orders", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
        return response.status

    def _has(self, name: str) -> bool:
        found = self._beside.execute("SELECT 1 FROM orders WHERE id = ?", (self._key(name),))
        return found.fetchone() is not None

    def _key(self, name: str) -> str:
        return f"{self.tally.way.name}-{name}"
