"""What happened in one run: one JSON line an event, in a file that every process of the run appends to.

A suite enters applications in its own process, and in servers that it starts and kills. A line is written as the event
happens, so a killed process loses none, and run.py adds up what all of them wrote. Which test an event belongs to
stands in the environment, because a server that a test starts inherits that.
"""

import itertools
import json
import os
from os import write as write_unwatched  # Starlette's tests watch `os.write`, which may not block a loop
from typing import Any, Final

__all__ = ["CURRENT_TEST", "AsyncLedger", "SyncLedger", "Tally"]

CURRENT_TEST: Final = "TRANSPARENCY_TEST"
"""The environment variable with the id of the test that runs, set by the reporters."""


class Tally:
    """Appends the events of this process: requests, endings, steps of the units of work, and complaints.

    Args:
        path: The file; made if missing.
    """

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._numbers = itertools.count(1)

    def note(self, event: str, **details: Any) -> None:
        """Write one event; a single write, so that lines of two processes never mix."""
        line = {"event": event, "process": os.getpid(), "test": os.environ.get(CURRENT_TEST, ""), **details}
        write_unwatched(self._file, json.dumps(line).encode() + b"\n")

    def unit(self) -> str:
        """Return the name of a new unit of work, unique among all processes."""
        return f"{os.getpid()}.{next(self._numbers)}"

    def finished(self, outcome: Any) -> None:
        """Note an exchange by its ending and by what became of its unit of work."""
        self.note("finished", ending=outcome.ending.value, unit_of_work=outcome.unit_of_work.value)

    def failed_hook(self, failure: Any) -> None:
        """Complain about a failing hook: there is none that may fail.

        Only an application that returns without the end of its body, as some tests let one do, has that told to the
        same hook.
        """
        if failure.stage != "no end":
            self.note("complaint", text=f"on_error was called with {failure!r}")

    def failed_commit(self, failure: Any) -> None:
        """Complain about a failed commit: no ledger refuses one."""
        self.note("complaint", text=f"on_commit_failed was called with {failure!r}")


class Ledger:
    """A unit of work with no database: it notes each step and complains about an impossible order."""

    active = True

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._name = tally.unit()
        self._steps: list[str] = []

    def _note(self, step: str) -> None:
        began, ended = "begin" in self._steps, "commit" in self._steps or "rollback" in self._steps
        if (step == "begin") is began or (step == "commit" and ended):
            self._tally.note("complaint", text=f"{step} of a unit of work after {', '.join(self._steps) or 'nothing'}")
        self._steps.append(step)
        self._tally.note(step, unit=self._name)


class SyncLedger(Ledger):
    """The ledger for WSGI."""

    def begin(self) -> None:
        """Note it."""
        self._note("begin")

    def commit(self) -> None:
        """Note it."""
        self._note("commit")

    def rollback(self) -> None:
        """Note it."""
        self._note("rollback")

    def close(self) -> None:
        """Note it."""
        self._note("close")


class AsyncLedger(Ledger):
    """The ledger for ASGI."""

    async def begin(self) -> None:
        """Note it."""
        self._note("begin")

    async def commit(self) -> None:
        """Note it."""
        self._note("commit")

    async def rollback(self) -> None:
        """Note it."""
        self._note("rollback")

    async def close(self) -> None:
        """Note it."""
        self._note("close")
