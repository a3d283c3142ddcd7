"""Django's test runner, reporting what became of each test by its dotted name."""

import signal
from typing import Any
from unittest import TextTestResult

from django.test.runner import DiscoverRunner
from transparency_report import Report  # type: ignore[import-not-found]

__all__ = ["Runner"]

LIMIT = 60.0
"""Seconds that one test may take: a hang is one failed test instead of a lost run."""


class Runner(DiscoverRunner):  # type: ignore[misc]
    """Django's own runner with a result class that reports."""

    def get_resultclass(self) -> type[TextTestResult]:
        """Return the result class."""
        return _Result


class _Result(TextTestResult):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._report = Report()
        signal.signal(signal.SIGALRM, _too_long)

    def startTest(self, test: Any) -> None:
        super().startTest(test)
        self._report.started(test.id())
        signal.setitimer(signal.ITIMER_REAL, LIMIT)

    def stopTest(self, test: Any) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        super().stopTest(test)

    def addSuccess(self, test: Any) -> None:
        super().addSuccess(test)
        self._write(test, "passed")

    def addFailure(self, test: Any, err: Any) -> None:
        super().addFailure(test, err)
        self._write(test, "failed", err)

    def addError(self, test: Any, err: Any) -> None:
        super().addError(test, err)
        self._write(test, "failed", err)

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._write(test, "failed", err)

    def addSkip(self, test: Any, reason: str) -> None:
        super().addSkip(test, reason)
        self._write(test, "skipped")

    def addExpectedFailure(self, test: Any, err: Any) -> None:
        super().addExpectedFailure(test, err)
        self._write(test, "xfailed")

    def addUnexpectedSuccess(self, test: Any) -> None:
        super().addUnexpectedSuccess(test)
        self._write(test, "failed")

    def _write(self, test: Any, outcome: str, err: Any = None) -> None:
        text = "" if err is None else f"{err[0].__name__}: {err[1]}".replace("\n", " ")[:300]
        self._report.write(test.id(), phase="call", outcome=outcome, text=text)


def _too_long(number: int, frame: Any) -> None:
    raise TimeoutError(f"the test took longer than {LIMIT} s")
