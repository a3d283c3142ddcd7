"""What happens is written down, a line each, in the working directory."""

import json
from pathlib import Path
from typing import Any

from postresponse import Outcome
from postresponse.observing import Observer, Trace

__all__ = ["Routes", "note", "noted", "on_finished"]


def note(what: str, name: str = "notes") -> None:
    """Add a line."""
    with Path(name).open("a") as file:
        file.write(f"{what}\n")


def noted(folder: Path, name: str = "notes") -> list[str]:
    """The lines so far."""
    path = folder / name
    return path.read_text().splitlines() if path.exists() else []


def on_finished(outcome: Outcome) -> None:
    """How an exchange ended."""
    note(json.dumps([outcome.ending, outcome.unit_of_work, outcome.status]), "outcomes")


class Routes(Observer):
    """The templates of the routes."""

    def ended(self, trace: Trace, begun: Any) -> None:
        """One line each."""
        note(f"{trace.method} {trace.template}", "routes")
