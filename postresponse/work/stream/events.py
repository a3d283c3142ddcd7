"""A stream as server-sent events: the bytes of `text/event-stream` (the HTML standard, section 9.2)."""

import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final

from postresponse.exceptions import ConfigurationError
from postresponse.work.checks import check_function
from postresponse.work.stream.taking import Taking

__all__ = ["EventFormat", "Events", "ServerSentEvent", "check_format"]

HEARTBEAT: Final = b": heartbeat\n\n"
FAILED: Final = "failed"
LINES: Final = re.compile(r"\r\n|\r|\n")
NO_LINE: Final = re.compile(r"[\r\n\0]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSentEvent:
    """One event.

    Attributes:
        data: Text as it is; all else as JSON.
        event: Its name; None for "message".
        id: What a client that comes again says that it has seen, in Last-Event-ID.
        retry: Seconds that a client waits before it asks again.

    Raises:
        ConfigurationError: *event* or *id* has more than one line.
    """

    data: Any = ""
    event: str | None = None
    id: str | int | None = None
    retry: float | None = None

    def __post_init__(self) -> None:
        for option, value in (("event", self.event), ("id", self.id)):
            if value is not None and NO_LINE.search(str(value)):
                raise ConfigurationError(f"{option}: expected one line, found {value!r}")

    def encode(self) -> bytes:
        """Return it as it is sent."""
        text = self.data if isinstance(self.data, str) else json.dumps(self.data, ensure_ascii=False)
        lines = [f"{name}: {value}" for name, value in (("id", self.id), ("event", self.event)) if value is not None]
        if self.retry is not None:
            lines.append(f"retry: {round(self.retry * 1000)}")
        lines += [f"data: {line}" for line in LINES.split(text)]
        return "\n".join([*lines, "", ""]).encode()


EventFormat = Callable[[Any], Any]
"""Makes of an item a `ServerSentEvent`, or its data."""


def check_format(given: EventFormat | None) -> EventFormat | None:
    """Return *given*.

    Raises:
        NotAFunction: It cannot be called.
    """
    if given is not None:
        check_function("format", given)
    return given


class Events(AsyncIterator[bytes]):
    """The items of a stream as bytes; ids are the numbers of the items, from 1.

    Args:
        taking: The consumer of the stream.
        items: What it has, one behind the other; dropped with this one.
        format: Makes events; None for the items as data.
        heartbeat: Seconds without an item after which a comment is sent.
        retry: Seconds, told at the beginning.
        end: The name of the terminal event.
    """

    def __init__(
        self,
        taking: Taking[Any],
        items: AsyncIterator[Any],
        format: EventFormat | None,
        heartbeat: float,
        retry: float | None,
        end: str,
    ) -> None:
        self._taking = taking
        self._items = items
        self._format = format
        self._heartbeat = heartbeat
        self._end = ServerSentEvent(event=end)
        self._first = None if retry is None else f"retry: {round(retry * 1000)}\n\n".encode()
        self._error: BaseException | None = None
        self._is_over = False

    async def __anext__(self) -> bytes:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if self._is_over:
            self._raise_end()
        try:
            if not await self._taking.ready(self._heartbeat):
                return HEARTBEAT
            item = await anext(self._items)
        except StopAsyncIteration:
            return self._last(self._end)
        except Exception as error:
            if not self._taking.is_at_end:
                raise
            self._error = error
            return self._last(ServerSentEvent(event=FAILED))
        except BaseException:
            self._taking.break_off("its response was cancelled")
            raise
        return self._event(item).encode()

    def _event(self, item: Any) -> ServerSentEvent:
        made = item if self._format is None else self._format(item)
        if not isinstance(made, ServerSentEvent):
            made = ServerSentEvent(data=made, id=self._taking.number)
        return made

    def _last(self, event: ServerSentEvent) -> bytes:
        self._is_over = True
        return event.encode()

    def _raise_end(self) -> None:
        error, self._error = self._error, None
        if error is None:
            raise StopAsyncIteration
        try:
            raise error
        finally:
            del error  # whose traceback has this frame

    async def aclose(self) -> None:
        """Break off."""
        self._taking.break_off("its consumer closed it")
