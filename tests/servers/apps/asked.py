"""What a test asks of a route: everything is in the query string, so one process serves every mode."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from postresponse import CommitPolicy
from tests.servers.apps.record import record

GATES = Path(os.environ.get("POSTRESPONSE_TEST_GATES", "."))
POLL = 0.002
"""Seconds between two looks at a gate."""


@dataclass(frozen=True)
class Asked:
    """One request's wishes.

    Attributes:
        key: Names the request, its row, and its lines in the record.
        at: When to commit; empty leaves it to the middleware's default.
        through: Which way in: "unit" (with a unit of work), "observer" (without one), "bare" (no middleware at all).
        fail: Make COMMIT itself fail, by a deferred foreign key that points nowhere.
        delay: Seconds that COMMIT takes longer.
        hold: Where to wait until the test opens the gate: "handler", "body" or "commit".
        size: Bytes of the body; 0 leaves it to a route that has one of its own.
        piece: Bytes of each piece of it.
        touch: Whether a stream reads from the database before it begins.
        max_memory: As in the policy.
        on_disconnect: As in the policy.
        work: What starts after the response: "sync" or "async"; empty for nothing.
        lasts: Seconds that it takes.
        status: Of an answer without a body.
    """

    key: str = ""
    at: str = ""
    through: str = "unit"
    fail: bool = False
    delay: float = 0.0
    hold: str = ""
    size: int = 0
    piece: int = 65536
    touch: bool = False
    max_memory: int = 0
    on_disconnect: str = ""
    work: str = ""
    lasts: float = 0.0
    status: int = 204

    @property
    def policy(self) -> CommitPolicy | str | None:
        """The policy asked for, in its short form where that says it all; None for the default."""
        options: dict[str, Any] = {"at": self.at} if self.at else {}
        if not (self.max_memory or self.on_disconnect):
            return self.at or None
        if self.max_memory:
            options |= {"max_memory": self.max_memory, "max_body": None}
        if self.on_disconnect:
            options["on_disconnect"] = self.on_disconnect
        return CommitPolicy(**options)

    @property
    def body(self) -> bytes:
        """The body of a response that is made as a whole."""
        return b"x" * self.size or f"order {self.key} stored\n".encode()

    @property
    def gate(self) -> Path:
        """The file that lets this request go on."""
        return GATES / self.key

    def pieces(self) -> int:
        """How many pieces the body has."""
        return -(-self.size // self.piece)

    def piece_at(self, number: int) -> bytes:
        """One of them; not of zeros, for which the kernel would spend no memory."""
        return b"x" * min(self.piece, self.size - number * self.piece)


def asked_by(query: str) -> Asked:
    """Read a query string; unknown names are an error, for they would be a test that tests nothing."""
    given = {name: values[-1] for name, values in parse_qs(query).items()}
    kinds: Mapping[str, Callable[[str], Any]] = {
        "fail": lambda text: text == "1",
        "touch": lambda text: text == "1",
        "delay": float,
        "lasts": float,
        "size": int,
        "status": int,
        "piece": int,
        "max_memory": int,
    }
    return Asked(**{name: kinds.get(name, str)(value) for name, value in given.items()})


def asked_in(context: Mapping[str, Any]) -> Asked:
    """Read the wishes out of an ASGI scope or a WSGI environ."""
    query = context["query_string"].decode("ascii") if "query_string" in context else context["QUERY_STRING"]
    return asked_by(query)


def policy_of(context: Mapping[str, Any]) -> CommitPolicy | str | None:
    """The function given to the middleware as ``commit=``."""
    return asked_in(context).policy


def wait_at(asked: Asked, place: str, pause: Callable[[float], object] = time.sleep) -> None:
    """Say that *place* was reached; where the request is to be held there, return when its gate opens."""
    if asked.hold == place:
        record("held", asked.key, place=place)
        while not asked.gate.exists():
            pause(POLL)
