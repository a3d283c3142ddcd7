"""The figures of a long run, as a table that can be pasted."""

from dataclasses import dataclass, field


@dataclass
class Tally:
    """What a client counted on one server, in one mode.

    Attributes:
        server: The server, and the database where it is not SQLite.
        mode: When the commit runs, and how much longer it takes.
        answered: Requests answered 201.
        missed: Those of them whose row was not visible right after the last byte.
        failed: Requests whose COMMIT failed.
        false_success: Those of them that were answered 2xx.
        broken_next: Requests right after a failed one, on the same connection, that were not answered 201.
        leftovers: What error responses still held of the response that they replaced.
    """

    server: str
    mode: str
    answered: int = 0
    missed: int = 0
    failed: int = 0
    false_success: int = 0
    broken_next: int = 0
    leftovers: list[str] = field(default_factory=list)


COUNTS = ("answered", "missed", "failed", "false_success", "broken_next")


class Figures:
    """All figures of a run."""

    def __init__(self) -> None:
        self._tallies: list[Tally] = []
        self._growths: list[list[str]] = []

    def __bool__(self) -> bool:
        return bool(self._tallies or self._growths)

    def add(self, tally: Tally) -> None:
        """Add a tally; it may be filled in later."""
        self._tallies.append(tally)

    def grew(self, server: str, mode: str, grew: int, bare: int) -> None:
        """Add by how many bytes a server grew over one body, with the package and without."""
        self._growths.append([server, mode, f"{grew / 1e6:.1f} MB", f"{bare / 1e6:.1f} MB"])

    def _total(self) -> Tally:
        counts = {name: sum(getattr(tally, name) for tally in self._tallies) for name in COUNTS}
        return Tally("all", "", **counts)

    def lines(self) -> list[str]:
        """The tables in Markdown."""
        tallies = [
            [
                tally.server,
                tally.mode,
                f"{tally.missed} of {tally.answered}",
                f"{tally.false_success} of {tally.failed}",
                f"{tally.broken_next} of {tally.failed}",
            ]
            for tally in [*self._tallies, self._total()]
        ]
        return [
            *_table(["server", "commit", "missed", "false 2xx", "next request failed"], tallies),
            "",
            *_table(["server", "commit, body", "grew", "bare application"], self._growths),
        ]


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in [head, *rows]]
    padded.insert(1, ["-" * width for width in widths])
    return [f"| {' | '.join(row)} |" for row in padded]
