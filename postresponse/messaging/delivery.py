"""A message on its way to whoever handles it, and what became of it."""

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from postresponse.exceptions import MessageRefused
from postresponse.messaging.message import opened

__all__ = ["DEFERRALS", "Delivery", "Result", "Settled", "number_in"]

DEFERRALS: Final = "postresponse-deferrals"


class Delivery:
    """A message as a handler, a filter or a destination receives it.

    Attributes:
        id: The message's id, the same on every attempt.
        destination: Whose it is.
        name: The name of the task or the event.
        document: The payload as it was written down, with its version.
        attempts: How often handling it failed before.
        ending: What a filter said that is to become of it, instead of having it handled; or its transport, which found
            that it is none of ours.
        reason: Why it is given up, where somebody said so.
        handle: What its transport knows it by.
    """

    __slots__ = ("_headers", "attempts", "destination", "document", "ending", "handle", "id", "name", "reason")

    def __init__(
        self,
        id: UUID,
        destination: str,
        name: str,
        document: str | bytes,
        headers: Mapping[str, str] | str | None = None,
        *,
        attempts: int = 0,
        handle: Any = None,
    ) -> None:
        self.id: UUID = id
        self.destination: str = destination
        self.name: str = name
        self.document: str | bytes = document
        self.attempts: int = attempts
        self.ending: Result | None = None
        self.reason: str = ""
        self.handle: Any = handle
        self._headers = headers

    @property
    def payload(self) -> Any:
        """What was enlisted, or sent.

        Raises:
            UnknownVersion: It was written by a later release.
            MessageRefused: It is no document of an outbox.
        """
        return opened(self.document)

    @property
    def headers(self) -> Mapping[str, str]:
        """What goes with it.

        Raises:
            MessageRefused: They are no mapping in JSON.
        """
        if isinstance(self._headers, Mapping):
            return self._headers
        try:
            found = json.loads(self._headers or "{}")
        except ValueError as error:
            raise MessageRefused(f"headers that are no JSON: {error}") from error
        if not isinstance(found, dict):
            raise MessageRefused(f"headers that are no mapping: {found!r}")
        self._headers = found
        return found

    @property
    def deferrals(self) -> int:
        """How often it was put back since its receiver was degraded."""
        return number_in(self.headers.get(DEFERRALS))

    @property
    def deferred_headers(self) -> Mapping[str, str]:
        """The headers that it is put back with."""
        return {**self.headers, DEFERRALS: str(self.deferrals + 1)}

    def mark_consumed(self) -> None:
        """Say, in a filter that does not call the next one, that the message is dealt with."""
        self.ending = Result.DONE

    def defer(self) -> None:
        """Say, in a filter, that it is to be put back at the end of its own queue."""
        self.ending = Result.DEFERRED

    def hand_back(self) -> None:
        """Say, in a filter, that it is to be left as it was found."""
        self.ending = Result.BACK

    def bury(self, reason: str = "") -> None:
        """Say, in a filter, that it is to be given up, and why."""
        self.ending, self.reason = Result.DEAD, reason

    def __repr__(self) -> str:
        return f"{self.name} {self.id}"


def number_in(header: object) -> int:
    """Return the number that a header says; 0 for one that says none, whoever wrote it."""
    text = str(header)
    return int(text) if text.isdecimal() and len(text) < 10 else 0


class Result(enum.Enum):
    """What became of a delivery."""

    DONE = "done"
    """It is gone."""
    FAILED = "failed"
    """It comes again, and has an attempt less."""
    OUTAGE = "outage"
    """What it goes to could not be reached; it keeps its attempts. In a table it is behind what is due now."""
    DEAD = "dead"
    """It is given up."""
    BACK = "back"
    """It was not tried."""
    DEFERRED = "deferred"
    """It was not tried, and is put back at the end of its own queue."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What its transport is to do with a delivery.

    Attributes:
        delivery: Which.
        result: What became of it.
        error: What it failed with: the type and a short text.
        delay: Seconds until it may come again.
    """

    delivery: Delivery
    result: Result
    error: str = ""
    delay: float = 0.0
