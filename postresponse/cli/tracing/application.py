"""What the server of `postresponse trace --app` loads: the application, with an observer that reports to the command.

A process of its own: what is set here for every middleware is set for nothing else.
"""

import json
import os
from contextlib import ExitStack
from typing import Any, Final

from postresponse.cli.application import application_named
from postresponse.core.settings import is_asgi
from postresponse.doctor.reached import middlewares_of
from postresponse.observing import JobTrace, Observer, Trace
from postresponse.onlookers import observing_all
from postresponse.stack import findings_of

__all__ = ["ENVIRONMENT", "Reporting", "load"]

ENVIRONMENT: Final = "POSTRESPONSE_TRACE"
"""Holds as JSON which application, whether it is made by a factory, and the file for the reports."""


class Reporting(Observer):
    """Writes a line of JSON for each exchange and job to the end of a file.

    Args:
        path: The file.
    """

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def ended(self, trace: Trace, begun: object) -> None:
        """Report an exchange."""
        self._write(
            kind="exchange",
            number=trace.number,
            began=trace.outcome.moments.began,
            mode=trace.mode,
            verdict=trace.verdict,
            is_problem=trace.is_problem,
            events=trace.events,
        )

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


_for_good: Final = ExitStack()
"""What is entered for as long as the process lasts."""

application: Any = None
"""Where the server finds it, once it is loaded."""


def load() -> Any:
    """Load the application that the environment names; one without this package gets a middleware that observes.

    Raises:
        ConfigurationError: It cannot be imported.
    """
    global application
    given = json.loads(os.environ[ENVIRONMENT])
    _for_good.enter_context(observing_all(Reporting(given["report"])))
    app = application_named(given["app"], factory=given["factory"])
    application = app if _is_observed(app) else _observed(app)
    return application


def _is_observed(app: Any) -> bool:
    """Look without making anything, by the names in its stack, and by the objects that there are."""
    return bool(middlewares_of(app)) or all(finding.code != "not_installed" for finding in findings_of(app))


def _observed(app: Any) -> Any:
    if is_asgi(app):
        from postresponse.asgi import PostResponseMiddleware as AroundASGI

        return AroundASGI(app)
    from postresponse.wsgi import PostResponseMiddleware as AroundWSGI

    return AroundWSGI(app)
