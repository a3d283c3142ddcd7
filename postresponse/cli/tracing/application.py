"""What the server of `postresponse trace --app` loads: the application, with an observer that reports to the command.

A process of its own: what is set here for every middleware is set for nothing else.
"""

import json
import os
import signal
import sys
from contextlib import ExitStack
from typing import Any, Final

from postresponse.core.settings import protocol_of
from postresponse.doctor.reached import middlewares_of
from postresponse.importing import application_named
from postresponse.observing import JobTrace, Observer, Trace
from postresponse.onlookers import observing_all
from postresponse.stack import findings_of

__all__ = ["ENVIRONMENT", "TARGET", "Reporting", "application"]

ENVIRONMENT: Final = "POSTRESPONSE_TRACE"
"""Holds as JSON which application, whether a factory makes it, the file for the reports, and whether SIGTERM would end
the process without the work that runs."""
TARGET: Final = f"{__name__}:application"
"""What the server is given."""


class Reporting(Observer):
    """Writes lines of JSON to the end of a file: of each exchange and job, and that the application is loaded.

    Args:
        path: The file.
    """

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def loaded(self) -> None:
        """Report that the application is there."""
        self._write(kind="loaded")

    def began(self, exchange: Any) -> object:
        """Remember the exchange, for what it has to do in the end."""
        return exchange

    def ended(self, trace: Trace, begun: Any) -> None:
        """Report an exchange, and how many pieces of work it starts now."""
        self._write(
            kind="exchange",
            work=sum(_holds(condition, trace.outcome) for condition, *_ in tuple(begun._work or ())),
            number=trace.number,
            began=trace.outcome.moments.began,
            mode=trace.mode,
            verdict=trace.verdict,
            is_problem=trace.is_problem,
            events=trace.events,
        )

    def job_around(self, job: Any) -> None:
        """Report that a job runs."""
        self._write(kind="job began")

    def job_ended(self, trace: JobTrace) -> None:
        """Report a job."""
        self._write(
            kind="job",
            exchange=trace.exchange,
            name=trace.name,
            submitted=trace.submitted,
            started=trace.started,
            ended=trace.ended,
            state=trace.state,
            exception=None if trace.exception is None else type(trace.exception).__name__,
        )

    def _write(self, **report: Any) -> None:
        os.write(self._file, json.dumps(report).encode() + b"\n")  # whole, though several threads write


def _holds(condition: Any, outcome: Any) -> bool:
    try:
        return bool(condition(outcome))
    except Exception:  # noqa: BLE001 (asked again when the work is to start, and logged there)
        return False


_for_good: Final = ExitStack()
"""What is entered for as long as the process lasts."""


def _loaded(given: Any) -> Any:
    """Load the application; one without this package gets a middleware that observes."""
    if given["ends"]:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    reporting = Reporting(given["report"])
    _for_good.enter_context(observing_all(reporting))
    app = application_named(given["app"], factory=given["factory"])
    reporting.loaded()
    return app if _is_observed(app) else _observed(app)


def _is_observed(app: Any) -> bool:
    """Look without making anything, by the names in its stack, and by the objects that there are."""
    return bool(middlewares_of(app)) or all(finding.code != "not_installed" for finding in findings_of(app))


def _observed(app: Any) -> Any:
    if protocol_of(app) == "asgi":
        from postresponse.asgi import PostResponseMiddleware as AroundASGI

        return AroundASGI(app)
    from postresponse.wsgi import PostResponseMiddleware as AroundWSGI

    return AroundWSGI(app)


application: Any = _loaded(json.loads(os.environ[ENVIRONMENT])) if ENVIRONMENT in os.environ else None
"""What the server serves; None where this module is imported by anybody else."""
