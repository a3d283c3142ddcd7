"""A scope of Sentry's for each job: what is captured there tells the job, and stays out of every other request.

It is an observer that is given, and nothing that a supervisor finds by itself: whoever has Sentry loaded has not asked
for this by that.
"""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from postresponse.observing import Observer

__all__ = ["SentryScope"]


class SentryScope(Observer):
    """Runs each job in an isolation scope of its own, and captures what it raises there.

    The scope begins as that of the request is when the job begins, so that an event still says whose request it was; it
    has the job's name as its transaction, and the tags `postresponse.job` and `postresponse.route`. Spans inside are
    none of the request's transaction, which may be over.

    Sentry's SDK (2.0 or later) is found if the application has loaded and initialised it. Nothing is imported for it,
    and where it is not there a job costs one look into a dictionary.

    Example:
        >>> from postresponse.wsgi import PostResponseMiddleware
        >>> def app(environ, start_response): ...
        >>> app = PostResponseMiddleware(app, observers=[SentryScope()])
    """

    def job_around(self, job: Any) -> AbstractContextManager[object] | None:
        """Enter a scope for *job*, if Sentry is there."""
        sdk = sys.modules.get("sentry_sdk")
        return _scope(sdk, job) if sdk is not None and sdk.is_initialized() else None


@contextmanager
def _scope(sdk: Any, job: Any) -> Iterator[None]:
    with sdk.isolation_scope() as scope:
        for each in (scope, sdk.get_current_scope()):  # what the second has goes over what the first has
            each.span = None  # first: the name of a transaction is given to the span of its scope, the request's
            # "custom", because the integration for ASGI puts the request's name in the place of any other kind.
            each.set_transaction_name(job.name, source="custom")
        scope.set_tag("postresponse.job", job.name)
        scope.set_tag("postresponse.route", job.route)
        try:
            yield
        except (Exception, SystemExit) as error:
            sdk.capture_exception(error)
            raise
