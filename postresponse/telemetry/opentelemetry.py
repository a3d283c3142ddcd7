"""Spans and metrics for OpenTelemetry: the commit inside of its request, and work that does not lengthen it.

The instrumentation of the application makes the span of a request; put it **around** the middleware, so that the commit
lies within:

    app = OpenTelemetryMiddleware(PostResponseMiddleware(app, observers=[OpenTelemetryObserver()]))

Where the middleware is the outermost instead, the span is found when the head is about to leave, as long as the
instrumentation has not ended it by then: those of ASGI and WSGI have not, those of Flask and Django have. A request
without a span of its own gets none here either; its jobs do.

What is said of a request stands on its span where that still records. The instrumentation of ASGI ends it together with
the last part of the body, before the ending is known: there the ending stands on the span of the commit, and on that of
the request only if the last part did not leave.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from time import monotonic, monotonic_ns, time_ns
from typing import Any, Final, Literal
from weakref import ref

from opentelemetry.metrics import MeterProvider, get_meter
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    Span,
    StatusCode,
    TracerProvider,
    get_current_span,
    get_tracer,
    set_span_in_context,
    use_span,
)

import postresponse
from postresponse.core.exchange import Exchange
from postresponse.core.lifecycle import UnitState
from postresponse.core.observer import asked
from postresponse.core.policy import did_you_mean
from postresponse.core.trace import mode_of
from postresponse.exceptions import ConfigurationError
from postresponse.observing import JobTrace, Observer, Trace
from postresponse.telemetry.measures import Commit, Names, commits_of, method_of

__all__ = ["OpenTelemetryObserver"]

_PROVIDERS: Final = (("tracer_provider", TracerProvider), ("meter_provider", MeterProvider))
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

_SPANS: Final = 100
"""Commits of one request that have a span, at most: a batch that commits each row is still counted as a whole."""


class _Request:
    """What is kept of a request from its beginning to its end: its span, and weakly its exchange."""

    __slots__ = ("exchange", "span")

    def __init__(self, exchange: Exchange, span: Span | None) -> None:
        self.exchange = ref(exchange)
        self.span = span


class OpenTelemetryObserver(Observer):
    """Tells OpenTelemetry of commits, responses and jobs.

    Each commit or rollback is a span below that of its request, with its true beginning and end; so is each commit that
    was seen and is not managed. Each job is a span of its own, current while it runs; one that raises, is late or is
    lost has the status of an error.

    Args:
        tracer_provider: Makes the spans; None for the global one.
        meter_provider: Makes the metrics; None for the global one.
        jobs: `"linked"`: a job begins a trace of its own, with a link to the span that was current where it was
            registered, so that it makes no request look longer, and is sampled by itself; `"child"`: it stands below
            that span.
        max_routes: Templates of routes that metrics tell apart, at most; further ones are `"other"`.

    Raises:
        ConfigurationError: A value that an option cannot have.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        jobs: Literal["linked", "child"] = "linked",
        max_routes: int = 100,
    ) -> None:
        for (option, kind), given in zip(_PROVIDERS, (tracer_provider, meter_provider), strict=True):
            if given is not None and not isinstance(given, kind):
                raise ConfigurationError(f"{option}: expected a {kind.__name__} of OpenTelemetry's, found {given!r}")
        if jobs not in ("linked", "child"):
            near = did_you_mean(str(jobs), ("linked", "child"))
            raise ConfigurationError(f"jobs: expected 'linked' or 'child', found {jobs!r}{near}")
        self._is_linked = jobs == "linked"
        self._routes = Names("max_routes", max_routes)
        self._tracer = get_tracer("postresponse", postresponse.__version__, tracer_provider)
        meter = get_meter("postresponse", postresponse.__version__, meter_provider)
        self._commits = meter.create_histogram(
            "postresponse.commit.duration",
            "s",
            "Commits and rollbacks, by where they stood to the response, and how they ended.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._responses = meter.create_counter("postresponse.responses", "{response}", "Responses, by how they ended.")
        self._jobs = meter.create_counter("postresponse.jobs", "{job}", "Jobs, by how they ended.")

    # -- requests -----------------------------------------------------------------------------------------------------

    def began(self, exchange: Any) -> object:
        """Find the span of the request, and look again when its head is about to leave."""
        request = _Request(exchange, _own(get_current_span()))
        exchange.on_start(partial(asked, self, "_leaving", request))
        return request

    def _leaving(self, request: _Request, exchange: Exchange) -> None:
        """Say what is known, as long as the span of the request records."""
        if request.span is None:
            request.span = _own(get_current_span())
        if request.span is None or not request.span.is_recording():
            return
        managed = exchange._unit is not None
        request.span.set_attribute("postresponse.commit_point", mode_of(exchange.policy.point, managed=managed))
        if exchange._settling is not None:  # committed early
            self._settled(request)
        elif managed:
            settled = partial(asked, self, "_settled", request)
            exchange.after_commit(settled)
            exchange.after_rollback(settled)

    def _settled(self, request: _Request) -> None:
        exchange, span = request.exchange(), request.span
        if exchange is not None and span is not None and span.is_recording():
            span.set_attribute("postresponse.unit_of_work", exchange.unit_of_work.value)

    def ended(self, trace: Trace, begun: object) -> None:
        """Make the spans of its commits, and count."""
        commits = list(commits_of(trace))
        span = begun.span if isinstance(begun, _Request) else None
        if span is not None:
            said = _said(trace)
            if span.is_recording():
                span.set_attributes(said)
            offset = _since_1970()
            for commit in commits[:_SPANS]:
                self._record(span, commit, said, offset)
        labels = {"http.request.method": method_of(trace, other="_OTHER")}
        if trace.template is not None:
            labels["http.route"] = self._routes(trace.template)
        self._responses.add(1, {**labels, "postresponse.ending": trace.outcome.ending.value})
        for commit in commits:
            self._commits.record(commit.seconds, {**labels, **_labels(commit)})

    def _record(self, request: Span, commit: Commit, said: dict[str, Any], offset: int) -> None:
        span = self._tracer.start_span(
            "rollback" if commit.outcome == UnitState.ROLLED_BACK else "commit",
            set_span_in_context(request),
            start_time=commit.began + offset,
            attributes={**said, **_labels(commit), **({"postresponse.where": commit.where} if commit.where else {})},
        )
        if commit.outcome in (UnitState.FAILED, UnitState.UNKNOWN):
            _fail(span, commit.exception, commit.outcome, commit.ended + offset)
        span.end(commit.ended + offset)

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def job_around(self, job: Any) -> AbstractContextManager[object]:
        """Let a span of its own be current while *job* runs."""
        return self._around(job)

    @contextmanager
    def _around(self, job: Any) -> Iterator[None]:
        origin = get_current_span().get_span_context()
        span = self._tracer.start_span(
            f"job {job.name}",
            set_span_in_context(INVALID_SPAN) if self._is_linked else None,
            links=[Link(origin)] if self._is_linked and origin.is_valid else None,
            attributes={
                "postresponse.job.name": job.name,
                "postresponse.job.route": job.route,
                "postresponse.job.waited_ms": (monotonic() - job.submitted) * 1e3,
            },
        )
        with use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                yield
            except Exception as error:
                _fail(span, error, "failed")
                raise
            finally:
                self._mark(span, job)

    def _mark(self, span: Span, job: Any) -> None:
        """Say of a job that was ended from outside why."""
        if job._late is not None:
            _fail(span, job._late, "timed_out")
        elif job._asked is not None:
            span.set_attribute("postresponse.job.state", job._asked.value)
            if job._asked == "dropped":
                _fail(span, None, "dropped")

    def job_ended(self, trace: JobTrace) -> None:
        """Count it."""
        self._jobs.add(1, {"postresponse.job.state": trace.state})


def _since_1970() -> int:
    """What makes nanoseconds since 1970 of a monotonic stamp: the quickest of three looks, with nothing in between."""
    looks = []
    for _ in range(3):
        before, now, after = monotonic_ns(), time_ns(), monotonic_ns()
        looks.append((after - before, now - (before + after) // 2))
    return min(looks)[1]


def _own(span: Span) -> Span | None:
    """The span, if it is one of this process, and not over: one that only came with the request is its caller's."""
    context = span.get_span_context()
    if not context.is_valid or context.is_remote:
        return None
    return span if span.is_recording() or not context.trace_flags.sampled else None


def _said(trace: Trace) -> dict[str, Any]:
    """What is to be said of an exchange, wherever it can be."""
    outcome, moments = trace.outcome, trace.outcome.moments
    said: dict[str, Any] = {
        "postresponse.ending": outcome.ending.value,
        "postresponse.unit_of_work": outcome.unit_of_work.value,
        "postresponse.commit_point": trace.mode,
        "postresponse.late_commits": len(trace.late_commits),
    }
    if moments.settled is not None and moments.head_sent is not None:
        said["postresponse.commit_to_head_ms"] = (moments.head_sent - moments.settled) / 1e6
    if outcome.attempt > 1:
        said["postresponse.attempt"] = outcome.attempt
    return said


def _labels(commit: Commit) -> dict[str, Any]:
    return {
        "postresponse.commit.managed": commit.managed,
        "postresponse.commit.position": commit.position,
        "postresponse.commit.outcome": commit.outcome,
    }


def _fail(span: Span, error: BaseException | None, kind: str, at: int | None = None) -> None:
    """Give *span* the status of an error, and say why."""
    name = kind if error is None else type(error).__qualname__
    if error is not None:
        span.record_exception(error, timestamp=at)
    span.set_attribute("error.type", name)
    span.set_status(StatusCode.ERROR, kind if error is None else f"{name}: {error}")
