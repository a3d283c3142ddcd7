"""One message: what it says, for whom, and the form in which it is written down and sent.

The form is a JSON document with a version, so that a relay or a receiver of an earlier or later release tells what it
does not know from what is broken, and leaves it alone. It is never a pickle.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID, uuid4, uuid5

from postresponse.exceptions import MessageRefused, UnknownVersion

__all__ = ["Message", "opened", "sealed"]

VERSION: Final = 1
_DEDUPED: Final = UUID("6ee3d1ab-9c5e-4f0c-8a86-0a2f9f2f2a5d")
"""The namespace of ids that are made of a dedupe key (RFC 9562, section 5.5)."""

_NAME: Final = re.compile(r"[A-Za-z_][\w.:/-]{0,199}", re.ASCII)
_DESTINATION: Final = re.compile(r"[A-Za-z_][\w.-]{0,63}", re.ASCII)
_HEADER: Final = re.compile(r"[A-Za-z_][\w.-]{0,63}", re.ASCII)
_CONTROL: Final = re.compile("[\r\n\0]")
LONGEST_KEY: Final = 200
LONGEST_HEADER: Final = 1024
MOST_HEADERS: Final = 32

_encode: Final = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
_PLAIN: Final = frozenset({str, int, float, bool, type(None)})
_AT_ONCE: Final = 0.0
_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Message:
    """Something that an engine is to be told of, checked where it is made.

    Args:
        destination: Which engine; one of those that the `Outbox` allows.
        name: What the engine calls it: the name of a task, an actor or an event.
        payload: What `json.dumps` takes; dictionaries with text for keys, and no NaN.
        headers: Texts that go with it: a trace context, a tenant.
        ordering_key: Messages with the same one are delivered one after the other, in the order of their ids.
        dedupe_key: Two messages with the same one to the same destination have the same id: the outbox keeps one of
            them while it waits, and a receiver with an inbox handles one.
        delay: Seconds until it is due, on the database's clock.
        due: When it is due; aware, and instead of *delay*.
        id: The message's id, the same on every attempt: the task id where the engine has one.

    Raises:
        MessageRefused: It cannot be sent as it is, and why.
    """

    destination: str
    name: str
    payload: Any = None
    _: KW_ONLY
    headers: Mapping[str, str] = field(default_factory=lambda: _NO_HEADERS)
    ordering_key: str | None = None
    dedupe_key: str | None = None
    delay: float = _AT_ONCE
    due: datetime | None = None
    id: UUID = field(default_factory=uuid4)
    document: str = field(init=False, repr=False, compare=False)
    """The payload as it is written down."""

    def __post_init__(self) -> None:
        if not isinstance(self.destination, str) or not _DESTINATION.fullmatch(self.destination):
            raise MessageRefused(f"destination: expected a short name without spaces, found {self.destination!r}")
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise MessageRefused(f"name: expected the name of a task or an event, found {self.name!r}")
        if not isinstance(self.id, UUID):
            raise MessageRefused(f"id: expected a uuid.UUID, found {self.id!r}")
        if self.headers is not _NO_HEADERS:
            object.__setattr__(self, "headers", _checked_headers(self.headers))
        if self.ordering_key is not None:
            _check_key("ordering_key", self.ordering_key)
        if self.dedupe_key is not None:
            _check_key("dedupe_key", self.dedupe_key)
            object.__setattr__(self, "id", uuid5(_DEDUPED, f"{self.destination}/{self.dedupe_key}"))
        if self.delay is not _AT_ONCE or self.due is not None:
            self._check_due()
        object.__setattr__(self, "document", sealed(self.payload))

    def _check_due(self) -> None:
        delay, due = self.delay, self.due
        if isinstance(delay, bool) or not isinstance(delay, int | float) or not 0 <= delay < math.inf:
            raise MessageRefused(f"delay: expected seconds, zero or more, found {delay!r}")
        if due is not None:
            if not isinstance(due, datetime) or due.utcoffset() is None:
                raise MessageRefused(f"due: expected a datetime with a time zone, found {due!r}")
            if delay:
                raise MessageRefused("delay, due: give one of them")


def _check_key(option: str, key: Any) -> None:
    if not (isinstance(key, str) and 0 < len(key) <= LONGEST_KEY and "\0" not in key):
        raise MessageRefused(f"{option}: expected a text of 1 to {LONGEST_KEY} characters, found {key!r}")


def sealed(payload: Any) -> str:
    """Return the document that holds *payload*.

    Raises:
        MessageRefused: It is no JSON.
    """
    try:
        document = f'{{"version":{VERSION},"payload":{_encode(payload)}}}'
    except (TypeError, ValueError, RecursionError) as error:
        raise MessageRefused(
            f"payload: {error}; give what JSON has, and the id of a row instead of an object"
        ) from error
    _check_keys(payload)
    return document


def _check_keys(value: Any) -> None:
    """Look at whether the keys in *value*, and below, are texts."""
    below = value
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise MessageRefused(f"payload: JSON would make a text of the key {key!r}; give it texts")
        below = value.values()
    elif not isinstance(value, list | tuple):
        return
    for each in below:
        if type(each) not in _PLAIN:
            _check_keys(each)


def opened(document: str | bytes) -> Any:
    """Return the payload that *document* holds.

    Raises:
        UnknownVersion: It was written by a later release, or by somebody else.
        MessageRefused: It is no document.
    """
    try:
        found = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise MessageRefused(f"a message that is no JSON: {error}") from error
    if not isinstance(found, dict) or "version" not in found:
        raise MessageRefused("a message without a version: it was not written by an Outbox")
    if found["version"] != VERSION or isinstance(found["version"], bool):
        raise UnknownVersion(found["version"], VERSION)
    if "payload" not in found:
        raise MessageRefused("a message without a payload")
    return found["payload"]


def _checked_headers(headers: Any) -> Mapping[str, str]:
    if not isinstance(headers, Mapping) or len(headers) > MOST_HEADERS:
        raise MessageRefused(f"headers: expected a mapping of at most {MOST_HEADERS} texts, found {headers!r}")
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER.fullmatch(name):
            raise MessageRefused(f"headers: expected a name of letters, digits, '-', '_' and '.', found {name!r}")
        if not isinstance(value, str) or len(value) > LONGEST_HEADER or _CONTROL.search(value):
            raise MessageRefused(
                f"headers: expected a text of at most {LONGEST_HEADER} characters without CR, LF and NUL for {name!r}, "
                f"found {value!r:.80}"
            )
    return MappingProxyType(dict(headers))
