"""What was measured, as a table and as JSON."""

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import postresponse
from tests.benchmarks.runner import Case, Effort, Row, Suite, version_of

__all__ = ["CaseReport", "as_json", "tables"]


@dataclass(frozen=True)
class CaseReport:
    """One case of one suite, measured."""

    suite: Suite
    case: Case
    rows: Sequence[Row]
    effort: Effort


def tables(reports: Sequence[CaseReport]) -> Iterator[str]:
    """Yield the lines of Markdown tables: one for each case, or one for a suite in which something grows."""
    for suite, group in groupby(reports, lambda report: report.suite):
        if suite.axis:
            yield from _titled(suite.title, _growth(suite.axis, list(group)))
        else:
            for report in group:
                yield from _titled(f"{suite.title}: {report.case.name}", _case(report))


def _titled(title: str, cells: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    yield from (f"### {title}", "", f"| {lines[0]} |", f"| {' | '.join('-' * width for width in widths)} |")
    yield from (f"| {line} |" for line in lines[1:])
    yield ""


def _case(report: CaseReport) -> list[Sequence[str]]:
    head = ("contender", "median", "added", "ratio", "middle half", "garbage", "target", "")
    return [head, *(_cells(row, report.rows[0]) for row in report.rows)]


def _cells(row: Row, baseline: Row) -> Sequence[str]:
    low, high = row.spread
    return (
        _name(row),
        duration(row.median),
        "" if row is baseline else duration(row.median - baseline.median, sign="+"),
        f"{row.ratio:.2f}x",
        f"{low:.2f}-{high:.2f}",
        "-" if row.garbage is None else f"{row.garbage:g}",
        "" if row.contender.target is None else f"<= {row.contender.target:g}x",
        ", ".join(filter(None, ({None: "", True: "met", False: "MISSED"}[row.met], *_facts(row)))),
    )


def _facts(row: Row) -> Iterator[str]:
    for name, value in row.facts.items():
        limit = row.contender.limits.get(name)
        yield f"{name} {value}" if limit is None else f"{name} {value} (<= {limit:g})"


def _growth(axis: str, reports: Sequence[CaseReport]) -> list[Sequence[str]]:
    """Put the contenders below each other and the sizes beside each other."""
    head = (f"contender, by {axis}", *(report.case.name for report in reports))
    lines: list[Sequence[str]] = [head]
    for rows in zip(*(report.rows for report in reports), strict=True):
        lines.append((_name(rows[0]), *map(_cell, rows)))
    return lines


def _cell(row: Row) -> str:
    return ", ".join((f"{duration(row.median)} ({row.ratio:.2f}x)", *_facts(row)))


def _name(row: Row) -> str:
    return f"**{row.contender.name}**" if row.contender.kind == "ours" else row.contender.name


def duration(seconds: float, sign: str = "-") -> str:
    """Write *seconds* with the unit that suits them."""
    unit, factor = next(((unit, factor) for unit, factor in _UNITS if abs(seconds) * factor >= 1), _UNITS[-1])
    return f"{seconds * factor:{sign}.3g} {unit}"


_UNITS = (("s", 1.0), ("ms", 1e3), ("us", 1e6))


def as_json(reports: Sequence[CaseReport], missing: Sequence[str]) -> dict[str, Any]:
    """Return everything: versions, and every round."""
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "postresponse": postresponse.__version__,
        "versions": _versions(reports),
        "missing": sorted(set(missing)),
        "cases": [
            {
                "suite": report.suite.name,
                "title": report.suite.title,
                "case": report.case.name,
                "rounds": report.effort.rounds,
                "contenders": [_row(row) for row in report.rows],
            }
            for report in reports
        ],
    }


def _row(row: Row) -> Mapping[str, Any]:
    return {
        "name": row.contender.name,
        "kind": row.contender.kind,
        "response": None if row.response is None else asdict(row.response),
        "requests_a_block": row.requests,
        "seconds": row.seconds,
        "median_seconds": row.median,
        "ratios": row.ratios,
        "ratio": row.ratio,
        "middle_half": row.spread,
        "garbage_a_request": row.garbage,
        "target": row.contender.target,
        "limits": dict(row.contender.limits),
        "met": row.met,
        "facts": row.facts,
    }


def _versions(reports: Sequence[CaseReport]) -> dict[str, str | None]:
    names = {name for report in reports for row in report.rows for name in row.contender.needs}
    return {name: version_of(name) for name in sorted(names)}
