"""Log lines that say which request they came from, in jobs too.

Context variables of the application (a request's id, say) are in a job as they were where it was registered, and so in
the line that says that it failed: a filter of the application that reads one needs nothing from here.
"""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, Final

from postresponse.core.current import current
from postresponse.core.log import route_of
from postresponse.observing import Observer

__all__ = ["LogContext"]

_job: Final[ContextVar[Any]] = ContextVar("postresponse_job", default=None)


class LogContext(logging.Filter, Observer):
    """Gives every log record `exchange`, `route` and `job`: a filter for a handler, and an observer.

    - `exchange`: the number of the request that it came from, as in `Trace.number`; None where there was none.
    - `route`: method and route of that, or an empty string.
    - `job`: the name of the job that it came from, or an empty string.

    All are there on every record, as text or a whole number: a format or a JSON formatter can rely on them. Add it to
    handlers, since the filters of a logger do not see what its children log; to a `QueueHandler`, and not behind it.
    Where it is a filter alone, the lines of a job have the number of its request, and not the other two.

    Example:
        >>> from postresponse.wsgi import PostResponseMiddleware
        >>> context = LogContext()
        >>> handler = logging.StreamHandler()
        >>> handler.addFilter(context)
        >>> handler.setFormatter(logging.Formatter("%(exchange)s %(route)s %(job)s: %(message)s"))
        >>> def app(environ, start_response): ...
        >>> app = PostResponseMiddleware(app, observers=[context])
    """

    def __init__(self) -> None:
        super().__init__()

    def filter(self, record: logging.LogRecord) -> bool:
        """Add to *record* what whoever logged it has not; every record passes."""
        for name, value in zip(("exchange", "route", "job"), _where(), strict=True):
            if not hasattr(record, name):
                setattr(record, name, value)
        return True

    def job_around(self, job: Any) -> AbstractContextManager[object]:
        """Let the lines of *job* be known as its."""
        return _current(job)


@contextmanager
def _current(job: Any) -> Iterator[None]:
    token = _job.set(job)
    try:
        yield
    finally:
        _job.reset(token)


def _where() -> tuple[int | None, str, str]:
    job, exchange = _job.get(), current.get()
    if job is not None:
        return job.exchange, job.route, job.name
    if exchange is None:
        return None, "", ""
    scope = exchange.scope  # gone once the request is over
    return exchange.number, route_of(scope) if scope else "", ""
