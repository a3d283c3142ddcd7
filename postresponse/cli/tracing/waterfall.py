"""One request as lines of text: when what left and what arrived, on both sides, on one clock."""

from collections.abc import Iterator, Mapping, Sequence
from http.client import responses
from typing import Any, Final, NamedTuple

from postresponse.wire import Answer

__all__ = ["Event", "events_of", "heading", "lines_of"]

WIDTH: Final = 24
"""Columns of the line of time."""

SHOWN: Final = 12
"""Pieces of a body that are shown from its begin, and from its end; those between are counted."""


ENDLESS: Final = "ended by the end of its connection, so that nobody knows whether it is whole"


class Event(NamedTuple):
    """One thing that happened.

    Attributes:
        at: When, in nanoseconds of the monotonic clock.
        side: `"client"` or `"server"`.
        name: What it was.
        detail: What else there is to say.
    """

    at: int
    side: str
    name: str
    detail: str


def events_of(answer: Answer, reports: Sequence[Mapping[str, Any]] = ()) -> list[Event]:
    """Return what happened, in order: what the client saw of *answer*, and what the server reported of its exchange."""
    return sorted([*_seen(answer), *_reported(reports)], key=_at)


def _at(event: Event) -> int:
    return event.at


def _seen(answer: Answer) -> Iterator[Event]:
    yield Event(answer.began, "client", "request", "on the same connection" if answer.reused else "")
    if answer.first_byte is not None and answer.first_byte != answer.head:
        yield Event(answer.first_byte, "client", "first byte", "")
    if answer.head is not None:
        yield Event(answer.head, "client", "head", str(answer.status))
    for piece in answer.pieces:
        yield Event(piece.at, "client", "body", f"{piece.size} bytes")
    yield Event(answer.ended, "client", "broken" if answer.fault else "end", answer.fault)


def _reported(reports: Sequence[Mapping[str, Any]]) -> Iterator[Event]:
    for report in reports:
        if report["kind"] == "exchange":
            for ms, name, detail in report["events"]:
                yield Event(report["began"] + round(ms * 1e6), "server", name, detail)
        else:
            if report["started"] is not None:
                yield Event(report["started"], "server", "job.start", report["name"])
            failed = "" if report["exception"] is None else f", {report['exception']}"
            yield Event(report["ended"], "server", f"job.{report['state']}", f"{report['name']}{failed}")


def heading(method: str, url: str, answer: Answer, *, is_open: bool) -> str:
    """Say in one line what came, and what became of the connection."""
    if answer.status is None:
        return f"{method} {url}: no response; {answer.fault}"
    phrase = responses.get(answer.status, "")
    whole = f"TRUNCATED, {answer.fault}" if answer.fault else "whole" if answer.is_bounded else ENDLESS
    pieces = "" if len(answer.pieces) == 1 else f" in {len(answer.pieces)} pieces"
    said = f"{method} {url}: {answer.status} {phrase}".rstrip()
    return f"{said}, {answer.size} bytes{pieces}, {whole}; {_connection(answer, is_open=is_open)}"


def _connection(answer: Answer, *, is_open: bool) -> str:
    which = "the same connection" if answer.reused else "a new connection"
    if answer.keeps_alive:
        return f"{which}, which {'stays open' if is_open else 'the server was to keep and has DROPPED'}"
    return f"{which}, which the server does not keep"


def lines_of(events: Sequence[Event], *, both: bool) -> Iterator[str]:
    """Give the lines: the time, where that is between the first and the last, and what happened on which side."""
    first, whole = events[0].at, max(events[-1].at - events[0].at, 1)
    names = ["client", "server"] if both else ["client"]
    rows = [_row(event, names, first, whole) for event in _shortened(events)]
    heads = ["ms", "", *names]
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    widths[1] = WIDTH + 1
    for ms, *cells in [heads, *rows]:
        texts = [f"{cell:{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
        yield "  ".join([f"{ms:>{widths[0]}}", *texts]).rstrip()


def _row(event: Event, names: Sequence[str], first: int, whole: int) -> list[str]:
    at = event.at - first
    text = f"{event.name} {event.detail}".rstrip()
    bar = f"{'-' * (WIDTH * at // whole)}|"
    return [f"{at / 1e6:.1f}", bar, *(text if event.side == name else "" for name in names)]


def _shortened(events: Sequence[Event]) -> Iterator[Event]:
    """Leave out the pieces in the middle of a long body, and say how many."""
    pieces = [event for event in events if event.side == "client" and event.name == "body"]
    left_out = pieces[SHOWN:-SHOWN]
    hidden = {id(event) for event in left_out}
    for event in events:
        if id(event) not in hidden:
            yield event
        elif event is left_out[0]:
            size = sum(int(each.detail.split()[0]) for each in left_out)
            yield Event(event.at, "client", "body", f"{len(left_out)} pieces, {size} bytes")
