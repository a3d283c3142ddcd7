"""The inspector: an observer that keeps the last requests, for whoever looks."""

import os
import secrets
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from time import monotonic, time
from typing import Any, Final

from postresponse.core.log import logger
from postresponse.core.observer import Observer
from postresponse.core.settings import Settings, check_callback
from postresponse.core.trace import JobTrace, Trace
from postresponse.exceptions import ConfigurationError
from postresponse.inspector.carried import carried
from postresponse.inspector.findings import Finding, Findings, found, options_in_words
from postresponse.inspector.records import MOST, JobRecord, RequestRecord, job_record, request_record, with_job
from postresponse.inspector.ring import Changes, Feed, Ring, written
from postresponse.inspector.store import Store
from postresponse.inspector.trace_ids import trace_id_of
from postresponse.inspector.visitors import Allowed, Network, allowed_by
from postresponse.work.checks import check_count
from postresponse.work.current import default_supervisor
from postresponse.work.supervisor import TaskSupervisor

__all__ = ["ENVIRONMENT", "Inspector", "is_production"]

ENVIRONMENT: Final = "POSTRESPONSE_ENV"
"""The variable that says "production" where this is it."""
SHOWN_OPTIONS: Final = 10
"""Middlewares whose options are shown, at most."""


class Inspector(Observer):
    """Keeps how the last requests went, and the work that they started, and shows it on a page.

    Give it to a middleware as `inspector=`. It keeps method, path, route, status, tenant, times, exceptions, and the
    trace id of `traceparent`; never a body, another header or a query. What an exception says is kept as the log has
    it, but for the parameters of SQL statements.

    Args:
        path: Where the page is.
        size: How many requests are kept, and how many jobs.
        allow: Who may look: networks, as `["10.0.0.0/8"]`; or a function of the scope or environ, which then decides
            alone; None for clients on this machine that no proxy stands before. Others get 404.
        store: A SQLite file that several processes share, so that a page shows them all; None for memory.
        outbox: Its Relay, or the engine or the URL of its database, for the page to show what waits there.
        findings: Returns what there is to say about the set-up, as `Finding`s or texts; asked when somebody looks.
        production: Whether this is production, where nobody is shown anything, nothing is kept, and every request for
            the page gets 404; None for what the variable `POSTRESPONSE_ENV` says: `production`, or anything else.

    Raises:
        ConfigurationError: A value that an option cannot have.

    Example:
        >>> from postresponse.wsgi import PostResponseMiddleware
        >>> def app(environ, start_response): ...
        >>> app = PostResponseMiddleware(app, inspector=Inspector(size=100))
    """

    def __init__(
        self,
        *,
        path: str = "/__postresponse__/",
        size: int = 500,
        allow: Callable[[Any], bool] | Iterable[str | Network] | None = None,
        store: str | PathLike[str] | None = None,
        outbox: Any = None,
        findings: Findings | None = None,
        production: bool | None = None,
    ) -> None:
        if not isinstance(path, str) or not path.startswith("/") or not path.strip("/"):
            raise ConfigurationError(f"path: expected one as '/__postresponse__/', found {path!r}")
        if findings is not None:
            check_callback("findings", findings, is_async=False)
        self.path: str = f"/{path.strip('/')}"
        self.size: int = check_count("size", size)
        self.allows: Allowed = allowed_by(allow)
        self.is_on: bool = not (is_production() if production is None else production)
        self.outbox: Any = None
        if outbox is not None:
            from postresponse.inspector.outbox import OutboxView

            self.outbox = OutboxView(outbox)
        self._findings = findings
        self._observers: tuple[Observer, ...] = ()
        self._supervisors: tuple[TaskSupervisor, ...] = ()
        self._options: deque[Mapping[str, str]] = deque(maxlen=SHOWN_OPTIONS)
        self._store = Store(store, self.size) if store is not None and self.is_on else None
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Be as new, in a process that has just begun."""
        self._pid = os.getpid()
        self.process: str = f"{self._pid}-{secrets.token_hex(3)}"
        self._lock = threading.Lock()
        self.feed: Feed = self._store or Ring(self.size)
        # By the number of their exchange: requests that may still have jobs, and jobs whose request is not over.
        self._over: OrderedDict[int, tuple[RequestRecord, int]] = OrderedDict()
        self._early: OrderedDict[int, list[tuple[JobRecord, int, int]]] = OrderedDict()
        self._boot = time() - monotonic()

    @property
    def shares(self) -> bool:
        """Whether what is shown comes from all processes."""
        return self._store is not None

    # -- being told ---------------------------------------------------------------------------------------------------

    def began(self, exchange: Any) -> object:
        """Look for the trace id, which is there now."""
        return trace_id_of(exchange.scope)

    def ended(self, trace: Trace, begun: object) -> None:
        """Keep it, with the jobs that are over already."""
        if self._pid != os.getpid():
            self._begin_anew()
        record = request_record(trace, self.process, None if begun is None else str(begun))
        began = trace.outcome.moments.began
        with self._lock:
            for job, begin, end in self._early.pop(trace.number, ()):
                record = _joined(record, began, job, begin, end)
            self._remember(self._over, trace.number, (record, began))
            self.feed.put("requests", record)

    def job_ended(self, trace: JobTrace) -> None:
        """Keep it, and join it to its request."""
        if self._pid != os.getpid():
            self._begin_anew()
        with self._lock:
            job = job_record(trace, self.process, time())
            self.feed.put("jobs", job)
            if trace.exchange is not None:
                begin = trace.submitted if trace.started is None else trace.started
                self._join(trace.exchange, job, begin, trace.ended)

    def _join(self, number: int, job: JobRecord, begin: int, end: int) -> None:
        """Add *job* to its request, or keep it until that is over."""
        if number in self._over:
            record, began = self._over[number]
            record = _joined(record, began, job, begin, end)
            self._over[number] = (record, began)
            self.feed.put("requests", record)
        else:
            early = self._early.get(number, [])[: MOST - 1]
            self._remember(self._early, number, [*early, (job, begin, end)])

    def _remember(self, kept: OrderedDict[int, Any], number: int, value: Any) -> None:
        kept[number] = value
        if len(kept) > self.size:
            kept.popitem(last=False)

    # -- being asked --------------------------------------------------------------------------------------------------

    def since(self, mark: int) -> Changes:
        """Return what came after *mark*, and the work of this process that waits or runs."""
        jobs, number = carried(self._supervisors, self.process, lambda at: round(at + self._boot, 3))
        # The feed behind that: a job that has ended meanwhile is in both, and none in neither.
        return self.feed.since(mark)._replace(carried=[written(each) for each in jobs], carries=number)

    # -- the set-up ---------------------------------------------------------------------------------------------------

    def installed(self, settings: Settings) -> None:
        """Note the options of a middleware that has this inspector, who else looks on there, and who carries work."""
        supervisor = settings.supervisor
        options = {
            "unit_of_work": settings.unit_of_work,
            "commit": settings.unit_of_work and (settings.choose_policy or settings.policy),
            "supervisor": None if supervisor is default_supervisor() else supervisor,
            "observers": settings.observers,
        }
        self._options.append(options_in_words(options))
        others = [each for each in settings.observers if each is not self]
        self._observers = tuple(dict.fromkeys((*self._observers, *others)))
        self._supervisors = tuple(dict.fromkeys((*self._supervisors, supervisor)))
        if not self.is_on:
            logger.warning(
                "the inspector was asked for in production, and is off: %s answers 404, and nothing is kept; leave out "
                "inspector= there, or say production=False",
                self.path,
            )

    def set_up(self) -> tuple[list[Mapping[str, str]], list[Finding], bool]:
        """Return the options of each middleware, what was found, and whether anybody looks for it."""
        sources = [each for each in (self._findings, *(getattr(o, "findings", None) for o in self._observers)) if each]
        return list(self._options), found(sources), bool(sources)


def is_production() -> bool:
    """Whether the environment says that this is production."""
    return os.environ.get(ENVIRONMENT, "").strip().lower() == "production"


def _joined(record: RequestRecord, began: int, job: JobRecord, begin: int, end: int) -> RequestRecord:
    return with_job(record, job, max((begin - began) / 1e6, 0.0), max((end - began) / 1e6, 0.0))
