"""`python -m tests.benchmarks`: measure, print a table, write JSON."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.report import CaseReport, as_json, tables
from tests.benchmarks.runner import Effort, measure
from tests.benchmarks.suites import SUITES

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suites that *arguments* name; 1 if a target was to be met and is not, else 0."""
    options = _parser().parse_args(arguments)
    if options.list:
        for suite in SUITES:
            print(f"{suite.name:20} {suite.title}")
        return 0
    effort = Effort(options.rounds or (3 if options.quick else 30), 0.001 if options.quick else 0.02)
    reports: list[CaseReport] = []
    missing: list[str] = []
    for suite in SUITES:
        if options.suite and suite.name not in options.suite:
            continue
        for case in suite.cases()[: options.cases]:
            _say(f"{suite.title}: {case.name} ...")
            rows, left_out = measure(case, effort.of(suite), lambda text: _say(f"  {text}"))
            reports.append(CaseReport(suite, case, rows, effort.of(suite)))
            missing.extend(left_out)
    print("\n".join(tables(reports)))
    asked = [row for report in reports for row in report.rows if row.met is not None]
    met = sum(bool(row.met) for row in asked)
    print(f"Targets: {met} of {len(asked)} met.")
    if missing:
        print(f"Left out: {', '.join(sorted(set(missing)))}. To measure all: pip install -e '.[benchmarks]'")
    if options.json:
        _write(options.json, as_json(reports, missing))
    return 1 if options.check and met < len(asked) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    names = [suite.name for suite in SUITES]
    parser.add_argument("--suite", action="append", choices=names, metavar="NAME", help="only this one; repeatable")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often each contender runs (default: 30)")
    parser.add_argument("--cases", type=int, metavar="N", help="only the first N cases of each suite (default: all)")
    parser.add_argument("--quick", action="store_true", help="three short rounds: to see that it runs")
    parser.add_argument("--check", action="store_true", help="end with 1 if a target is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round there")
    parser.add_argument("--list", action="store_true", help="name the suites, and run none")
    return parser


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _write(path: Path, result: dict[str, Any]) -> None:
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
