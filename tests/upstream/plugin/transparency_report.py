"""What became of each test: one JSON line a phase, whatever runs the tests.

Lines are written as they happen: when a run hangs and is killed, the last "started" line names the test that hung. The
phases are pytest's: set-up, call and teardown, and "collect" for what could not even be found.
"""

import json
import os
from typing import Any

from transparency_tally import CURRENT_TEST  # type: ignore[import-not-found]

__all__ = ["Report"]


class Report:
    """The file that run.py reads; it names it in the environment variable TRANSPARENCY."""

    def __init__(self) -> None:
        path = json.loads(os.environ["TRANSPARENCY"])["report"]
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def started(self, test: str) -> None:
        """Write that *test* starts; what happens from now on belongs to it."""
        os.environ[CURRENT_TEST] = test
        self.write(test, phase="started", outcome="started")

    def write(self, test: str, *, phase: str, outcome: str, text: str = "") -> None:
        """Write one record."""
        record: dict[str, Any] = {"test": test, "phase": phase, "outcome": outcome, "text": text}
        os.write(self._file, json.dumps(record).encode() + b"\n")
