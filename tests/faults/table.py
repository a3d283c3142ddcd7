"""The table of outcomes: what became of every run with a fault."""

from collections import Counter, defaultdict
from collections.abc import Iterator

from postresponse.core.lifecycle import Ending, UnitState
from tests.faults.trial import Trial

__all__ = ["Table"]

ENDINGS = tuple(Ending)
STATES = tuple(UnitState)
CLIENTS = ("2xx", "2xx cut", "4xx", "4xx cut", "500", "503", "unknown", "nothing")


class Table:
    """Counts, by mode, side and whose call failed, of endings, units of work and what the client had."""

    def __init__(self) -> None:
        self._rows: defaultdict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
        self.notes: list[str] = []

    def __bool__(self) -> bool:
        return bool(self._rows)

    def add(self, trial: Trial) -> None:
        """Count what became of *trial*."""
        faults = trial.plan.faults
        group = faults[0].call.family if len(faults) == 1 else "pairs"
        counts = self._rows[trial.case.mode, trial.case.side, group]
        counts["runs"] += 1
        counts[f"client {trial.client}"] += 1
        for outcome in trial.outcomes:
            counts[f"ending {outcome.ending}"] += 1
            counts[f"unit {outcome.unit_of_work}"] += 1

    def lines(self) -> Iterator[str]:
        """Yield the table, and below it what has to be said."""
        heads = [*("runs",), *(f"ending {one}" for one in ENDINGS), *(f"unit {one}" for one in STATES)]
        heads += [f"client {one}" for one in CLIENTS]
        heads = [head for head in heads if any(counts[head] for counts in self._rows.values())]
        rows = [["mode", "side", "fault of", *(head.partition(" ")[2] or head for head in heads)]]
        rows += [[*key, *(str(counts[head] or "-") for head in heads)] for key, counts in self._rows.items()]
        total = sum((counts for counts in self._rows.values()), Counter[str]())
        rows.append(["all", "", "", *(str(total[head] or "-") for head in heads)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        groups = ["", "", "", *(head.partition(" ")[0] for head in heads)]
        above = [group if group != groups[place - 1] else "" for place, group in enumerate(groups)]
        for row in [["" if name == "runs" else name for name in above], *rows]:
            yield "  ".join(
                cell.ljust(width) if place < 3 else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
        yield from self.notes
