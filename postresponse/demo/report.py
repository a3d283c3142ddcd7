"""What was counted, for people and for programs."""

import json
import platform
import sqlite3
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Final

from postresponse.demo.measurement import Tally
from postresponse.demo.ways import AFTER_SEND, HEAD, YIELD

__all__ = ["as_json", "as_table", "plain_reading"]

HEADINGS: Final = ("who commits", "missed reads", "false 2xx", "next request ok", "last byte, median")
LEGEND: Final = (
    "missed reads: answered 2xx, and not in the database right after the last byte of the answer.",
    "false 2xx: COMMIT failed, and the answer was 2xx. Next request: on the same connection, right after that.",
)


def as_table(tallies: Sequence[Tally]) -> str:
    """Return a table, what its columns mean, and what it says in plain words."""
    first = tallies[0]
    versions = ", ".join(f"{name} {number}" for name, number in _versions().items())
    rows = [HEADINGS, *map(_row, tallies)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    intro = [
        f"POST /orders on {versions};",
        f"each way {first.answered} orders, and {first.failed} of a customer that does not exist, "
        "which COMMIT refuses.",
    ]
    return "\n".join([*intro, "", *lines, "", *LEGEND, "", *plain_reading(tallies)])


def _row(tally: Tally) -> tuple[str, ...]:
    return (
        tally.way.title,
        f"{tally.missed} of {tally.answered}",
        f"{tally.false_success} of {tally.failed}",
        f"{tally.next_ok} of {tally.failed}",
        f"{tally.last_byte:.1f} ms",
    )


def plain_reading(tallies: Sequence[Tally]) -> list[str]:
    """Say in sentences what the table shows."""
    by_way = {tally.way: tally for tally in tallies}
    starts = {YIELD: "the yield dependency", HEAD: "commit='head'", AFTER_SEND: "commit='after_send'"}
    sentences = [_sentence(start, by_way[way]) for way, start in starts.items()]
    broken = [f"{tally.way.title} did NOT do what it promises." for tally in tallies if not tally.kept]
    return [*sentences, *broken]


def _sentence(way: str, tally: Tally) -> str:
    told = f"{tally.false_success} of {tally.failed} clients were told 2xx for an order that does not exist"
    return f"With {way} {told},\nand {tally.missed} of {tally.answered} did not find theirs right after the answer."


def as_json(tallies: Sequence[Tally], seconds: float) -> str:
    """Return the same as one JSON object."""
    found: dict[str, Any] = {
        "ways": [
            {
                "name": tally.way.name,
                "title": tally.way.title,
                "answered": tally.answered,
                "missed": tally.missed,
                "failed_commits": tally.failed,
                "false_2xx": tally.false_success,
                "next_request_ok": tally.next_ok,
                "last_byte_median_ms": round(tally.last_byte, 3),
                "kept": tally.kept,
            }
            for tally in tallies
        ],
        "versions": _versions(),
        "seconds": round(seconds, 2),
    }
    return json.dumps(found, indent=2)


def _versions() -> dict[str, str]:
    return {
        "FastAPI": version("fastapi"),
        "uvicorn": version("uvicorn"),
        "SQLite": sqlite3.sqlite_version,
        "Python": platform.python_version(),
    }
