"""A server under the kit's eyes: how it is asked, and what it wrote down."""

import itertools
import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from postresponse.testing.client import Connection, Response
from postresponse.testing.conformance.record import read
from postresponse.testing.conformance.telling import HEADER
from postresponse.testing.processes import Server

__all__ = ["Asked", "Place"]

PATIENCE = 10.0
"""Seconds that something may take to be written down."""


class Asked:
    """What a request asks of the kit's side in the server.

    Args:
        key: Its own name.
        asked: What it asks for; what is None is left out.
    """

    def __init__(self, key: str, **asked: object) -> None:
        self.key: str = key
        given = {name: value for name, value in asked.items() if value is not None}
        self.headers: tuple[tuple[str, str], ...] = ((HEADER, urlencode({"key": key, **given})),)


class Place:
    """One running server.

    Attributes:
        own: Whether the application is the kit's own.
        method: Of its requests.
        path: Of its requests.
    """

    def __init__(self, server: Server, record: Path, *, method: str, path: str, own: bool) -> None:
        self.server: Server = server
        self.own: bool = own
        self._record = record
        self.method: str = method
        self.path: str = path
        self._numbers = itertools.count(1)

    def asked(self, name: str, **asked: object) -> Asked:
        """A request's own key, and what it asks for."""
        return Asked(f"{name}-{next(self._numbers)}", **asked)

    def connection(self) -> Connection:
        """A connection."""
        return Connection(self.server.port)

    def send(self, connection: Connection, asked: Asked) -> None:
        """Send the request of the application."""
        connection.send(self.method, self.path, asked.headers)

    def ask(self, connection: Connection, asked: Asked) -> Response:
        """Send it, and read the whole response."""
        self.send(connection, asked)
        return connection.read_response()

    def events(self, key: str, event: str = "") -> list[dict[str, Any]]:
        """What was written down of a request."""
        return [each for each in read(self._record) if each["key"] == key and event in ("", each["event"])]

    def wait_for(self, key: str, *events: str, patience: float = PATIENCE) -> dict[str, Any] | None:
        """Wait until one of *events* was written down, and return it; None if none was in so many seconds."""
        deadline = time.monotonic() + patience
        while True:
            for each in self.events(key):
                if each["event"] in events:
                    return each
            if time.monotonic() > deadline:
                return None
            time.sleep(0.01)

    def tail(self) -> str:
        """The last lines of the server's log."""
        return "\n".join(self.server.log().splitlines()[-5:])

    def __repr__(self) -> str:
        return json.dumps({"server": self.server.kind.name, "port": self.server.port})
