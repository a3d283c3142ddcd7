"""A server, the applications in it, its database and its record: what a test of this folder works with."""

import itertools
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import pytest

from tests.servers.client import Client, Connection, Head
from tests.servers.harness import KINDS, Kind, Server
from tests.servers.orders import Orders

PATIENCE = 10.0
"""Seconds that a condition may take to come true."""

Event = dict[str, Any]


@dataclass(frozen=True)
class Spec:
    """Which server on which database."""

    kind: Kind
    database: str

    @property
    def name(self) -> str:
        """How the tests and the table call it."""
        return self.kind.name if self.database == "sqlite" else f"{self.kind}-{self.database}"


USUAL: Final = ("uvicorn-httptools", "hypercorn", "gunicorn-sync", "gunicorn-gthread", "waitress")
"""Where a test of all servers is run in every case; on the others by the long runs."""


def sites(*names: str, protocol: str = "", database: str = "sqlite", but: Sequence[str] = ()) -> pytest.MarkDecorator:
    """Parametrize a test over servers: those named, or all; of one protocol; but for some."""
    chosen = [KINDS[name] for name in names or KINDS if name not in but]
    service = [pytest.mark.service(database)] if database != "sqlite" else []
    specs = [Spec(kind, database) for kind in chosen if protocol in {"", kind.protocol}]
    often = names or USUAL
    marks = [service if spec.kind.name in often else [*service, pytest.mark.long] for spec in specs]
    params = [pytest.param(spec, id=spec.name, marks=of) for spec, of in zip(specs, marks, strict=True)]
    return pytest.mark.parametrize("site", params, indirect=True)


def eventually(condition: Callable[[], Any], what: str, timeout: float = PATIENCE) -> Any:
    """Return the first true value of *condition*; fail, saying *what* did not come true, after *timeout* seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout} s: {what}")
        time.sleep(0.003)
    return value


class Site:
    """One running server with its application.

    Args:
        spec: Which server on which database.
        orders: The database.
        folder: A folder of its own.
    """

    def __init__(self, spec: Spec, orders: Orders, folder: Path) -> None:
        self.spec = spec
        self.kind = spec.kind
        self.orders = orders
        self._gates = folder / "gates"
        self._gates.mkdir()
        self._record = folder / "record.jsonl"
        self._read = 0
        self._events: defaultdict[str, list[Event]] = defaultdict(list)
        self._numbers = itertools.count(1)
        environment = {
            **orders.environment,
            "POSTRESPONSE_TEST_GATES": str(self._gates),
            "POSTRESPONSE_TEST_RECORD": str(self._record),
            "POSTRESPONSE_TEST_LOOP": spec.kind.loop,
            "POSTRESPONSE_TEST_SIGTERM": "" if spec.kind.heeds_sigterm else "as Ctrl-C",
        }
        self.server = Server(spec.kind, f"tests.servers.apps.{spec.kind.protocol}:app", folder, environment)

    # -- requests

    def client(self) -> Client:
        """A client that keeps its connection."""
        return Client(self.server.port)

    def connection(self, *, receive_buffer: int | None = None) -> Connection:
        """One connection."""
        return Connection(self.server.port, receive_buffer=receive_buffer)

    def key(self, name: str) -> str:
        """A key that no other request of this site has."""
        return f"{name}-{next(self._numbers)}"

    def open(self, key: str) -> None:
        """Open the gate at which a request waits."""
        (self._gates / key).touch()

    def status(self) -> dict[str, int]:
        """The server's own process and its connections out of the pool."""
        with self.connection() as connection:
            answer: dict[str, int] = json.loads(connection.request("GET", "/status?through=bare").body)
            return answer

    # -- the record

    def events(self, key: str, event: str = "") -> list[Event]:
        """What was recorded of a request, in order; of one kind or of all."""
        if self._record.exists():
            with self._record.open("rb") as file:
                file.seek(self._read)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._read += len(whole)
            for line in whole.splitlines():
                entry = json.loads(line)
                self._events[entry["key"]].append(entry)
        return [entry for entry in self._events[key] if event in {"", entry["event"]}]

    def wait_for(self, key: str, event: str) -> Event:
        """Wait until something was recorded of a request, and return the first such entry."""
        found = eventually(lambda: self.events(key, event), f"{event!r} of {key} on {self.kind}:\n{self.server.log()}")
        entry: Event = found[0]
        return entry

    def outcome(self, key: str) -> Event:
        """Wait for the outcome of a request, and see that it is the only one and fits what the database did."""
        outcome = self.wait_for(key, "finished")
        assert len(self.events(key, "finished")) == 1, self.events(key)
        return outcome

    def sees_all_given_back(self) -> None:
        """Wait until every connection is back in its pool."""
        eventually(lambda: self.status()["checked_out"] == 0, f"pool of {self.kind} is full again")

    def log(self) -> str:
        """What the server printed."""
        return self.server.log()


def target(path: str, key: str, **asked: Any) -> str:
    """A request's target: the path and what is asked of it; values that are None are left out."""
    return f"{path}?{urlencode({'key': key} | {name: value for name, value in asked.items() if value is not None})}"


def leftovers(head: Head, body: bytes, key: str) -> list[str]:
    """What an error response still holds of the response that it replaced."""
    found = [name for name in ("set-cookie", "etag", "location", "content-encoding") if head.get(name) is not None]
    return found + (["the key"] if key.encode() in head.text.encode() + body else [])
